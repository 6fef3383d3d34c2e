//! Who may do what: three roles, per namespace. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What a token lets its user do in a namespace. Each role includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read everything but secrets.
    View,
    /// Read and write everything that jobs are made of, secrets included.
    Edit,
    /// Also quotas, limits and, for `*`, what is outside namespaces.
    Admin,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "view" => Ok(Self::View),
            "edit" => Ok(Self::Edit),
            "admin" => Ok(Self::Admin),
            other => Err(format!("\"{other}\" is not a role; write view, edit or admin")),
        }
    }
}

/// Somebody whom the server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// For logs and `whoami`.
    pub name: String,
    /// Role by namespace; `*` is every namespace and what is outside of them.
    pub roles: BTreeMap<String, Role>,
}

impl User {
    /// The owner of the home: may do everything.
    pub fn owner() -> Self {
        Self::admin("trainyard:owner")
    }

    /// One who may do everything.
    pub fn admin(name: &str) -> Self {
        Self { name: name.to_owned(), roles: BTreeMap::from([("*".to_owned(), Role::Admin)]) }
    }

    fn role_in(&self, namespace: &str) -> Option<Role> {
        let everywhere = self.roles.get("*").copied();
        if namespace.is_empty() { everywhere } else { self.roles.get(namespace).copied().max(everywhere) }
    }
}

/// A request, as far as rights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources and for lists over all namespaces.
    pub namespace: &'a str,
}

/// Whether `user` may, and if not, in the API's words, why not.
pub fn allowed(user: &User, asked: &Attributes<'_>) -> Result<(), String> {
    // Asking what one may do is everybody's right.
    if asked.group == "authorization.k8s.io" || asked.group == "authentication.k8s.io" {
        return Ok(());
    }
    let needed = needed(asked);
    if user.role_in(asked.namespace).is_some_and(|role| role >= needed) {
        return Ok(());
    }
    // Everybody who may look into a namespace may see that it is there.
    let named_namespace = asked.group.is_empty() && asked.resource == "namespaces" && asked.verb == "get";
    if named_namespace && user.role_in(asked.namespace).is_some() {
        return Ok(());
    }
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let slash = if asked.subresource.is_empty() { "" } else { "/" };
    Err(format!(
        "User \"{}\" cannot {} resource \"{}{slash}{}\" in API group \"{}\" {place}",
        user.name, asked.verb, asked.resource, asked.subresource, asked.group
    ))
}

fn needed(asked: &Attributes<'_>) -> Role {
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    let core = asked.group.is_empty();
    if reads {
        return if core && asked.resource == "secrets" { Role::Edit } else { Role::View };
    }
    let governs = core
        && matches!(asked.resource, "resourcequotas" | "limitranges" | "nodes" | "persistentvolumes" | "namespaces");
    // Whoever may bind a pod chooses what runs where: that is the scheduler's right, not a user's.
    if governs || asked.namespace.is_empty() || asked.subresource == "binding" { Role::Admin } else { Role::Edit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(roles: &[(&str, Role)]) -> User {
        User { name: "ann".to_owned(), roles: roles.iter().map(|(ns, role)| ((*ns).to_owned(), *role)).collect() }
    }

    fn asks<'a>(verb: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes { verb, group: "", resource, subresource: "", namespace }
    }

    #[test]
    fn roles_rise() {
        let table = [
            // verb, resource, view, edit, admin
            ("get", "pods", true, true, true),
            ("list", "secrets", false, true, true),
            ("create", "pods", false, true, true),
            ("create", "resourcequotas", false, false, true),
            ("deletecollection", "pods", false, true, true),
        ];
        for (verb, resource, view, edit, admin) in table {
            for (role, expected) in [(Role::View, view), (Role::Edit, edit), (Role::Admin, admin)] {
                let got = allowed(&user(&[("team", role)]), &asks(verb, resource, "team")).is_ok();
                assert_eq!(got, expected, "{role:?} {verb} {resource}");
            }
        }
    }

    #[test]
    fn a_role_ends_at_its_namespace() {
        let ann = user(&[("team", Role::Admin)]);
        assert!(allowed(&ann, &asks("get", "pods", "other")).is_err());
        assert!(allowed(&ann, &asks("list", "pods", "")).is_err(), "a list over all namespaces");
        assert!(allowed(&ann, &asks("create", "nodes", "")).is_err());
    }

    #[test]
    fn the_star_is_everywhere_and_the_stronger_role_wins() {
        let ann = user(&[("*", Role::View), ("team", Role::Edit)]);
        assert!(allowed(&ann, &asks("list", "pods", "")).is_ok());
        assert!(allowed(&ann, &asks("create", "pods", "team")).is_ok());
        let why = allowed(&ann, &asks("create", "pods", "other")).expect_err("only viewing there");
        assert_eq!(why, "User \"ann\" cannot create resource \"pods\" in API group \"\" in the namespace \"other\"");
    }

    #[test]
    fn binding_is_for_admins() {
        let bind = Attributes { subresource: "binding", ..asks("create", "pods", "team") };
        assert!(allowed(&user(&[("team", Role::Edit)]), &bind).is_err());
        assert!(allowed(&user(&[("team", Role::Admin)]), &bind).is_ok());
    }
}

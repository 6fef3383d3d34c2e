//! What the API server says to those who lack a right, read so that an administrator can be asked for just that one.

/// A right that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    user: String,
    verb: String,
    /// With its group, as in RBAC on the command line: `jobs.batch`.
    resource: String,
    /// None for a right in all namespaces.
    namespace: Option<String>,
}

/// Reads `pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n"`.
pub(super) fn parse(message: &str) -> Option<Right> {
    let quoted = |after: &str| {
        let rest = message.split_once(after)?.1.strip_prefix('"')?;
        rest.split_once('"').map(|(word, _)| word.to_owned())
    };
    let verb = message.split_once("\" cannot ")?.1.split(' ').next()?.to_owned();
    let name = quoted(" resource ")?;
    let group = quoted(" in API group ").unwrap_or_default();
    let (plural, part) = name.split_once('/').map_or((name.as_str(), None), |(plural, part)| (plural, Some(part)));
    let mut resource = plural.to_owned();
    if !group.is_empty() {
        resource = format!("{resource}.{group}");
    }
    if let Some(part) = part {
        resource = format!("{resource}/{part}");
    }
    Some(Right { user: quoted("User ")?, verb, resource, namespace: quoted(" in the namespace ") })
}

impl Right {
    /// Who may not do what.
    pub(super) fn sentence(&self) -> String {
        let place = match &self.namespace {
            Some(namespace) => format!("in namespace `{namespace}`"),
            None => "at the scope of the cluster".to_owned(),
        };
        format!("user `{}` may not {} {} {place}", self.user, self.verb, self.resource)
    }

    /// What to ask for, in the words of those who can give it.
    pub(super) fn remedy(&self) -> String {
        let Self { user, verb, resource, namespace } = self;
        let role = format!("{}-{}", verb, resource.replace(['/', '.'], "-"));
        let way = match namespace {
            Some(namespace) => format!(
                "`kubectl -n {namespace} create role {role} --verb={verb} --resource={resource}` and \
                 `kubectl -n {namespace} create rolebinding {role} --role={role} --user={user}`"
            ),
            None => format!(
                "`kubectl create clusterrole {role} --verb={verb} --resource={resource}` and \
                 `kubectl create clusterrolebinding {role} --clusterrole={role} --user={user}`"
            ),
        };
        format!("ask the cluster's administrator for this right: {way}; or use another --context or --namespace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_the_servers_words() {
        let right = parse(
            r#"jobs.batch is forbidden: User "dev" cannot create resource "jobs" in API group "batch" in the namespace "team""#,
        )
        .unwrap();
        assert_eq!(right.sentence(), "user `dev` may not create jobs.batch in namespace `team`");
        assert!(right.remedy().contains("--verb=create --resource=jobs.batch"));
        let log = parse(
            r#"pods "p" is forbidden: User "dev" cannot get resource "pods/log" in API group "" in the namespace "n""#,
        );
        assert_eq!(log.unwrap().resource, "pods/log");
        let wide = parse(
            r#"nodes is forbidden: User "dev" cannot list resource "nodes" in API group "" at the cluster scope"#,
        );
        assert!(wide.unwrap().remedy().contains("clusterrole"));
        assert_eq!(parse("admission webhook said no"), None);
    }
}

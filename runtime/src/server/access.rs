//! "May I?" and "who am I?": review objects that are answered, never stored.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::accept::Form;
use super::route::ResourcePath;
use super::status::ApiError;
use super::{answer, body};
use crate::auth::{Attributes, Role, User, allowed};
use crate::kinds::Kind;

/// The reviews served: group, plural, kind.
pub(crate) const REVIEWS: [(&str, &str, &str); 3] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
];

/// The kind of review that a path asks for.
pub(super) fn review(path: &ResourcePath) -> Option<&'static str> {
    let plain = path.gv.version == "v1" && path.namespace.is_none() && path.name.is_none();
    let (_, _, kind) = REVIEWS.iter().find(|(group, plural, _)| *group == path.gv.group && *plural == path.plural)?;
    plain.then_some(*kind)
}

/// Answers a review.
pub(super) fn answer(
    kind: &str,
    user: &User,
    form: Form,
    content_type: &str,
    bytes: &Bytes,
) -> Result<Response, ApiError> {
    let mut review = if bytes.is_empty() { json!({}) } else { body::decode(bytes, content_type)? };
    if !review.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    review["status"] = match kind {
        "SelfSubjectAccessReview" => access(user, &review["spec"]),
        "SelfSubjectRulesReview" => rules(user, review["spec"]["namespace"].as_str().unwrap_or("default")),
        _ => json!({"userInfo": {"username": user.name, "groups": ["system:authenticated"]}}),
    };
    review["kind"] = Value::from(kind);
    let group = if kind == "SelfSubjectReview" { "authentication.k8s.io/v1" } else { "authorization.k8s.io/v1" };
    review["apiVersion"] = Value::from(group);
    if review["metadata"].is_null() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    answer::json_value(form, StatusCode::CREATED, &review)
}

fn access(user: &User, spec: &Value) -> Value {
    let asked = &spec["resourceAttributes"];
    if !asked.is_object() {
        // Paths outside of resources (/version, /metrics, …) are everybody's to read.
        return json!({"allowed": spec["nonResourceAttributes"]["verb"].as_str().is_none_or(|verb| verb == "get")});
    }
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    // A question about everything is a question about what only admins may.
    let (verb, resource) = (text("verb"), text("resource"));
    let everything = verb == "*" || resource == "*";
    let attributes = Attributes {
        verb: if everything { "create" } else { verb },
        group: text("group"),
        resource: if everything { "resourcequotas" } else { resource },
        subresource: text("subresource"),
        namespace: text("namespace"),
    };
    match allowed(user, &attributes) {
        Ok(()) => json!({"allowed": true}),
        Err(reason) => json!({"allowed": false, "reason": reason}),
    }
}

/// What may be done, resource by resource: derived from what decides over requests, so that both say the same.
fn rules(user: &User, namespace: &str) -> Value {
    let everything = user.roles.get("*") == Some(&Role::Admin);
    let mut resource_rules = if everything {
        vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})]
    } else {
        granted(user, namespace)
    };
    for group in ["authorization.k8s.io", "authentication.k8s.io"] {
        let plurals: Vec<&str> =
            REVIEWS.iter().filter(|(of, _, _)| *of == group).map(|(_, plural, _)| *plural).collect();
        resource_rules.push(json!({"verbs": ["create"], "apiGroups": [group], "resources": plurals}));
    }
    json!({
        "resourceRules": resource_rules, "incomplete": false,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [
            "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/metrics", "/openapi/*", "/readyz", "/version",
        ]}],
    })
}

/// One rule for all resources of a group that the same may be done with.
fn granted(user: &User, namespace: &str) -> Vec<Value> {
    let mut rules: BTreeMap<(&str, Vec<&str>), BTreeSet<String>> = BTreeMap::new();
    for kind in crate::kinds::registry().iter() {
        for (subresource, verbs) in verbs(kind) {
            let may = |verb: &&&str| allowed(user, &asked(kind, subresource, verb, namespace)).is_ok();
            let granted: Vec<&str> = verbs.iter().filter(may).copied().collect();
            let slash = if subresource.is_empty() { "" } else { "/" };
            let resource = format!("{}{slash}{subresource}", kind.plural);
            if !granted.is_empty() {
                rules.entry((kind.group, granted)).or_default().insert(resource);
            }
        }
    }
    let rule = |((group, verbs), resources)| json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
    rules.into_iter().map(rule).collect()
}

fn asked<'a>(kind: &Kind, subresource: &'a str, verb: &'a str, namespace: &'a str) -> Attributes<'a> {
    // A namespace is governed by the roles in it.
    let inside = kind.namespaced || is_namespaces(kind);
    let namespace = if inside { namespace } else { "" };
    Attributes { verb, group: kind.group, resource: kind.plural, subresource, namespace }
}

fn is_namespaces(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// What can be done with a kind, part by part.
fn verbs(kind: &'static Kind) -> Vec<(&'static str, &'static [&'static str])> {
    const READ: &[&str] = &["get", "list", "watch"];
    const ALL: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    const PART: &[&str] = &["get", "update", "patch"];
    let mut verbs = vec![("", if kind.read_only { READ } else { ALL })];
    verbs.extend(kind.status.then_some(("status", PART)));
    verbs.extend(kind.scale.is_some().then_some(("scale", PART)));
    verbs.extend(is_namespaces(kind).then_some(("finalize", &["update"][..])));
    // Others are named in discovery and not served.
    let served = [("log", &["get"][..]), ("binding", &["create"]), ("eviction", &["create"])];
    verbs.extend(served.into_iter().filter(|(subresource, _)| kind.subresources.contains(subresource)));
    verbs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(rules: &Value, asked: &Attributes<'_>) -> bool {
        let slash = if asked.subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}{slash}{}", asked.resource, asked.subresource);
        let has = |rule: &Value, field: &str, wanted: &str| {
            rule[field].as_array().is_some_and(|all| all.iter().any(|one| *one == wanted || *one == "*"))
        };
        rules["resourceRules"].as_array().is_some_and(|rules| {
            rules.iter().any(|rule| {
                has(rule, "verbs", asked.verb)
                    && has(rule, "apiGroups", asked.group)
                    && has(rule, "resources", &resource)
            })
        })
    }

    #[test]
    fn the_list_of_rights_says_what_requests_are_told() {
        let roles = [Role::View, Role::Edit, Role::Admin];
        let mut users = vec![User::owner(), User { name: "nobody".to_owned(), roles: BTreeMap::new() }];
        for role in roles {
            for place in ["team", "*"] {
                users.push(User { name: "ann".to_owned(), roles: BTreeMap::from([(place.to_owned(), role)]) });
            }
        }
        for user in users {
            for namespace in ["team", "other"] {
                let rules = rules(&user, namespace);
                for kind in crate::kinds::registry().iter() {
                    for (subresource, verbs) in verbs(kind) {
                        for verb in verbs {
                            let asked = asked(kind, subresource, verb, namespace);
                            let (listed, may) = (grants(&rules, &asked), allowed(&user, &asked).is_ok());
                            assert_eq!(listed, may, "{:?} in {namespace}: {asked:?}", user.roles);
                        }
                    }
                }
            }
        }
        let viewer = User { name: "ann".to_owned(), roles: BTreeMap::from([("team".to_owned(), Role::View)]) };
        let secrets = Attributes { verb: "get", group: "", resource: "secrets", subresource: "", namespace: "team" };
        assert!(!grants(&rules(&viewer, "team"), &secrets));
    }
}

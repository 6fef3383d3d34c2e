//! "May I?" and "who am I?": review objects that are answered, never stored.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::accept::Form;
use super::route::ResourcePath;
use super::status::ApiError;
use super::{answer, body};
use crate::auth::{Attributes, Role, User, allowed};

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

fn rules(user: &User, namespace: &str) -> Value {
    let role = user.roles.get(namespace).copied().max(user.roles.get("*").copied());
    let verbs = match role {
        None => Vec::new(),
        Some(Role::View) => vec!["get", "list", "watch"],
        Some(Role::Edit) => vec!["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
        Some(Role::Admin) => vec!["*"],
    };
    let resource_rules =
        if verbs.is_empty() { json!([]) } else { json!([{"verbs": verbs, "apiGroups": ["*"], "resources": ["*"]}]) };
    json!({
        "resourceRules": resource_rules, "incomplete": false,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version", "/healthz", "/livez", "/readyz", "/api", "/apis", "/openapi/*"]}],
    })
}

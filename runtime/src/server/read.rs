//! GET of one object and of collections.

use axum::response::Response;
use http::StatusCode;
use trainyard_runtime_core::selector::Selector;
use trainyard_runtime_core::store::{At, FieldCause, ListQuery};

use super::answer;
use super::call::Call;
use super::status::{ApiError, Subject};
use super::view;
use crate::kinds::Kind;

pub(super) fn get(call: &Call) -> Result<Response, ApiError> {
    version(&call.params.resource_version)?;
    let object = call.api.store.get(&call.key()).map_err(|error| call.store_error(error))?;
    answer::object(call, StatusCode::OK, &object)
}

pub(super) fn list(call: &Call) -> Result<Response, ApiError> {
    let selector = parsed(call)?;
    options(call)?;
    known(call, &selector)?;
    let query = ListQuery {
        namespace: namespace(call),
        selector,
        limit: Some(call.params.limit),
        continue_token: Some(call.params.continue_token.clone()).filter(|token| !token.is_empty()),
        at: at(call)?,
    };
    let page = call.api.store.list(&call.resource, &query).map_err(|error| call.store_error(error))?;
    answer::page(call, &page)
}

/// One namespace, or all.
pub(super) fn namespace(call: &Call) -> Option<String> {
    (!call.namespace.is_empty()).then(|| call.namespace.clone())
}

/// Both selectors, refused where a field cannot be selected by.
pub(super) fn selector(call: &Call) -> Result<Selector, ApiError> {
    let selector = parsed(call)?;
    known(call, &selector)?;
    Ok(selector)
}

/// Both selectors as they are written.
pub(super) fn parsed(call: &Call) -> Result<Selector, ApiError> {
    let mut fields = call.params.field_selector.clone();
    if call.kind.kind == "Event" && call.kind.stored_as.is_some() {
        fields = view::stored_selector(&fields);
    }
    Selector::parse(&call.params.label_selector, &fields).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Refuses fields that cannot be selected by.
pub(super) fn known(call: &Call, selector: &Selector) -> Result<(), ApiError> {
    for requirement in &selector.fields.requirements {
        let custom_outside = !call.kind.builtin && !call.kind.namespaced && requirement.path == "metadata.namespace";
        if custom_outside || !selectable(call.kind.group, call.kind.plural, &requirement.path) {
            return Err(ApiError::bad_request(not_selectable(call.kind, &requirement.path)));
        }
    }
    Ok(())
}

/// The API server words it in two ways: one for kinds with fields of their own, one for all others.
fn not_selectable(kind: &Kind, path: &str) -> String {
    let plural = kind.plural;
    let own_fields = match kind.group {
        _ if !kind.builtin => true,
        "" => matches!(plural, "pods" | "nodes" | "events" | "namespaces" | "secrets" | "services"),
        "batch" => plural == "jobs",
        "events.k8s.io" => plural == "events",
        _ => false,
    };
    if (kind.group, plural) == ("batch", "jobs") {
        format!("field label {path:?} not supported for {}", kind.kind)
    } else if own_fields {
        format!("field label not supported: {path}")
    } else {
        format!("\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    }
}

/// The fields that Kubernetes selects by, and no others: a selector that works here must work on a cluster.
fn selectable(group: &str, plural: &str, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match (group, plural) {
        ("", "pods") => matches!(
            path,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        (_, "events") => {
            path.starts_with("involvedObject.") || matches!(path, "reason" | "reportingComponent" | "source" | "type")
        }
        ("", "namespaces") => path == "status.phase",
        ("", "nodes") => path == "spec.unschedulable",
        ("", "secrets") => path == "type",
        ("", "services") => matches!(path, "spec.clusterIP" | "spec.type"),
        ("batch", "jobs") => path == "status.successful",
        _ => false,
    }
}

/// What the parameters of a list say about versions, and about each other.
fn options(call: &Call) -> Result<(), ApiError> {
    let params = &call.params;
    let mut causes = Vec::new();
    let mut wrong = |field: &str, reason: &'static str, message: String| {
        causes.push(FieldCause { field: field.to_owned(), reason, message });
    };
    let (matched, version) = (params.version_match.as_str(), params.resource_version.as_str());
    let mut forbidden = |why: &str| wrong("resourceVersionMatch", "FieldValueForbidden", format!("Forbidden: {why}"));
    if !matched.is_empty() {
        if version.is_empty() {
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !params.continue_token.is_empty() {
            forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if matched == "Exact" && version == "0" {
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(matched, "Exact" | "NotOlderThan") {
            let why = format!("Unsupported value: {matched:?}: supported values: \"Exact\", \"NotOlderThan\", \"\"");
            wrong("resourceVersionMatch", "FieldValueNotSupported", why);
        }
    }
    if params.send_initial_events.is_some() {
        let why = "Forbidden: sendInitialEvents is forbidden for list".to_owned();
        wrong("sendInitialEvents", "FieldValueForbidden", why);
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid_options(causes)) }
}

fn at(call: &Call) -> Result<At, ApiError> {
    let params = &call.params;
    if !params.continue_token.is_empty() && !matches!(params.resource_version.as_str(), "" | "0") {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(match (params.version_match.as_str(), version(&params.resource_version)?) {
        (_, None | Some(0)) => At::Latest,
        // A page of an old version is an exact one; without pages "not older" is what clients mean.
        ("", Some(version)) if params.limit > 0 && params.continue_token.is_empty() => At::Exact(version),
        ("Exact", Some(version)) => At::Exact(version),
        (_, Some(version)) => At::NotOlderThan(version),
    })
}

/// 422 for parameters of a list or watch.
pub(super) fn invalid_options(causes: Vec<FieldCause>) -> ApiError {
    ApiError::invalid(Subject::new("meta.k8s.io", "ListOptions", ""), causes)
}

/// A resourceVersion as a number; `None` for none.
pub(super) fn version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("resourceVersion: Invalid value: \"{text}\": it is not a number")))
}

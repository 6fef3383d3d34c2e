//! Answers: objects and lists in the form that the client asked for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use trainyard_runtime_core::store::{Object, Page};

use super::accept::{Form, Media, View};
use super::call::Call;
use super::query::IncludeObject;
use super::status::ApiError;
use super::{now_ms, view};
use crate::table::{self, RowObject};

/// One stored object.
pub(crate) fn object(call: &Call, status: StatusCode, object: &Object) -> Result<Response, ApiError> {
    let shown = call.kind.stored_as.map(|_| view::shown(call.kind, object.value()));
    let value = shown.as_ref().unwrap_or_else(|| object.value());
    match call.form.view {
        View::Whole | View::AggregatedDiscovery if shown.is_none() => text(call.form, status, object.json(), value),
        View::Whole | View::AggregatedDiscovery => text(call.form, status, &value.to_string(), value),
        View::Table => {
            let mut table = table::table(call.kind, [value], rows(call), true, now_ms());
            table["metadata"]["resourceVersion"] = value["metadata"]["resourceVersion"].clone();
            json_value(call.form, status, &table)
        }
        View::Partial => json_value(call.form, status, &table::partial(value)),
        View::PartialList if call.kind.builtin => Err(ApiError::no_such_view(
            "you requested PartialObjectMetadataList, but the requested object is not a list",
        )),
        View::PartialList => Err(ApiError::bad_request("content is not a list")),
    }
}

/// A page of stored objects.
pub(crate) fn page(call: &Call, page: &Page) -> Result<Response, ApiError> {
    let mut meta = json!({"resourceVersion": page.resource_version.to_string()});
    if let Some(token) = &page.continue_token {
        meta["continue"] = Value::from(token.as_str());
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = Value::from(remaining);
    }
    match call.form.view {
        View::Whole | View::AggregatedDiscovery => whole_page(call, page, &meta),
        View::Table => {
            let values = values(call, page);
            let mut table = table::table(call.kind, values.iter(), rows(call), true, now_ms());
            table["metadata"] = meta;
            json_value(call.form, StatusCode::OK, &table)
        }
        View::Partial => Err(ApiError::no_such_view(&format!(
            "you requested PartialObjectMetadata, but the requested object is a list ({})",
            go_list(call)
        ))),
        View::PartialList => {
            let items: Vec<Value> = page.items.iter().map(|item| table::partial(item.value())).collect();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items,
            });
            json_value(call.form, StatusCode::OK, &list)
        }
    }
}

/// A list's type as the API server names it.
fn go_list(call: &Call) -> String {
    let kind = call.kind;
    if !kind.builtin {
        return "*unstructured.UnstructuredList".to_owned();
    }
    let package = match kind.group.split('.').next().unwrap_or_default() {
        // Events of both groups are one type.
        "" | "events" => "core",
        package => package,
    };
    format!("*{package}.{}", kind.list_kind())
}

/// Joins the objects' JSON, without making one tree of them all.
fn whole_page(call: &Call, page: &Page, meta: &Value) -> Result<Response, ApiError> {
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        call.kind.list_kind(),
        call.kind.api_version()
    );
    let size: usize = page.items.iter().map(|item| item.json().len() + 1).sum();
    let mut body = String::with_capacity(head.len() + size + 2);
    body.push_str(&head);
    for (index, item) in page.items.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        match (call.kind.stored_as, call.kind.builtin) {
            (None, false) => body.push_str(item.json()),
            (Some(_), false) => body.push_str(&view::shown(call.kind, item.value()).to_string()),
            (None, true) => body.push_str(&untyped(item.value())),
            (Some(_), true) => body.push_str(&untyped(&view::shown(call.kind, item.value()))),
        }
    }
    body.push_str("]}");
    if call.form.media == Media::Yaml {
        let value = serde_json::from_str(&body).map_err(|error| ApiError::internal(error.to_string()))?;
        return json_value(call.form, StatusCode::OK, &value);
    }
    Ok(bytes(StatusCode::OK, "application/json", body))
}

/// JSON without `apiVersion` and `kind`: in lists of its own kinds the API server does not repeat them.
fn untyped(object: &Value) -> String {
    struct Untyped<'a>(&'a Map<String, Value>);
    impl Serialize for Untyped<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind")))
        }
    }
    object.as_object().and_then(|map| serde_json::to_string(&Untyped(map)).ok()).unwrap_or_default()
}

fn values(call: &Call, page: &Page) -> Vec<Value> {
    let shown = |object: &std::sync::Arc<Object>| match call.kind.stored_as {
        None => object.value().clone(),
        Some(_) => view::shown(call.kind, object.value()),
    };
    page.items.iter().map(shown).collect()
}

/// What the rows of this call's tables carry.
pub(crate) fn rows(call: &Call) -> RowObject {
    match call.params.include_object {
        IncludeObject::None => RowObject::None,
        IncludeObject::Metadata => RowObject::Metadata,
        IncludeObject::Object => RowObject::Whole,
    }
}

/// Any value.
pub(crate) fn json_value(form: Form, status: StatusCode, value: &Value) -> Result<Response, ApiError> {
    match form.media {
        Media::Json => Ok(bytes(status, "application/json", value.to_string())),
        Media::Yaml => text(form, status, "", value),
    }
}

fn text(form: Form, status: StatusCode, json: &str, value: &Value) -> Result<Response, ApiError> {
    match form.media {
        Media::Json => Ok(bytes(status, "application/json", json.to_owned())),
        Media::Yaml => {
            let yaml = serde_saphyr::to_string(value).map_err(|error| ApiError::internal(error.to_string()))?;
            Ok(bytes(status, "application/yaml", yaml))
        }
    }
}

/// Bytes of a known type.
pub(crate) fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Secrets must not stay in any cache on the way.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Puts warnings where clients look for them: kubectl prints each to stderr.
pub(crate) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = quoted.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

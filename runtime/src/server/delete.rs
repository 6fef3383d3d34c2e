//! DELETE of one object and of collections.

use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use serde_json::Value;
use trainyard_runtime_core::store::{
    Effect, FieldCause, Key, ListQuery, Outcome, Page, Preconditions, Propagation, StoreError,
};

use super::call::Call;
use super::limit::PARALLEL_DELETES;
use super::status::{self, ApiError};
use super::write::writable;
use super::{answer, body, read};
use crate::kinds::Kind;
use crate::store::DeleteOptions;

pub(super) async fn delete(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let options = options(call, content_type, bytes)?;
    let outcome = call.api.store.delete(&call.key(), options).await.map_err(|error| call.store_error(error))?;
    // Who asks in the old way for what an object owns to go is told where that is still to come.
    let pending = orphan(call, content_type, bytes) == Some(false);
    respond(call, &outcome, if pending { StatusCode::ACCEPTED } else { StatusCode::OK })
}

/// `orphanDependents`, of the body or else of the query.
fn orphan(call: &Call, content_type: &str, bytes: &Bytes) -> Option<bool> {
    let body = body::decode(bytes, content_type).unwrap_or_default();
    body["orphanDependents"].as_bool().or(call.params.orphan_dependents)
}

/// Kinds whose last state the API answers; of everything else it says only that it is gone.
fn shows_deleted(kind: &Kind) -> bool {
    match kind.group {
        "" => matches!(
            kind.plural,
            "pods" | "services" | "serviceaccounts" | "persistentvolumes" | "persistentvolumeclaims" | "resourcequotas"
        ),
        "storage.k8s.io" => true,
        _ => false,
    }
}

/// `pending` is the answer where the object is still there.
fn respond(call: &Call, outcome: &Outcome, pending: StatusCode) -> Result<Response, ApiError> {
    match outcome.effect {
        Effect::Deleted if !shows_deleted(call.kind) => {
            let status = status::success(&call.subject(), outcome.object.uid());
            answer::json_value(call.form, StatusCode::OK, &status)
        }
        Effect::Deleted => answer::object(call, StatusCode::OK, &outcome.object),
        Effect::Created | Effect::Updated | Effect::Unchanged | Effect::Deleting => {
            answer::object(call, pending, &outcome.object)
        }
    }
}

/// Deletes what the selectors find, and answers the list of it as it was before.
pub(super) async fn collection(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let options = options(call, content_type, bytes)?;
    let query = ListQuery {
        namespace: read::namespace(call),
        selector: read::selector(call)?,
        limit: Some(call.params.limit),
        continue_token: Some(call.params.continue_token.clone()).filter(|token| !token.is_empty()),
        ..ListQuery::default()
    };
    let found = call.api.store.list(&call.resource, &query).map_err(|error| call.store_error(error))?;
    let (continue_token, remaining) = (found.continue_token, found.remaining);
    let items: Vec<_> = stream::iter(found.items)
        .map(|object| {
            // Each object is deleted as it was found: a successor of the same name was not asked for.
            let mut options = options.clone();
            options.preconditions.uid = Some(object.uid().to_string());
            async move { Ok(delete_found(call, object.key().clone(), options).await?.map(|_| object)) }
        })
        .buffered(PARALLEL_DELETES)
        .try_filter_map(|found| async move { Ok::<_, StoreError>(found) })
        .try_collect()
        .await
        .map_err(|error| call.store_error(error))?;
    let page = Page { items, resource_version: call.api.store.resource_version(), continue_token, remaining };
    answer::page(call, &page)
}

/// `None` for an object that somebody else has deleted meanwhile.
async fn delete_found(call: &Call, key: Key, options: DeleteOptions) -> Result<Option<Outcome>, StoreError> {
    match call.api.store.delete(&key, options).await {
        Ok(outcome) => Ok(Some(outcome)),
        Err(StoreError::NotFound { .. } | StoreError::Conflict { .. } | StoreError::Precondition { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is wrong with a propagation policy.
fn refused(reason: &'static str, message: String) -> FieldCause {
    FieldCause { field: "propagationPolicy".to_owned(), reason, message }
}

/// DeleteOptions from the body, else from the query.
fn options(call: &Call, content_type: &str, bytes: &Bytes) -> Result<DeleteOptions, ApiError> {
    let body = if bytes.is_empty() { Value::Null } else { body::decode(bytes, content_type)? };
    let text = |at: &str| body.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let params = &call.params;
    let named = text("/propagationPolicy").or_else(|| params.propagation.clone());
    let orphan = orphan(call, content_type, bytes);
    let mut causes = Vec::new();
    if let (Some(policy), Some(_)) = (&named, orphan) {
        let message = format!("Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set");
        causes.push(refused("FieldValueInvalid", message));
    }
    let propagation = match (named.as_deref(), orphan) {
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), _) => {
            let supported = "\"Foreground\", \"Background\", \"Orphan\", \"nil\"";
            let message = format!("Unsupported value: {other:?}: supported values: {supported}");
            causes.push(refused("FieldValueNotSupported", message));
            None
        }
        (None, None) => None,
    };
    // Nobody owns through events: they go at once.
    let propagation = propagation.filter(|_| call.kind.plural != "events");
    let dry_run = match body["dryRun"].as_array().and_then(|values| values.first()) {
        Some(value) if value == "All" => true,
        Some(value) => {
            let message = format!("Unsupported value: [{value}]: supported values: \"All\"");
            causes.push(FieldCause { field: "dryRun".to_owned(), reason: "FieldValueNotSupported", message });
            true
        }
        None => params.dry_run,
    };
    if !causes.is_empty() {
        return Err(ApiError::invalid(status::Subject::new("meta.k8s.io", "DeleteOptions", ""), causes));
    }
    Ok(DeleteOptions {
        preconditions: Preconditions {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        },
        grace_seconds: body["gracePeriodSeconds"].as_i64().or(params.grace_seconds),
        propagation,
        dry_run,
    })
}

//! POST and PUT of objects.

use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use trainyard_runtime_core::store::{Object, StoreError};

use super::call::Call;
use super::check::{Refusal, Writer};
use super::status::ApiError;
use super::{admit, answer, body, duplicate, quota, service_ip, view};
use crate::kinds::Kind;
use crate::store::WriteOptions;

/// POST: a new object.
pub(super) async fn create(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let writer = Writer { duplicates: duplicate::fields(bytes), ..Writer::of(call) };
    let value = writer.identified(body::decode(bytes, content_type)?)?;
    in_namespace(call, &value)?;
    create_from(call, &writer, value).await
}

async fn create_from(call: &Call, writer: &Writer, mut value: Value) -> Result<Response, ApiError> {
    admit::named(call.kind, &mut value, &suffix());
    if call.kind.namespaced {
        value["metadata"]["namespace"] = Value::from(call.namespace.as_str());
    }
    let (mut value, warnings) = writer.created(value, true)?;
    if call.kind.stored_as.is_some() {
        value = view::stored(call.kind, &value);
    }
    let options = WriteOptions {
        dry_run: call.params.dry_run,
        keep_status: admit::sets_status(call.kind),
        ..WriteOptions::default()
    };
    let (store, resource, namespace) = (&call.api.store, &call.resource, call.namespace.as_str());
    let outcome = match (call.kind.group, call.kind.plural) {
        ("", "pods") => {
            let _gate = quota::admit_pod(&call.api, &call.namespace, &mut value).await?;
            store.create(resource, namespace, value, options).await
        }
        ("", "services") => {
            let _quota = quota::admit(&call.api, resource, namespace, &value).await?;
            let (_gate, taken) = service_ip::taken(&call.api).await;
            taken.settle(call.kind, None, &mut value)?;
            store.create(resource, namespace, value, options).await
        }
        _ => {
            let _gate = quota::admit(&call.api, resource, namespace, &value).await?;
            store.create(resource, namespace, value, options).await
        }
    };
    let outcome = outcome.map_err(|error| call.store_error(error))?;
    Ok(answer::warn(answer::object(call, StatusCode::CREATED, &outcome.object)?, &warnings))
}

/// PUT: the whole object anew.
pub(super) async fn update(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let writer = Writer { duplicates: duplicate::fields(bytes), ..Writer::of(call) };
    let mut new = writer.identified(body::decode(bytes, content_type)?)?;
    in_namespace(call, &new)?;
    names_itself(&call.name, &new)?;
    // Who says a uid means the one object that had it.
    let any = new["metadata"]["uid"].as_str().is_none_or(str::is_empty);
    if any && call.subresource.is_empty() && created_by_update(call.kind) && call.api.store.get(&call.key()).is_err() {
        // What it was before it went does not count.
        new["metadata"]["resourceVersion"] = Value::Null;
        return create_from(call, &writer, new).await;
    }
    let warnings = Warnings::default();
    let heard = warnings.clone();
    let is_view = call.kind.stored_as.is_some();
    let key = call.key();
    let (_gate, taken) = if has_address(call) { Some(service_ip::taken(&call.api).await) } else { None }.unzip();
    let change = {
        let (writer, key) = (writer.clone(), key.clone());
        move |current: Option<&Object>| -> Result<Value, Refusal> {
            let current = current.ok_or_else(|| StoreError::not_found(&key))?;
            let shown = is_view.then(|| view::shown(writer.kind, current.value()));
            let (mut new, said) = writer.updated(shown.as_ref().unwrap_or_else(|| current.value()), new, true)?;
            if let Some(taken) = taken {
                taken.settle(writer.kind, Some(current.value()), &mut new)?;
            }
            heard.put(said);
            Ok(if is_view { view::stored(writer.kind, &new) } else { new })
        }
    };
    let options = WriteOptions {
        part: writer.part,
        dry_run: call.params.dry_run,
        frees: call.is_deleting(),
        ..WriteOptions::default()
    };
    let outcome = call.api.store.transact(&key, options, change).await.map_err(|r: Refusal| r.into_api(call.kind))?;
    Ok(answer::warn(answer::object(call, StatusCode::OK, &outcome.object)?, &warnings.take()))
}

/// Kinds of which a PUT makes the object that is not there.
fn created_by_update(kind: &Kind) -> bool {
    matches!(
        (kind.group, kind.plural),
        ("", "services" | "events" | "limitranges")
            | ("events.k8s.io", "events")
            | ("coordination.k8s.io", "leases")
            | ("scheduling.k8s.io", "priorityclasses")
    )
}

/// Whether this writes a service's spec, with its address.
pub(super) fn has_address(call: &Call) -> bool {
    call.kind.group.is_empty() && call.kind.plural == "services" && call.subresource.is_empty()
}

/// Five characters as the API server draws them: no vowels, so no words.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

/// Refuses writes to kinds that are read-only here, and creations outside of a namespace.
pub(super) fn writable(call: &Call) -> Result<(), ApiError> {
    if call.kind.read_only {
        return Err(ApiError::method_not_allowed());
    }
    if call.kind.namespaced && call.namespace.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    Ok(())
}

/// The object's own namespace, where it says one, must be the path's.
pub(super) fn in_namespace(call: &Call, value: &Value) -> Result<(), ApiError> {
    match value["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        Some(_) if !call.kind.namespaced => {
            Err(ApiError::bad_request(format!("metadata.namespace: {} is not namespaced", call.kind.resource())))
        }
        Some(given) if given != call.namespace => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        Some(_) | None => Ok(()),
    }
}

/// The object has the name of the path.
pub(super) fn names_itself(name: &str, value: &Value) -> Result<(), ApiError> {
    match value["metadata"]["name"].as_str().unwrap_or_default() {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != name => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// Warnings on their way out of the store's writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(super) fn put(&self, warnings: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

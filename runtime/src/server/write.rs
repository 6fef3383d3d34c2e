//! POST and PUT of objects.

use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use trainyard_runtime_core::store::{Object, StoreError};

use super::call::Call;
use super::check::{Refusal, Writer};
use super::priority::Given;
use super::status::ApiError;
use super::{admit, answer, body, duplicate, quota, service_ip, view};
use crate::kinds::Kind;
use crate::store::{Outcome, WriteOptions};

/// POST: a new object.
pub(super) async fn create(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let writer = Writer { duplicates: duplicate::fields(bytes), ..Writer::of(call) };
    let (mut value, told) = writer.read(body::decode(bytes, content_type)?)?;
    if let Err(error) = in_namespace(call, &mut value) {
        writer.typed(&value)?;
        return Err(error.warning(&told));
    }
    create_from(call, &writer, value, told).await
}

/// `told` are the warnings that are known already.
async fn create_from(call: &Call, writer: &Writer, value: Value, mut told: Vec<String>) -> Result<Response, ApiError> {
    let mut more = Vec::new();
    let created = store_new(call, writer, value, &mut more).await;
    // Of what is not valid only what could not be read is told.
    if created.as_ref().is_err_and(|error| error.code() == StatusCode::UNPROCESSABLE_ENTITY) {
        more.retain(|warning| warning.starts_with(".metadata."));
    }
    told.extend(more);
    match created {
        Ok(object) => Ok(answer::warn(answer::object(call, StatusCode::CREATED, &object)?, &told)),
        Err(error) => Err(error.preceded_by(told)),
    }
}

/// `warnings` are those for a valid object.
async fn store_new(
    call: &Call,
    writer: &Writer,
    mut value: Value,
    warnings: &mut Vec<String>,
) -> Result<Arc<Object>, ApiError> {
    admit::named(&mut value, &suffix());
    if call.kind.namespaced {
        value["metadata"]["namespace"] = Value::from(call.namespace.as_str());
    }
    if call.name.is_empty() {
        without_end(writer, &mut value)?;
    }
    // What is no pod has no class.
    let class = || Given::to(&call.api, &value).map_err(|error| writer.typed(&value).err().unwrap_or(error));
    let given = if (call.kind.group, call.kind.plural) == ("", "pods") { Some(class()?) } else { None };
    let (mut value, said) = writer.created(value, true)?;
    // Nobody owns what a class gives.
    given.iter().for_each(|given| given.write(&mut value));
    *warnings = said;
    if call.kind.stored_as.is_some() {
        value = view::stored(call.kind, &value);
    }
    let options = WriteOptions {
        dry_run: call.params.dry_run,
        keep_status: admit::sets_status(call.kind),
        ..WriteOptions::default()
    };
    let (resource, namespace) = (&call.resource, call.namespace.as_str());
    let outcome = match (call.kind.group, call.kind.plural) {
        ("", "pods") => {
            let _gate = quota::admit_pod(&call.api, &call.namespace, &mut value).await?;
            put(call, value, options).await
        }
        ("", "services") => {
            let _quota = quota::admit(&call.api, resource, namespace, &value).await?;
            let (_gate, taken) = service_ip::taken(&call.api).await;
            taken.settle(call.kind, None, &mut value)?;
            put(call, value, options).await
        }
        _ => {
            let _gate = quota::admit(&call.api, resource, namespace, &value).await?;
            put(call, value, options).await
        }
    };
    Ok(outcome.map_err(|error| call.store_error(error))?.object)
}

/// A POST does not say when its object is to end, so that nobody owns that.
fn without_end(writer: &Writer, value: &mut Value) -> Result<(), ApiError> {
    const FIELDS: [&str; 2] = ["deletionTimestamp", "deletionGracePeriodSeconds"];
    if FIELDS.iter().all(|field| value["metadata"][field].is_null()) {
        return Ok(());
    }
    writer.typed(value)?;
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|field, _| !FIELDS.contains(&field.as_str()));
    }
    Ok(())
}

/// Unlike a POST, a PUT that makes an object may say when that is to end.
async fn put(call: &Call, value: Value, options: WriteOptions) -> Result<Outcome, StoreError> {
    let (store, key) = (&call.api.store, call.key());
    if call.name.is_empty() {
        return store.create(&call.resource, &call.namespace, value, options).await;
    }
    let (resource, name) = (call.resource.clone(), call.name.clone());
    let change = move |current: Option<&Object>| match current {
        None => Ok(value),
        Some(there) => Err(StoreError::AlreadyExists { resource, name, deleting: there.is_deleting() }),
    };
    store.transact(&key, options, change).await
}

/// PUT: the whole object anew.
pub(super) async fn update(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let writer = Writer { duplicates: duplicate::fields(bytes), ..Writer::of(call) };
    let (mut new, told) = writer.read(body::decode(bytes, content_type)?)?;
    in_namespace(call, &mut new).and_then(|()| names_itself(&call.name, &new)).map_err(|error| error.warning(&told))?;
    // Who says a uid means the one object that had it.
    let any = new["metadata"]["uid"].as_str().is_none_or(str::is_empty);
    if any && created_by_update(call.kind) && call.api.store.get(&call.key()).is_err() {
        // What it was before it went does not count.
        new["metadata"]["resourceVersion"] = Value::Null;
        return create_from(call, &writer, new, told).await;
    }
    replace(call, &writer, new, &told).await
}

async fn replace(call: &Call, writer: &Writer, new: Value, told: &[String]) -> Result<Response, ApiError> {
    let warnings = Warnings::default();
    let heard = warnings.clone();
    let is_view = call.kind.stored_as.is_some();
    let key = call.key();
    let (_gate, taken) = if has_address(call) { Some(service_ip::taken(&call.api).await) } else { None }.unzip();
    let dry_run = call.params.dry_run;
    let change = {
        let (writer, key) = (writer.clone(), key.clone());
        move |current: Option<&Object>| -> Result<Value, Refusal> {
            let Some(current) = current else {
                writer.typed(&new)?;
                return Err(StoreError::not_found(&key).into());
            };
            current.is_meant(&new).map_err(|error| if dry_run { of_a_dry_run(error) } else { error })?;
            writer.versioned(&key, &new)?;
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
    let done = call.api.store.transact(&key, options, change).await;
    let told = [told, &warnings.take()].concat();
    match done {
        Ok(outcome) => Ok(answer::warn(answer::object(call, StatusCode::OK, &outcome.object)?, &told)),
        Err(refusal) => Err(Refusal::into_api(refusal, call.kind).preceded_by(told)),
    }
}

/// A dry run does not go as far as to where objects are stored, and says less of that.
fn of_a_dry_run(error: StoreError) -> StoreError {
    let StoreError::Conflict { resource, name, message } = error else { return error };
    StoreError::Conflict { resource, name, message: message.replace("Key: /registry/", "Key: /") }
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

/// The object's own namespace, where it says one, must be the path's; one of an object outside of namespaces is dropped.
pub(super) fn in_namespace(call: &Call, value: &mut Value) -> Result<(), ApiError> {
    within(call.kind, &call.namespace, value)
}

/// As above, of an object of a kind that is written in `namespace`.
pub(super) fn within(kind: &Kind, namespace: &str, value: &mut Value) -> Result<(), ApiError> {
    if !kind.namespaced {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    match value["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        Some(given) if given != namespace => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        Some(_) | None => Ok(()),
    }
}

/// The object has the name of the path.
pub(super) fn names_itself(name: &str, value: &Value) -> Result<(), ApiError> {
    match value["metadata"]["name"].as_str().unwrap_or_default() {
        "" => Err(unnamed(name)),
        given if given != name => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// 400 for an object without a name, where the path has one.
pub(super) fn unnamed(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
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

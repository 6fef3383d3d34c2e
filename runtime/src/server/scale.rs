//! The scale subresource: the replica count of any kind that has one, in one shape.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use trainyard_runtime_core::apply;
use trainyard_runtime_core::patch as patches;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::store::{FieldCause, Object, Part, StoreError};

use super::answer;
use super::call::Call;
use super::check::{self, Refusal, Writer};
use super::status::{ApiError, Subject};
use super::{body, patch, write};
use crate::kinds::{Kind, Scale};
use crate::store::WriteOptions;
use crate::table::find_path;

pub(super) fn get(call: &Call) -> Result<Response, ApiError> {
    let object = call.api.store.get(&call.key()).map_err(|error| call.store_error(error))?;
    if let Some(paths) = call.kind.scale.filter(|_| !call.kind.builtin)
        && find_path(object.value(), paths.spec_replicas).is_empty()
    {
        return Err(ApiError::fault(&format!("the spec replicas field {:?} does not exist", paths.spec_replicas)));
    }
    answer::json_value(call.form, StatusCode::OK, &scale_of(call.kind, object.value()))
}

/// PUT, or PATCH by any of the three plain patches.
pub(super) async fn write(call: &Call, verb: &str, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    write::writable(call)?;
    let paths = call.kind.scale.ok_or_else(ApiError::no_such_path)?;
    let asked = match (verb, content_type) {
        ("patch", APPLY) => applied(call, bytes)?,
        ("update", _) => {
            let scale = body::decode(bytes, content_type)?;
            read(&scale)?;
            write::names_itself(&call.name, &scale)?;
            Asked::Whole(scale)
        }
        (_, "application/json-patch+json") => Asked::Json(body::json(bytes)?),
        (_, "application/merge-patch+json" | "application/strategic-merge-patch+json") => {
            Asked::Merge(body::json(bytes)?)
        }
        _ => return Err(ApiError::unsupported_media_type("application/json-patch+json, application/merge-patch+json")),
    };
    let mut writer = Writer::of(call);
    writer.part = Part::Whole;
    writer.subresource = Some("scale");
    let key = call.key();
    let warnings = write::Warnings::default();
    let heard = warnings.clone();
    let change = {
        let key = key.clone();
        move |current: Option<&Object>| -> Result<Value, Refusal> {
            let current = current.ok_or_else(|| StoreError::not_found(&key))?;
            if let Asked::Apply { scale, force } = &asked {
                let wanted = owner_of(writer.kind, scale);
                // The owners of the number are shown as owners of the scale.
                let version = format!(" using {}", writer.kind.api_version());
                let mut new = patch::applied_over(&writer, Some(current.value()), &wanted, *force)
                    .map_err(|error| error.reworded(&version, " using autoscaling/v1"))?;
                in_range(writer.kind, current.value(), &new["spec"]["replicas"])?;
                apply::split_scale(&mut new, paths.spec_replicas);
                return Ok(writer.updated(current.value(), new, false)?.0);
            }
            let (new, replicas) = scaled(writer.kind, current.value(), asked)?;
            current.is_meant(&new)?;
            let (mut new, said) = writer.updated(current.value(), new, false)?;
            writer.track_scale(current.value(), &mut new, paths.spec_replicas, replicas != 0);
            heard.put(said);
            Ok(new)
        }
    };
    let options = WriteOptions { part: Part::Whole, dry_run: call.params.dry_run, ..WriteOptions::default() };
    let outcome = call.api.store.transact(&key, options, change).await.map_err(|r: Refusal| r.into_api(call.kind))?;
    let scale = answer::json_value(call.form, StatusCode::OK, &scale_of(call.kind, outcome.object.value()))?;
    Ok(answer::warn(scale, &warnings.take()))
}

/// The content type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// What is applied; custom resources cannot be scaled so, which kube-apiserver says in its own words.
fn applied(call: &Call, bytes: &Bytes) -> Result<Asked, ApiError> {
    call.api.store.get(&call.key()).map_err(|error| call.store_error(error))?;
    let scale = body::yaml(bytes)?;
    let text = |field: &str| scale[field].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("autoscaling/v1", "Scale") {
        let problem = format!("invalid object type: {}, Kind={}", text("apiVersion"), text("kind"));
        return Err(ApiError::bad_request(problem));
    }
    write::names_itself(&call.name, &scale)?;
    patch::managed(call)?;
    read(&scale)?;
    if !call.kind.builtin {
        return Err(ApiError::bad_request(
            "failed to create manager for existing fields: failed to convert live object (/; autoscaling/v1, Kind=Scale) to \
             proper version: request to convert CR to an invalid group/version: autoscaling/v1",
        ));
    }
    Ok(Asked::Apply { scale, force: call.params.force })
}

/// What an applied scale means for the object that it scales.
fn owner_of(kind: &Kind, scale: &Value) -> Value {
    let mut wanted = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": scale["metadata"]["name"]},
    });
    if let Some(replicas) = scale["spec"].get("replicas") {
        wanted["spec"] = json!({"replicas": replicas});
    }
    wanted
}

/// Whether a scale reads as one.
fn read(scale: &Value) -> Result<(), ApiError> {
    let replicas = &scale["spec"]["replicas"];
    if replicas.is_null() || replicas.is_i64() || replicas.is_u64() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "Scale in version \"v1\" cannot be handled as a Scale: the JSON has a number of replicas that is none",
    ))
}

enum Asked {
    Apply { scale: Value, force: bool },
    Whole(Value),
    Json(Value),
    Merge(Value),
}

/// The object with the replica count that was asked for, and that count.
fn scaled(kind: &Kind, object: &Value, asked: Asked) -> Result<(Value, i64), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let refused = |error| check::patch_error(error, Subject::new("autoscaling", "Scale", name));
    let mut before = scale_of(kind, object);
    if before["spec"].get("replicas").is_none() {
        before["spec"]["replicas"] = Value::from(0);
    }
    let scale = match asked {
        Asked::Whole(scale) | Asked::Apply { scale, .. } => scale,
        Asked::Json(patch) => patches::json(&before, &patch).map_err(refused)?,
        Asked::Merge(patch) => patches::merge(&before, &patch).map_err(refused)?,
    };
    read(&scale).map_err(ApiError::of_patch)?;
    write::names_itself(name, &scale)?;
    let replicas = in_range(kind, object, &scale["spec"]["replicas"])?;
    let mut new = object.clone();
    for field in ["resourceVersion", "uid"] {
        if let Some(given) = scale["metadata"][field].as_str().filter(|text| !text.is_empty()) {
            new["metadata"][field] = Value::from(given);
        }
    }
    let paths = kind.scale.ok_or_else(ApiError::no_such_path)?;
    set(&mut new, paths.spec_replicas, Value::from(replicas));
    Ok((new, replicas))
}

/// A number of replicas that there can be; absent is 0, as Go's JSON leaves zeros out.
fn in_range(kind: &Kind, object: &Value, asked: &Value) -> Result<i64, ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let count = if asked.is_null() { Some(0) } else { asked.as_i64() };
    count.filter(|count| (0..=i64::from(i32::MAX)).contains(count)).ok_or_else(|| {
        let reason = CauseReason::Invalid;
        if let (false, Some(scale)) = (kind.builtin, kind.scale) {
            let message = format!("Invalid value: {asked}: should be a non-negative integer");
            return check::invalid_field(kind, name, reason, scale.spec_replicas, message);
        }
        let message = format!("Invalid value: {asked}: must be greater than or equal to 0");
        let cause = FieldCause { field: "spec.replicas".to_owned(), reason: reason.as_str(), message };
        ApiError::invalid(Subject::new("autoscaling", "Scale", name), vec![cause])
    })
}

fn scale_of(kind: &Kind, object: &Value) -> Value {
    let Some(paths) = kind.scale else { return Value::Null };
    let number = |path: &str| find_path(object, path).first().and_then(|v| v.as_i64());
    let meta = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": {},
        "status": {"replicas": number(paths.status_replicas).unwrap_or(0)},
    });
    // Left out when it is 0, as Go's JSON does.
    let replicas = number(paths.spec_replicas).unwrap_or(default_replicas(kind));
    if replicas != 0 {
        scale["spec"]["replicas"] = Value::from(replicas);
    }
    if let Some(selector) = selector(object, paths) {
        scale["status"]["selector"] = Value::from(selector);
    }
    scale
}

/// Kubernetes stores 1 with its own kinds; a custom resource without the field has 0.
fn default_replicas(kind: &Kind) -> i64 {
    i64::from(kind.builtin)
}

fn selector(object: &Value, paths: Scale) -> Option<String> {
    match find_path(object, paths.selector).first()? {
        Value::String(text) => Some(text.clone()),
        Value::Object(selector) => {
            let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
            let terms: Vec<String> =
                labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
            Some(terms.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// Sets a plain dotted path, making the objects on the way.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for field in path.trim_start_matches('.').split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[field];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::registry;

    #[test]
    fn a_pytorchjobs_workers_are_its_scale() {
        let Some(kind) = registry().find("pytorchjobs") else { return };
        let job = json!({"metadata": {"name": "j"}, "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}},
            "status": {"replicaStatuses": {"Worker": {"active": 1, "selector": "a=b"}}}});
        let scale = scale_of(kind, &job);
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(1)));
        assert_eq!(scale["status"]["selector"], "a=b");
        let (new, _) = scaled(kind, &job, Asked::Merge(json!({"spec": {"replicas": 5}}))).expect("scales");
        assert_eq!(new["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"], 5);
        assert!(scaled(kind, &job, Asked::Merge(json!({"spec": {"replicas": -1}}))).is_err());
    }
}

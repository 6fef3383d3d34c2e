//! Subresources of pods that do something: `binding` and `eviction`.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use trainyard_runtime_core::store::{Object, Part, StoreError};

use super::call::Call;
use super::check::Refusal;
use super::status::{self, ApiError, Subject};
use super::{answer, body, delete, now_ms};
use crate::store::WriteOptions;

/// The scheduling gate that our scheduler puts on pods until their whole gang fits.
const GANG_GATE: &str = "trainyard.dev/gang";

/// POST pods/binding: the pod goes to a node. Our own gate comes off with it, in the same write, so that a gang is
/// never seen half way; other gates are others' reasons to wait and refuse the binding.
pub(super) async fn bind(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    let binding = body::decode(bytes, content_type)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: Required value: name the node to bind the pod to"));
    }
    let named = binding["metadata"]["name"].as_str().unwrap_or_default();
    if named != call.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let key = call.key();
    let subject = Subject::new("", "pods/binding", &call.name);
    let change = {
        let key = key.clone();
        move |current: Option<&Object>| -> Result<Value, Refusal> {
            let current = current.ok_or_else(|| StoreError::not_found(&key))?;
            Ok(bound(current, &binding, &node, &subject)?)
        }
    };
    let options = WriteOptions { part: Part::Whole, dry_run: call.params.dry_run, ..WriteOptions::default() };
    call.api.store.transact(&key, options, change).await.map_err(|r: Refusal| r.into_api(call.kind))?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    answer::json_value(call.form, StatusCode::CREATED, &done)
}

fn bound(pod: &Object, binding: &Value, node: &str, subject: &Subject) -> Result<Value, ApiError> {
    let conflict = |why: String| ApiError::conflict(subject.clone(), &why);
    if pod.is_deleting() {
        return Err(conflict("pod is being deleted, cannot be assigned to a host".to_owned()));
    }
    let mut new = pod.value().clone();
    let assigned = new["spec"]["nodeName"].as_str().unwrap_or_default();
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node \"{assigned}\"", subject.name)));
    }
    for field in ["uid", "resourceVersion"] {
        let given = binding["metadata"][field].as_str().filter(|given| !given.is_empty());
        if given.is_some_and(|given| new["metadata"][field] != given) {
            return Err(conflict(format!("Precondition failed: {field} in the binding is not the pod's")));
        }
    }
    let gates = new["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
    if gates.iter().any(|gate| gate["name"] != GANG_GATE) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", subject.name)));
    }
    let spec = new["spec"].as_object_mut().ok_or_else(|| ApiError::internal("a stored pod has no spec"))?;
    spec.remove("schedulingGates");
    spec.insert("nodeName".to_owned(), Value::from(node));
    if let Some(annotations) = binding["metadata"]["annotations"].as_object()
        && let Some(own) = super::check::map_at(&mut new["metadata"], "annotations")
    {
        own.extend(annotations.clone());
    }
    scheduled(&mut new["status"]);
    Ok(new)
}

fn scheduled(status: &mut Value) {
    let time = jiff::Timestamp::from_second(now_ms() / 1000).unwrap_or_default().to_string();
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time,
    });
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(condition);
    status["conditions"] = Value::Array(conditions);
}

/// POST pods/eviction: a deletion with the options that the eviction carries. There are no disruption budgets here.
pub(super) async fn evict(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    let eviction = body::decode(bytes, content_type)?;
    let options = eviction.get("deleteOptions").map(|options| Bytes::from(options.to_string())).unwrap_or_default();
    delete::delete(call, "application/json", &options).await?;
    let done = status::success(&call.subject(), "");
    answer::json_value(call.form, StatusCode::CREATED, &done)
}

//! A job as a Workload of Kueue, and what Kueue makes of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{Terms, text};
use crate::model::JobModel;

/// How a Workload stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    /// It has its place, with terms for the pods of each role.
    Admitted(BTreeMap<String, Terms>),
    /// It waits; what Kueue says of it.
    Waits(String),
    /// Its place was taken back, or it is of another shape than the job has now. It is of no more use.
    Lost(String),
    /// Somebody has switched it off.
    Inactive,
}

fn pod_set(role: &str) -> String {
    role.to_lowercase()
}

/// What is asked for. All pods of the job at once: Kueue has no part of a Workload admitted unless it says that it may.
pub(super) fn workload(model: &JobModel, version: &str) -> Value {
    let pod_sets: Vec<Value> = model
        .roles
        .iter()
        .filter(|role| !role.replicas.is_empty())
        .map(|role| json!({"name": pod_set(&role.name), "count": role.replicas.len(), "template": role.template}))
        .collect();
    let mut spec = json!({"queueName": model.policy.queue, "podSets": pod_sets});
    if let Some(priority) = model.policy.priority {
        spec["priority"] = json!(priority);
    }
    json!({"apiVersion": version, "kind": "Workload", "metadata": {"name": model.owner.name}, "spec": spec})
}

fn condition<'value>(workload: &'value Value, of: &str) -> Option<&'value Value> {
    let all = workload.pointer("/status/conditions").and_then(Value::as_array);
    all.into_iter().flatten().find(|condition| condition["type"] == of)
}

fn holds(workload: &Value, of: &str) -> bool {
    condition(workload, of).is_some_and(|condition| condition["status"] == "True")
}

fn said(workload: &Value, of: &str) -> String {
    let words = condition(workload, of).and_then(|condition| condition["message"].as_str());
    words.filter(|words| !words.is_empty()).map(|words| format!(": {words}")).unwrap_or_default()
}

/// How this Workload of the job stands. `related` has the ResourceFlavors.
pub(super) fn claim(model: &JobModel, workload: &Value, related: &[Value]) -> Claim {
    if workload.pointer("/spec/active") == Some(&Value::Bool(false)) {
        return Claim::Inactive;
    }
    if holds(workload, "Evicted") || holds(workload, "Finished") {
        return Claim::Lost(said(workload, if holds(workload, "Evicted") { "Evicted" } else { "Finished" }));
    }
    if shape(workload) != shape(&self::workload(model, "")) {
        return Claim::Lost(": the job has another size, or another queue, now".to_owned());
    }
    if !holds(workload, "Admitted") {
        return Claim::Waits(said(workload, "QuotaReserved"));
    }
    let roles = model.roles.iter().map(|role| (role.name.clone(), terms(workload, &pod_set(&role.name), related)));
    Claim::Admitted(roles.collect())
}

/// Its queue, and its sets of pods with their numbers.
fn shape(workload: &Value) -> (Option<&str>, BTreeMap<&str, Option<u64>>) {
    let sets = workload.pointer("/spec/podSets").and_then(Value::as_array);
    let sets = sets.into_iter().flatten().map(|set| (text(set, "/name"), set["count"].as_u64())).collect();
    (workload.pointer("/spec/queueName").and_then(Value::as_str), sets)
}

fn named<'value>(list: Option<&'value Value>, name: &str) -> Option<&'value Value> {
    list?.as_array()?.iter().find(|item| item["name"] == name)
}

fn texts(map: Option<&Value>) -> impl Iterator<Item = (String, String)> {
    let entries = map.and_then(Value::as_object).into_iter().flat_map(Map::iter);
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
}

fn tolerations(list: Option<&Value>) -> Vec<Toleration> {
    list.and_then(|list| Vec::deserialize(list).ok()).unwrap_or_default()
}

/// Flavours that were assigned, then what admission checks add.
fn terms(workload: &Value, set: &str, related: &[Value]) -> Terms {
    let mut terms = Terms::default();
    let assigned = named(workload.pointer("/status/admission/podSetAssignments"), set);
    let flavors = assigned.and_then(|set| set["flavors"].as_object()).into_iter().flat_map(Map::values);
    let mut names: Vec<&str> = flavors.filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let is_flavor =
        |object: &&Value, name: &str| object["kind"] == "ResourceFlavor" && text(object, "/metadata/name") == name;
    for flavor in names.iter().filter_map(|name| related.iter().find(|object| is_flavor(object, name))) {
        terms.node_selector.extend(texts(flavor.pointer("/spec/nodeLabels")));
        terms.tolerations.extend(tolerations(flavor.pointer("/spec/tolerations")));
    }
    let checks = workload.pointer("/status/admissionChecks").and_then(Value::as_array);
    for update in checks.into_iter().flatten().filter_map(|check| named(check.get("podSetUpdates"), set)) {
        terms.node_selector.extend(texts(update.get("nodeSelector")));
        terms.labels.extend(texts(update.get("labels")));
        terms.annotations.extend(texts(update.get("annotations")));
        terms.tolerations.extend(tolerations(update.get("tolerations")));
    }
    terms
}

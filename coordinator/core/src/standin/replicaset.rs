//! `apps/v1` ReplicaSet: so many pods of one template.
//!
//! - RS-1: the pods that count (neither ended nor on their way out) become exactly `replicas`.
//! - RS-2: the ones that serve least go first.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, ObjectRef, Plan};

use super::object::{event, fence, fresh_name, json_of, merge_diff, object_ref, owner, uid};
use super::pod;

/// Annotation on pods: pods of lower cost go first when there are too many.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Everything observed about one ReplicaSet.
pub struct View<'a> {
    /// The set.
    pub set: &'a ReplicaSet,
    /// The pods it controls.
    pub pods: Vec<&'a Pod>,
}

/// Decide about one ReplicaSet.
pub fn plan(view: &View<'_>, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let set = view.set;
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let object = object_ref("apps/v1", "ReplicaSet", &set.metadata);
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    let mut active: Vec<&Pod> = view.pods.iter().copied().filter(|pod| pod::active(pod)).collect();
    // Restarting in place is the node's work, so an ended pod is of no more use to anybody; there is no pod garbage
    // collector here that would take it away later.
    let ended = view.pods.iter().filter(|pod| (pod::failed(pod) || pod::succeeded(pod)) && !pod::leaving(pod));
    plan.actions.extend(ended.map(|pod| pod::delete(pod, "it has ended and is replaced")));
    let mut events = Vec::new();
    if active.len() < wanted {
        let mut taken: Vec<String> = view.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        for ordinal in active.len()..wanted.min(active.len().saturating_add(super::BURST)) {
            let name = pod_name(set, &object, ordinal, now_ms, &taken);
            events.push(told(set, &object, "SuccessfulCreate", format!("Created pod: {name}")));
            plan.actions.push(create(set, &object, &name));
            taken.push(name);
        }
    } else if active.len() > wanted {
        // RS-2: unplaced before placed, waiting before running, unready before ready, cheap before dear, lately ready before
        // long ready, often restarted before seldom, young before old.
        active.sort_by_key(|pod| {
            let born = pod.metadata.creation_timestamp.as_ref().map(|at| at.0.as_millisecond());
            (
                pod::scheduled(pod),
                pod::running(pod),
                pod::ready_since_ms(pod).is_some(),
                deletion_cost(pod),
                std::cmp::Reverse(pod::ready_since_ms(pod)),
                std::cmp::Reverse(pod::restarts(pod)),
                std::cmp::Reverse(born),
                pod.metadata.name.clone(),
            )
        });
        for pod in &active[..active.len() - wanted] {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            events.push(told(set, &object, "SuccessfulDelete", format!("Deleted pod: {name}")));
            plan.actions.push(pod::delete(pod, "there are more pods than replicas"));
        }
    }
    plan.actions.extend(events);
    status(view, &object, now_ms, &mut plan);
    plan
}

/// What the user says that it costs to lose the pod.
fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

pub(super) fn replicas(set: &ReplicaSet) -> i64 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).into()
}

fn pod_name(set: &ReplicaSet, object: &ObjectRef, ordinal: usize, now_ms: i64, taken: &[String]) -> String {
    // The time is part of the seed: a replaced pod's name is not used again at once, which would confuse whoever
    // still remembers the old one.
    let (ordinal, era) = (ordinal.to_string(), now_ms.to_string());
    let seed = [uid(&set.metadata), ordinal.as_str(), era.as_str()];
    fresh_name(&object.name, &seed, &|name| taken.iter().any(|one| one == name))
}

fn told(set: &ReplicaSet, object: &ObjectRef, reason: &str, message: String) -> Action {
    event(object, &set.metadata, EventSeverity::Normal, reason, message)
}

fn create(set: &ReplicaSet, object: &ObjectRef, name: &str) -> Action {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let mut body = template.map(json_of).unwrap_or_else(|| json!({}));
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["metadata"]["name"] = json!(name);
    body["metadata"]["namespace"] = json!(object.namespace);
    body["metadata"]["ownerReferences"] = owner(object, &set.metadata);
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("Pod");
    let mut pod = object.clone();
    "v1".clone_into(&mut pod.api_version);
    "Pod".clone_into(&mut pod.kind);
    name.clone_into(&mut pod.name);
    Action::Create { object: pod, body }
}

fn status(view: &View<'_>, object: &ObjectRef, now_ms: i64, plan: &mut Plan) {
    let spec = view.set.spec.as_ref();
    let min_ready_ms = i64::from(spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0)) * 1000;
    let active: Vec<&Pod> = view.pods.iter().copied().filter(|pod| pod::active(pod)).collect();
    let ready: Vec<i64> = active.iter().filter_map(|pod| pod::ready_since_ms(pod)).collect();
    // Without a time to prove itself a ready pod is available, whatever the clock says: it may have gone back.
    let proven = |since: i64| min_ready_ms == 0 || since + min_ready_ms <= now_ms;
    let available = ready.iter().filter(|since| proven(**since)).count();
    plan.wake_at_ms = ready.iter().filter(|since| !proven(**since)).map(|since| since + min_ready_ms).min();
    let labels = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let labeled = active
        .iter()
        .filter(|pod| {
            let own = pod.metadata.labels.as_ref();
            labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
        })
        .count();
    let old = view.set.status.as_ref().map(json_of).unwrap_or_else(|| json!({}));
    let mut new = old.clone();
    new["replicas"] = json!(active.len());
    for (field, count) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready.len()), ("availableReplicas", available)]
    {
        new[field] = if count == 0 { Value::Null } else { json!(count) };
    }
    new["observedGeneration"] = json!(view.set.metadata.generation.unwrap_or(0));
    if let Some(map) = new.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    if let Some(change) = merge_diff(&old, &new) {
        plan.actions.push(Action::PatchStatus {
            object: object.clone(),
            fence: fence(&view.set.metadata),
            patch: json!({"status": change}),
        });
    }
}

//! `apps/v1` ReplicaSet: so many pods of one template.
//!
//! - RS-1: the pods that count (neither ended nor on their way out) become exactly `replicas`.
//! - RS-2: the ones that serve least go first.
//! - RS-3: a pod that ended is replaced at once the first time, and ever later after that ([`crate::backoff`]). Until then it
//!   stays, for the user to see why it ended.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, ObjectRef, Plan};

use super::object::{event, fence, fresh_name, json_of, ms, object_ref, owner, uid};
use super::pod;
use crate::{backoff, label};

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
    let ended = Ended::of(&view.pods, wanted.saturating_sub(active.len()), now_ms);
    let mut events = Vec::new();
    let missing = wanted.saturating_sub(active.len() + ended.kept).min(super::BURST);
    let mut taken: Vec<String> = view.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    let mut failures = ended.gone.iter().map(|pod| failures(pod));
    for ordinal in 0..missing {
        let name = pod_name(set, &object, active.len() + ordinal, now_ms, &taken);
        events.push(told(set, &object, "SuccessfulCreate", format!("Created pod: {name}")));
        // The new pod knows of the failures before it; it is made first, so that they are not forgotten in between.
        plan.actions.push(create(set, &object, &name, failures.next().unwrap_or(0)));
        taken.push(name);
    }
    plan.actions.extend(ended.gone.iter().map(|pod| pod::delete(pod, "it has ended and is replaced")));
    if active.len() > wanted {
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
    plan.wake_at_ms = [plan.wake_at_ms, ended.due_ms].into_iter().flatten().min();
    plan
}

/// The pods that ended and are not on their way out.
struct Ended<'a> {
    /// Those that go, because their replacement is due or not wanted.
    gone: Vec<&'a Pod>,
    /// How many stay until their replacement is due.
    kept: usize,
    /// When the next of those is due.
    due_ms: Option<i64>,
}

impl<'a> Ended<'a> {
    /// `places` is the number of pods that are wanted beside those that live.
    fn of(pods: &[&'a Pod], places: usize, now_ms: i64) -> Self {
        let ended = pods.iter().copied().filter(|pod| (pod::failed(pod) || pod::succeeded(pod)) && !pod::leaving(pod));
        let mut waits: Vec<(i64, &Pod)> =
            ended.map(|pod| (pod::finished_ms(pod).saturating_add(backoff::delay_ms(failures(pod))), pod)).collect();
        waits.sort_by_key(|(until, pod)| (*until, pod.metadata.name.clone()));
        let (due, later): (Vec<_>, Vec<_>) = waits.into_iter().partition(|(until, _)| backoff::is_over(*until, now_ms));
        let kept = later.len().min(places);
        let due_ms = later[..kept].iter().map(|(until, _)| *until).min();
        let gone = due.iter().chain(&later[kept..]).map(|(_, pod)| *pod).collect();
        Self { gone, kept, due_ms }
    }
}

/// Failures in a row, with that of this ended pod.
fn failures(pod: &Pod) -> u32 {
    let before =
        pod.metadata.annotations.as_ref().and_then(|all| all.get(label::FAILURES)?.parse().ok()).unwrap_or(0_u32);
    let born = pod.metadata.creation_timestamp.as_ref().map_or(0, ms);
    let lived_long = pod::finished_ms(pod).saturating_sub(born) >= backoff::FORGET_MS;
    if lived_long { 1 } else { before.saturating_add(1) }
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

fn create(set: &ReplicaSet, object: &ObjectRef, name: &str, failures: u32) -> Action {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let mut body = template.map(json_of).unwrap_or_else(|| json!({}));
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["metadata"]["name"] = json!(name);
    body["metadata"]["namespace"] = json!(object.namespace);
    if failures > 0 {
        body["metadata"]["annotations"][label::FAILURES] = json!(failures.to_string());
    }
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
    if let Some(change) = crate::merge::difference(&old, &new) {
        plan.actions.push(Action::PatchStatus {
            object: object.clone(),
            fence: fence(&view.set.metadata),
            patch: json!({"status": change}),
        });
    }
}

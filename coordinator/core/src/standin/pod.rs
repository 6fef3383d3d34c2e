//! What a pod's status says, in the words that the stand-ins decide by.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::object::{fence, ms, object_ref};

pub(super) fn pod_ref(pod: &Pod) -> ObjectRef {
    object_ref("v1", "Pod", &pod.metadata)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

pub(super) fn failed(pod: &Pod) -> bool {
    phase(pod) == "Failed"
}

pub(super) fn running(pod: &Pod) -> bool {
    phase(pod) == "Running"
}

pub(super) fn leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) use crate::job::replica::refusal;

/// Neither ended nor on its way out.
pub(super) fn active(pod: &Pod) -> bool {
    !succeeded(pod) && !failed(pod) && !leaving(pod)
}

pub(super) fn scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty()))
}

/// When the pod became ready; `None` if it is not.
pub(super) fn ready_since_ms(pod: &Pod) -> Option<i64> {
    Some(ready_condition(pod, "True")?.last_transition_time.as_ref().map_or(0, ms))
}

fn ready_condition<'pod>(pod: &'pod Pod, status: &str) -> Option<&'pod PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == status)
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    main.iter().chain(init)
}

pub(super) fn restarts(pod: &Pod) -> i64 {
    container_statuses(pod).map(|status| i64::from(status.restart_count)).sum()
}

/// When its last container ended, as far as it says so; else, for one that never had any, since when it is not ready, as
/// Kubernetes does it; else when it was made.
pub(super) fn finished_ms(pod: &Pod) -> i64 {
    let ends = container_statuses(pod)
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(ms));
    let unready = || ready_condition(pod, "False")?.last_transition_time.as_ref().map(ms);
    ends.max().or_else(unready).or_else(|| pod.metadata.creation_timestamp.as_ref().map(ms)).unwrap_or(0)
}

/// Containers that ended, with their exit codes.
pub(super) fn exits(pod: &Pod) -> impl Iterator<Item = (&str, i32)> {
    let ended = |status: &'_ ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    container_statuses(pod).filter_map(move |status| Some((status.name.as_str(), ended(status)?)))
}

/// On its way out, and nobody will say any more how it ended: it never had a node, or its node has let it go.
pub(super) fn is_given_up(pod: &Pod) -> bool {
    leaving(pod) && (!scheduled(pod) || pod.metadata.deletion_grace_period_seconds == Some(0))
}

pub(super) fn has_finalizer(pod: &Pod, finalizer: &str) -> bool {
    pod.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|one| one == finalizer))
}

/// Take one finalizer off, leaving those of others.
pub(super) fn drop_finalizer(pod: &Pod, finalizer: &str) -> Action {
    let rest: Vec<&String> = pod.metadata.finalizers.iter().flatten().filter(|one| one.as_str() != finalizer).collect();
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    Action::Patch {
        object: pod_ref(pod),
        fence: fence(&pod.metadata),
        patch: json!({"metadata": {"finalizers": rest}}),
    }
}

pub(super) fn delete(pod: &Pod, reason: &str) -> Action {
    Action::Delete { object: pod_ref(pod), fence: fence(&pod.metadata), grace_seconds: None, reason: reason.to_owned() }
}

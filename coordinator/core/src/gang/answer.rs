//! The scheduler's answer as actions: bindings, and conditions on the pods that wait.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef, Reason};

use super::gather::{Gang, Site};
use super::reason::Wait;
use super::{Placement, WaitCode, WaitingGang};
use crate::instant;

/// Above this number of pods, one event tells of a whole gang.
const MAX_BIND_EVENTS: usize = 16;

/// How long after its last pod a gang may still be gathering. Pods of one plan are created within milliseconds; creation
/// times are whole seconds; a store under load takes some more.
const GATHERING_MS: i64 = 5000;

pub(super) fn bind(places: &[(&Pod, usize)], sites: &[Site<'_>], placement: &mut Placement) {
    let mut places: Vec<_> = places.to_vec();
    places.sort_by_key(|(pod, _)| pod.metadata.name.clone());
    let mut events = Vec::new();
    for (pod, at) in &places {
        let Some(site) = sites.get(*at) else { continue };
        let object = reference(pod);
        if places.len() <= MAX_BIND_EVENTS {
            let message = format!("Successfully assigned {}/{} to {}", object.namespace, object.name, site.name);
            events.push(event(pod, EventSeverity::Normal, "Scheduled", message));
        }
        placement.plan.actions.push(Action::Bind { pod: object, fence: fence(pod), node: site.name.to_owned() });
    }
    placement.plan.actions.extend(events);
}

/// Takes the pods that have a place and do not run away; the job's controller makes them anew, without one. Fenced by the version
/// that was looked at: a pod that has started meanwhile stays.
pub(super) fn give_back(gang: &Gang<'_>, wait: &Wait, placement: &mut Placement) {
    let lacking = format!("{} of {} pods of its gang have no place: {}", gang.waiting.len(), gang.size, wait.message);
    for (at, pod) in gang.idle.iter().enumerate() {
        if at == 0 {
            placement.plan.actions.push(event(pod, EventSeverity::Warning, "GangGivenBack", lacking.clone()));
        }
        placement.plan.actions.push(Action::Delete {
            object: reference(pod),
            fence: Fence { resource_version: pod.metadata.resource_version.clone(), ..fence(pod) },
            grace_seconds: None,
            reason: lacking.clone(),
        });
    }
}

pub(super) fn wait(gang: &Gang<'_>, wait: Wait, now_ms: i64, placement: &mut Placement) {
    let text = match &wait.hint {
        Some(hint) => format!("{}; {hint}", wait.message),
        None => wait.message.clone(),
    };
    let mut told = quiet_until(gang, wait.code, now_ms, placement);
    let silent = told;
    for pod in gang.waiting.iter().filter(|_| !silent) {
        let Some(conditions) = conditions(pod, &text, now_ms) else { continue };
        let patch = json!({ "status": { "conditions": conditions } });
        placement.plan.actions.push(Action::PatchStatus { object: reference(pod), fence: fence(pod), patch });
        // One event for the gang, when what it waits for changes.
        if !told {
            told = true;
            placement.plan.actions.push(event(pod, EventSeverity::Warning, "FailedScheduling", text.clone()));
        }
    }
    placement.plan.reasons.push(Reason {
        subject: gang.waiting.first().map_or_else(|| reference(&Pod::default()), |pod| reference(pod)),
        code: wait.code.name().to_owned(),
        message: wait.message.clone(),
        hint: wait.hint.clone(),
    });
    placement.waiting.push(WaitingGang {
        namespace: gang.namespace.to_owned(),
        name: gang.name.to_owned(),
        pods: gang.waiting.iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect(),
        code: wait.code,
        message: wait.message,
        hint: wait.hint,
    });
}

/// Whether the gang is so young that the pods that it lacks are probably on their way. Nothing is written about it then;
/// the scheduler looks again when it no longer is.
fn quiet_until(gang: &Gang<'_>, code: WaitCode, now_ms: i64, placement: &mut Placement) -> bool {
    let until = gang.youngest_ms.saturating_add(GATHERING_MS);
    let quiet = code == WaitCode::GangIncomplete && now_ms < until;
    if quiet {
        let wake = placement.plan.wake_at_ms.map_or(until, |at| at.min(until));
        placement.plan.wake_at_ms = Some(wake);
    }
    quiet
}

/// The pod's conditions with the one that says that it waits, or `None` if they say so already.
fn conditions(pod: &Pod, message: &str, now_ms: i64) -> Option<Vec<PodCondition>> {
    let present = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let old = present.iter().find(|condition| condition.type_ == "PodScheduled");
    let same = |old: &PodCondition| old.status == "False" && old.reason.as_deref() == Some("Unschedulable");
    if old.is_some_and(|old| same(old) && old.message.as_deref() == Some(message)) {
        return None;
    }
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let mut conditions: Vec<PodCondition> = present.iter().filter(|c| c.type_ != "PodScheduled").cloned().collect();
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| instant::time(now_ms))),
        ..PodCondition::default()
    });
    Some(conditions)
}

pub(super) fn reference(pod: &Pod) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

fn fence(pod: &Pod) -> Fence {
    Fence { uid: pod.metadata.uid.clone(), resource_version: None }
}

fn event(pod: &Pod, severity: EventSeverity, reason: &str, message: String) -> Action {
    Action::Event {
        regarding: reference(pod),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        severity,
        reason: reason.to_owned(),
        message,
    }
}

//! What queues are told about themselves: whether they are in use, how many wait, and what they used.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use super::queue::Usage;
use super::scene::{Kind, Scene};
use super::{GangView, Placement};
use crate::schedule::Decision;
use crate::{instant, label};

/// Writes to the objects of Kueue's kinds what has changed.
pub(super) fn tell(view: &GangView, scene: &Scene<'_>, decision: &Decision, now_ms: i64, placement: &mut Placement) {
    for (at, object) in view.queues.iter().enumerate() {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let reference = ObjectRef {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        };
        if reference.kind == "ResourceFlavor" {
            continue;
        }
        let uid = text("/metadata/uid");
        let fence = Fence { uid: Some(uid.clone()).filter(|uid| !uid.is_empty()), resource_version: None };
        let problems = scene.setting.problems.get(&at).map(Vec::as_slice).unwrap_or_default();
        let mut status = json!({ "conditions": [condition(object, problems, now_ms)] });
        if reference.kind == "ClusterQueue"
            && let Some((queue, known)) = scene.setting.usage_of(&reference.name)
        {
            let (pending, admitted) = counts(scene, decision, queue);
            status["pendingWorkloads"] = json!(pending);
            status["admittedWorkloads"] = json!(admitted);
            let used = used(scene, queue);
            if used != known.used {
                let usage = Usage { at_ms: now_ms, used, decayed: known.decayed.clone() };
                let text = serde_json::to_string(&usage).expect("numbers and texts serialise");
                let patch = json!({"metadata": {"annotations": {label::USAGE: text}}});
                placement.plan.actions.push(Action::Patch { object: reference.clone(), fence: fence.clone(), patch });
            }
        }
        let same = status.as_object().is_some_and(|all| all.iter().all(|(key, value)| object["status"][key] == *value));
        if same {
            continue;
        }
        if !problems.is_empty() && object["status"]["conditions"] != status["conditions"] {
            placement.plan.actions.push(Action::Event {
                regarding: reference.clone(),
                uid,
                severity: EventSeverity::Warning,
                reason: "QueueInvalid".to_owned(),
                message: problems.join("; "),
            });
        }
        let patch = json!({ "status": status });
        placement.plan.actions.push(Action::PatchStatus { object: reference, fence, patch });
    }
}

/// Whether it is in use.
fn condition(object: &Value, problems: &[String], now_ms: i64) -> Value {
    let stopped =
        object.pointer("/spec/stopPolicy").and_then(Value::as_str).is_some_and(|policy| policy.starts_with("Hold"));
    let (status, reason, message) = match (problems.is_empty(), stopped) {
        (false, _) => ("False", "Invalid", problems.join("; ")),
        (true, true) => ("False", "Stopped", "Nothing is admitted, as its stopPolicy says".to_owned()),
        (true, false) => ("True", "Ready", "It can admit jobs".to_owned()),
    };
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let before = conditions.into_iter().find(|one| one["type"] == "Active" && one["status"] == status);
    let since = before.and_then(|one| one["lastTransitionTime"].as_str().map(str::to_owned));
    json!({
        "type": "Active",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| instant::text(now_ms)),
    })
}

/// How many gangs of a queue wait, and how many have their places.
fn counts(scene: &Scene<'_>, decision: &Decision, queue: u32) -> (usize, usize) {
    let of = |kind: Kind| {
        let both = scene.parts.iter().zip(&scene.view.gangs);
        both.filter(|(part, gang)| part.kind == kind && gang.queue == queue).count()
    };
    let whole = |gang: u32| {
        let at = gang as usize;
        scene.parts[at].kind == Kind::Whole && scene.view.gangs[at].queue == queue
    };
    let started = decision.admissions.iter().filter(|one| one.after.is_empty() && whole(one.gang)).count();
    (of(Kind::Whole) - started, of(Kind::Runs) + started)
}

/// What the gangs of a queue hold now.
fn used(scene: &Scene<'_>, queue: u32) -> BTreeMap<String, i64> {
    let mut used = BTreeMap::new();
    for (part, gang) in scene.parts.iter().zip(&scene.view.gangs) {
        if part.kind != Kind::Runs || gang.queue != queue {
            continue;
        }
        for (role, pods) in gang.shape.roles.iter().zip(&part.pods) {
            let pods = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            for (name, amount) in scene.view.resources.iter().zip(&role.requests).filter(|(_, amount)| **amount > 0) {
                *used.entry(name.clone()).or_insert(0) += amount * pods;
            }
        }
    }
    used
}

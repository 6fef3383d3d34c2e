//! The status of `kubeflow.org/v1` jobs: reading it, and writing it by upstream's rules.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::Value;
use trainyard_proto::kubeflow::common::{JobStatus, ReplicaStatus};

use crate::condition;
use crate::instant;
use crate::job::{Finish, Lifecycle, Stage, StatusChange, Tally};

/// The common status of a job; what does not read counts as absent, since the controller writes it anew anyway.
pub(super) fn status_of(job: &Value) -> JobStatus {
    job.get("status").and_then(|status| JobStatus::deserialize(status).ok()).unwrap_or_default()
}

/// What the status says.
pub(super) fn read(job: &Value) -> Lifecycle {
    lifecycle(&status_of(job))
}

/// What a status says.
pub(super) fn lifecycle(status: &JobStatus) -> Lifecycle {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let has = |kind| condition::is_true(conditions, kind);
    let finished = if has(condition::FAILED) {
        Some(Finish::Failed)
    } else {
        has(condition::SUCCEEDED).then_some(Finish::Succeeded)
    };
    let end = conditions.iter().find(|c| c.type_ == condition::FAILED || c.type_ == condition::SUCCEEDED);
    Lifecycle {
        created: has(condition::CREATED),
        running: has(condition::RUNNING),
        restarting: has(condition::RESTARTING),
        suspended: has(condition::SUSPENDED),
        finished,
        start_ms: status.start_time.as_ref().map(instant::ms),
        completion_ms: status
            .completion_time
            .as_ref()
            .or_else(|| end.and_then(|end| end.last_transition_time.as_ref()))
            .filter(|_| finished.is_some())
            .map(instant::ms),
        message: None,
    }
}

/// The status after a change.
pub(super) fn advance(status: &JobStatus, kind: &str, change: &StatusChange) -> JobStatus {
    let mut next = status.clone();
    let conditions = next.conditions.get_or_insert_default();
    for step in &change.transitions {
        let (now, message) = (change.now_ms, step.message.as_str());
        let was_up =
            [condition::RUNNING, condition::RESTARTING].iter().any(|kind| condition::is_true(conditions, kind));
        let mut set = |name: &str, status, reason: &str| {
            condition::set(conditions, name, status, &format!("{kind}{reason}"), message, now);
        };
        match step.to {
            Stage::Created => set(condition::CREATED, true, "Created"),
            Stage::Running => set(condition::RUNNING, true, "Running"),
            Stage::Restarting => set(condition::RESTARTING, true, "Restarting"),
            Stage::Succeeded => set(condition::SUCCEEDED, true, "Succeeded"),
            Stage::Failed(cause) => set(condition::FAILED, true, cause.suffix()),
            Stage::Suspended => {
                if was_up {
                    set(condition::RUNNING, false, "Suspended");
                }
                set(condition::SUSPENDED, true, "Suspended");
            }
            Stage::Resumed => set(condition::SUSPENDED, false, "Resumed"),
        }
    }
    if let Some(tallies) = &change.tallies {
        next.replica_statuses = Some(replica_statuses(tallies, &change.selectors));
    }
    next.start_time = change.start_ms.map(instant::time);
    next.completion_time = change.completion_ms.map(instant::time);
    next
}

fn replica_statuses(
    tallies: &[(String, Tally)],
    selectors: &BTreeMap<String, String>,
) -> BTreeMap<String, ReplicaStatus> {
    tallies
        .iter()
        .map(|(role, tally)| {
            let selector = selectors.get(role).cloned().unwrap_or_default();
            let status =
                ReplicaStatus { active: tally.active, succeeded: tally.succeeded, failed: tally.failed, selector };
            (role.clone(), status)
        })
        .collect()
}

/// The status after a change, as it is stored. The reconcile time moves only together with something else, since a status
/// that always changes would never come to rest.
pub(super) fn render(job: &Value, kind: &str, change: &StatusChange) -> Value {
    let status = status_of(job);
    let mut next = advance(&status, kind, change);
    if next != status {
        next.last_reconcile_time = Some(instant::time(change.now_ms));
    }
    serde_json::to_value(next).expect("a status of strings, numbers and times serialises")
}

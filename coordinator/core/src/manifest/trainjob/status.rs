//! The status of TrainJobs. There is no condition for being created or running; clients look at the pods for that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Deserialize;
use serde_json::{Value, json};
use trainyard_proto::trainer::{JobStatus, TrainJobStatus, TrainerStatus};

use super::NODE;
use crate::instant;
use crate::job::{FailureCause, Finish, Lifecycle, Phase, Stage, StatusChange, Tally};

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";

fn status_of(job: &Value) -> TrainJobStatus {
    job.get("status").and_then(|status| Deserialize::deserialize(status).ok()).unwrap_or_default()
}

/// What the status says. The start is the creation, or the end of the last suspension.
pub(super) fn read(job: &Value) -> Lifecycle {
    let status = status_of(job);
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let is_true = |kind: &str| find(kind).is_some_and(|condition| condition.status == "True");
    let finished = match (is_true(FAILED), is_true(COMPLETE)) {
        (true, _) => Some(Finish::Failed),
        (false, true) => Some(Finish::Succeeded),
        (false, false) => None,
    };
    let end = find(FAILED).or_else(|| find(COMPLETE)).filter(|_| finished.is_some());
    let created = job.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(instant::parse);
    let resumed = find(SUSPENDED).filter(|condition| condition.status == "False");
    Lifecycle {
        created: status.jobs_status.is_some(),
        running: status.jobs_status.iter().flatten().any(|step| step.name == NODE && step.ready > 0),
        restarting: false,
        suspended: is_true(SUSPENDED),
        finished,
        start_ms: resumed.map(|condition| instant::ms(&condition.last_transition_time)).or(created),
        completion_ms: end.map(|condition| instant::ms(&condition.last_transition_time)),
        message: None,
    }
}

/// The status after a change.
pub(super) fn render(job: &Value, change: &StatusChange) -> Value {
    let mut status = status_of(job);
    for step in &change.transitions {
        let (kind, holds, reason) = match step.to {
            Stage::Created | Stage::Running | Stage::Restarting => continue,
            Stage::Succeeded => (COMPLETE, true, "AllJobsCompleted"),
            Stage::Failed(cause) => (FAILED, true, failure_reason(cause)),
            Stage::Suspended => (SUSPENDED, true, "Suspended"),
            Stage::Resumed => (SUSPENDED, false, "Resumed"),
        };
        set(status.conditions.get_or_insert_default(), kind, holds, reason, &step.message, change.now_ms);
    }
    if let Some(tallies) = &change.tallies {
        status.jobs_status =
            Some(tallies.iter().map(|(name, tally)| step_status(name, *tally, change.phase)).collect());
    }
    if let Some(progress) = &change.progress {
        status.trainer_status = trainer_status(progress).or(status.trainer_status);
    }
    serde_json::to_value(status).expect("a status of strings, numbers and times serialises")
}

const fn failure_reason(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Deadline => "DeadlineExceeded",
        FailureCause::Replica | FailureCause::BackoffLimit => "FailedJobs",
        FailureCause::Invalid => "TrainingRuntimeNotSupported",
    }
}

fn set(conditions: &mut Vec<Condition>, kind: &str, holds: bool, reason: &str, message: &str, now_ms: i64) {
    let status = if holds { "True" } else { "False" };
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: instant::time(now_ms),
        observed_generation: None,
    });
}

/// A step counts jobs, of which each step here has one.
fn step_status(name: &str, tally: Tally, phase: Phase) -> JobStatus {
    let one = i32::from;
    let ended = matches!(phase, Phase::Succeeded | Phase::Failed | Phase::Suspended);
    JobStatus {
        name: name.to_owned(),
        // While one node starts again the others go on.
        ready: one(phase == Phase::Running || phase == Phase::Restarting && tally.active > 0),
        succeeded: one(phase == Phase::Succeeded),
        failed: one(phase == Phase::Failed),
        active: one(!ended && tally.active > 0),
        suspended: one(phase == Phase::Suspended),
    }
}

fn trainer_status(progress: &Value) -> Option<TrainerStatus> {
    let number = |name: &str| progress.get(name).and_then(Value::as_f64);
    let share = |done: &str, all: &str| {
        number(done).zip(number(all)).filter(|(_, all)| *all > 0.0).map(|(done, all)| done / all)
    };
    let share = share("step", "totalSteps").or_else(|| share("epoch", "totalEpochs"));
    let metrics = progress.get("metrics").and_then(Value::as_object).map(|metrics| {
        metrics.iter().map(|(name, value)| json!({ "name": name, "value": value.to_string() })).collect::<Vec<_>>()
    });
    let at = progress.get("atMs").and_then(Value::as_i64)?;
    Some(TrainerStatus {
        progress_percentage: share.map(|share| (share * 100.0).clamp(0.0, 100.0) as i32),
        estimated_remaining_seconds: number("remainingSeconds").map(|seconds| seconds.max(0.0) as i64),
        metrics,
        last_updated_time: Some(instant::time(at)),
    })
}

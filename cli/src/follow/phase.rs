//! Where a job is, as one short line. A pure function of the job and its pods.

use serde_json::Value;

use super::crash;
use super::stream::statuses;
use crate::job::{self, End, PodRanks};

/// A phase as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The object exists; nothing happened yet.
    Created,
    /// The gang waits for a place.
    Queued { reason: String },
    /// Its pods have a place.
    Starting { started: usize, pods: usize },
    /// Ranks run; others are over.
    Running { ranks: usize, over: usize, of: usize },
    /// Containers of some pods have ended, and will be started again.
    BackingOff { waiting: usize, pods: usize },
    /// Pods have ended; the job has not said so yet.
    Ending,
    /// Ranks are being started again.
    Restarting { message: String },
    /// Stopped at the user's wish; pods that are not gone yet are counted.
    Suspended { leaving: usize },
    /// It ended.
    Ended(End),
}

/// What the job and its pods say.
pub(crate) fn of(job: &Value, pods: &[&Value]) -> Phase {
    if let Some(end) = job::end(job) {
        return Phase::Ended(end);
    }
    if job::suspended(job) {
        return Phase::Suspended { leaving: pods.iter().filter(|pod| !is_over(pod)).count() };
    }
    let state = job::state(job);
    if state == "Restarting" {
        return Phase::Restarting { message: job::message(job).unwrap_or_default().to_owned() };
    }
    let alive: Vec<&&Value> = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    if alive.is_empty() {
        return Phase::Created;
    }
    if let Some(reason) = alive.iter().find_map(|pod| unschedulable(pod)) {
        return Phase::Queued { reason: reason.to_owned() };
    }
    let waiting = alive.iter().filter(|pod| crash::waits(pod)).count();
    if waiting > 0 {
        return Phase::BackingOff { waiting, pods: alive.len() };
    }
    let running = alive.iter().filter(|pod| is_running(pod)).count();
    let known = alive.iter().map(|pod| PodRanks::of(pod).procs).collect::<Option<Vec<usize>>>();
    let total = job["status"]["ranks"].as_u64().and_then(|ranks| usize::try_from(ranks).ok());
    let all = total.or_else(|| known.map(|procs| procs.iter().sum())).unwrap_or(alive.len());
    if running == 0 && any_over(&alive) {
        return Phase::Ending;
    }
    if running == 0 || running < alive.len() && !any_over(&alive) {
        let bound = alive.iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
        return if bound == 0 { Phase::Created } else { Phase::Starting { started: running, pods: alive.len() } };
    }
    // Ranks run in every pod, unless one of them is over already.
    let over = alive.iter().filter(|pod| is_over(pod)).map(|pod| PodRanks::of(pod).procs.unwrap_or(1)).sum::<usize>();
    Phase::Running { ranks: all.saturating_sub(over), over, of: all }
}

fn any_over(pods: &[&&Value]) -> bool {
    // A kubelet reports that the containers have ended a moment before it says so of the pod.
    let ended = |pod: &Value| {
        let list = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        !list.is_empty() && list.iter().all(|status| status["state"]["terminated"].is_object())
    };
    pods.iter().any(|pod| is_over(pod) || pod["spec"]["restartPolicy"] == "Never" && ended(pod))
}

/// Whether a pod has ended.
pub(crate) fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && statuses(pod).any(|status| status["state"]["running"].is_object())
}

fn unschedulable(pod: &Value) -> Option<&str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False")?;
    if pod["spec"]["nodeName"].is_string() || condition["reason"] == "SchedulingGated" {
        return None;
    }
    condition["message"].as_str()
}

impl Phase {
    /// One word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Queued { .. } => "Queued",
            Self::Starting { .. } => "Starting",
            Self::Running { .. } => "Running",
            Self::BackingOff { .. } => "Restarting",
            Self::Ending => "Ending",
            Self::Restarting { .. } => "Restarting",
            Self::Suspended { .. } => "Suspended",
            Self::Ended(End::Succeeded) => "Succeeded",
            Self::Ended(End::Failed) => "Failed",
        }
    }

    /// What follows the word.
    pub(crate) fn detail(&self) -> String {
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        match self {
            Self::Created | Self::Ending | Self::Ended(_) => String::new(),
            Self::Queued { reason } => reason.clone(),
            Self::Starting { started: 0, pods } => plural(*pods, "pod"),
            Self::Starting { started, pods } => format!("{started} of {}", plural(*pods, "pod")),
            Self::Running { ranks, over: 0, of } => format!("{ranks}/{of} ranks"),
            Self::Running { ranks, over, of } => {
                let have = if *over == 1 { "has" } else { "have" };
                format!("{}, {over} of {of} {have} finished", plural(*ranks, "rank"))
            }
            Self::BackingOff { waiting, pods } => {
                let verb = if *waiting == 1 { "waits" } else { "wait" };
                format!("{waiting} of {} {verb} to be started again", plural(*pods, "pod"))
            }
            Self::Restarting { message } => message.clone(),
            Self::Suspended { leaving: 0 } => "no pod is left".to_owned(),
            Self::Suspended { leaving } => format!("{} still ending", plural(*leaving, "pod")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(phase: &str, procs: &str, more: Value) -> Value {
        let state = if phase == "Running" { json!({"running": {}}) } else { json!({}) };
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n", "containers": [{"env": [{"name": "PET_NPROC_PER_NODE", "value": procs}]}]},
            "status": {"phase": phase, "containerStatuses": [{"state": state}]},
        });
        if let (Some(to), Value::Object(from)) = (pod.as_object_mut(), more) {
            to.extend(from);
        }
        pod
    }

    #[test]
    fn a_job_goes_through_its_phases() {
        let job = json!({"status": {}});
        assert_eq!(of(&job, &[]), Phase::Created);
        let waiting = pod(
            "Pending",
            "4",
            json!({"spec": {}, "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0 of 1 GPUs"}]}}),
        );
        assert_eq!(of(&job, &[&waiting]), Phase::Queued { reason: "0 of 1 GPUs".to_owned() });
        let pending = pod("Pending", "4", json!({}));
        let running = pod("Running", "4", json!({}));
        let over = pod("Succeeded", "4", json!({}));
        assert_eq!(of(&job, &[&pending]), Phase::Starting { started: 0, pods: 1 });
        assert_eq!(of(&job, &[&pending, &running]), Phase::Starting { started: 1, pods: 2 });
        assert_eq!(of(&job, &[&running, &running]), Phase::Running { ranks: 8, over: 0, of: 8 });
        assert_eq!(of(&job, &[&over, &running]), Phase::Running { ranks: 4, over: 4, of: 8 });
        assert_eq!(of(&job, &[&over]), Phase::Ending);
        let suspended = json!({"spec": {"suspend": true}});
        assert_eq!(of(&suspended, &[&running]), Phase::Suspended { leaving: 1 });
    }
}

//! Jobs of every kind, seen alike: state, pods, ranks, how to suspend them.

use serde_json::{Value, json};
use trainyard_proto::told;

use crate::resource::Resource;
use crate::target::Found;

/// Whether a job has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed,
}

/// The word for where a job is: its phase, else its latest condition.
pub(crate) fn state(job: &Value) -> String {
    if suspended(job) && end(job).is_none() {
        return "Suspended".to_owned();
    }
    if let Some(phase) = job["status"]["phase"].as_str() {
        return phase.to_owned();
    }
    let status = &job["status"];
    if let Some(last) = conditions(job).rfind(|c| c["status"] == "True") {
        return last["type"].as_str().unwrap_or_default().to_owned();
    }
    match (status["active"].as_i64().unwrap_or(0), status.is_null()) {
        // Pods that have no place yet, or whose image does not come, are active all the same.
        (1.., _) if status["ready"] == 0 => "Pending".to_owned(),
        (1.., _) => "Running".to_owned(),
        (_, true) => "Created".to_owned(),
        (_, false) => "Pending".to_owned(),
    }
}

fn conditions(job: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    job["status"]["conditions"].as_array().into_iter().flatten()
}

/// How the job ended, by the conditions that its dialect uses.
pub(crate) fn end(job: &Value) -> Option<End> {
    let is_true =
        |names: &[&str]| conditions(job).any(|c| c["status"] == "True" && names.iter().any(|name| c["type"] == *name));
    if is_true(&["Failed"]) {
        Some(End::Failed)
    } else if is_true(&["Succeeded", "Complete"]) {
        Some(End::Succeeded)
    } else {
        None
    }
}

/// The message of the condition that ended the job, or of the latest one.
pub(crate) fn message(job: &Value) -> Option<&str> {
    let of = |kinds: &[&str]| {
        let wanted = |c: &&Value| c["status"] == "True" && kinds.iter().any(|kind| c["type"] == *kind);
        conditions(job).rev().find(wanted).and_then(|c| c["message"].as_str())
    };
    job["status"]["message"].as_str().or_else(|| of(&["Failed", "Succeeded", "Complete", "Suspended", "Restarting"]))
}

/// Which failure the ranks that run now were started after, as the coordinator says it.
pub(crate) fn recovered_from(job: &Value) -> Option<&str> {
    let running = conditions(job).rev().find(|c| c["type"] == "Running" && c["status"] == "True")?;
    let (_, again) = running["message"].as_str()?.split_once(" is running again: ")?;
    again.split_once(" after ").map(|(_, failure)| failure)
}

/// Whether the job failed since it was active for too long.
pub(crate) fn out_of_time(job: &Value) -> bool {
    conditions(job).filter(|condition| condition["type"] == "Failed" && condition["status"] == "True").any(
        |condition| {
            condition["reason"] == "DeadlineExceeded"
                || condition["message"].as_str().is_some_and(|message| message.contains("activeDeadlineSeconds"))
        },
    )
}

/// What says that the job failed as often as its `backoffLimit` allows, if that is what ended it.
pub(crate) fn limit_reached(job: &Value) -> Option<&str> {
    let failed = conditions(job).find(|condition| condition["type"] == "Failed" && condition["status"] == "True")?;
    let message = failed["message"].as_str()?;
    let by_limit = failed["reason"] == "BackoffLimitExceeded" || message.contains("has reached its backoffLimit of ");
    // What failed follows; it is told in more detail.
    by_limit.then(|| message.split(": ").next().unwrap_or(message))
}

/// Whether the user wants the job to be stopped for now.
pub(crate) fn suspended(job: &Value) -> bool {
    let spec = &job["spec"];
    spec["suspend"] == true || spec["runPolicy"]["suspend"] == true
}

/// The merge patch that suspends or resumes a job; `None` where the kind has no such thing.
pub(crate) fn suspend_patch(resource: &Resource, suspend: bool) -> Option<Value> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("kubeflow.org", _) if resource.is_job() => Some(json!({"spec": {"runPolicy": {"suspend": suspend}}})),
        _ if resource.is_job() => Some(json!({"spec": {"suspend": suspend}})),
        _ => None,
    }
}

/// Whether all pods of the job are taken away when it ends.
pub(crate) fn takes_pods_away(job: &Value) -> bool {
    let spec = &job["spec"];
    spec["cleanPodPolicy"] == "All" || spec["runPolicy"]["cleanPodPolicy"] == "All"
}

/// How often pods of the job may be started again, where it says so.
pub(crate) fn backoff_limit(job: &Value) -> Option<i64> {
    let spec = &job["spec"];
    spec["runPolicy"]["backoffLimit"].as_i64().or_else(|| spec["backoffLimit"].as_i64())
}

/// The field that would bound the restarts of a job which has no bound: jobs of the training operator have none unless
/// they ask for one.
pub(crate) fn unbounded_restarts(job: &Found) -> Option<&'static str> {
    let unbounded = job.resource.group == "kubeflow.org" && backoff_limit(&job.object).is_none();
    unbounded.then_some("spec.runPolicy.backoffLimit")
}

/// What to say about a job that no controller has touched; `None` if one has.
pub(crate) fn unattended(resource: &Resource, job: &Value) -> Option<String> {
    let untouched = job["status"].as_object().is_none_or(serde_json::Map::is_empty);
    let who = match resource.group.as_str() {
        "kubeflow.org" => "the Kubeflow training operator",
        "trainer.kubeflow.org" => "the Kubeflow trainer",
        "trainyard.dev" => "an operator for TrainingJobs",
        _ => "its controller",
    };
    untouched.then(|| {
        format!(
            "nobody has acted on this {} yet: the cluster knows the kind, but {who} does not seem to run there",
            resource.kind
        )
    })
}

/// The label selector of a job's pods.
pub(crate) fn pod_selector(found: &Found) -> String {
    let name = found.name();
    match (found.resource.group.as_str(), found.resource.plural.as_str()) {
        ("batch", "jobs") => format!("batch.kubernetes.io/job-name={name}"),
        ("trainer.kubeflow.org", _) => format!("jobset.sigs.k8s.io/jobset-name={name}"),
        ("apps", _) => {
            let labels = found.object["spec"]["selector"]["matchLabels"].as_object();
            let pairs = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(",")
        }
        _ => format!("training.kubeflow.org/job-name={name}"),
    }
}

/// Which ranks a pod holds, by the environment that its dialect gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodRanks {
    /// Node rank: the pod's place in its job.
    pub(crate) node: Option<usize>,
    /// Ranks in this pod; `None` if only the program knows (`auto`).
    pub(crate) procs: Option<usize>,
}

impl PodRanks {
    /// Reads a pod's environment and labels.
    pub(crate) fn of(pod: &Value) -> Self {
        let number = |names: &[&str]| names.iter().find_map(|name| env(pod, name)?.parse().ok());
        let label = |name: &str| pod["metadata"]["labels"][name].as_str().and_then(|text| text.parse().ok());
        let node = number(&["PET_NODE_RANK", "RANK", "PROCESS_ID", "JAX_PROCESS_ID"])
            .or_else(|| label("batch.kubernetes.io/job-completion-index"))
            .or_else(|| label("training.kubeflow.org/replica-index"));
        let procs = match env(pod, "PET_NPROC_PER_NODE") {
            Some(text) => text.parse().ok(),
            None => Some(1),
        };
        Self { node, procs }
    }

    /// The global rank of the pod, where it holds exactly one.
    pub(crate) fn single(&self) -> Option<usize> {
        (self.procs == Some(1)).then_some(self.node).flatten()
    }
}

fn env<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let variables = containers.flat_map(|container| container["env"].as_array().into_iter().flatten());
    let mut pairs = variables.flat_map(|variable| {
        let (known, value) = (variable["name"].as_str().unwrap_or_default(), variable["value"].as_str());
        let told = value.filter(|_| known == told::VARIABLE).unwrap_or_default();
        told::unpack(told).chain(value.map(|value| (known, value)))
    });
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// A pod's name without that of its job: `worker-0`.
pub(crate) fn short_pod_name<'a>(pod: &'a Value, job: &str) -> &'a str {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    name.strip_prefix(job).and_then(|rest| rest.strip_prefix('-')).filter(|rest| !rest.is_empty()).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_its_backoff_limit_ended_says_so() {
        let failed = |reason: &str, message: &str| json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}]}});
        let job = failed(
            "PyTorchJobFailed",
            "PyTorchJob loop has reached its backoffLimit of 1 after 1 restart: pod loop-0 failed",
        );
        assert_eq!(limit_reached(&job), Some("PyTorchJob loop has reached its backoffLimit of 1 after 1 restart"));
        let batch = failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        assert_eq!(limit_reached(&batch), Some("Job has reached the specified backoff limit"));
        assert_eq!(limit_reached(&failed("PyTorchJobFailed", "PyTorchJob loop has failed: pod loop-0 failed")), None);
    }

    #[test]
    fn states_of_every_dialect() {
        assert_eq!(state(&json!({"status": {"phase": "Running"}})), "Running");
        assert_eq!(
            state(
                &json!({"status": {"conditions": [{"type": "Created", "status": "True"}, {"type": "Running", "status": "True"}]}})
            ),
            "Running"
        );
        assert_eq!(state(&json!({"spec": {"runPolicy": {"suspend": true}}, "status": {}})), "Suspended");
        assert_eq!(state(&json!({"status": {"active": 1}})), "Running");
        assert_eq!(state(&json!({"status": {"active": 1, "ready": 0}})), "Pending");
        assert_eq!(state(&json!({})), "Created");
        assert_eq!(
            end(&json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}})),
            Some(End::Succeeded)
        );
    }

    #[test]
    fn ranks_of_pods() {
        let pod = |env: Value| json!({"spec": {"containers": [{"env": env}]}});
        let one = pod(json!([{"name": "RANK", "value": "2"}]));
        assert_eq!(PodRanks::of(&one).single(), Some(2));
        let many = pod(json!([{"name": "PET_NODE_RANK", "value": "1"}, {"name": "PET_NPROC_PER_NODE", "value": "4"}]));
        assert_eq!(PodRanks::of(&many), PodRanks { node: Some(1), procs: Some(4) });
        let auto =
            pod(json!([{"name": "PET_NODE_RANK", "value": "0"}, {"name": "PET_NPROC_PER_NODE", "value": "auto"}]));
        assert_eq!(PodRanks::of(&auto).procs, None);
        let told = pod(json!([
            {"name": "OTHER", "value": "7"},
            {"name": "TRAINYARD_TOLD", "value": "PET_NODE_RANK=3\nPET_NPROC_PER_NODE=2"},
        ]));
        assert_eq!(PodRanks::of(&told), PodRanks { node: Some(3), procs: Some(2) });
    }
}

//! What a pod says about its replica.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use serde::{Deserialize, Serialize};
use trainyard_proto::refusal::Refusal;

use crate::instant;
use crate::label;

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Without a node.
    Unbound,
    /// On a node, not yet running.
    Starting,
    /// Running.
    Active,
    /// Ended with success.
    Succeeded,
    /// Ended with failure, or taken away while it ran.
    Failed,
}

/// One owned pod, read once.
#[derive(Clone, Debug)]
pub(super) struct Observed<'view> {
    pub(super) pod: &'view Pod,
    pub(super) name: &'view str,
    pub(super) uid: &'view str,
    pub(super) generation: u64,
    /// How many pods had to start together when it was made, where our scheduler places pods.
    pub(super) gang_size: Option<u32>,
    /// What it was made from.
    pub(super) template_hash: Option<&'view str>,
    pub(super) deleting: bool,
    /// Whether it was told to make room, and the others of its gang were not.
    pub(super) shrunk: bool,
    pub(super) standing: Standing,
    /// Restarts in place, of all containers.
    pub(super) restarts: u32,
    /// Whether a container ended and is about to be started again in place.
    pub(super) wants_restart: bool,
}

impl<'view> Observed<'view> {
    pub(super) fn read(pod: &'view Pod) -> Self {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let restarts = statuses(pod).map(|status| u32::try_from(status.restart_count).unwrap_or(0)).sum();
        Self {
            pod,
            name: pod.metadata.name.as_deref().unwrap_or_default(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default(),
            generation: parsed(pod, label::GENERATION).unwrap_or(0),
            gang_size: parsed(pod, label::GANG_SIZE),
            template_hash: annotation(pod, label::TEMPLATE_HASH),
            deleting,
            shrunk: annotation(pod, label::SHRUNK).is_some(),
            standing: standing(pod, deleting),
            restarts,
            wants_restart: restarts_in_place(pod) && statuses(pod).any(|status| wants_restart(pod, status)),
        }
    }

    /// Whether its ranks hold resources, or are about to.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Unbound | Standing::Starting | Standing::Active)
    }
}

fn annotation<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn parsed<T: std::str::FromStr>(pod: &Pod, name: &str) -> Option<T> {
    annotation(pod, name)?.parse().ok()
}

fn standing(pod: &Pod, deleting: bool) -> Standing {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    match (phase, deleting, bound) {
        ("Succeeded", _, _) => Standing::Succeeded,
        ("Failed", _, _) | ("Running", true, _) => Standing::Failed,
        ("Running", false, _) => Standing::Active,
        (_, _, true) => Standing::Starting,
        (_, _, false) => Standing::Unbound,
    }
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

fn restarts_in_place(pod: &Pod) -> bool {
    restart_policy(pod) != "Never"
        && standing(pod, false) != Standing::Failed
        && standing(pod, false) != Standing::Succeeded
}

fn wants_restart(pod: &Pod, status: &ContainerStatus) -> bool {
    let Some(state) = &status.state else { return false };
    let ended = state.terminated.as_ref().is_some_and(|end| end.exit_code != 0 || end.signal.is_some());
    let backing_off = state.waiting.as_ref().is_some_and(|wait| wait.reason.as_deref() == Some("CrashLoopBackOff"));
    // An init container that ended well is not started again even under Always.
    let main = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .any(|main| main.name == status.name);
    let again = restart_policy(pod) == "Always" && main && state.terminated.is_some();
    ended || backing_off || again
}

/// The end of a container, as the shell reports it: 128 + n for signal n.
fn exit_code(end: &ContainerStateTerminated) -> i32 {
    match end.signal {
        Some(signal) if end.exit_code == 0 || end.exit_code == signal => 128 + signal,
        Some(_) | None => end.exit_code,
    }
}

/// Exit code of one container of a pod, if it ended.
pub(super) fn container_exit_code(pod: &Pod, container: &str) -> Option<i32> {
    let status = statuses(pod).find(|status| status.name == container)?;
    status.state.as_ref()?.terminated.as_ref().map(exit_code)
}

/// Why the node refuses the pod for good, if it does.
pub(crate) fn refusal(pod: &Pod) -> Option<Refusal> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    Refusal::of(status.reason.as_deref()?)
}

/// The failure from which the others followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstFailure {
    /// The pod.
    pub pod: String,
    /// Its index in its role, as its label says.
    pub index: Option<u32>,
    /// The container, if one ended with failure.
    pub container: Option<String>,
    /// Its exit code: 128 + n for signal n.
    pub exit_code: Option<i32>,
    /// `OOMKilled`, `Error`, `Evicted`, `NodeLost`, ….
    pub reason: Option<String>,
    /// What the container or the node left to say.
    pub message: Option<String>,
    /// When, if known.
    pub finished_ms: Option<i64>,
}

/// The pod and container that failed first. A pod that was refused comes before all others. Among failures of the same time
/// those with an exit code of their own come before those ended by a signal, which are mostly ended because of them.
#[must_use]
pub fn first_failure<'pod>(pods: impl IntoIterator<Item = &'pod Pod>) -> Option<FirstFailure> {
    let mut failures: Vec<FirstFailure> = pods.into_iter().flat_map(failures).collect();
    failures.sort_by_key(|failure| {
        let by_signal = failure.exit_code.is_none_or(|code| code > 128);
        let was_refused = failure.reason.as_deref().and_then(Refusal::of).is_some();
        (!was_refused, failure.finished_ms.unwrap_or(i64::MAX), by_signal, failure.index, failure.pod.clone())
    });
    failures.into_iter().next()
}

fn failures(pod: &Pod) -> Vec<FirstFailure> {
    let status = pod.status.as_ref();
    let labels = pod.metadata.labels.as_ref();
    let index = labels.and_then(|labels| labels.get(label::REPLICA_INDEX)).and_then(|index| index.parse().ok());
    let template = FirstFailure {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        index,
        container: None,
        exit_code: None,
        reason: status.and_then(|status| status.reason.clone()),
        message: status.and_then(|status| status.message.clone()).filter(|message| !message.is_empty()),
        finished_ms: None,
    };
    let containers: Vec<FirstFailure> =
        statuses(pod).filter_map(|status| container_failure(status, &template)).collect();
    if !containers.is_empty() {
        return containers;
    }
    if status.and_then(|status| status.phase.as_deref()) == Some("Failed") { vec![template] } else { Vec::new() }
}

fn container_failure(status: &ContainerStatus, template: &FirstFailure) -> Option<FirstFailure> {
    let end =
        |state: Option<&k8s_openapi::api::core::v1::ContainerState>| state.and_then(|state| state.terminated.clone());
    let end = end(status.state.as_ref()).or_else(|| end(status.last_state.as_ref()))?;
    let code = exit_code(&end);
    (code != 0).then(|| FirstFailure {
        container: Some(status.name.clone()),
        exit_code: Some(code),
        reason: template.reason.clone().or_else(|| end.reason.clone()),
        message: end.message.clone().filter(|message| !message.trim().is_empty()).or_else(|| template.message.clone()),
        finished_ms: end.finished_at.as_ref().map(instant::ms),
        ..template.clone()
    })
}

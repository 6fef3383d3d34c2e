//! What the agent observed of one pod, and what the machine answers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde::{Deserialize, Serialize};

/// Everything that is known of a pod at one moment.
#[derive(Clone, Debug)]
pub struct PodView<'a> {
    /// The object as last seen.
    pub pod: &'a Pod,
    /// The object is no longer in the API.
    pub gone: bool,
    /// Whether its volumes and names are ready.
    pub setup: &'a Setup,
    /// What ran and runs, by container name. A container that is not here has never been started.
    pub containers: &'a BTreeMap<String, ContainerView>,
    /// When this node took the pod on.
    pub accepted_ms: i64,
    /// The pod's address.
    pub pod_ip: &'a str,
    /// The node's address.
    pub host_ip: &'a str,
    /// How restarts are spaced.
    pub back_off: BackOff,
}

/// How far the pod's surroundings are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Setup {
    /// Nothing was done yet.
    #[default]
    Needed,
    /// Something is missing that may still come.
    Waiting {
        /// What the user reads.
        message: String,
        /// When to look again.
        retry_at_ms: i64,
    },
    /// This pod can never run here.
    Refused {
        /// CamelCase.
        reason: String,
        /// What the user reads.
        message: String,
    },
    /// Containers may start.
    Ready,
}

/// How restarts of a failing container are spaced: at once, then `base_ms`, doubling up to `max_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Wait before the second restart.
    pub base_ms: i64,
    /// Longest wait.
    pub max_ms: i64,
    /// A run this long forgives the failures before it.
    pub reset_after_ms: i64,
}

impl BackOff {
    /// The wait before the restart that follows `failures` failures in a row (1 for the first).
    #[must_use]
    pub fn delay_ms(&self, failures: u32) -> i64 {
        match failures {
            0 | 1 => 0,
            // Doubling 32 times is past any sensible maximum.
            more => self.base_ms.saturating_mul(1_i64 << (more - 2).min(32)).min(self.max_ms),
        }
    }
}

/// One container as observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerView {
    /// The newest run.
    pub last: Option<Attempt>,
    /// The run before it.
    pub previous: Option<Attempt>,
    /// What the probes say of the newest run.
    pub probes: Probes,
    /// Why the next run could not be begun; a retry is due then.
    pub blocked: Option<Blocked>,
}

/// Why a run could not be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// `CreateContainerConfigError`, …
    pub reason: String,
    /// What the user reads.
    pub message: String,
    /// When to try again.
    pub retry_at_ms: i64,
}

/// What the probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// The liveness probe has not failed for good, nor has the startup probe.
    pub live: bool,
}

impl Default for Probes {
    fn default() -> Self {
        Self { started: true, ready: true, live: true }
    }
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// What the API calls it: `process://…`, or the engine and the name that it knows the container by.
    pub id: String,
    /// 0 for the first.
    pub number: u32,
    /// Failures in a row before this run.
    pub streak: u32,
    /// Where it is.
    pub state: AttemptState,
    /// When a stop that was ordered turns into a kill.
    pub stop_deadline_ms: Option<i64>,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptState {
    /// Its shim is on the way.
    Starting,
    /// The program runs.
    Running {
        /// Since when.
        started_ms: i64,
    },
    /// It is over.
    Ended(Ending),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// When it had started; nothing if it never did.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub finished_ms: i64,
    /// As Kubernetes reports it: 128 + signal for a killed one.
    pub exit_code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message, or what went wrong at the start.
    #[serde(default)]
    pub message: String,
    /// Lines that the log does not have, because there was no room for them to its very end.
    #[serde(default)]
    pub lost_log_lines: u64,
}

/// What to do for one pod now.
#[derive(Clone, Debug, PartialEq)]
pub enum PodAction {
    /// Make volumes and names; once.
    SetUp,
    /// Begin a run.
    Start {
        /// Which container.
        container: String,
        /// Which run.
        attempt: u32,
        /// Failures in a row before it.
        streak: u32,
    },
    /// Stop a run: terminate, and kill when the grace is over.
    Stop {
        /// Which container.
        container: String,
        /// Which run.
        attempt: u32,
        /// From now to the kill.
        grace_ms: i64,
        /// For the event.
        reason: StopReason,
    },
    /// Everything has ended: take the object out of the API.
    RemoveObject,
    /// Everything has ended and the object is gone: take the folder away.
    RemoveFolder,
}

/// Why a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The pod is deleted.
    Deleted,
    /// `activeDeadlineSeconds` have passed.
    Deadline,
    /// A liveness or startup probe failed.
    Unhealthy,
    /// The pod's containers are done; this one only accompanied them.
    Finished,
}

/// The machine's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    /// In order.
    pub actions: Vec<PodAction>,
    /// What the API should say; nothing once the object is gone.
    pub status: Option<PodStatus>,
    /// When to ask again though nothing happened.
    pub wake_at_ms: Option<i64>,
}

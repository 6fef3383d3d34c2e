//! What is known of a job's rendezvous: for the planner of the job, and for people.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use trainyard_proto::pace::{self, Window};
use trainyard_proto::tempo::Tempo;

use super::message::{Cause, Outcome, Place};

/// One job's rendezvous, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RendezvousView {
    /// The generation that runs, or the last one; 0 before the first.
    pub generation: u64,
    /// How far it is.
    pub stage: Stage,
    /// Since when it is at this stage; not told while all ranks run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Restarts, by cause: those that the rendezvous made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<Cause, u32>,
    /// Restarts that the rendezvous made, or found made.
    pub restarts: u32,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// UIDs of the pods whose launchers take part.
    pub members: BTreeSet<String>,
    /// UIDs of those of them that hold a stream now.
    pub present: BTreeSet<String>,
    /// UIDs of the pods whose launchers ever took part.
    pub joined: BTreeSet<String>,
    /// Ranks of the world that runs.
    pub ranks: u32,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Ranks that stand still.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stalled: Vec<Stalled>,
    /// Ranks that make the others wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stragglers: Vec<Straggler>,
    /// Interpreters that wait to become ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spares: Option<Spares>,
    /// The newest whole checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Saved>,
}

/// A whole checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Its step, if its name tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Where it lies, as its launcher sees it.
    pub path: String,
    /// When it was finished.
    pub at_ms: i64,
    /// Size of all its files.
    pub bytes: u64,
}

/// How far a rendezvous is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Launchers are awaited, and none has trained under this coordinator.
    #[default]
    Joining,
    /// A failure ended a generation, and the next one has not begun.
    Recovering,
    /// A generation was ordered, and not all of its ranks have started.
    Forming,
    /// All ranks were started.
    Running,
    /// It is over.
    Ended,
}

/// The last failure of a job's ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// Which rank, among all; absent when a whole launcher is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// UID of the pod in which it was, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name and node of that pod, which may be gone by now.
    #[serde(default)]
    pub place: Place,
    /// The host on which it was, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why.
    pub cause: Cause,
    /// The exit code that it stands for.
    pub code: i32,
    /// In words.
    pub message: String,
    /// The generation that it ended.
    pub generation: u64,
    /// When it became known.
    pub at_ms: i64,
    /// How long it took from then until all ranks of the next generation were started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_ms: Option<i64>,
}

/// A rank that stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stalled {
    /// Which.
    pub rank: u32,
    /// Where.
    pub host: String,
    /// What it waits in: a function, or a system call.
    pub waits_in: String,
    /// Since when.
    pub since_ms: i64,
    /// Whether it waits for other ranks.
    #[serde(default)]
    pub in_collective: bool,
}

impl Stalled {
    /// For people, of the one that is to blame, or the first of those that wait for each other; `others` wait, too.
    #[must_use]
    pub fn words(&self, others: usize) -> String {
        let Self { rank, host, waits_in, in_collective, .. } = self;
        let waits = if waits_in.is_empty() { "" } else { " in " };
        let others = match (others, in_collective) {
            (0, _) => String::new(),
            (1, true) => "; it and 1 other rank wait for each other".to_owned(),
            (others, true) => format!("; it and {others} other ranks wait for each other"),
            (1, false) => "; 1 other rank waits".to_owned(),
            (others, false) => format!("; {others} other ranks wait"),
        };
        format!("rank {rank} on {host} stands still{waits}{waits_in}{others}")
    }
}

/// A rank that makes the others wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Straggler {
    /// Which.
    pub rank: u32,
    /// Where.
    pub host: String,
    /// How slow, and since when.
    #[serde(flatten)]
    pub slow: pace::Straggler,
}

/// Interpreters that wait to become ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spares {
    /// How many.
    pub count: u32,
    /// Memory that they hold.
    pub memory_bytes: u64,
}

/// What a launcher's ranks do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pulse {
    /// In which generation.
    pub generation: u64,
    /// Of ranks that say or show how far they are.
    pub ranks: Vec<RankPulse>,
    /// Interpreters that wait to become ranks.
    pub spares: Spares,
    /// How those get on that show progress, if any do.
    pub tempo: Option<Tempo>,
    /// Whether none of its ranks was seen to move lately.
    pub still: bool,
}

/// What one rank does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RankPulse {
    /// Which.
    pub rank: u32,
    /// How long ago its last sign of progress was.
    pub silent_ms: i64,
    /// What it waits in.
    pub waits_in: String,
    /// Whether it waits for other ranks.
    pub in_collective: bool,
    /// Whether it was seen not to move at all.
    pub stalled: bool,
    /// Where its time goes.
    pub window: Option<Window>,
}

/// The word for a cause, as in `spec.recovery.budgets` and in metrics.
impl Cause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::ExitCode,
        Self::Signal,
        Self::OutOfMemory,
        Self::ImportError,
        Self::Exception,
        Self::RendezvousTimeout,
        Self::Hang,
        Self::NodeLost,
        Self::GpuXid,
        Self::Preflight,
    ];

    /// Its word in manifests, statuses and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ExitCode => "exitCode",
            Self::Signal => "signal",
            Self::OutOfMemory => "outOfMemory",
            Self::ImportError => "importError",
            Self::Exception => "exception",
            Self::RendezvousTimeout => "rendezvousTimeout",
            Self::Hang => "hang",
            Self::NodeLost => "nodeLost",
            Self::GpuXid => "gpuXid",
            Self::Preflight => "preflight",
        }
    }
}

//! Who goes first.

use serde::{Deserialize, Serialize};
use trainyard_coordinator_core::schedule::{Learned, QueueingStrategy};

use super::Job;

/// An order of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// Strictly in the order of arrival.
    Fifo,
    /// In the order of arrival, but who does not fit keeps nobody waiting.
    Skip,
    /// As `skip`, with a limit on each job's run time, and places set aside for the first that wait.
    Easy,
    /// The smallest (GPUs times run time, which is known) first, without preemption.
    Sjf,
    /// The least GPU time so far first, in classes, with preemption.
    Las,
    /// The least GPU time left (which is known) first, with preemption.
    Srtf,
    /// By what finished jobs tell, with preemption; nothing else is known.
    #[default]
    Ours,
}

/// A job and what became of it.
pub(super) struct Known<'a> {
    pub(super) job: &'a Job,
    pub(super) done_ms: i64,
    pub(super) left_ms: i64,
    pub(super) running: bool,
}

/// Jobs that are alike to who does not know how long they run: of one owner, and of one size.
pub(super) fn group(job: &Job) -> u64 {
    job.owner.wrapping_mul(64).wrapping_add(u64::from(job.gpus.max(1).ilog2()))
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Fifo, Self::Skip, Self::Easy, Self::Sjf, Self::Las, Self::Srtf, Self::Ours];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Skip => "skip",
            Self::Easy => "easy",
            Self::Sjf => "sjf",
            Self::Las => "las",
            Self::Srtf => "srtf",
            Self::Ours => "ours",
        }
    }

    /// The one with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    pub(super) const fn strategy(self) -> QueueingStrategy {
        match self {
            Self::Fifo => QueueingStrategy::StrictFifo,
            Self::Skip | Self::Easy | Self::Sjf | Self::Las | Self::Srtf | Self::Ours => {
                QueueingStrategy::BestEffortFifo
            }
        }
    }

    pub(super) const fn preempts(self) -> bool {
        match self {
            Self::Fifo | Self::Skip | Self::Easy | Self::Sjf => false,
            Self::Las | Self::Srtf | Self::Ours => true,
        }
    }

    /// Whether a running job's priority changes while nothing happens.
    pub(super) const fn drifts(self) -> bool {
        match self {
            Self::Fifo | Self::Skip | Self::Easy | Self::Sjf | Self::Srtf => false,
            Self::Las | Self::Ours => true,
        }
    }

    /// The greater the sooner.
    pub(super) fn priority(self, known: &Known<'_>, learned: &mut Learned) -> i32 {
        let gpus = f64::from(known.job.gpus);
        let seconds = |ms: i64| ms as f64 / 1_000.0;
        match self {
            Self::Fifo | Self::Skip | Self::Easy => 0,
            Self::Sjf => to_priority(gpus * seconds(known.job.run_ms)),
            Self::Srtf => to_priority(gpus * seconds(known.left_ms)),
            Self::Las => class(gpus * seconds(known.done_ms) / 900.0, 2.0),
            Self::Ours => {
                let cost = learned.cost_ms(group(known.job), known.done_ms) / 1_000.0;
                // What runs keeps its place a little longer.
                let keep = if known.running { 0.7 } else { 1.0 };
                class(gpus * cost * keep, 0.5)
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "bounded")]
fn to_priority(cost: f64) -> i32 {
    -(cost.clamp(0.0, 2_000_000_000.0) as i32)
}

/// Classes in which the cost grows by a factor of two to the power of `step`.
#[expect(clippy::cast_possible_truncation, reason = "bounded")]
fn class(cost: f64, step: f64) -> i32 {
    -((cost.max(1.0).log2() / step).floor().clamp(0.0, 1_000.0) as i32)
}

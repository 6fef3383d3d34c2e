//! What became of a trace.

use serde::{Deserialize, Serialize};

use super::Policy;

/// Figures of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who went first.
    pub policy: Policy,
    /// GPUs there were.
    pub gpus: f64,
    /// Jobs that ended.
    pub jobs: u64,
    /// Jobs that ask for more than there is, or that never started in the trace, so that nobody knows how long they
    /// run.
    pub refused: u64,
    /// Hours from submission to end.
    pub mean_hours: f64,
    /// The same, median.
    pub p50_hours: f64,
    /// The same, of a hundred the one that took longest but one.
    pub p99_hours: f64,
    /// Part of the GPU time, from the first submission to the last end, that was used.
    pub utilisation: f64,
    /// Part of the GPUs that was free while jobs waited, which did not fit or were not let in: mean over that time.
    pub fragmentation: f64,
    /// Jobs that were preempted, each time counted.
    pub preemptions: u64,
    /// Decisions that were made.
    pub decisions: u64,
    /// Jobs that were promised a start.
    pub promised: u64,
    /// Those of them that started later than they were ever promised to.
    pub late: u64,
    #[serde(skip)]
    took_ms: Vec<i64>,
    #[serde(skip)]
    span_ms: i64,
    #[serde(skip)]
    pub(super) used: f64,
    #[serde(skip)]
    lay_free: f64,
    #[serde(skip)]
    waited_ms: i64,
}

impl Report {
    pub(super) fn new(policy: Policy, gpus: f64) -> Self {
        Self { policy, gpus, ..Self::default() }
    }

    /// Time went by with so many GPUs busy, and jobs waited or not.
    pub(super) fn pass(&mut self, for_ms: i64, busy: f64, waits: bool) {
        self.span_ms += for_ms;
        self.used += busy * for_ms as f64;
        if waits {
            self.waited_ms += for_ms;
            self.lay_free += (self.gpus - busy) * for_ms as f64;
        }
    }

    pub(super) fn end(&mut self, took_ms: i64) {
        self.took_ms.push(took_ms);
    }

    /// A job started that had been promised to start by then.
    pub(super) fn kept(&mut self, promised_ms: i64, started_ms: i64) {
        self.promised += 1;
        self.late += u64::from(started_ms > promised_ms);
    }

    pub(super) fn finish(mut self) -> Self {
        self.took_ms.sort_unstable();
        let count = self.took_ms.len();
        let hours = |ms: i64| ms as f64 / 3_600_000.0;
        let rank =
            |percent: usize| self.took_ms.get((count * percent).div_ceil(100).max(1) - 1).copied().map_or(0.0, hours);
        self.jobs = count as u64;
        (self.p50_hours, self.p99_hours) = (rank(50), rank(99));
        self.mean_hours = self.took_ms.iter().copied().map(hours).sum::<f64>() / (count.max(1) as f64);
        let gpus = self.gpus.max(1.0);
        self.utilisation = self.used / (gpus * self.span_ms.max(1) as f64);
        self.fragmentation = self.lay_free / (gpus * self.waited_ms.max(1) as f64);
        self
    }
}

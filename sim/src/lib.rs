//! A whole cluster in one thread: the pure cores in virtual time, with faults from a seed.
//!
//! The object store core plays the API server, the job, gang and stand-in cores are the controllers, and node agents
//! are simulated. Everything that happens is drawn from one seeded generator, so a failing seed replays exactly.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How rough the world is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps with faults and user actions; after them the world is left alone and every job has to end.
    pub chaotic_steps: u32,
    /// Most steps the quiet phase may take before a job that has not ended is a failure of liveness.
    pub quiet_steps: u32,
    /// Keep the last this many steps for the failure report.
    pub trace_len: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { chaotic_steps: 150, quiet_steps: 3_000, trace_len: 200 }
    }
}

/// What a run that kept every invariant did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Steps taken.
    pub steps: u64,
    /// Jobs that were created.
    pub jobs: u64,
    /// Pods that were created.
    pub pods: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Actions that controllers carried out.
    pub actions: u64,
}

/// An invariant that did not hold, with all that is needed to see why.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("seed {seed}, step {step}: {invariant}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Replays the run.
    pub seed: u64,
    /// The step after which it did not hold.
    pub step: u64,
    /// Which invariant, and the objects that break it.
    pub invariant: String,
    /// The last steps before it.
    pub trace: Vec<String>,
    /// Every object of the world as JSON.
    pub state: serde_json::Value,
}

/// Run one world from `seed`.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let _ = (seed, options);
    Ok(Report::default())
}

/// Run many seeds on `threads` threads; `progress` is told how many are done.
///
/// # Errors
/// The failure with the lowest seed among those found before everything stopped.
pub fn run_many(
    seeds: Range<u64>,
    threads: usize,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, Box<Failure>> {
    let _ = (seeds, threads, options, progress);
    Ok(Report::default())
}

//! A whole cluster in one thread: the pure cores in virtual time, with faults from a seed.
//!
//! The object store's core plays the API server, the job, gang and stand-in cores are the controllers, and the pod core of
//! the node agent decides what becomes of a pod; processes, networks and clocks are the simulation's own. Everything that happens is drawn from one seeded generator, so a failing seed replays exactly.
//!
//! Each seed has a rough part, in which users change their minds and things break, and a quiet part, in which
//! everything that was begun has to come to its end. What must hold, and when it is checked, is in [`invariant`].
//!
//! What goes wrong in the rough part:
//!
//! | fault | what it does |
//! |-------|--------------|
//! | coordinator killed | between any two writes: caches, timers and plans half carried out are gone, all is listed and planned afresh |
//! | agent killed | between any two writes: an agent knows only the API and its processes, so each of its steps may be the first of a new one |
//! | node lost | its processes are gone and it is not ready; it comes back later and tells what was lost |
//! | request refused | as by a conflict: the rest of the plan is dropped |
//! | answer lost | of a controller or an agent: the write took effect, its maker does not know |
//! | disk full | the next writes are refused, whoever makes them: users, controllers, agents, the garbage collector |
//! | delayed events | each watch lags behind for as long as it likes, each kind by itself |
//! | duplicate events | the last event of a watch arrives again |
//! | watch gap | a watch cannot go on (410) and lists again: what happened in between is never seen |
//! | stray wake-ups | a key is planned for nothing |
//! | clock jumps | forward by up to an hour, back by up to ten seconds |
//! | unrunnable pods | a manifest asks for a volume that no node has: every pod of it is refused, until somebody corrects it |
//! | users | delete jobs and pods, suspend, resume, resize and use names again, at any moment |
//! | preemption | half of the worlds have queues: whoever is more important, or takes back what was lent, stops others |
//! | whoever runs the queues | stops and drains them, changes who may preempt whom, gives more quota, changes classes of priority, moves jobs |
//! | the scheduler of a cluster | a third of the worlds are clusters: it binds what is let go pod by pod, late, and some pods never |
//!
//! Worlds with queues have two or three ClusterQueues in one cohort, sometimes with a cohort below it and a quota of its own, with limits of
//! borrowing and lending, LocalQueues, classes of priority, and gangs that may start with fewer pods than they have. Worlds on clusters
//! have our gates, what was decided as an annotation of the job, and a scheduler that knows nothing of gangs.
//!
//! Not in the model: torn writes of the store (`runtime/tests` have them, on real files), and two coordinators at once. Of queues: several
//! flavors, quota that is taken away, queues that are deleted, selectors of namespaces. Of gangs: topology (every node is alike), launchers
//! and their rendezvous, and so jobs that change their size while they run. Of clusters: pods that the operator binds or makes on their
//! nodes itself (`coordinator/core/tests/drafts` has them), and PodGroups of Kubernetes' own.

mod agent;
mod api;
mod cache;
mod control;
mod estate;
mod eviction;
pub mod invariant;
mod pod;
mod quota;
mod rough;
mod scheduler;
pub mod trace;
mod workload;
mod world;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use trainyard_coordinator_core::gang::cluster::{ClusterView, place_on_cluster};
use trainyard_coordinator_core::gang::{GangView, Placement, place};
use trainyard_coordinator_core::job;
use trainyard_coordinator_core::standin;
use trainyard_coordinator_core::view::JobView;
use trainyard_proto::plan::Plan;

/// How rough the world is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps with faults and user actions; after them the world is left alone and every job has to end.
    pub rough_steps: u32,
    /// Most steps the quiet part may take before a job that has not ended is a failure of liveness.
    pub quiet_steps: u32,
    /// Keep the last this many steps for the failure report.
    pub trace_len: usize,
    /// The cores under test.
    pub cores: Cores,
    /// What the worlds have.
    pub worlds: Worlds,
}

/// Which worlds there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Worlds {
    /// Each seed draws what its world has.
    #[default]
    Drawn,
    /// One queue without quota, and nobody more important than others.
    Plain,
    /// Queues, quota and priorities.
    Queued,
    /// Gangs wait at gates, and a scheduler of the cluster binds them; with queues or without.
    Cluster,
}

impl Default for Options {
    fn default() -> Self {
        Self { rough_steps: 330, quiet_steps: 20_000, trace_len: 120, cores: Cores::default(), worlds: Worlds::Drawn }
    }
}

/// The decision functions that the world runs on. Tests put broken ones in, to see them caught.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The life of a job.
    pub job: fn(&JobView, i64) -> Plan,
    /// Placement of gangs.
    pub gang: fn(&GangView, i64) -> Placement,
    /// The same on a cluster, whose own scheduler binds.
    pub cluster: fn(&ClusterView, i64) -> Placement,
    /// `batch/v1` Job.
    pub batch: fn(&standin::job::View<'_>, i64) -> Plan,
    /// ReplicaSet.
    pub set: fn(&standin::replicaset::View<'_>, i64) -> Plan,
    /// Deployment.
    pub deployment: fn(&standin::deployment::View<'_>, i64) -> Plan,
}

impl Default for Cores {
    fn default() -> Self {
        Self {
            job: job::plan,
            gang: place,
            cluster: place_on_cluster,
            batch: standin::job::plan,
            set: standin::replicaset::plan,
            deployment: standin::deployment::plan,
        }
    }
}

/// What a run that kept every invariant did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seeds run.
    pub seeds: u64,
    /// Steps taken.
    pub steps: u64,
    /// Jobs, Deployments included, that users created.
    pub jobs: u64,
    /// Pods that were created.
    pub pods: u64,
    /// Processes that nodes started.
    pub processes: u64,
    /// Pods that nodes refused, since they can never run there.
    pub refused: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Plans that were made.
    pub plans: u64,
    /// Actions that controllers carried out.
    pub actions: u64,
    /// Jobs that ended with success.
    pub succeeded: u64,
    /// Jobs that ended with failure.
    pub failed: u64,
    /// Gangs that were told to make room.
    pub preempted: u64,
    /// Pods that the scheduler of a cluster bound.
    pub bound: u64,
    /// Decisions for a gang on a cluster that were taken back, since the scheduler had not bound all of it in time.
    pub taken_back: u64,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.jobs += other.jobs;
        self.pods += other.pods;
        self.processes += other.processes;
        self.refused += other.refused;
        self.faults += other.faults;
        self.plans += other.plans;
        self.actions += other.actions;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.preempted += other.preempted;
        self.bound += other.bound;
        self.taken_back += other.taken_back;
    }
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
    // Telling what happens costs as much as the happening, and a failing seed can be had again: so only then.
    let silent = Options { trace_len: 0, ..options.clone() };
    match world::World::new(seed, &silent).run() {
        Err(_) if options.trace_len > 0 => world::World::new(seed, options).run(),
        outcome => outcome,
    }
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
    let next = AtomicU64::new(seeds.start);
    let done = AtomicU64::new(0);
    let failure: Mutex<Option<Box<Failure>>> = Mutex::new(None);
    let total = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failure.lock().is_ok_and(|found| found.is_some()) {
                        return;
                    }
                    match run(seed, options) {
                        Ok(report) => {
                            if let Ok(mut total) = total.lock() {
                                total.add(&report);
                            }
                        }
                        Err(found) => {
                            if let Ok(mut first) = failure.lock()
                                && first.as_ref().is_none_or(|known| known.seed > found.seed)
                            {
                                *first = Some(found);
                            }
                        }
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(total.into_inner().unwrap_or_default()),
        Ok(Some(found)) => Err(found),
        Err(poisoned) => poisoned.into_inner().map_or_else(|| Ok(Report::default()), Err),
    }
}

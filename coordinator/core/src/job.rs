//! The life cycle of a job: what it needs next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::plan::{ObjectRef, Plan, Reason};

use crate::gang::cluster::Draft;
use crate::rendezvous::{LastFailure, Spares, Stalled, Straggler};
use crate::view::JobView;

mod avoid;
mod build;
mod clock;
mod decision;
mod deputy;
mod draft;
mod ending;
mod launcher;
mod ledger;
mod lost;
mod meeting;
mod narrate;
mod planner;
mod progress;
mod removal;
pub(crate) mod replica;
mod restart;
mod stray;
mod subject;
mod tally;

pub use avoid::Blame;
pub use clock::Clock;
pub use ledger::Ledger;
pub use replica::{FirstFailure, first_failure};
pub use stray::is_out_of_reach;

use planner::Planner;
use subject::Subject;

/// What a job's status says, in the engine's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Whether the job was taken up.
    pub created: bool,
    /// Whether it counts as running.
    pub running: bool,
    /// Whether replicas are being started again.
    pub restarting: bool,
    /// Whether it is suspended.
    pub suspended: bool,
    /// How it ended.
    pub finished: Option<Finish>,
    /// When it was taken up or last resumed.
    pub start_ms: Option<i64>,
    /// When it ended.
    pub completion_ms: Option<i64>,
    /// What the status tells the user, where the dialect has a place for it.
    pub message: Option<String>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// With success.
    Succeeded,
    /// With failure.
    Failed,
}

/// A step in a job's life, in the engine's words; each dialect has its own condition for it, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Where it goes.
    pub to: Stage,
    /// One sentence.
    pub message: String,
}

/// Where a transition leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Taken up.
    Created,
    /// Running.
    Running,
    /// Replicas are started again.
    Restarting,
    /// Ended with success.
    Succeeded,
    /// Ended with failure.
    Failed(FailureCause),
    /// Stopped at the user's wish.
    Suspended,
    /// Going on after that.
    Resumed,
}

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailureCause {
    /// A replica failed and may not be started again.
    Replica,
    /// Started again too often.
    BackoffLimit,
    /// Active for too long.
    Deadline,
    /// The manifest cannot be run.
    Invalid,
}

impl FailureCause {
    /// What the condition's reason ends in, after the kind.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Replica | Self::BackoffLimit | Self::Deadline => "Failed",
            Self::Invalid => "Invalid",
        }
    }
}

/// Pods of a role by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Running.
    pub active: i32,
    /// Ended with success.
    pub succeeded: i32,
    /// Ended with failure.
    pub failed: i32,
}

/// What a dialect is given to write its status from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChange {
    /// Now.
    pub now_ms: i64,
    /// Steps taken since the present status, in order.
    pub transitions: Vec<Transition>,
    /// Pods of each role, in the model's order; `None` keeps the present counts.
    pub tallies: Option<Vec<(String, Tally)>>,
    /// Selector of each role's pods.
    pub selectors: BTreeMap<String, String>,
    /// Where the job is.
    pub phase: Phase,
    /// When it was taken up or last resumed.
    pub start_ms: Option<i64>,
    /// When it ended.
    pub completion_ms: Option<i64>,
    /// The leader's progress.
    pub progress: Option<Value>,
    /// Exit code, once it is known.
    pub exit_code: Option<i32>,
    /// What happened and what to do next.
    pub message: Option<String>,
    /// Restarts so far.
    pub restarts: u32,
    /// Number of ranks, if known.
    pub ranks: Option<u32>,
    /// What its launchers do; `None` keeps what the status says.
    pub meeting: Option<Meeting>,
    /// The newest checkpoint.
    pub checkpoint: Option<Value>,
}

/// What a status says of the launchers of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meeting {
    /// The generation that runs, or ran last.
    pub generation: u64,
    /// The last failure, with the name of its pod in place of the uid.
    pub last_failure: Option<LastFailure>,
    /// The steps that it cost, where that is known.
    pub lost_steps: Option<i64>,
    /// Pods whose launchers are awaited.
    pub missing: Vec<String>,
    /// Ranks that stand still.
    pub stalled: Vec<Stalled>,
    /// Ranks that make the others wait.
    pub stragglers: Vec<Straggler>,
    /// Interpreters that wait.
    pub spares: Option<Spares>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Its pods wait for a place.
    Pending,
    /// Its pods have a place and are starting.
    Starting,
    /// It runs.
    Running,
    /// Replicas are started again.
    Restarting,
    /// It ended with success.
    Succeeded,
    /// It ended with failure.
    Failed,
    /// It is stopped at the user's wish.
    Suspended,
}

impl Phase {
    /// The word in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Restarting => "Restarting",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Suspended => "Suspended",
        }
    }
}

/// Why a job is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobCode {
    /// It is no job that runs here.
    NotAJob,
    /// It is being deleted.
    Deleting,
    /// Another controller runs it.
    ManagedElsewhere,
    /// An object that it refers to does not exist.
    WaitsForRelated,
    /// Its manifest cannot be run.
    Invalid,
    /// It is suspended.
    Suspended,
    /// Its pods wait for a place.
    WaitsForPlace,
    /// Pods of its last start are not gone yet.
    WaitsForOldPods,
    /// A pod of another owner has the name of one of its own.
    NameTaken,
    /// Its pods are starting.
    Starting,
    /// It runs.
    Running,
    /// It runs, and ranks of it stand still.
    StandsStill,
    /// It runs, and some of its ranks make the others wait.
    Straggles,
    /// Its launchers wait for each other.
    WaitsForRanks,
    /// Replicas are started again.
    Restarting,
    /// It ended with success.
    Succeeded,
    /// It ended with failure.
    Failed,
    /// It ended, and its time to live is over.
    Expired,
}

impl JobCode {
    /// The code as text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAJob => "NotAJob",
            Self::Deleting => "Deleting",
            Self::ManagedElsewhere => "ManagedElsewhere",
            Self::WaitsForRelated => "WaitsForRelated",
            Self::Invalid => "Invalid",
            Self::Suspended => "Suspended",
            Self::WaitsForPlace => "WaitsForPlace",
            Self::WaitsForOldPods => "WaitsForOldPods",
            Self::NameTaken => "NameTaken",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::StandsStill => "StandsStill",
            Self::Straggles => "Straggles",
            Self::WaitsForRanks => "WaitsForRanks",
            Self::Restarting => "Restarting",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Expired => "Expired",
        }
    }
}

/// What the job needs next. Total: whatever is wrong with the job becomes a condition and an event.
///
/// Level-triggered: planning again after the actions were applied gives no actions.
#[must_use]
pub fn plan(view: &JobView, now_ms: i64) -> Plan {
    match crate::manifest::dialect_of(&view.job) {
        Some(dialect) => {
            let subject = Subject::read(&view.job, dialect.info());
            Planner::new(view, dialect, subject, now_ms).run().0
        }
        None => Plan { reasons: vec![not_a_job(&view.job)], ..Plan::default() },
    }
}

/// The pods that the job is about to have, where they are to be made on their nodes: none has been decided on yet, or not all of them are
/// made. What [`plan`] makes is the same pods.
#[must_use]
pub fn draft(view: &JobView, now_ms: i64) -> Option<Draft> {
    let dialect = crate::manifest::dialect_of(&view.job)?;
    let subject = Subject::read(&view.job, dialect.info());
    let mut planner = Planner::new(view, dialect, subject, now_ms);
    if planner.lifecycle.finished.is_some() || planner.subject.deleting {
        return None;
    }
    planner.sketches = true;
    planner.begun_draft().or_else(|| planner.run().1)
}

/// A failure in words; its pod is a name.
pub(crate) fn what_failed(last: &LastFailure) -> String {
    narrate::what_failed(last, last.pod.as_deref())
}

fn not_a_job(object: &Value) -> Reason {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let subject = ObjectRef {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    };
    let message = format!("{} of {} is not a job that runs here", subject.kind, subject.api_version);
    Reason { subject, code: JobCode::NotAJob.name().to_owned(), message, hint: None }
}

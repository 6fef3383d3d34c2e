//! What following a job comes to, and what it is told at the start.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::failure::Failure;
use super::progress::Progress;
use super::stream::Delivered;
use crate::exit_code;
use crate::job::End;

/// How following came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The job ended.
    Ended(End),
    /// A deployment has all its replicas.
    Available,
    /// The user asked us to stop the job, by this signal; it is suspended, or deleted.
    Stopped { signal: i32, killed: bool },
    /// The user asked us to leave; the job goes on.
    Left { signal: i32 },
    /// Somebody deleted the job.
    Deleted,
    /// The server on this machine went away. It may have a successor, or be in need of one.
    ServerLost,
}

/// What is carried over when a job is followed in several stretches.
#[derive(Debug)]
pub(crate) struct Before {
    /// When the first stretch began.
    pub(crate) started: Instant,
    /// Log lines that were shown.
    pub(crate) delivered: Delivered,
    /// The job is to be stopped, because of this signal; `true`: at once.
    pub(crate) stop: Option<(i32, bool)>,
}

impl Before {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), delivered: Delivered::new(), stop: None }
    }
}

/// What is known at the end.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) job: Value,
    /// Every pod that the job had.
    pub(crate) pod_uids: Vec<String>,
    pub(crate) failure: Option<Failure>,
    pub(crate) last_words: Vec<String>,
    pub(crate) progress: Option<Progress>,
    pub(crate) took: Duration,
    /// For the next stretch, should there be one.
    pub(crate) before: Before,
    /// Stdout took no more lines, although it was not closed: a full disk, for instance.
    pub(crate) output_failed: bool,
}

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// We started it, so Ctrl-C stops it; else Ctrl-C only leaves.
    pub(crate) owner: bool,
    /// A deployment is followed until it is available, else until Ctrl-C.
    pub(crate) until_available: bool,
}

/// The exit code of a process that was stopped by a signal.
pub(crate) fn signal_code(signal: i32) -> u8 {
    exit_code::SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0))
}

//! What the supervisor is told, and what it says.

use serde::{Deserialize, Serialize};

use super::exit::{Exit, Stop};

/// A rank's process, named by where and when it was started.
///
/// A process that cooperates outlives its generation: it keeps its name and takes its rank in the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// The generation that it was started for.
    pub generation: u64,
    /// Its rank among those of this launcher, from 0; it never changes.
    pub local_rank: usize,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Ordered: end what runs, and take part in this generation.
    Form {
        /// Which; obeyed only if it is higher than all before.
        generation: u64,
        /// Whether this launcher has a place in it. If not it ends its ranks and waits.
        seated: bool,
    },
    /// Ordered: end the ranks of this generation, and wait.
    Halt {
        /// Which.
        generation: u64,
    },
    /// Ordered: the job has ended; end, too.
    Release(Verdict),
    /// Those who give orders answer, or the line to them is down.
    Link {
        /// Do they? A line that somebody else took, or that nobody speaks on, is not up.
        up: bool,
    },
    /// The process runs.
    Started(ProcessId),
    /// The process could not be started.
    NotStarted {
        /// Which.
        process: ProcessId,
        /// 127 for a program that does not exist, 126 for one that cannot be executed.
        code: i32,
    },
    /// The process was signalled and does not handle that signal: none of its code runs any more.
    Doomed(ProcessId),
    /// The process ended.
    Ended {
        /// Which.
        process: ProcessId,
        /// How.
        exit: Exit,
    },
    /// Whether the process can leave a generation, and join the next, without ending. None can before it said so.
    Cooperates {
        /// Which.
        process: ProcessId,
        /// Can it? False when it no longer can be told.
        does: bool,
    },
    /// The process, which was told to, takes part in this generation.
    Joined {
        /// Which.
        process: ProcessId,
        /// In what.
        generation: u64,
    },
    /// The rank stands still and is given up: it counts as failed.
    Condemned {
        /// In which generation this was seen.
        generation: u64,
        /// Which rank.
        local_rank: usize,
        /// The exit code that it stands for.
        code: i32,
    },
    /// A stop was asked for from outside.
    Stop(Stop),
    /// Time passed.
    Tick,
}

/// How the job ended, as those say who give orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// All ranks of one generation ended well.
    Succeeded,
    /// No restart is left for a failure.
    Failed {
        /// The exit code that it stands for.
        code: i32,
    },
    /// Somebody stopped the job.
    Stopped,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// This generation begins; its ranks are started next. Whatever served an older one ends.
    Begin {
        /// Which.
        generation: u64,
    },
    /// Start this process, for the generation in its name.
    Start(ProcessId),
    /// Tell this process, which cooperates, that the generation it takes part in is over.
    Interrupt {
        /// Which process.
        process: ProcessId,
        /// The generation that is over.
        generation: u64,
    },
    /// Tell this process, which cooperates, to take part in this generation. Answer with [`Input::Joined`].
    Assign {
        /// Which process.
        process: ProcessId,
        /// The present generation.
        generation: u64,
    },
    /// Signal this process's group.
    Signal {
        /// Which.
        process: ProcessId,
        /// With what.
        stop: Stop,
    },
    /// Tell those who give orders.
    Report(Report),
    /// Every process has ended, and nothing is waited for.
    Finished(Outcome),
}

/// What those who give orders must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// All ranks of this generation run.
    Ready {
        /// Which.
        generation: u64,
    },
    /// A rank failed; the others are being ended. The first failure of a generation only.
    Failed {
        /// In which generation.
        generation: u64,
        /// Which rank.
        local_rank: usize,
        /// How.
        exit: Exit,
    },
    /// All ranks of this generation ended well.
    Finished {
        /// Which.
        generation: u64,
    },
}

/// What the ranks do, as it is told when the line is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// There is nothing to do.
    Idle,
    /// They run, or are about to.
    Running {
        /// Which generation.
        generation: u64,
    },
    /// They ended well.
    Finished {
        /// Which generation.
        generation: u64,
    },
    /// One failed, and nothing was ordered since.
    Failed {
        /// In which generation.
        generation: u64,
        /// Which rank.
        local_rank: usize,
        /// How.
        exit: Exit,
    },
}

/// How the launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What the launcher exits with.
    pub code: i32,
    /// The last generation that began; 0 if none did.
    pub generation: u64,
    /// The rank that failed first in it, counted within this launcher, and how; `None` if none failed by itself.
    pub first_failure: Option<(usize, Exit)>,
    /// The stop that came from outside, if one did before any rank failed.
    pub stopped: Option<Stop>,
}

/// How long what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patience {
    /// After a generation failed: how long its ranks, which mostly hang in a collective, may take to end.
    pub failure_grace_ms: i64,
    /// After a stop from outside: how long ranks may take, for instance to write a checkpoint.
    pub stop_grace_ms: i64,
    /// How long a process that cooperates may take to join the next generation; then it is replaced.
    pub rejoin_ms: i64,
    /// How long the next generation waits for killed processes to be gone. `None`: not at all, as no code of theirs runs
    /// any more. Where they hold devices, those must be free first.
    pub corpse_ms: Option<i64>,
    /// How long a launcher whose ranks ended well waits for the line to come back; then it ends well.
    pub barrier_ms: i64,
    /// How long a launcher whose ranks failed waits for the line to come back; then it ends with their failure.
    pub verdict_ms: i64,
}

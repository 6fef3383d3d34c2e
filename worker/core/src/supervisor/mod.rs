//! The ranks of one pod: who runs, who failed first, and how the others are stopped. Decides; starts nothing.
//!
//! The shell feeds what happened into [`Supervisor::step`] and carries out what comes back; it wakes the supervisor
//! with [`Input::Tick`] at [`Supervisor::deadline`].
//!
//! One rank's life. Whatever is not in the table changes nothing (S-1).
//!
//! | phase    | input          | next     | does                                                  |
//! |----------|----------------|----------|-------------------------------------------------------|
//! | waiting  | begin          | starting | start the rank                                        |
//! | starting | started        | running  |                                                       |
//! | starting | not started    | ended    | counts as a failure; stop the others                  |
//! | running  | ended, 0       | ended    |                                                       |
//! | running  | ended, other   | ended    | the first one is the launch's result; stop the others |
//! | starting | stop           | stopping | signal it as soon as it has started                   |
//! | running  | stop           | stopping | the ladder's first rung: the signal                   |
//! | stopping | grace is over  | killed   | the last rung: SIGKILL                                |
//! | stopping | second stop    | killed   | the same, at once                                     |
//! | stopping | ended          | ended    |                                                       |
//! | killed   | ended          | ended    |                                                       |
//!
//! Invariants, re-derived by [`Supervisor::check`]: S-2, an outcome exists exactly when every rank has ended; S-3, a
//! first failure exists if and only if some rank failed before the stop was ordered from outside, and it never changes;
//! S-4, a deadline exists exactly while some rank is stopping.

mod tail;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;

pub use tail::Tail;

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it ended well.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would report: the exit code, or 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A request to end everything, from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stop {
    /// SIGTERM: somebody wants the job to end.
    Terminate,
    /// SIGINT: the user pressed Ctrl-C.
    Interrupt,
    /// SIGKILL: no more patience.
    Kill,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Start all ranks. First and once.
    Begin,
    /// The rank's process runs.
    Started {
        /// Which, counted from 0 within this pod.
        local_rank: usize,
    },
    /// The rank's process could not be started.
    NotStarted {
        /// Which.
        local_rank: usize,
        /// 127 for a program that does not exist, 126 for one that cannot be executed.
        code: i32,
    },
    /// The rank's process ended.
    Ended {
        /// Which.
        local_rank: usize,
        /// How.
        exit: Exit,
    },
    /// A stop was asked for from outside.
    Stop(Stop),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// Start this rank's process.
    Start {
        /// Which.
        local_rank: usize,
    },
    /// Signal this rank's process group.
    Signal {
        /// Which.
        local_rank: usize,
        /// With what.
        stop: Stop,
    },
    /// Every rank has ended.
    Finished(Outcome),
}

/// How the launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What the launcher exits with.
    pub code: i32,
    /// The rank that failed first, counted within this pod, and how; `None` if none failed by itself.
    pub first_failure: Option<(usize, Exit)>,
    /// The stop that came from outside, if one did before any rank failed.
    pub stopped: Option<Stop>,
}

/// The patience of the stop ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patience {
    /// After one rank failed: how long the others, which mostly hang in a collective, may take to end.
    pub failure_grace_ms: i64,
    /// After a stop from outside: how long ranks may take, for instance to write a checkpoint.
    pub stop_grace_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Phase {
    Waiting,
    Starting,
    Running,
    /// Told to end; SIGKILL follows at `kill_at_ms`. `told` is false until the process exists.
    Stopping {
        kill_at_ms: i64,
        stop: Stop,
        told: bool,
    },
    Killed {
        told: bool,
    },
    Ended(Exit),
}

/// The state of all ranks. See the module's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervisor {
    patience: Patience,
    ranks: Vec<Phase>,
    first_failure: Option<(usize, Exit)>,
    stopped: Option<Stop>,
    outcome: Option<Outcome>,
}

impl Supervisor {
    /// A supervisor of `ranks` ranks that has not begun.
    pub fn new(ranks: usize, patience: Patience) -> Self {
        Self { patience, ranks: vec![Phase::Waiting; ranks], first_failure: None, stopped: None, outcome: None }
    }

    /// Takes in one event and appends what is to be done to `out`.
    pub fn step(&mut self, now_ms: i64, input: &Input, out: &mut Vec<Output>) {
        match *input {
            Input::Begin => self.begin(out),
            Input::Started { local_rank } => self.started(local_rank, out),
            Input::NotStarted { local_rank, code } => self.ended(now_ms, local_rank, Exit::Code(code), out),
            Input::Ended { local_rank, exit } => self.ended(now_ms, local_rank, exit, out),
            Input::Stop(stop) => self.stop_asked(now_ms, stop, out),
            Input::Tick => {}
        }
        self.climb(now_ms, out);
        self.finish(out);
        if cfg!(debug_assertions) {
            self.check().expect("the supervisor's invariants hold after every step");
        }
    }

    /// When the supervisor wants to be woken, if it waits for time.
    pub fn deadline(&self) -> Option<i64> {
        self.ranks
            .iter()
            .filter_map(|phase| match phase {
                Phase::Stopping { kill_at_ms, .. } => Some(*kill_at_ms),
                Phase::Waiting | Phase::Starting | Phase::Running | Phase::Killed { .. } | Phase::Ended(_) => None,
            })
            .min()
    }

    /// The result, once every rank has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Re-derives the invariants of the module's documentation.
    ///
    /// # Errors
    /// The label and the words of the first one that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let all_ended = self.ranks.iter().all(|phase| matches!(phase, Phase::Ended(_)));
        if self.outcome.is_some() != all_ended {
            return Err(format!("S-2: outcome {:?} while all ended is {all_ended}", self.outcome));
        }
        if let Some((rank, exit)) = self.first_failure
            && (exit.success() || self.ranks.get(rank) != Some(&Phase::Ended(exit)))
        {
            return Err(format!(
                "S-3: rank {rank} is the first failure with {exit:?} but is {:?}",
                self.ranks.get(rank)
            ));
        }
        let stopping = self.ranks.iter().any(|phase| matches!(phase, Phase::Stopping { .. }));
        if stopping != self.deadline().is_some() {
            return Err(format!("S-4: stopping is {stopping}, the deadline {:?}", self.deadline()));
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<Output>) {
        for (local_rank, phase) in self.ranks.iter_mut().enumerate() {
            if *phase == Phase::Waiting {
                *phase = Phase::Starting;
                out.push(Output::Start { local_rank });
            }
        }
    }

    fn started(&mut self, local_rank: usize, out: &mut Vec<Output>) {
        let Some(phase) = self.ranks.get_mut(local_rank) else { return };
        match phase {
            Phase::Starting => *phase = Phase::Running,
            Phase::Stopping { told, stop, .. } if !*told => {
                *told = true;
                out.push(Output::Signal { local_rank, stop: *stop });
            }
            Phase::Killed { told } if !*told => {
                *told = true;
                out.push(Output::Signal { local_rank, stop: Stop::Kill });
            }
            Phase::Waiting | Phase::Running | Phase::Stopping { .. } | Phase::Killed { .. } | Phase::Ended(_) => {}
        }
    }

    fn ended(&mut self, now_ms: i64, local_rank: usize, exit: Exit, out: &mut Vec<Output>) {
        let Some(phase) = self.ranks.get_mut(local_rank) else { return };
        if matches!(phase, Phase::Ended(_) | Phase::Waiting) {
            return;
        }
        *phase = Phase::Ended(exit);
        if exit.success() || self.first_failure.is_some() {
            return;
        }
        if self.stopped.is_none() {
            self.first_failure = Some((local_rank, exit));
            self.stop_all(now_ms + self.patience.failure_grace_ms, Stop::Terminate, out);
        }
    }

    fn stop_asked(&mut self, now_ms: i64, stop: Stop, out: &mut Vec<Output>) {
        let again = self.stopped.is_some();
        if self.first_failure.is_none() && !again {
            self.stopped = Some(stop);
        }
        if again || stop == Stop::Kill {
            self.kill_all(out);
        } else {
            self.stop_all(now_ms + self.patience.stop_grace_ms, stop, out);
        }
    }

    /// The first rung, for every rank that has not reached it.
    fn stop_all(&mut self, kill_at_ms: i64, stop: Stop, out: &mut Vec<Output>) {
        for (local_rank, phase) in self.ranks.iter_mut().enumerate() {
            match phase {
                Phase::Starting => *phase = Phase::Stopping { kill_at_ms, stop, told: false },
                Phase::Running => {
                    *phase = Phase::Stopping { kill_at_ms, stop, told: true };
                    out.push(Output::Signal { local_rank, stop });
                }
                Phase::Waiting => *phase = Phase::Ended(Exit::Code(0)),
                Phase::Stopping { .. } | Phase::Killed { .. } | Phase::Ended(_) => {}
            }
        }
    }

    /// The last rung, for everybody.
    fn kill_all(&mut self, out: &mut Vec<Output>) {
        for (local_rank, phase) in self.ranks.iter_mut().enumerate() {
            match phase {
                Phase::Starting => *phase = Phase::Killed { told: false },
                Phase::Running | Phase::Stopping { told: true, .. } => {
                    *phase = Phase::Killed { told: true };
                    out.push(Output::Signal { local_rank, stop: Stop::Kill });
                }
                Phase::Stopping { told: false, .. } => *phase = Phase::Killed { told: false },
                Phase::Waiting => *phase = Phase::Ended(Exit::Code(0)),
                Phase::Killed { .. } | Phase::Ended(_) => {}
            }
        }
    }

    /// Kills those whose grace is over.
    fn climb(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        for (local_rank, phase) in self.ranks.iter_mut().enumerate() {
            if let Phase::Stopping { kill_at_ms, told, .. } = *phase
                && now_ms >= kill_at_ms
            {
                *phase = Phase::Killed { told };
                if told {
                    out.push(Output::Signal { local_rank, stop: Stop::Kill });
                }
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        if self.outcome.is_some() {
            return;
        }
        let mut exits = Vec::with_capacity(self.ranks.len());
        for phase in &self.ranks {
            match phase {
                Phase::Ended(exit) => exits.push(*exit),
                Phase::Waiting | Phase::Starting | Phase::Running | Phase::Stopping { .. } | Phase::Killed { .. } => {
                    return;
                }
            }
        }
        // Ranks that end well although they were told to stop have finished, or saved, their work.
        let code = match self.first_failure {
            Some((_, exit)) => exit.code(),
            None => exits.iter().find(|exit| !exit.success()).map_or(0, |exit| exit.code()),
        };
        let outcome = Outcome { code, first_failure: self.first_failure, stopped: self.stopped };
        self.outcome = Some(outcome);
        out.push(Output::Finished(outcome));
    }
}

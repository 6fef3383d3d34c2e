//! The ranks of one launcher, generation by generation: who runs, who failed first, what is reported, how processes are
//! stopped, and when the next ones start. Decides; starts nothing.
//!
//! Orders come from a rendezvous. The shell feeds them, and what happens to processes, into [`Supervisor::step`], carries
//! out what comes back, and wakes the supervisor with [`Input::Tick`] at [`Supervisor::deadline`].
//!
//! The launcher. Whatever is not in the tables changes nothing.
//!
//! | standing | input                  | next     | does                                                            |
//! |----------|------------------------|----------|-----------------------------------------------------------------|
//! | any      | form, higher           | next     | ends what is left, or interrupts it where it cooperates         |
//! | next     | nothing left can run   | running  | begin; start or assign each rank                                |
//! | running  | all started            | running  | report ready                                                    |
//! | running  | a rank failed          | failed   | report it first, then end or interrupt the others               |
//! | running  | all ended well         | finished | report it                                                       |
//! | running  | halt                   | idle     | ends or interrupts all                                          |
//! | any      | release                | released | ends what is left; the verdict is the launch's result           |
//! | any      | stop                   | stopped  | the ladder's first rung for all; nothing is started or reported |
//! | stopped  | stop                   | stopped  | the last rung for all                                           |
//! | finished | line down for too long | over     | ends well                                                       |
//! | failed   | line down for too long | over     | ends with the failure                                           |
//!
//! One process.
//!
//! | phase       | input              | next        | does                                      |
//! |-------------|--------------------|-------------|-------------------------------------------|
//! | starting    | started            | running     |                                           |
//! | starting    | to be ended        | stopping    | signal it as soon as it has started       |
//! | running     | to be ended        | stopping    | signal it                                 |
//! | running     | generation over    | interrupted | tell it, if it cooperates                 |
//! | interrupted | generation begins  | joining     | tell it                                   |
//! | joining     | joined             | running     |                                           |
//! | interrupted | cannot be told     | stopping    | signal it                                 |
//! | joining     | deadline, or ended | killed      | a new process takes its rank              |
//! | stopping    | grace is over      | killed      | SIGKILL                                   |
//! | any         | ended              | (gone)      |                                           |
//!
//! Invariants, re-derived by [`Supervisor::check`] where the state shows them, else held by the tests: S-1, an order of a
//! generation that is not higher than all before changes nothing; S-2, when a rank starts, no code of an earlier process
//! of any rank runs, but of those that cooperate and were told: they take no part in a generation that is over, and may run
//! on until they hear it; S-3, the outcome exists only when no process is left; S-4, a generation has one first failure, it
//! never changes, and it is reported once and before anybody is stopped for it; S-5, after a stop or a release nothing is
//! started; S-6, a deadline exists exactly while something waits for time; S-7, a rank has one process at most.

mod check;
mod exit;
mod ladder;
mod message;
mod order;
mod tail;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use exit::{Exit, Stop};
pub use message::{Input, Outcome, Output, Patience, ProcessId, Report, Standing, Verdict};
pub use tail::Tail;

/// A process that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Phase {
    Starting,
    Running,
    /// Its generation is over, it knows, and it waits for the next.
    Interrupted,
    /// Told to take part in the present generation; replaced at `until_ms`.
    Joining {
        until_ms: i64,
    },
    /// Told to end; SIGKILL follows at `kill_at_ms`. `told` is false until the process exists. `doomed_ms`: since when none
    /// of its code runs.
    Stopping {
        kill_at_ms: i64,
        stop: Stop,
        told: bool,
        doomed_ms: Option<i64>,
    },
    Killed {
        told: bool,
        at_ms: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    phase: Phase,
    cooperates: bool,
}

/// A rank of the present generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Rank {
    /// To be started as soon as what had its place is out of the way.
    Due,
    Alive(ProcessId),
    Ended(Exit),
}

/// The generation whose ranks these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Present {
    generation: u64,
    ranks: Vec<Rank>,
    failure: Option<(usize, Exit)>,
    /// What was reported.
    ready: bool,
    finished: bool,
}

/// The state of all ranks of a launcher. See the module's tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervisor {
    patience: Patience,
    ranks: usize,
    /// The highest generation that an order named.
    seen: u64,
    /// Ordered, and waiting for what is left of those before.
    next: Option<u64>,
    present: Option<Present>,
    /// Those in `present`, and what is left of older generations.
    #[serde(with = "in_pairs")]
    processes: BTreeMap<ProcessId, Process>,
    link_up: bool,
    /// Since when nothing is left to do but to hear a verdict, with the line down.
    unheard_since_ms: Option<i64>,
    /// Whether a stop came from outside at any time: the next one kills.
    stop_asked: bool,
    stopped: Option<Stop>,
    verdict: Option<Verdict>,
    outcome: Option<Outcome>,
}

impl Supervisor {
    /// A supervisor of `ranks` ranks that waits for its first order.
    pub fn new(ranks: usize, patience: Patience) -> Self {
        Self {
            patience,
            ranks,
            seen: 0,
            next: None,
            present: None,
            processes: BTreeMap::new(),
            link_up: false,
            unheard_since_ms: None,
            stop_asked: false,
            stopped: None,
            verdict: None,
            outcome: None,
        }
    }

    /// Takes in one event and appends what is to be done to `out`.
    pub fn step(&mut self, now_ms: i64, input: &Input, out: &mut Vec<Output>) {
        match *input {
            Input::Form { generation, seated } => self.form(now_ms, generation, seated, out),
            Input::Halt { generation } => self.halt(now_ms, generation, out),
            Input::Release(verdict) => self.release(now_ms, verdict, out),
            Input::Link { up } => self.link_up = up,
            Input::Started(process) => self.started(now_ms, process, out),
            Input::NotStarted { process, code } => self.ended(now_ms, process, Exit::Code(code), out),
            Input::Doomed(process) => self.doomed(now_ms, process),
            Input::Ended { process, exit } => self.ended(now_ms, process, exit, out),
            Input::Cooperates { process, does } => self.cooperates(now_ms, process, does, out),
            Input::Joined { process, generation } => self.joined(process, generation),
            Input::Condemned { generation, local_rank, code } => {
                self.condemned(now_ms, generation, local_rank, code, out);
            }
            Input::Stop(stop) => self.stop_asked(now_ms, stop, out),
            Input::Tick => {}
        }
        self.settle(now_ms, out);
        if cfg!(debug_assertions) {
            self.check().expect("the supervisor's invariants hold after every step");
        }
    }

    /// When the supervisor wants to be woken, if it waits for time.
    pub fn deadline(&self) -> Option<i64> {
        let starting_is_due = self.starting_is_due();
        let corpse_ms = self.patience.corpse_ms.filter(|_| starting_is_due);
        let of_process = |process: &Process| match process.phase {
            Phase::Stopping { kill_at_ms, doomed_ms, .. } => {
                Some(doomed_ms.zip(corpse_ms).map_or(kill_at_ms, |(since, wait)| kill_at_ms.min(since + wait)))
            }
            Phase::Joining { until_ms } => Some(until_ms),
            Phase::Killed { at_ms, told } => corpse_ms.filter(|_| told).map(|wait| at_ms + wait),
            Phase::Starting | Phase::Running | Phase::Interrupted => None,
        };
        self.processes.values().filter_map(of_process).chain(self.unheard_deadline()).min()
    }

    /// The result, once nothing is left.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The highest generation that an order named.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// What the ranks do.
    pub fn standing(&self) -> Standing {
        if let Some(generation) = self.next {
            return Standing::Running { generation };
        }
        let Some(present) = &self.present else { return Standing::Idle };
        let generation = present.generation;
        match present.failure {
            Some((local_rank, exit)) => Standing::Failed { generation, local_rank, exit },
            None if present.finished => Standing::Finished { generation },
            None => Standing::Running { generation },
        }
    }

    /// Whether a process is a rank of the present generation.
    pub fn is_present(&self, process: ProcessId) -> bool {
        self.present.as_ref().is_some_and(|present| present.ranks.contains(&Rank::Alive(process)))
    }

    /// What follows from the time and from who is left.
    fn settle(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        self.climb(now_ms, out);
        self.begin_next(now_ms, out);
        self.start_due(now_ms, out);
        self.report(out);
        self.finish(now_ms, out);
    }

    fn report(&mut self, out: &mut Vec<Output>) {
        let may_report = self.stopped.is_none() && self.verdict.is_none();
        let Some(present) = self.present.as_mut().filter(|present| may_report && present.failure.is_none()) else {
            return;
        };
        let generation = present.generation;
        let runs = |rank: &Rank| match rank {
            Rank::Due => false,
            Rank::Alive(process) => self.processes.get(process).is_some_and(|process| process.phase == Phase::Running),
            Rank::Ended(_) => true,
        };
        if !present.ready && present.ranks.iter().all(runs) {
            present.ready = true;
            out.push(Output::Report(Report::Ready { generation }));
        }
        if !present.finished && present.ranks.iter().all(|rank| *rank == Rank::Ended(Exit::Code(0))) {
            present.finished = true;
            out.push(Output::Report(Report::Finished { generation }));
        }
    }

    fn finish(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        if self.outcome.is_some() {
            return;
        }
        let decided = self.stopped.is_some() || self.verdict.is_some();
        let over = |present: &Present| present.finished || present.failure.is_some();
        let unheard = !decided
            && !self.link_up
            && self.next.is_none()
            && self.processes.is_empty()
            && self.present.as_ref().is_some_and(over);
        self.unheard_since_ms = unheard.then(|| self.unheard_since_ms.unwrap_or(now_ms));
        let gave_up = self.unheard_deadline().is_some_and(|deadline| now_ms >= deadline);
        if !self.processes.is_empty() || !(decided || gave_up) {
            return;
        }
        self.unheard_since_ms = None;
        let outcome = Outcome {
            code: self.code(),
            generation: self.present.as_ref().map_or(0, |present| present.generation),
            first_failure: self.present.as_ref().and_then(|present| present.failure),
            stopped: self.stopped,
        };
        self.outcome = Some(outcome);
        out.push(Output::Finished(outcome));
    }

    fn unheard_deadline(&self) -> Option<i64> {
        let since = self.unheard_since_ms?;
        let failed = self.present.as_ref().is_some_and(|present| present.failure.is_some());
        Some(since + if failed { self.patience.verdict_ms } else { self.patience.barrier_ms })
    }

    /// What the launcher exits with. Ranks that end well although they were told to stop have finished, or saved, their
    /// work.
    fn code(&self) -> i32 {
        let failure = self.present.as_ref().and_then(|present| present.failure).map(|(_, exit)| exit.code());
        match (self.verdict, self.stopped) {
            (Some(Verdict::Succeeded), _) => 0,
            (Some(Verdict::Failed { code }), _) => code.max(1),
            (Some(Verdict::Stopped), _) => self.code_of_stopped(Stop::Terminate),
            (None, Some(stop)) => failure.unwrap_or_else(|| self.code_of_stopped(stop)),
            (None, None) => failure.unwrap_or(0),
        }
    }

    fn code_of_stopped(&self, stop: Stop) -> i32 {
        let Some(present) = &self.present else { return stop.code() };
        let mut exits = present.ranks.iter().map(|rank| match rank {
            Rank::Ended(exit) => exit.code(),
            // It never ran.
            Rank::Due | Rank::Alive(_) => stop.code(),
        });
        exits.find(|code| *code != 0).unwrap_or(0)
    }
}

/// JSON has no maps with keys that are not text.
mod in_pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Process, ProcessId};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<ProcessId, Process>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<ProcessId, Process>, D::Error> {
        Vec::deserialize(from).map(|pairs: Vec<(ProcessId, Process)>| pairs.into_iter().collect())
    }
}

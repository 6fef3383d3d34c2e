//! Orders, and what happens to the present generation.

use super::exit::{Exit, Stop};
use super::message::{Output, ProcessId, Report, Verdict};
use super::{Phase, Present, Process, Rank, Supervisor};

impl Supervisor {
    pub(super) fn form(&mut self, now_ms: i64, generation: u64, seated: bool, out: &mut Vec<Output>) {
        if generation <= self.seen || self.is_ending() {
            return;
        }
        self.seen = generation;
        self.retire(now_ms, seated, out);
        self.present = None;
        self.next = seated.then_some(generation);
    }

    pub(super) fn halt(&mut self, now_ms: i64, generation: u64, out: &mut Vec<Output>) {
        let present = self.present.as_ref().map(|present| present.generation);
        if self.is_ending() || self.next.or(present).is_some_and(|own| own > generation) {
            return;
        }
        self.seen = self.seen.max(generation);
        self.retire(now_ms, true, out);
        self.present = None;
        self.next = None;
    }

    pub(super) fn release(&mut self, now_ms: i64, verdict: Verdict, out: &mut Vec<Output>) {
        if self.is_ending() {
            return;
        }
        self.verdict = Some(verdict);
        self.next = None;
        let grace_ms = match verdict {
            Verdict::Stopped => self.patience.stop_grace_ms,
            Verdict::Succeeded | Verdict::Failed { .. } => self.patience.failure_grace_ms,
        };
        self.stop_all(now_ms + grace_ms, Stop::Terminate, out);
    }

    /// Begins the generation that was ordered, once no code of an older one can run.
    pub(super) fn begin_next(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        let Some(generation) = self.next.filter(|_| !self.processes.values().any(|p| self.is_in_the_way(now_ms, p)))
        else {
            return;
        };
        self.next = None;
        out.push(Output::Begin { generation });
        let mut ranks = vec![Rank::Due; self.ranks];
        let until_ms = now_ms + self.patience.rejoin_ms;
        for (process, state) in &mut self.processes {
            if state.phase == Phase::Interrupted
                && let Some(rank) = ranks.get_mut(process.local_rank)
            {
                state.phase = Phase::Joining { until_ms };
                *rank = Rank::Alive(*process);
                out.push(Output::Assign { process: *process, generation });
            }
        }
        self.present = Some(Present { generation, ranks, failure: None, ready: false, finished: false });
    }

    /// Starts the ranks that have no process, once what had their place is out of the way.
    pub(super) fn start_due(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        if self.is_ending() {
            return;
        }
        let Some(present) = self.present.as_ref().filter(|present| present.failure.is_none()) else { return };
        let generation = present.generation;
        let due = present.ranks.iter().enumerate().filter(|(_, rank)| **rank == Rank::Due).map(|(rank, _)| rank);
        for local_rank in due.collect::<Vec<_>>() {
            let mut own = self.processes.iter().filter(|(id, _)| id.local_rank == local_rank);
            if own.any(|(_, process)| self.is_in_the_way(now_ms, process)) {
                continue;
            }
            let process = ProcessId { generation, local_rank };
            self.processes.insert(process, Process { phase: Phase::Starting, cooperates: false });
            if let Some(present) = &mut self.present {
                present.ranks[local_rank] = Rank::Alive(process);
            }
            out.push(Output::Start(process));
        }
    }

    /// Whether the next generation, or a rank of the present one, waits for processes to be gone.
    pub(super) fn starting_is_due(&self) -> bool {
        let due = |present: &Present| present.failure.is_none() && present.ranks.contains(&Rank::Due);
        !self.is_ending() && (self.next.is_some() || self.present.as_ref().is_some_and(due))
    }

    pub(super) fn joined(&mut self, process: ProcessId, generation: u64) {
        if self.present.as_ref().is_some_and(|present| present.generation == generation)
            && let Some(process) = self.processes.get_mut(&process)
            && matches!(process.phase, Phase::Joining { .. })
        {
            process.phase = Phase::Running;
        }
    }

    pub(super) fn ended(&mut self, now_ms: i64, process: ProcessId, exit: Exit, out: &mut Vec<Output>) {
        let Some(gone) = self.processes.remove(&process) else { return };
        let is_ending = self.is_ending();
        let Some(present) = &mut self.present else { return };
        let generation = present.generation;
        let Some(rank) = present.ranks.get_mut(process.local_rank).filter(|rank| **rank == Rank::Alive(process)) else {
            return;
        };
        if matches!(gone.phase, Phase::Joining { .. }) && !is_ending && present.failure.is_none() {
            // It could not, or would not, join: that is no failure of the generation.
            *rank = Rank::Due;
            return;
        }
        *rank = Rank::Ended(exit);
        if !exit.success() {
            self.fail(now_ms, generation, process.local_rank, exit, out);
        }
    }

    pub(super) fn condemned(
        &mut self,
        now_ms: i64,
        generation: u64,
        local_rank: usize,
        code: i32,
        out: &mut Vec<Output>,
    ) {
        let Some(present) = self.present.as_ref().filter(|present| present.generation == generation) else { return };
        if let Some(Rank::Alive(process)) = present.ranks.get(local_rank).copied() {
            if let Some(process) = self.processes.get_mut(&process) {
                // It stands still: it would not hear an interruption either.
                process.cooperates = false;
            }
            self.fail(now_ms, generation, local_rank, Exit::Code(code.max(1)), out);
        }
    }

    fn fail(&mut self, now_ms: i64, generation: u64, local_rank: usize, exit: Exit, out: &mut Vec<Output>) {
        if self.is_ending() {
            return;
        }
        let Some(present) = self.present.as_mut().filter(|present| present.failure.is_none()) else { return };
        present.failure = Some((local_rank, exit));
        out.push(Output::Report(Report::Failed { generation, local_rank, exit }));
        self.retire(now_ms, true, out);
    }

    /// Whether the launch is on its way to its end.
    pub(super) fn is_ending(&self) -> bool {
        self.stopped.is_some() || self.verdict.is_some() || self.outcome.is_some()
    }
}

//! How processes are brought to an end, rung by rung.

use super::exit::Stop;
use super::message::{Output, ProcessId};
use super::{Phase, Process, Rank, Supervisor};

impl Supervisor {
    pub(super) fn stop_asked(&mut self, now_ms: i64, stop: Stop, out: &mut Vec<Output>) {
        let again = std::mem::replace(&mut self.stop_asked, true);
        // A verdict that is being carried out stays the result.
        if self.verdict.is_none() {
            self.stopped.get_or_insert(stop);
        }
        self.next = None;
        if again || stop == Stop::Kill {
            self.kill_all(now_ms, out);
        } else {
            self.stop_all(now_ms + self.patience.stop_grace_ms, stop, out);
        }
    }

    pub(super) fn started(&mut self, now_ms: i64, id: ProcessId, out: &mut Vec<Output>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match &mut process.phase {
            Phase::Starting => process.phase = Phase::Running,
            Phase::Stopping { told, stop, .. } if !*told => {
                *told = true;
                out.push(Output::Signal { process: id, stop: *stop });
            }
            Phase::Killed { told, at_ms } if !*told => {
                (*told, *at_ms) = (true, now_ms);
                out.push(Output::Signal { process: id, stop: Stop::Kill });
            }
            Phase::Running
            | Phase::Interrupted
            | Phase::Joining { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => {}
        }
    }

    pub(super) fn doomed(&mut self, now_ms: i64, process: ProcessId) {
        if let Some(Process { phase: Phase::Stopping { told: true, doomed_ms, .. }, .. }) =
            self.processes.get_mut(&process)
        {
            doomed_ms.get_or_insert(now_ms);
        }
    }

    pub(super) fn cooperates(&mut self, now_ms: i64, id: ProcessId, does: bool, out: &mut Vec<Output>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.cooperates = does;
        match &mut process.phase {
            Phase::Interrupted if !does => {
                first_rung(id, process, now_ms + self.patience.failure_grace_ms, Stop::Terminate, out);
            }
            Phase::Joining { until_ms } if !does => *until_ms = now_ms,
            Phase::Starting
            | Phase::Running
            | Phase::Interrupted
            | Phase::Joining { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => {}
        }
    }

    /// The end of a generation: those who cooperate are told, if there is a place for them; the others end.
    pub(super) fn retire(&mut self, now_ms: i64, keep: bool, out: &mut Vec<Output>) {
        let kill_at_ms = now_ms + self.patience.failure_grace_ms;
        let over = self.present.as_ref().map_or(0, |present| present.generation);
        for (id, process) in &mut self.processes {
            let waits = match process.phase {
                Phase::Running | Phase::Joining { .. } => false,
                Phase::Interrupted => true,
                Phase::Starting | Phase::Stopping { .. } | Phase::Killed { .. } => {
                    first_rung(*id, process, kill_at_ms, Stop::Terminate, out);
                    continue;
                }
            };
            if !(keep && process.cooperates) {
                first_rung(*id, process, kill_at_ms, Stop::Terminate, out);
            } else if !waits {
                process.phase = Phase::Interrupted;
                out.push(Output::Interrupt { process: *id, generation: over });
            }
        }
    }

    /// The first rung, for every process that has not reached it.
    pub(super) fn stop_all(&mut self, kill_at_ms: i64, stop: Stop, out: &mut Vec<Output>) {
        for (id, process) in &mut self.processes {
            first_rung(*id, process, kill_at_ms, stop, out);
        }
    }

    /// The last rung, for everybody.
    fn kill_all(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        for (id, process) in &mut self.processes {
            last_rung(*id, process, now_ms, out);
        }
    }

    /// Kills those whose grace is over, and replaces those who were to join and did not.
    pub(super) fn climb(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        for (id, process) in &mut self.processes {
            match process.phase {
                Phase::Stopping { kill_at_ms, .. } if now_ms >= kill_at_ms => last_rung(*id, process, now_ms, out),
                Phase::Joining { until_ms } if now_ms >= until_ms => {
                    last_rung(*id, process, now_ms, out);
                    let rank = self.present.as_mut().and_then(|present| present.ranks.get_mut(id.local_rank));
                    if let Some(rank) = rank.filter(|rank| **rank == Rank::Alive(*id)) {
                        *rank = Rank::Due;
                    }
                }
                Phase::Starting
                | Phase::Running
                | Phase::Interrupted
                | Phase::Joining { .. }
                | Phase::Stopping { .. }
                | Phase::Killed { .. } => {}
            }
        }
    }

    /// Whether code of this process may still run, or it holds what the next one needs.
    pub(super) fn is_in_the_way(&self, now_ms: i64, process: &Process) -> bool {
        let holds = |since_ms: i64| self.patience.corpse_ms.is_some_and(|wait| now_ms < since_ms + wait);
        match process.phase {
            Phase::Starting | Phase::Running => true,
            Phase::Interrupted | Phase::Joining { .. } => false,
            Phase::Stopping { doomed_ms, .. } => doomed_ms.is_none_or(holds),
            Phase::Killed { told, at_ms } => !told || holds(at_ms),
        }
    }
}

fn first_rung(id: ProcessId, process: &mut Process, kill_at_ms: i64, stop: Stop, out: &mut Vec<Output>) {
    let told = match process.phase {
        Phase::Starting => false,
        Phase::Running | Phase::Interrupted | Phase::Joining { .. } => true,
        Phase::Stopping { .. } | Phase::Killed { .. } => return,
    };
    process.phase = Phase::Stopping { kill_at_ms, stop, told, doomed_ms: None };
    if told {
        out.push(Output::Signal { process: id, stop });
    }
}

fn last_rung(id: ProcessId, process: &mut Process, now_ms: i64, out: &mut Vec<Output>) {
    let told = match process.phase {
        Phase::Starting => false,
        Phase::Running | Phase::Interrupted | Phase::Joining { .. } => true,
        Phase::Stopping { told, .. } => told,
        Phase::Killed { .. } => return,
    };
    process.phase = Phase::Killed { told, at_ms: now_ms };
    if told {
        out.push(Output::Signal { process: id, stop: Stop::Kill });
    }
}

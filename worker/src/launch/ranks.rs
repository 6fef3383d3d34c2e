//! The processes of ranks: how they start, what they say, how they end, and who is to blame.

use std::io;

use nix::unistd::Pid;
use trainyard_proto::rendezvous::Deadlock;
use trainyard_worker_core::cause::{self, Candidate};
use trainyard_worker_core::collective_env::DEBUG_FILE;
use trainyard_worker_core::stall::{Phase, Sign};
use trainyard_worker_core::supervisor::{Exit, Input, ProcessId, Stop, Tail};

use super::console::{self, Channel};
use super::environment::Variables;
use super::evidence::{ERROR_FILE, Watch};
use super::notes::{Hello, Note, SOCKET};
use super::output::{Held, Route, Stream};
use super::process::{Pipes, Process};
use super::run::{Launch, Running, SPARES_MS};
use super::warm::Warm;
use super::{LaunchError, report};
use crate::c10d::Server;

/// What `timeout` exits with when time is over.
const HANG_CODE: i32 = 124;

/// A rank as it is told to others.
fn number(rank: usize) -> u32 {
    u32::try_from(rank).unwrap_or(u32::MAX)
}

fn phase(name: &str) -> Phase {
    match name {
        "checkpoint" => Phase::Checkpoint,
        "evaluate" => Phase::Evaluate,
        _ => Phase::Train,
    }
}

impl Launch<'_> {
    /// Starts a process for the rank in its name, warm if it can be.
    pub(super) fn start(&mut self, process: ProcessId) -> Option<Input> {
        let part = &self.present.as_ref()?.part;
        let rank = part.rank(process.local_rank);
        let watch = self.evidence.get_or_insert_with(Watch::begin);
        let file = watch.error_file(process.local_rank, process.generation);
        let mut variables = self.variables(process.local_rank)?;
        self.watch_nccl(process, &variables);
        variables.extend(self.spans.begin(process).map(|(name, value)| (name.to_owned(), value)));
        variables.extend(file.map(|file| (ERROR_FILE.to_owned(), file)));
        let routes = match self.routes(process, rank) {
            Ok(routes) => routes,
            Err(error) => return Some(self.not_started(process, rank, &error)),
        };
        let started = self.start_warm(&variables).map_or_else(|| self.start_cold(process, &variables), Ok);
        let attached = started.and_then(|(running, pipes)| {
            self.attach(process, rank, pipes, routes)?;
            Ok(Running { process: running, rank, signalled: false })
        });
        match attached {
            Ok(running) => {
                self.hangs.started(number(rank), running.process.pid());
                self.processes.insert(process, running);
                Some(Input::Started(process))
            }
            Err(error) => Some(self.not_started(process, rank, &error)),
        }
    }

    /// What the rank's environment has beside ours, as far as it is the same for all processes of that rank.
    fn variables(&self, local_rank: usize) -> Option<Variables> {
        let folder = self.evidence.as_ref().and_then(Watch::folder);
        let mut variables = self.pod.variables(&self.present.as_ref()?.part, local_rank, folder);
        variables.extend(self.notes.as_ref().map(|notes| (SOCKET.to_owned(), notes.address())));
        let path = self.python_path.as_ref().and_then(|path| path.to_str());
        variables.extend(path.map(|path| ("PYTHONPATH".to_owned(), path.to_owned())));
        self.torchrun.change(&mut variables, local_rank);
        Some(variables)
    }

    /// NCCL's warnings are read where we said that they go.
    fn watch_nccl(&mut self, process: ProcessId, variables: &Variables) {
        let file = variables.iter().find(|(name, _)| name == DEBUG_FILE).map(|(_, file)| file);
        if let (Some(watch), Some(file)) = (&mut self.evidence, file) {
            watch.expect_warnings(process.local_rank, process.generation, file);
        }
    }

    fn start_warm(&mut self, variables: &Variables) -> Option<(Process, Pipes)> {
        let started = self.warm.as_mut()?.try_start(variables)?;
        let pid = Pid::from_raw(started.pid.cast_signed());
        self.promoted += 1;
        Some((Process::of(pid, started.pidfd), started.pipes))
    }

    fn start_cold(&self, process: ProcessId, variables: &Variables) -> io::Result<(Process, Pipes)> {
        let own = self.torchrun.command(self.command, process.local_rank);
        let command = own.as_deref().unwrap_or(self.command);
        if self.pod.checks_first() && self.first == Some(process.generation) {
            let trainyard = std::env::current_exe()?.to_string_lossy().into_owned();
            let check = [trainyard, "preflight".to_owned(), "--".to_owned()];
            let checked: Vec<String> = check.into_iter().chain(command.iter().cloned()).collect();
            return Process::start(&checked, variables);
        }
        Process::start(command, variables)
    }

    fn not_started(&mut self, process: ProcessId, rank: usize, error: &io::Error) -> Input {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        let program = self.command.first().map_or("", String::as_str);
        self.spans.end(process, rank, code);
        self.exits.insert(process.local_rank, Exit::Code(code));
        self.tails.entry(process).or_default().push(&format!("error: cannot start `{program}`: {error}"));
        self.judge(process, rank, None, Exit::Code(code), false);
        Input::NotStarted { process, code }
    }

    /// Where a rank's output goes, with the files for it.
    fn routes(&mut self, process: ProcessId, rank: usize) -> io::Result<[Route; 2]> {
        let attempt = self.present.as_ref().map_or(0, |present| present.part.restarts);
        let failed = |error| io::Error::other(format!("its log files cannot be made, see --log-dir: {error}"));
        Ok(self.torchrun.routes(process.local_rank, rank, attempt).map_err(failed)?.unwrap_or_default())
    }

    fn attach(&mut self, process: ProcessId, rank: usize, pipes: Pipes, routes: [Route; 2]) -> io::Result<()> {
        let prefix = self.prefix(process.generation, rank);
        self.tails.insert(process, Tail::default());
        for ((channel, pipe), route) in [Channel::Out, Channel::Error].into_iter().zip(pipes).zip(routes) {
            self.streams.push(Stream::new(process, channel, pipe, prefix.clone())?.with_route(route));
        }
        Ok(())
    }

    /// What a rank's lines begin with.
    fn prefix(&self, generation: u64, rank: usize) -> String {
        if self.pod.nproc == 1 {
            String::new()
        } else if self.first == Some(generation) {
            format!("[rank {rank}] ")
        } else {
            format!("[rank {rank} gen {generation}] ")
        }
    }

    pub(super) fn signal(&mut self, process: ProcessId, stop: Stop) -> Option<Input> {
        let running = self.processes.get_mut(&process)?;
        running.signalled = true;
        if self.supervisor.is_present(process) {
            self.hangs.ended(number(running.rank));
        }
        let ends = running.process.signal(stop);
        (ends && stop != Stop::Kill).then_some(Input::Doomed(process))
    }

    /// Tells a process that its generation is over.
    pub(super) fn interrupt(&mut self, process: ProcessId, generation: u64) -> Option<Input> {
        let told = self.notes.as_mut().is_some_and(|notes| notes.interrupt(process, generation));
        (!told).then_some(Input::Cooperates { process, does: false })
    }

    /// Tells a process which rank it is in the generation that begins.
    pub(super) fn assign(&mut self, process: ProcessId, generation: u64) -> Option<Input> {
        let variables = self.variables(process.local_rank)?;
        let rank = self.present.as_ref()?.part.rank(process.local_rank);
        let prefix = self.prefix(generation, rank);
        for stream in self.streams.iter_mut().filter(|stream| stream.process == process) {
            stream.prefix.clone_from(&prefix);
        }
        if let Some(running) = self.processes.get_mut(&process) {
            (running.rank, running.signalled) = (rank, false);
            self.hangs.started(number(rank), running.process.pid());
        }
        // What it said of the last generation's end is no sign of this one's.
        self.tails.insert(process, Tail::default());
        let told = self.notes.as_mut().is_some_and(|notes| notes.assign(process, generation, &variables));
        (!told).then_some(Input::Cooperates { process, does: false })
    }

    /// Passes on what the ranks write, of those whose output somebody takes, or `all`.
    pub(super) fn forward(&mut self, all: bool) {
        let now_ms = self.now_ms();
        let (tails, hangs, supervisor) = (&mut self.tails, &mut self.hangs, &self.supervisor);
        let processes = &self.processes;
        let mut spoke = false;
        self.streams.retain_mut(|stream| {
            if !all && stream.is_held() {
                let present = processes.get(&stream.process).filter(|_| supervisor.is_present(stream.process));
                match present.map(|running| (running.rank, stream.held())) {
                    // It stands still for that, which is no fault of its own.
                    Some((rank, Held::Full)) => hangs.pause(now_ms, number(rank)),
                    Some((rank, Held::More)) => hangs.sign(now_ms, number(rank), Sign::Life),
                    Some((_, Held::Same)) | None => {}
                }
                return true;
            }
            let (open, sign) = stream.forward(tails.entry(stream.process).or_default());
            if let Some(sign) = sign.filter(|_| supervisor.is_present(stream.process)) {
                if let Some(running) = processes.get(&stream.process) {
                    hangs.sign(now_ms, number(running.rank), sign);
                }
                spoke = true;
            }
            open
        });
        if spoke && self.present.as_ref().is_some_and(|present| present.store.is_none()) {
            self.progressed();
        }
    }

    /// Takes in what the ranks tell us.
    pub(super) fn hear_notes(&mut self) -> Result<(), LaunchError> {
        let Some(notes) = &mut self.notes else { return Ok(()) };
        let processes = &self.processes;
        let who = |pid: Pid, hello: &Hello| {
            let of = |wanted: &dyn Fn(&ProcessId, &Running) -> bool| {
                processes.iter().rev().find(|(id, running)| wanted(id, running)).map(|(id, _)| *id)
            };
            // A shell may stand between the rank and us.
            of(&|_, running| running.process.pid() == pid)
                .or_else(|| of(&|id, running| id.generation == hello.generation && running.rank == hello.rank as usize))
        };
        for (process, note) in notes.hear(who) {
            match note {
                Note::Hello(hello) => {
                    self.tell(Input::Cooperates { process, does: hello.cooperates })?;
                    self.tell(Input::Joined { process, generation: hello.generation })?;
                }
                Note::Step(step) => {
                    if let Some(rank) = self.present_rank(process) {
                        self.hangs.sign(self.now_ms(), rank, Sign::Step(step.step));
                        self.aside.step(rank, &step);
                    }
                    self.progressed();
                }
                Note::Phase(name) => {
                    if let Some(rank) = self.present_rank(process) {
                        self.hangs.phase(self.now_ms(), rank, phase(&name));
                    }
                }
                Note::Gone => self.tell(Input::Cooperates { process, does: false })?,
            }
        }
        Ok(())
    }

    /// The rank that a process of the present generation is.
    fn present_rank(&self, process: ProcessId) -> Option<u32> {
        let running = self.processes.get(&process).filter(|_| self.supervisor.is_present(process))?;
        Some(number(running.rank))
    }

    /// Says who stands still, and ends those who do if the job wants that.
    pub(super) fn look_for_hangs(&mut self) -> Result<(), LaunchError> {
        let now_ms = self.now_ms();
        let requests = self.present.as_ref().and_then(|present| present.store.as_ref()).map(Server::requests);
        let verdict = self.hangs.advance(now_ms, requests);
        if !verdict.text.is_empty() {
            console::tell(&*verdict.text);
        }
        if verdict.is_news || !verdict.text.is_empty() {
            // The coordinator is told at once.
            self.pulsed_ms = i64::MIN / 2;
        }
        for (rank, place) in verdict.end {
            self.end_hanging(rank, place)?;
        }
        Ok(())
    }

    /// All ranks of the job wait for each other, as the launchers see only together: ends ours that is the first of them, if
    /// the job wants that and it still does.
    pub(super) fn break_deadlock(&mut self, deadlock: Deadlock) -> Result<(), LaunchError> {
        let is_present = self.present.as_ref().is_some_and(|present| present.part.generation == deadlock.generation);
        let place = self.hangs.deadlocked(deadlock.rank).filter(|_| is_present);
        place.map_or(Ok(()), |place| self.end_hanging(deadlock.rank, place))
    }

    fn end_hanging(&mut self, rank: u32, place: String) -> Result<(), LaunchError> {
        let found = self
            .processes
            .iter()
            .find(|(process, running)| number(running.rank) == rank && self.supervisor.is_present(**process));
        let Some(process) = found.map(|(process, _)| *process) else { return Ok(()) };
        self.hung.insert(process.local_rank, place);
        let condemned = (process.generation, process.local_rank);
        let generation = self.present.as_ref().map_or(condemned.0, |present| present.part.generation);
        self.tell(Input::Condemned { generation, local_rank: condemned.1, code: HANG_CODE })?;
        // It may be stopped, and then hears nothing less.
        let _ = self.signal(process, Stop::Kill);
        Ok(())
    }

    /// The ranks of the present generation are past their beginning: there is time to prepare for their end.
    fn progressed(&mut self) {
        self.spares_due_ms = None;
        let present = self.processes.iter().find(|(process, _)| self.supervisor.is_present(**process));
        if let Some((pid, warm)) = present.map(|(_, running)| running.process.pid()).zip(self.warm.as_mut()) {
            warm.progress(pid.as_raw().cast_unsigned());
        }
    }

    /// When spares want to be thought of, if nothing happens before.
    pub(super) fn spares_due_ms(&self) -> Option<i64> {
        self.spares_due_ms
    }

    /// Makes spares when it is time, and hears of them.
    pub(super) fn tend_spares(&mut self) {
        if let Some(warm) = &mut self.warm {
            warm.hear();
        }
        let store = self.present.as_ref().and_then(|present| present.store.as_ref());
        let met = store.is_some_and(|store| store.requests() > 0);
        if self.spares_due_ms.is_some_and(|due| met || self.now_ms() >= due) {
            self.progressed();
        }
    }

    /// Spares are for ranks that may start again.
    pub(super) fn prepare_spares(&mut self) {
        // A spare could not be told a command of its own.
        let alike = self.torchrun.command(self.command, 0).is_none();
        if self.spares && self.warm.is_none() && alike && !self.pod.is_fixed() {
            let variables = self.variables(0).unwrap_or_default();
            self.warm = Warm::new(self.command, self.pod.nproc, &variables);
            self.spares_due_ms = self.warm.as_ref().map(|_| self.now_ms() + SPARES_MS);
        }
    }

    pub(super) fn look_for_deaths(&mut self) -> Result<(), LaunchError> {
        let mut ended = Vec::new();
        for (id, running) in &mut self.processes {
            let exit = running.process.ended();
            let exit = exit.map_err(|source| LaunchError::System { doing: "take the status of a rank", source })?;
            ended.extend(exit.map(|exit| (*id, exit)));
        }
        if ended.is_empty() {
            return Ok(());
        }
        // Their last words, before anybody is blamed.
        self.forward(true);
        let mut inputs = Vec::new();
        for (process, exit) in ended {
            let Some(running) = self.processes.remove(&process) else { continue };
            self.spans.end(process, running.rank, exit.code());
            if self.supervisor.is_present(process) {
                self.hangs.ended(number(running.rank));
                self.exits.insert(process.local_rank, exit);
                if !exit.success() {
                    self.judge(process, running.rank, Some(running.process.pid()), exit, running.signalled);
                }
            }
            inputs.push(Input::Ended { process, exit });
        }
        inputs.into_iter().try_for_each(|input| self.tell(input))?;
        self.amend();
        Ok(())
    }

    /// Why a rank ended.
    fn judge(&mut self, process: ProcessId, rank: usize, pid: Option<Pid>, exit: Exit, stopped: bool) {
        let Some(tail) = self.tails.get(&process) else { return };
        let pid = pid.map(|pid| pid.as_raw().cast_unsigned());
        let key = (process.local_rank, process.generation);
        let evidence = self.evidence.as_mut().map(|watch| watch.evidence(key, pid, stopped, None)).unwrap_or_default();
        if !evidence.nccl.is_empty() && !stopped {
            console::tell(report::warnings(rank, &evidence.nccl));
        }
        let (rank, at_ms) = (u32::try_from(rank).unwrap_or(u32::MAX), self.now_ms());
        self.ends.push(Candidate { rank, at_ms, cause: cause::cause(exit, tail, &evidence) });
    }

    /// The failure to blame for the end of the present generation: of a rank that ended, or that is about to.
    pub(super) fn blame(&self) -> Option<Candidate> {
        let about = self.processes.iter().filter(|(process, running)| {
            self.supervisor.is_present(**process) && !running.signalled && !self.exits.contains_key(&process.local_rank)
        });
        let at_ms = self.now_ms();
        let suspects = about.filter_map(|(process, running)| {
            let cause = cause::suspect(self.tails.get(process)?)?;
            Some(Candidate { rank: u32::try_from(running.rank).ok()?, at_ms, cause })
        });
        let mut all: Vec<Candidate> = self.ends.iter().cloned().chain(suspects).collect();
        cause::root(&all).map(|index| all.swap_remove(index))
    }

    /// The last words of a rank's newest process.
    pub(super) fn tail(&self, local_rank: usize) -> Option<&Tail> {
        self.tails.iter().rev().find(|(process, _)| process.local_rank == local_rank).map(|(_, tail)| tail)
    }
}

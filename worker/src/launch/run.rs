//! The loop: wait for something to happen, tell the supervisor, do what it says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use trainyard_proto::rendezvous::{Failure, Member};
use trainyard_worker_core::supervisor::{Input, Outcome, Output, Patience, ProcessId, Stop, Supervisor, Tail};

use super::environment::{Part, Pod};
use super::grpc::{Job, Remote};
use super::link::{Alone, Fixed, Link};
use super::output::{Channel, Stream};
use super::port::Ports;
use super::process::{self, Pipes, Process};
use super::span::Spans;
use super::start::{Start, Starter};
use super::{LaunchArgs, LaunchError, report};
use crate::c10d::Server;

/// How long output is awaited after every process has ended: only a process that escaped from its group holds it open.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a rank that can join the next generation by itself may take: what it does then is a few messages.
const REJOIN_MS: i64 = 5_000;
/// How long the memory of a killed process on a GPU may take to be free.
const CORPSE_MS: i64 = 30_000;
/// How long a coordinator may take to come back after all ranks ended well: as long as a pod of it may be started anew.
const BARRIER_MS: i64 = 60_000;
/// The same after a failure: without it nobody can start the ranks again, and the pod's end tells the rest.
const VERDICT_MS: i64 = 300_000;

/// Starts the ranks, sees them through, reports a failure on standard error, and gives the exit code.
pub(super) fn run(args: &LaunchArgs, pod: &Pod, alone: Option<fn(Alone) -> Box<dyn Link>>) -> Result<i32, LaunchError> {
    let system = |doing| move |source: io::Error| LaunchError::System { doing, source };
    let signals = take_signals().map_err(system("take over the signals"))?;
    process::adopt_orphans().map_err(system("become the parent of orphans"))?;
    // Before any rank can knock; after the signals are blocked, which the threads inherit.
    let member = pod.member();
    let mut ports = Ports::new(pod);
    let port = ports.hold()?;
    let link = link(pod, &member, port, alone)?;
    let mut launch = Launch {
        pod,
        member,
        signals,
        began: Instant::now(),
        supervisor: Supervisor::new(pod.nproc, patience(args, pod)),
        link,
        ports,
        unannounced: Some(port),
        order: None,
        present: None,
        first: None,
        failure: None,
        borne: None,
        trouble_ms: None,
        verdict: None,
        processes: BTreeMap::new(),
        streams: Vec::new(),
        tails: BTreeMap::new(),
        spans: Spans::new(),
        starter: Starter { command: &args.command, warm: None },
    };
    let outcome = launch.run()?;
    process::end_adopted();
    launch.drain();
    launch.say_end(&outcome);
    Ok(outcome.code)
}

fn patience(args: &LaunchArgs, pod: &Pod) -> Patience {
    Patience {
        failure_grace_ms: i64::try_from(args.grace.saturating_mul(1000)).unwrap_or(i64::MAX / 2),
        stop_grace_ms: pod.stop_grace_ms(),
        rejoin_ms: REJOIN_MS,
        corpse_ms: pod.has_gpus().then_some(CORPSE_MS),
        barrier_ms: BARRIER_MS,
        verdict_ms: VERDICT_MS,
    }
}

/// Those who give the orders.
fn link(
    pod: &Pod,
    member: &Member,
    port: u16,
    alone: Option<fn(Alone) -> Box<dyn Link>>,
) -> Result<Box<dyn Link>, LaunchError> {
    if let Some(address) = &pod.rendezvous {
        let text = |name| std::env::var(name).unwrap_or_default();
        let (namespace, name, token) =
            (text("TRAINYARD_NAMESPACE"), text("TRAINYARD_JOB"), text("TRAINYARD_JOB_TOKEN"));
        return Ok(Box::new(Remote::call(address, Job { namespace, name, token })?));
    }
    match alone.filter(|_| !pod.is_fixed()) {
        Some(alone) => Ok(alone(Alone {
            generation: pod.generation(),
            restarts: pod.restarts(),
            max_restarts: pod.max_restarts(),
        })),
        None => {
            let seats = pod.fixed_seats(member, port);
            Ok(Box::new(Fixed::new(pod.generation() + 1, pod.restarts(), seats)))
        }
    }
}

/// Blocks the signals that we act on and opens the descriptor they come through instead.
fn take_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// A generation whose ranks are ours.
pub(super) struct Generation {
    pub(super) part: Part,
    /// Serves until the generation is over.
    _store: Option<Server>,
}

/// A process of a rank.
struct Running {
    process: Process,
    /// Among all ranks.
    rank: usize,
}

pub(super) struct Launch<'args> {
    pub(super) pod: &'args Pod,
    pub(super) member: Member,
    signals: SignalFd,
    began: Instant,
    pub(super) supervisor: Supervisor,
    pub(super) link: Box<dyn Link>,
    pub(super) ports: Ports,
    /// A held port that no Hello has named yet.
    pub(super) unannounced: Option<u16>,
    /// Our part of the last generation that was ordered.
    pub(super) order: Option<Part>,
    /// The generation that began last.
    pub(super) present: Option<Generation>,
    /// The first generation that began here.
    first: Option<u64>,
    /// The present generation's first failure, as it was reported.
    pub(super) failure: Option<Failure>,
    /// What to say of it if the ranks are started again.
    pub(super) borne: Option<String>,
    /// Since when the ranks of the job do not run.
    pub(super) trouble_ms: Option<i64>,
    /// The failure of which the job ended.
    pub(super) verdict: Option<Failure>,
    processes: BTreeMap<ProcessId, Running>,
    streams: Vec<Stream>,
    pub(super) tails: BTreeMap<ProcessId, Tail>,
    spans: Spans,
    starter: Starter<'args>,
}

impl Launch<'_> {
    fn run(&mut self) -> Result<Outcome, LaunchError> {
        loop {
            self.hear_link()?;
            if let Some(outcome) = self.supervisor.outcome() {
                return Ok(outcome);
            }
            let now_ms = self.now_ms();
            let due = self.supervisor.deadline().into_iter().chain(self.link.deadline()).min();
            let failed = |source| LaunchError::System { doing: "watch the ranks", source };
            self.wait(due.map(|due| due - now_ms)).map_err(failed)?;
            self.hear_signals()?;
            // Output before deaths: a rank's last words are then known when its end is judged.
            self.forward();
            self.hear_warm()?;
            self.look_for_deaths()?;
            self.tell(Input::Tick)?;
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sleeps until something happens or `timeout_ms` is over.
    fn wait(&self, timeout_ms: Option<i64>) -> io::Result<()> {
        let warm = self.starter.warm.as_ref().map(|warm| warm.readable()).unwrap_or_default();
        let ends = self.processes.values().map(|running| running.process.pidfd.as_fd());
        let outputs = self.streams.iter().map(Stream::socket);
        let all = std::iter::once(self.signals.as_fd()).chain(self.link.readable()).chain(warm);
        let all: Vec<BorrowedFd<'_>> = all.chain(ends).chain(outputs).collect();
        let mut polled: Vec<PollFd<'_>> = all.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = timeout_ms.map_or(PollTimeout::NONE, |ms| {
            let ms = i32::try_from(ms.max(0)).unwrap_or(i32::MAX);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_signals(&mut self) -> Result<(), LaunchError> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGINT) => self.tell(Input::Stop(Stop::Interrupt))?,
                Ok(Signal::SIGTERM | Signal::SIGHUP) => self.tell(Input::Stop(Stop::Terminate))?,
                // SIGCHLD: ranks are watched by their pidfds, the rest are orphans that became ours.
                Ok(_) | Err(_) => self.reap_adopted(),
            }
        }
        Ok(())
    }

    fn reap_adopted(&self) {
        let spares = match &self.starter.warm {
            None => Vec::new(),
            Some(warm) => match warm.own() {
                // Any child may be a rank of which we are still to hear.
                None => return,
                Some(own) => own,
            },
        };
        let ours: Vec<Pid> = self.processes.values().map(|running| running.process.pid()).chain(spares).collect();
        process::reap_adopted(&ours, self.present.as_ref().map_or(0, |present| present.part.generation));
    }

    fn forward(&mut self) {
        let tails = &mut self.tails;
        self.streams.retain_mut(|stream| stream.forward(tails.entry(stream.process).or_default()));
    }

    fn look_for_deaths(&mut self) -> Result<(), LaunchError> {
        let mut ended = Vec::new();
        for (id, running) in &self.processes {
            let exit = running.process.ended();
            let exit = exit.map_err(|source| LaunchError::System { doing: "take the status of a rank", source })?;
            ended.extend(exit.map(|exit| (*id, exit)));
        }
        // Who is killed does not fail because of the others; who returns a code may well have.
        ended.sort_by_key(|(_, exit)| std::cmp::Reverse(*exit));
        for (process, exit) in ended {
            let Some(running) = self.processes.remove(&process) else { continue };
            self.spans.end(process, running.rank, exit.code());
            self.forward();
            self.tell(Input::Ended { process, exit })?;
        }
        Ok(())
    }

    /// Feeds the supervisor and does what it says, and what follows from that.
    pub(super) fn tell(&mut self, input: Input) -> Result<(), LaunchError> {
        let mut inputs = VecDeque::from([input]);
        let mut orders = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.supervisor.step(self.now_ms(), &input, &mut orders);
            for order in orders.drain(..) {
                match order {
                    Output::Begin { generation } => self.begin(generation)?,
                    Output::Start(process) => inputs.extend(self.start(process)),
                    // Nobody cooperates before it has said so.
                    Output::Interrupt { .. } | Output::Assign { .. } => {}
                    Output::Signal { process, stop } => inputs.extend(self.signal(process, stop)),
                    Output::Report(report) => self.report(report),
                    // Read from the supervisor by the loop.
                    Output::Finished(_) => {}
                }
            }
        }
        Ok(())
    }

    fn signal(&self, process: ProcessId, stop: Stop) -> Option<Input> {
        let ends = self.processes.get(&process)?.process.signal(stop);
        (ends && stop != Stop::Kill).then_some(Input::Doomed(process))
    }

    /// The ordered generation begins: its store serves, and that of the one before does not.
    fn begin(&mut self, generation: u64) -> Result<(), LaunchError> {
        self.present = None;
        let Some(part) = self.order.clone().filter(|part| part.generation == generation) else { return Ok(()) };
        let store = if self.pod.hosts_store() && part.is_master() {
            let failed =
                |source| LaunchError::Store { address: format!("{}:{}", part.master.0, part.master.1), source };
            Some(Server::start(self.ports.take(part.master.1)?).map_err(failed)?)
        } else {
            self.ports.free();
            None
        };
        self.first.get_or_insert(generation);
        self.failure = None;
        let alive = &self.processes;
        self.tails.retain(|process, _| alive.contains_key(process));
        self.present = Some(Generation { part, _store: store });
        self.announce()
    }

    /// Starts a process; what came of it, unless that is told later.
    fn start(&mut self, process: ProcessId) -> Option<Input> {
        let part = &self.present.as_ref()?.part;
        let rank = part.rank(process.local_rank);
        let mut variables = self.pod.variables(part, process.local_rank);
        variables.extend(self.spans.begin(process));
        let attached = match self.starter.start(process, &variables) {
            Ok(Start::Now(running, pipes)) => self.attach(process, rank, pipes).map(|()| Some(running)),
            Ok(Start::Later(pipes)) => self.attach(process, rank, pipes).map(|()| None),
            Err(error) => Err(error),
        };
        match attached {
            Ok(running) => running.map(|running| self.run_as(process, running)),
            Err(error) => Some(self.not_started(process, rank, &error)),
        }
    }

    fn run_as(&mut self, process: ProcessId, running: Process) -> Input {
        let rank = self.present.as_ref().map_or(0, |present| present.part.rank(process.local_rank));
        self.processes.insert(process, Running { process: running, rank });
        Input::Started(process)
    }

    fn not_started(&mut self, process: ProcessId, rank: usize, error: &io::Error) -> Input {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        let program = self.starter.command.first().map_or("", String::as_str);
        self.spans.end(process, rank, code);
        self.tails.entry(process).or_default().push(&format!("error: cannot start `{program}`: {error}"));
        Input::NotStarted { process, code }
    }

    /// What became of starts that were handed over.
    fn hear_warm(&mut self) -> Result<(), LaunchError> {
        let Some(warm) = &mut self.starter.warm else { return Ok(()) };
        for (process, started) in warm.advance() {
            let input = match started.and_then(Process::adopt) {
                Ok(running) => self.run_as(process, running),
                Err(error) => {
                    let rank = self.present.as_ref().map_or(0, |present| present.part.rank(process.local_rank));
                    self.not_started(process, rank, &error)
                }
            };
            self.tell(input)?;
        }
        Ok(())
    }

    fn attach(&mut self, process: ProcessId, rank: usize, pipes: Pipes) -> io::Result<()> {
        let prefix = self.prefix(process.generation, rank);
        self.tails.entry(process).or_default();
        for (channel, pipe) in [Channel::Out, Channel::Error].into_iter().zip(pipes) {
            self.streams.push(Stream::new(process, channel, pipe, prefix.clone())?);
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

    /// Passes on the rest of the output.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        self.forward();
        while !self.streams.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait(i64::try_from(left.as_millis()).ok()).is_err() {
                break;
            }
            while let Ok(Some(_)) = self.signals.read_signal() {}
            self.forward();
        }
        for stream in &mut self.streams {
            stream.finish(self.tails.entry(stream.process).or_default());
        }
    }

    /// The last words of a rank's newest process.
    pub(super) fn tail(&self, local_rank: usize) -> Option<&Tail> {
        self.tails.iter().rev().find(|(process, _)| process.local_rank == local_rank).map(|(_, tail)| tail)
    }

    fn say_end(&self, outcome: &Outcome) {
        let part = self.present.as_ref().map(|present| &present.part);
        let rank = |local_rank| part.map_or(local_rank, |part| part.rank(local_rank));
        let own = outcome.first_failure.map(|(local_rank, _)| local_rank);
        if let Some(verdict) =
            self.verdict.as_ref().filter(|verdict| verdict.rank.map(|rank| rank as usize) != own.map(rank))
        {
            eprint!("{}", report::elsewhere(verdict));
            return;
        }
        let tail = own.and_then(|local_rank| self.tail(local_rank));
        eprint!("{}", report::report(outcome, rank, tail, self.pod.nproc));
    }
}

//! The loop: wait for something to happen, tell the supervisor, do what it says.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use trainyard_proto::rendezvous::{Failure, Member};
use trainyard_worker_core::cause::Candidate;
use trainyard_worker_core::supervisor::{Exit, Input, Outcome, Output, Patience, ProcessId, Stop, Supervisor, Tail};

use super::aside::Aside;
use super::console;
use super::environment::{Part, Pod};
use super::evidence::Watch;
use super::grpc::{Job, Remote};
use super::link::{Alone, Fixed, Link, Without};
use super::notes::Notes;
use super::output::Stream;
use super::port::Ports;
use super::process::{self, Process};
use super::saves::Saves;
use super::span::Spans;
use super::torchrun::Torchrun;
use super::warm::{self, Warm};
use super::{LaunchArgs, LaunchError, report, stall};
use crate::c10d::Server;
use crate::host;

/// How long output is awaited after every process has ended: only a process that escaped from its group holds it open.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a rank that can join the next generation by itself may take: what it does then is a few messages.
const REJOIN_MS: i64 = 5_000;
/// How long after a generation's beginning spares are made where nothing tells of its progress: not at once, so that they do
/// not take time from the ranks' own beginning.
pub(super) const SPARES_MS: i64 = 3_000;
/// How long the memory of a killed process on a GPU may take to be free.
const CORPSE_MS: i64 = 30_000;
/// How long a coordinator may take to come back after all ranks ended well: as long as a pod of it may be started anew.
const BARRIER_MS: i64 = 60_000;
/// The same after a failure: without it nobody can start the ranks again, and the pod's end tells the rest.
const VERDICT_MS: i64 = 300_000;

/// Starts the ranks, sees them through, reports a failure on standard error, and gives the exit code.
pub(super) fn run(args: &LaunchArgs, pod: &Pod, without: Option<Without>) -> Result<i32, LaunchError> {
    let system = |doing| move |source: io::Error| LaunchError::System { doing, source };
    let spares = warm::wanted(args.spares.as_deref())?;
    let restarts_hung = stall::restarts(args.on_hang.as_deref())?;
    let torchrun = Torchrun::read(pod.nproc, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let signals = take_signals(&torchrun.signals()).map_err(system("take over the signals"))?;
    console::start().map_err(system("start the threads that write"))?;
    process::adopt_orphans().map_err(system("become the parent of orphans"))?;
    // Before any rank can knock; after the signals are blocked, which the threads inherit.
    let member = pod.member();
    let mut ports = Ports::new(pod);
    let port = ports.hold()?;
    let link = link(pod, &member, port, without)?;
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
        exits: BTreeMap::new(),
        promoted: 0,
        hangs: stall::Watch::new(host::name(), restarts_hung),
        spares,
        hung: BTreeMap::new(),
        pulsed_ms: 0,
        ends: Vec::new(),
        spans: Spans::new(),
        command: &args.command,
        python_path: warm::python_path(&args.command),
        evidence: None,
        warm: None,
        spares_due_ms: None,
        // Without it ranks are not heard, and start again as strangers.
        notes: Notes::open(pod.nproc).ok(),
        saves: Saves::new(|name| std::env::var(name).ok()),
        aside: Aside::open(),
        torchrun,
    };
    let outcome = launch.run()?;
    launch.warm = None;
    process::end_adopted();
    let hurries = launch.drain();
    // Told to end, a program may have saved its work.
    launch.saves.finish(false);
    launch.tell_saved();
    launch.say_end(&outcome);
    launch.evidence = None;
    console::finish(hurries || outcome.stopped.is_some(), Some(&launch.signals));
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
fn link(pod: &Pod, member: &Member, port: u16, without: Option<Without>) -> Result<Box<dyn Link>, LaunchError> {
    if let Some(address) = &pod.rendezvous {
        let text = |name| std::env::var(name).unwrap_or_default();
        let (namespace, name, token) =
            (text("TRAINYARD_NAMESPACE"), text("TRAINYARD_JOB"), text("TRAINYARD_JOB_TOKEN"));
        return Ok(Box::new(Remote::call(address, Job { namespace, name, token })?));
    }
    if let Some(meeting) = &pod.meeting {
        let Some(Without { meet, .. }) = without else {
            let words = "this launcher cannot meet others by itself; start it by `trainyard torchrun`";
            return Err(LaunchError::Environment(words.to_owned()));
        };
        return meet(meeting.clone()).map_err(LaunchError::Environment);
    }
    match without.filter(|_| !pod.is_fixed()) {
        Some(Without { alone, .. }) => Ok(alone(Alone {
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
fn take_signals(ours: &[Signal]) -> io::Result<SignalFd> {
    let mut set: SigSet = ours.iter().copied().collect();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// A generation whose ranks are ours.
pub(super) struct Generation {
    pub(super) part: Part,
    /// Serves until the generation is over.
    pub(super) store: Option<Server>,
}

/// A process of a rank.
pub(super) struct Running {
    pub(super) process: Process,
    /// Among all ranks.
    pub(super) rank: usize,
    /// Whether it was told to end.
    pub(super) signalled: bool,
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
    pub(super) first: Option<u64>,
    /// The present generation's first failure, as it was reported.
    pub(super) failure: Option<Failure>,
    /// What to say of it if the ranks are started again.
    pub(super) borne: Option<String>,
    /// Since when the ranks of the job do not run.
    pub(super) trouble_ms: Option<i64>,
    /// The failure of which the job ended.
    pub(super) verdict: Option<Failure>,
    pub(super) processes: BTreeMap<ProcessId, Running>,
    pub(super) streams: Vec<Stream>,
    /// The last words of each process that is, or was, a rank of the present generation.
    pub(super) tails: BTreeMap<ProcessId, Tail>,
    /// How the ranks of the present generation ended, by local rank.
    pub(super) exits: BTreeMap<usize, Exit>,
    /// Spares that became ranks of the present generation.
    pub(super) promoted: usize,
    /// Who stands still, and who of those was ended for it, and in what it stood.
    pub(super) hangs: stall::Watch,
    pub(super) hung: BTreeMap<usize, String>,
    pub(super) pulsed_ms: i64,
    /// Why those that failed did.
    pub(super) ends: Vec<Candidate>,
    pub(super) spans: Spans,
    pub(super) command: &'args [String],
    pub(super) python_path: Option<OsString>,
    pub(super) evidence: Option<Watch>,
    pub(super) warm: Option<Warm>,
    /// Whether spares may be made.
    pub(super) spares: bool,
    /// When spares are made at the latest, where nothing tells that the ranks made progress.
    pub(super) spares_due_ms: Option<i64>,
    pub(super) notes: Option<Notes>,
    pub(super) saves: Saves,
    pub(super) aside: Aside,
    pub(super) torchrun: Torchrun,
}

impl Launch<'_> {
    fn run(&mut self) -> Result<Outcome, LaunchError> {
        loop {
            self.hear_link()?;
            if let Some(outcome) = self.supervisor.outcome() {
                return Ok(outcome);
            }
            let now_ms = self.now_ms();
            let due = [
                self.supervisor.deadline(),
                self.link.deadline(),
                self.spares_due_ms(),
                self.pulse_due_ms(),
                self.saves.deadline(),
                self.hangs.deadline(now_ms),
                self.processes.values().filter_map(|running| running.process.look_ms()).min().map(|ms| now_ms + ms),
            ];
            let due = due.into_iter().flatten().min();
            let failed = |source| LaunchError::System { doing: "watch the ranks", source };
            self.wait(due.map(|due| due - now_ms)).map_err(failed)?;
            self.hear_signals()?;
            self.hear_saves()?;
            // Output before deaths: a rank's last words are then known when its end is judged.
            self.forward(false);
            self.hear_notes()?;
            self.look_for_deaths()?;
            self.tell(Input::Tick)?;
            self.tend_spares();
            self.look_for_hangs()?;
            self.beat();
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sleeps until something happens or `timeout_ms` is over.
    fn wait(&self, timeout_ms: Option<i64>) -> io::Result<()> {
        let warm = self.warm.as_ref().and_then(Warm::socket);
        let ends = self.processes.values().filter_map(|running| running.process.end());
        let outputs = self.streams.iter().filter(|stream| !stream.is_held()).map(Stream::socket);
        let all = std::iter::once(self.signals.as_fd()).chain(self.link.readable()).chain(warm);
        let all = all.chain(self.notes.iter().flat_map(Notes::readable)).chain(self.saves.readable());
        let all = all.chain(self.hangs.readable()).chain(console::bell());
        let all: Vec<BorrowedFd<'_>> = all.chain(ends).chain(outputs).collect();
        let mut polled: Vec<PollFd<'_>> = all.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = timeout_ms.map_or(PollTimeout::NONE, |ms| {
            let ms = i32::try_from(ms.max(0)).unwrap_or(i32::MAX);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        let polled = poll(&mut polled, timeout);
        console::hear();
        match polled {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_signals(&mut self) -> Result<(), LaunchError> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGINT) => self.tell(Input::Stop(Stop::Interrupt))?,
                // SIGCHLD: ranks are watched by their pidfds, the rest are orphans that became ours.
                Ok(Signal::SIGCHLD) | Err(_) => self.reap_adopted(),
                Ok(_) => self.stop(Input::Stop(Stop::Terminate))?,
            }
        }
        Ok(())
    }

    /// Orphans that became ours. The warm starts' processes are watched by them, and need only be reaped.
    fn reap_adopted(&self) {
        let ranks: Vec<Pid> = self.processes.values().map(|running| running.process.pid()).collect();
        process::reap_adopted(&ranks, self.present.as_ref().map_or(0, |present| present.part.generation));
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
                    Output::Interrupt { process, generation } => inputs.extend(self.interrupt(process, generation)),
                    Output::Assign { process, generation } => inputs.extend(self.assign(process, generation)),
                    Output::Signal { process, stop } => inputs.extend(self.signal(process, stop)),
                    Output::Report(report) => self.report(report),
                    // Read from the supervisor by the loop.
                    Output::Finished(_) => {}
                }
            }
        }
        Ok(())
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
        self.exits.clear();
        self.promoted = 0;
        self.ends.clear();
        self.hung.clear();
        self.aside.begin();
        let first = u32::try_from(part.rank(0)).unwrap_or(u32::MAX);
        let ours = u32::try_from(self.pod.nproc).unwrap_or(u32::MAX);
        self.hangs.begin(
            self.now_ms(),
            (0..ours).map(|local| first.saturating_add(local)),
            part.master.1,
            part.ranks == self.pod.nproc,
        );
        let alive = &self.processes;
        self.tails.retain(|process, _| alive.contains_key(process));
        self.spares_due_ms = self.warm.as_ref().map(|_| self.now_ms() + SPARES_MS);
        self.present = Some(Generation { part, store });
        // What escaped from the groups of those before, and ended in no other way.
        self.reap_adopted();
        self.announce()
    }

    /// Passes on the rest of the output. Whether a stop was asked for meanwhile.
    fn drain(&mut self) -> bool {
        let mut hurries = false;
        let deadline = Instant::now() + DRAIN;
        self.forward(true);
        while !self.streams.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait(i64::try_from(left.as_millis()).ok()).is_err() {
                break;
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                hurries |= info.ssi_signo.cast_signed() != Signal::SIGCHLD as i32;
            }
            self.forward(true);
        }
        for stream in &mut self.streams {
            stream.finish(self.tails.entry(stream.process).or_default());
        }
        hurries
    }

    fn say_end(&self, outcome: &Outcome) {
        let part = self.present.as_ref().map(|present| &present.part);
        let own = self.failure.as_ref().and_then(|failure| failure.rank);
        let elsewhere = self.verdict.as_ref().filter(|verdict| own.is_none() || verdict.rank != own);
        let text = match (elsewhere, &self.failure, part) {
            (Some(verdict), _, _) => report::elsewhere(verdict),
            (None, Some(failure), Some(part)) if outcome.first_failure.is_some() => {
                let local_rank = failure.rank.map_or(0, |rank| (rank as usize).saturating_sub(part.rank(0)));
                let exit = self.exits.get(&local_rank).copied();
                report::failed_first(failure, exit, self.tail(local_rank), self.pod.nproc)
            }
            (None, _, _) => report::stopped(outcome),
        };
        console::tell(text);
    }
}

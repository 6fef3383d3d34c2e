//! The loop: wait for something to happen, tell the supervisor, do what it says.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use trainyard_worker_core::supervisor::{Input, Outcome, Output, Patience, Stop, Supervisor, Tail};

use super::environment::World;
use super::output::{Channel, Stream};
use super::process::{self, Process};
use super::span::Spans;
use super::{LaunchArgs, LaunchError, report, store};

/// How long output is awaited after every process has ended: only a process that escaped from its group holds it open.
const DRAIN: Duration = Duration::from_millis(500);

/// Starts the ranks, sees them through, reports a failure on standard error, and gives the exit code.
pub(super) fn run(args: &LaunchArgs, world: &World) -> Result<i32, LaunchError> {
    let system = |doing| move |source: io::Error| LaunchError::System { doing, source };
    let signals = take_signals().map_err(system("take over the signals"))?;
    process::adopt_orphans().map_err(system("become the parent of orphans"))?;
    // Before any rank can knock; after the signals are blocked, which its thread inherits. Until the last rank has ended.
    let _store = store::host(world)?;
    let grace_ms = i64::try_from(args.grace.saturating_mul(1000)).unwrap_or(i64::MAX / 2);
    let patience = Patience { failure_grace_ms: grace_ms, stop_grace_ms: world.stop_grace_ms() };
    let mut launch = Launch {
        command: &args.command,
        world,
        signals,
        began: Instant::now(),
        supervisor: Supervisor::new(world.nproc, patience),
        processes: (0..world.nproc).map(|_| None).collect(),
        streams: Vec::new(),
        tails: vec![Tail::default(); world.nproc],
        spans: Spans::new(world.nproc),
    };
    let outcome = launch.run().map_err(system("watch the ranks"))?;
    process::end_adopted();
    launch.drain();
    let tail = outcome.first_failure.and_then(|(local_rank, _)| launch.tails.get(local_rank));
    eprint!("{}", report::report(&outcome, |local_rank| world.rank(local_rank), tail, world.nproc));
    Ok(outcome.code)
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

struct Launch<'args> {
    command: &'args [String],
    world: &'args World,
    signals: SignalFd,
    began: Instant,
    supervisor: Supervisor,
    processes: Vec<Option<Process>>,
    streams: Vec<Stream>,
    tails: Vec<Tail>,
    spans: Spans,
}

impl Launch<'_> {
    fn run(&mut self) -> io::Result<Outcome> {
        self.tell(Input::Begin);
        loop {
            if let Some(outcome) = self.supervisor.outcome() {
                return Ok(outcome);
            }
            self.wait(self.supervisor.deadline().map(|deadline| deadline - self.now_ms()))?;
            self.hear_signals();
            // Output before deaths: a rank's last words are then known when its end is judged.
            self.forward();
            self.look_for_deaths()?;
            self.tell(Input::Tick);
        }
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sleeps until something happens or `timeout_ms` is over.
    fn wait(&self, timeout_ms: Option<i64>) -> io::Result<()> {
        let ends = self.processes.iter().flatten().map(|process| process.pidfd.as_fd());
        let outputs = self.streams.iter().map(Stream::socket);
        let all = std::iter::once(self.signals.as_fd()).chain(ends).chain(outputs);
        let mut polled: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = timeout_ms.map_or(PollTimeout::NONE, |ms| {
            let ms = i32::try_from(ms.max(0)).unwrap_or(i32::MAX);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGINT) => self.tell(Input::Stop(Stop::Interrupt)),
                Ok(Signal::SIGTERM | Signal::SIGHUP) => self.tell(Input::Stop(Stop::Terminate)),
                // SIGCHLD: ranks are watched by their pidfds, the rest are orphans that became ours.
                Ok(_) | Err(_) => {
                    let ranks: Vec<u32> = self.processes.iter().flatten().map(Process::pid).collect();
                    process::reap_adopted(&ranks);
                }
            }
        }
    }

    fn forward(&mut self) {
        let tails = &mut self.tails;
        self.streams.retain_mut(|stream| stream.forward(&mut tails[stream.local_rank]));
    }

    fn look_for_deaths(&mut self) -> io::Result<()> {
        for local_rank in 0..self.processes.len() {
            let Some(process) = &mut self.processes[local_rank] else { continue };
            if let Some(exit) = process.ended()? {
                self.processes[local_rank] = None;
                self.spans.end(local_rank, self.world.rank(local_rank), exit.code());
                self.forward();
                self.tell(Input::Ended { local_rank, exit });
            }
        }
        Ok(())
    }

    /// Feeds the supervisor and does what it says, and what follows from that.
    fn tell(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut orders = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.supervisor.step(self.now_ms(), &input, &mut orders);
            for order in orders.drain(..) {
                match order {
                    Output::Start { local_rank } => inputs.push_back(self.start(local_rank)),
                    Output::Signal { local_rank, stop } => {
                        if let Some(process) = self.processes.get(local_rank).and_then(Option::as_ref) {
                            process.signal(stop);
                        }
                    }
                    // Read from the supervisor by the loop.
                    Output::Finished(_) => {}
                }
            }
        }
    }

    fn start(&mut self, local_rank: usize) -> Input {
        let mut variables = self.world.variables(local_rank);
        variables.extend(self.spans.begin(local_rank));
        let started = Process::start(self.command, &variables);
        match started.and_then(|process| self.attach(local_rank, process)) {
            Ok(()) => Input::Started { local_rank },
            Err(error) => {
                let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                let program = self.command.first().map_or("", String::as_str);
                self.spans.end(local_rank, self.world.rank(local_rank), code);
                self.tails[local_rank].push(&format!("error: cannot start `{program}`: {error}"));
                Input::NotStarted { local_rank, code }
            }
        }
    }

    fn attach(&mut self, local_rank: usize, mut process: Process) -> io::Result<()> {
        let several = self.world.nproc > 1;
        let prefix = if several { format!("[rank {}] ", self.world.rank(local_rank)) } else { String::new() };
        let [out, error] = process.pipes();
        for (channel, pipe) in [(Channel::Out, out), (Channel::Error, error)] {
            if let Some(pipe) = pipe {
                self.streams.push(Stream::new(local_rank, channel, pipe, prefix.clone())?);
            }
        }
        self.processes[local_rank] = Some(process);
        Ok(())
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
            stream.finish(&mut self.tails[stream.local_rank]);
        }
    }
}

//! The shim's one loop: output in, signals in, the end written down.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use trainyard_worker_core::pod::Ending;

use super::child::Started;
use super::engine::Seen;
use super::family;
use super::hook::{self, Moment};
use super::log::{Log, Stream, timestamp};
use super::scan::Scan;
use super::spec::{Beside, Hook, ProcessId, RunState, ShimSpec, now_ms, renew, write_atomically};

/// An unfinished line is shown after this long without more of it.
const PARTIAL_MS: i64 = 200;
/// Everything that could hold the pipes open is dead by then; a descriptor passed to a stranger may not hold us.
const DRAIN_MS: i64 = 1_000;

/// Where the ladder from "please end" to SIGKILL stands.
enum Stop {
    NotAsked,
    Hook { child: Pid, kill_at_ms: i64 },
    Terminating { kill_at_ms: i64 },
}

/// One container under watch.
pub(super) struct Watch<'a> {
    pub(super) spec: &'a ShimSpec,
    pub(super) state: RunState,
    log: Log,
    scan: Scan,
    pid: Pid,
    stdout: Option<File>,
    stderr: Option<File>,
    post_start: Option<Pid>,
    stop: Stop,
    exit: Option<(i32, Option<i32>)>,
    partial_since_ms: Option<i64>,
}

/// The signals that reach the shim through its descriptor.
pub(super) fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

impl<'a> Watch<'a> {
    pub(super) fn new(spec: &'a ShimSpec, mut state: RunState, started: Started) -> Self {
        for pipe in [&started.stdout, &started.stderr] {
            let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
        state.started_ms = Some(now_ms());
        state.process = ProcessId::of(started.pid.as_raw());
        let mut watch = Self {
            spec,
            state,
            log: Log::open(&spec.log_file, spec.log_max_bytes, spec.log_keep),
            scan: Scan::new(spec.progress_file.clone(), spec.metrics_file.clone()),
            pid: started.pid,
            stdout: Some(started.stdout),
            stderr: Some(started.stderr),
            post_start: None,
            stop: Stop::NotAsked,
            exit: None,
            partial_since_ms: None,
        };
        watch.note();
        watch.post_start = watch.hook(spec.post_start.as_ref(), Moment::Start);
        watch
    }

    /// Runs until the program and all its descendants have ended and the end is written down.
    pub(super) fn run(mut self, signals: &mut SignalFd) {
        while self.exit.is_none() {
            self.wait(signals.as_fd());
            self.take_signals(signals);
            self.read_output();
            self.run_timers();
        }
        // First of all: what the engine leaves running must be gone before its own processes are.
        let seen = self.spec.engine.as_ref().map(|engine| {
            let seen = engine.look().unwrap_or_default();
            engine.remove();
            seen
        });
        family::kill_all(self.pid);
        self.drain();
        self.finish(seen);
    }

    fn wait(&self, signals: BorrowedFd<'_>) {
        let mut fds = vec![PollFd::new(signals, PollFlags::POLLIN)];
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.next_timer_ms() {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = u64::try_from(at - now_ms()).unwrap_or(0);
                PollTimeout::try_from(Duration::from_millis(left + 1)).unwrap_or(PollTimeout::MAX)
            }
        };
        // An interrupted poll is a round with nothing to do.
        let _ = poll(&mut fds, timeout);
    }

    fn next_timer_ms(&self) -> Option<i64> {
        let kill_at = match self.stop {
            Stop::NotAsked => None,
            Stop::Hook { kill_at_ms, .. } | Stop::Terminating { kill_at_ms } => Some(kill_at_ms),
        };
        let partial = self.partial_since_ms.map(|since| since + PARTIAL_MS);
        [kill_at, partial, self.scan.due_ms()].into_iter().flatten().min()
    }

    fn take_signals(&mut self, signals: &mut SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGUSR1) => self.begin_stop(i64::from(info.ssi_int)),
                // A hang-up of the terminal that started the server is no reason to stop the training.
                Ok(Signal::SIGHUP | Signal::SIGINT) => {}
                Ok(_) | Err(_) => self.begin_stop(self.spec.grace_ms),
            }
        }
        while let Ok(Some((pid, code, signal))) = family::reap(Some(self.pid)) {
            if pid == self.pid {
                self.exit = Some((code, signal));
                return;
            } else if self.post_start == Some(pid) {
                self.post_start = None;
                if code != 0 {
                    self.fail_post_start(code);
                }
            } else if let Stop::Hook { child, kill_at_ms } = self.stop
                && pid == child
            {
                self.terminate(kill_at_ms);
            }
        }
    }

    fn begin_stop(&mut self, grace_ms: i64) {
        let kill_at_ms = now_ms().saturating_add(grace_ms.max(0));
        self.state.stop_deadline_ms =
            Some(self.state.stop_deadline_ms.map_or(kill_at_ms, |known| known.min(kill_at_ms)));
        match &mut self.stop {
            Stop::NotAsked => match self.hook(self.spec.pre_stop.as_ref().filter(|_| grace_ms > 0), Moment::Stop) {
                Some(child) => self.stop = Stop::Hook { child, kill_at_ms },
                None => self.terminate(kill_at_ms),
            },
            // Orders only ever come sooner: whoever deletes again with less grace means it.
            Stop::Hook { kill_at_ms: known, .. } | Stop::Terminating { kill_at_ms: known } => {
                *known = (*known).min(kill_at_ms);
            }
        }
        self.note();
    }

    fn hook(&self, hook: Option<&Hook>, moment: Moment) -> Option<Pid> {
        let (user, cgroup) = (self.spec.user.clone(), self.spec.cgroup.clone());
        let beside = self.state.process.map(|process| Beside { process, user, cgroup })?;
        hook::spawn(hook?, moment, &beside, self.spec.engine.as_ref())
    }

    /// A container whose postStart hook fails is ended, as Kubernetes does it.
    fn fail_post_start(&mut self, code: i32) {
        let said = format!("trainyard: the postStart hook failed with exit code {code}; the container is stopped\n");
        self.log.feed(Stream::Stderr, said.as_bytes(), &timestamp(), &mut |_| {});
        self.begin_stop(self.spec.grace_ms);
    }

    fn terminate(&mut self, kill_at_ms: i64) {
        let _ = killpg(self.pid, Signal::SIGTERM);
        // A stopped group would not even see it.
        let _ = killpg(self.pid, Signal::SIGCONT);
        self.stop = Stop::Terminating { kill_at_ms };
    }

    fn run_timers(&mut self) {
        let now_ms = now_ms();
        if self.scan.due_ms().is_some_and(|due| now_ms >= due) {
            self.scan.flush();
        }
        if self.partial_since_ms.is_some_and(|since| now_ms >= since + PARTIAL_MS) {
            self.log.flush_partial(&timestamp());
            self.partial_since_ms = None;
        }
        match self.stop {
            Stop::NotAsked => {}
            Stop::Hook { kill_at_ms, .. } | Stop::Terminating { kill_at_ms } => {
                if now_ms >= kill_at_ms {
                    let _ = killpg(self.pid, Signal::SIGKILL);
                }
            }
        }
    }

    fn read_output(&mut self) {
        read_some(&mut self.stdout, Stream::Stdout, &mut self.log, &mut self.scan);
        read_some(&mut self.stderr, Stream::Stderr, &mut self.log, &mut self.scan);
        self.partial_since_ms = match (self.log.has_partial(), self.partial_since_ms) {
            (false, _) => None,
            (true, Some(since)) => Some(since),
            (true, None) => Some(now_ms()),
        };
    }

    /// Reads what is still in the pipes: no line that the program wrote is lost.
    fn drain(&mut self) {
        let until = now_ms() + DRAIN_MS;
        while (self.stdout.is_some() || self.stderr.is_some()) && now_ms() < until {
            self.read_output();
            if self.stdout.is_some() || self.stderr.is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.log.close(&timestamp());
        self.scan.flush();
    }

    fn finish(mut self, seen: Option<Seen>) {
        let (exit_code, signal) = self.exit.unwrap_or((128, None));
        let oom = self.spec.cgroup.as_ref().is_some_and(super::super::sandbox::cgroup::ContainerCgroup::oom_killed);
        if let Some(cgroup) = &self.spec.cgroup {
            cgroup.remove();
        }
        let limited = self.spec.engine.as_ref().is_some_and(|engine| engine.memory_limited);
        // Not every engine notices that its kernel ended a container for its memory.
        let unordered_kill = limited && exit_code == 137 && matches!(self.stop, Stop::NotAsked);
        let oom = oom || seen.is_some_and(|seen| seen.oom_killed || seen.started && unordered_kill);
        let failed_start = seen.is_some_and(|seen| !seen.started) && matches!(self.stop, Stop::NotAsked);
        let reason = match (exit_code, oom) {
            (0, _) => "Completed",
            (_, true) => "OOMKilled",
            (_, false) if failed_start => "StartError",
            (_, false) => "Error",
        };
        let hint = self.spec.engine.as_ref().and_then(|engine| engine.start_hint.as_ref());
        // The loader of our binary is missing in the image, which nobody guesses from what the engine says of the binary.
        let not_found = exit_code != 0 && self.log.tail().contains("no such file or directory");
        if let Some(hint) = hint.filter(|_| matches!(exit_code, 126 | 127) || not_found) {
            self.log.feed(Stream::Stderr, format!("trainyard: {hint}\n").as_bytes(), &timestamp(), &mut |_| {});
        }
        let last_words = self.spec.message_file.as_ref().and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
        let message = match (last_words.is_empty(), exit_code) {
            (false, _) => String::from_utf8_lossy(&last_words[..last_words.len().min(4_096)]).into_owned(),
            (true, 0) => String::new(),
            (true, _) => self.log.tail(),
        };
        self.state.ending = Some(Ending {
            started_ms: self.state.started_ms,
            finished_ms: now_ms(),
            exit_code,
            signal,
            reason: reason.to_owned(),
            message,
            lost_log_lines: self.log.lost_lines(),
        });
        insist(&self.spec.state_file, &self.state);
    }

    /// Writes down where things are. A failure is made good by the end, which is insisted on. After a reboot nothing of it is so any more: it
    /// is enough that the claim is there.
    fn note(&self) {
        if let Ok(bytes) = serde_json::to_vec(&self.state) {
            let _ = renew(&self.spec.state_file, &bytes);
        }
    }
}

/// The name of the file whose only use is to be removed when the disk is full.
pub(super) fn reserve_of(state_file: &std::path::Path) -> std::path::PathBuf {
    state_file.with_extension("reserve")
}

/// Writes the end down, however long the disk stays full: an exit code is not to be lost.
pub(super) fn insist(state_file: &std::path::Path, state: &RunState) {
    let Ok(bytes) = serde_json::to_vec(state) else { return };
    let reserve = reserve_of(state_file);
    let mut pause_ms = 50;
    while let Err(error) = write_atomically(state_file, &bytes) {
        if !state_file.parent().is_some_and(std::path::Path::exists) {
            // The pod's folder is gone: nobody is left to be told.
            return;
        }
        let _ = std::fs::remove_file(&reserve);
        let _ = error;
        std::thread::sleep(Duration::from_millis(pause_ms));
        pause_ms = (pause_ms * 2).min(1_000);
    }
    let _ = std::fs::remove_file(&reserve);
}

fn read_some(pipe: &mut Option<File>, stream: Stream, log: &mut Log, scan: &mut Scan) {
    let Some(file) = pipe else { return };
    // 64 KiB is what a pipe holds; a few rounds keep a chatty program from starving signals and timers.
    let mut buffer = [0_u8; 64 * 1024];
    for _ in 0..16 {
        match file.read(&mut buffer) {
            Ok(0) => {
                *pipe = None;
                return;
            }
            Ok(count) => log.feed(stream, &buffer[..count], &timestamp(), &mut |line| scan.line(line)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

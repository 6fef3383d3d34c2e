//! A rank's process: started in a session and process group of its own, watched by a pidfd, never left behind.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpid, getppid};
use trainyard_worker_core::supervisor::{Exit, Stop};

use super::environment::RENDEZVOUS;
use super::span::SPANS;
use super::torchrun;
use crate::checkpoint::FILE;
use crate::descendants;
use crate::shim::aside;

/// A running process of a rank, and our child.
pub(super) struct Process {
    pid: Pid,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
    /// What its group was told to end by.
    told: Option<Stop>,
    /// It has ended by that, and others of its group have not.
    lingers: bool,
}

/// The reading ends of a process's standard output and standard error.
pub(super) type Pipes = [OwnedFd; 2];

impl Process {
    /// Starts `command` with `variables` added to our environment, its output in pipes and nothing to read.
    pub(super) fn start(command: &[String], variables: &[(String, String)]) -> io::Result<(Self, Pipes)> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
        };
        let launcher = getpid();
        let mut builder = Command::new(program);
        builder
            .args(arguments)
            .env_remove(SPANS)
            .env_remove(FILE)
            .env_remove(RENDEZVOUS)
            .env_remove(aside::VARIABLE)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        for name in torchrun::VARIABLES {
            builder.env_remove(name);
        }
        builder.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: `prepare` makes system calls only; it neither allocates nor takes locks.
        unsafe { builder.pre_exec(move || prepare(launcher)) };
        let mut child = builder.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let process = Self::of(pid, pidfd_open(pid)?);
        match (child.stdout.take(), child.stderr.take()) {
            (Some(out), Some(error)) => Ok((process, [out.into(), error.into()])),
            (None | Some(_), None | Some(_)) => Err(io::Error::other("a child without pipes")),
        }
    }

    /// A child that was started in some other way, and leads a process group of its own.
    pub(super) fn of(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, told: None, lingers: false }
    }

    /// The process's number, which is its group's too.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when it is time to ask [`Self::ended`]; `None` where only time tells.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        (!self.lingers).then(|| self.pidfd.as_fd())
    }

    /// Whether the process has ended and others of its group are waited for: nothing tells of the end of each.
    pub(super) fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether a stop ends the process without any code of its own.
    pub(super) fn ends_by(&self, stop: Stop) -> bool {
        stop == Stop::Kill || has_default_effect(self.pid, signal_of(stop))
    }

    /// Signals the process group. True when no process of it handles that signal, so that none of its code runs on.
    pub(super) fn signal(&mut self, stop: Stop) -> bool {
        self.told = Some(stop);
        let signal = signal_of(stop);
        let members = descendants::group(self.pid);
        let ends = !members.is_empty() && members.into_iter().all(|member| has_default_effect(member, signal));
        // A group that is gone needs no signal.
        let _ = killpg(self.pid, signal);
        ends
    }

    /// How the process ended; `None` while it runs. What it left behind in its group ends with it, as in a container: unless
    /// it is a shell, say, that the signal to its group ended, while the program behind it saves its work.
    pub(super) fn ended(&mut self) -> io::Result<Option<Exit>> {
        let Some(by) = over(self.pid) else { return Ok(None) };
        let told = self.told.filter(|stop| *stop != Stop::Kill).map(signal_of);
        self.lingers = told.is_some() && told == by && !descendants::group(self.pid).is_empty();
        if self.lingers {
            return Ok(None);
        }
        // Before the number is given back to the system, so that no other group can be hit.
        let _ = killpg(self.pid, Signal::SIGKILL);
        exit_of(self.pid).map(Some)
    }
}

/// Whether a child has ended, and by which signal, without taking its status.
fn over(pid: Pid) -> Option<Option<Signal>> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) => None,
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Some(signal)),
        // Or by a real-time signal, which nix does not know.
        Ok(_) | Err(_) => Some(None),
    }
}

/// Takes the status of a child that has ended.
fn exit_of(pid: Pid) -> io::Result<Exit> {
    let mut status = 0;
    // SAFETY: the system call writes one integer, to a place that is ours. (nix knows no real-time signals.)
    while unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFEXITED(status) {
        Ok(Exit::Code(libc::WEXITSTATUS(status)))
    } else {
        Ok(Exit::Signal(libc::WTERMSIG(status)))
    }
}

/// Whether this signal ends the process: it neither handles, nor ignores, nor blocks it.
fn has_default_effect(pid: Pid, signal: Signal) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let bit = 1_u64 << (signal as i32 - 1);
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    ["SigCgt:", "SigIgn:", "SigBlk:"].iter().all(|name| set(name).is_some_and(|set| set & bit == 0))
}

const fn signal_of(stop: Stop) -> Signal {
    match stop {
        Stop::Terminate => Signal::SIGTERM,
        Stop::Interrupt => Signal::SIGINT,
        Stop::Kill => Signal::SIGKILL,
    }
}

/// In the child, before the program: a session of its own, die with the launcher, and take signals again (the launcher
/// blocks them).
///
/// A session is a process group too. Beyond that, Linux shares the CPUs out between sessions (autogroup): ranks in one
/// session with the launcher would get one share together where torchrun's, which have a session each, get one each.
fn prepare(launcher: Pid) -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != launcher {
        // The launcher died before the line above took effect.
        return Err(io::Error::from_raw_os_error(Errno::ESRCH as i32));
    }
    crate::signal::reset()
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers and returns a new descriptor that nobody else owns, or -1.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Makes orphans of our ranks our own children, so that none escapes.
pub(super) fn adopt_orphans() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Takes the status of adopted children that ended, and ends those that an earlier generation left. `ours` have their own
/// watchers, and their groups end with them.
pub(super) fn reap_adopted(ours: &[Pid], generation: u64) {
    for pid in descendants::children(getpid()).into_iter().filter(|pid| !ours.contains(pid)) {
        let is_of_ours = getpgid(Some(pid)).is_ok_and(|group| ours.contains(&group));
        if !is_of_ours && is_of_before(pid, generation) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Whether a process was started by a rank of an earlier generation, as its environment tells.
pub(super) fn is_of_before(pid: Pid, generation: u64) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let told = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"TRAINYARD_GENERATION="));
    let number = told.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse::<u64>().ok());
    // A spare belongs to none before it is a rank.
    number.is_some_and(|of| (1..generation).contains(&of))
}

/// Ends every child that is left, and theirs as they become ours.
pub(super) fn end_adopted() {
    loop {
        let children = descendants::children(getpid());
        if children.is_empty() {
            return;
        }
        for pid in children {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

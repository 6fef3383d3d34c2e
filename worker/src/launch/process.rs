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

/// How often it is looked whether the others of a group are still in it: one that leaves it tells nobody.
const LOOK_MS: i64 = 1_000;
/// The same where nothing tells of their end.
const LOOK_BLIND_MS: i64 = 20;

/// A running process of a rank, and our child.
pub(super) struct Process {
    pid: Pid,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
    /// What its group was told to end by.
    told: Option<Stop>,
    /// It has ended by that, and others of its group have not.
    lingers: Option<Others>,
}

/// Those of a process's group who have not ended when it has.
struct Others {
    /// Readable when one of them has ended: then it is asked who is left. `None` where the system has no descriptor to give.
    one: Option<OwnedFd>,
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
        Self { pid, pidfd, told: None, lingers: None }
    }

    /// The process's number, which is its group's too.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when it is time to ask [`Self::ended`]; `None` where only time tells.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.lingers.as_ref().map_or_else(|| Some(&self.pidfd), |others| others.one.as_ref()).map(|fd| fd.as_fd())
    }

    /// After how long to ask [`Self::ended`] again whatever happens: where others of its group are waited for.
    pub(super) fn look_ms(&self) -> Option<i64> {
        self.lingers.as_ref().map(|others| if others.one.is_some() { LOOK_MS } else { LOOK_BLIND_MS })
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
        self.lingers = if told.is_some() && told == by { others(self.pid) } else { None };
        if self.lingers.is_some() {
            return Ok(None);
        }
        // Before the number is given back to the system, so that no other group can be hit.
        let _ = killpg(self.pid, Signal::SIGKILL);
        exit_of(self.pid).map(Some)
    }
}

/// Those of a group who have not ended; `None` when there are none. The group's leader has ended, and its status is not taken:
/// so the number is nobody else's.
fn others(group: Pid) -> Option<Others> {
    let members = descendants::group(group);
    // One is enough: while it runs the group is not over. Its number may be somebody else's since we read it.
    let is_member = |pid: Pid| getpgid(Some(pid)) == Ok(group);
    let watch = |pid: &Pid| pidfd_open(*pid).ok().filter(|_| is_member(*pid));
    (!members.is_empty()).then(|| Others { one: members.iter().find_map(watch) })
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::stat::Mode;

    use super::*;

    fn is_readable(fd: BorrowedFd<'_>, timeout: u16) -> bool {
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(timeout)).unwrap() == 1
    }

    /// Like a shell, and behind it the helper of a Python program that ends with it, a little later.
    #[test]
    fn the_end_of_a_helper_that_ignores_the_signal_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let script = format!("(trap '' TERM; exec cat {}) & wait", fifo.display());
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        let (mut process, _pipes) = Process::start(&command, &[]).unwrap();
        // Waits until the helper reads, and so has begun to ignore the signal.
        let held = std::fs::File::options().write(true).open(&fifo).unwrap();
        assert!(!process.signal(Stop::Terminate), "a process of the group ignores it");
        assert!(is_readable(process.end().unwrap(), 10_000), "the shell ends");
        assert_eq!(process.ended().unwrap(), None, "the helper runs");
        assert_eq!(process.look_ms(), Some(LOOK_MS));
        assert!(!is_readable(process.end().expect("the helper is watched"), 0));
        drop(held);
        assert!(is_readable(process.end().unwrap(), 10_000), "the helper ends");
        assert_eq!(process.ended().unwrap(), Some(Exit::Signal(libc::SIGTERM)));
    }
}

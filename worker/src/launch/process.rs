//! A rank's process: started in a session and process group of its own, watched by a pidfd, never left behind.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use trainyard_worker_core::supervisor::{Exit, Stop};

use super::span::SPANS;

/// One running rank.
pub(super) struct Process {
    child: Child,
    /// Readable when the process has ended.
    pub(super) pidfd: OwnedFd,
}

impl Process {
    /// Starts `command` with `variables` added to our environment, its output in pipes and nothing to read.
    pub(super) fn start(command: &[String], variables: &[(&'static str, String)]) -> io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
        };
        let launcher = getpid();
        let mut builder = Command::new(program);
        builder.args(arguments).env_remove(SPANS).envs(variables.iter().map(|(name, value)| (name, value)));
        builder.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: `prepare` makes system calls only; it neither allocates nor takes locks.
        unsafe { builder.pre_exec(move || prepare(launcher)) };
        let child = builder.spawn()?;
        let pidfd = pidfd_open(&child)?;
        Ok(Self { child, pidfd })
    }

    /// The process's number, which is its group's too.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipes of standard output and standard error. Once.
    pub(super) fn pipes(&mut self) -> [Option<OwnedFd>; 2] {
        [self.child.stdout.take().map(OwnedFd::from), self.child.stderr.take().map(OwnedFd::from)]
    }

    /// Signals the process group.
    pub(super) fn signal(&self, stop: Stop) {
        let signal = match stop {
            Stop::Terminate => Signal::SIGTERM,
            Stop::Interrupt => Signal::SIGINT,
            Stop::Kill => Signal::SIGKILL,
        };
        // A group that is gone needs no signal.
        let _ = killpg(self.group(), signal);
    }

    /// How the process ended; `None` while it runs. What it left behind in its group ends with it, as in a container.
    pub(super) fn ended(&mut self) -> io::Result<Option<Exit>> {
        if !is_over(self.group()) {
            return Ok(None);
        }
        // Before the number is given back to the system, so that no other group can be hit.
        let _ = killpg(self.group(), Signal::SIGKILL);
        Ok(Some(exit(self.child.wait()?)))
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
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

fn pidfd_open(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers and returns a new descriptor that nobody else owns, or -1.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Whether the process has ended, without taking its status.
fn is_over(pid: Pid) -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

/// Makes orphans of our ranks our own children, so that none escapes.
pub(super) fn adopt_orphans() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Takes the status of adopted children that ended. `ranks` are left to their watchers.
pub(super) fn reap_adopted(ranks: &[u32]) {
    for pid in children() {
        if !ranks.contains(&pid.as_raw().cast_unsigned()) {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Ends every child that is left, and theirs as they become ours.
pub(super) fn end_adopted() {
    loop {
        let children = children();
        if children.is_empty() {
            return;
        }
        for pid in children {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// Our children. Empty where /proc is missing: then the parent-death signal alone guards against orphans.
fn children() -> Vec<Pid> {
    let pid = getpid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).map(Pid::from_raw).collect()
}

//! Everything that descends from a container's program: found and ended, so that nothing is left behind.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};

use crate::descendants;

/// A wait status as exit code and signal.
pub(super) fn exit_of(status: WaitStatus) -> Option<(Pid, i32, Option<i32>)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code, None)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32, Some(signal as i32))),
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => None,
    }
}

/// Collects a child that has ended, if any. The leader of a group is told of and not collected: its number stays its own,
/// so that a signal to the group reaches that group and no other.
pub(super) fn reap(leader: Option<Pid>) -> Result<Option<(Pid, i32, Option<i32>)>, Errno> {
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(status) => {
                let Some(exit) = exit_of(status) else { continue };
                if leader != Some(exit.0) {
                    let _ = waitpid(exit.0, Some(WaitPidFlag::WNOHANG));
                }
                return Ok(Some(exit));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills all descendants until none is left. The shim is their subreaper: whoever loses its parent becomes the shim's
/// child, so that "no children" means "no descendants". The group's leader is not collected yet.
pub(super) fn kill_all(group: Pid) {
    let _ = killpg(group, Signal::SIGKILL);
    let mut pause_ms = 1;
    loop {
        loop {
            match reap(None) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        for pid in descendants::all_below(getpid()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // A process that dies in the kernel (a GPU driver's tear-down) takes its time; nobody can hurry it.
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        pause_ms = (pause_ms * 2).min(50);
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// In the child of a test: what it finds out of a leader that has ended.
    fn leader_keeps_its_number() -> bool {
        // SAFETY: the child ends at once.
        let leader = match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => child,
            // SAFETY: as above.
            Ok(ForkResult::Child) => unsafe { libc::_exit(3) },
            Err(_) => return false,
        };
        let told = loop {
            match reap(Some(leader)) {
                Ok(None) => std::thread::yield_now(),
                told => break told,
            }
        };
        let kept = kill(leader, None).is_ok();
        kill_all(leader);
        told == Ok(Some((leader, 3, None))) && kept && kill(leader, None) == Err(Errno::ESRCH)
    }

    #[test]
    fn the_leader_of_a_group_keeps_its_number_until_the_group_is_ended() {
        // In a process of its own: other tests have children, too.
        // SAFETY: the child ends without the parent's exit handlers, and allocates only, which the C library allows.
        let child = match unsafe { fork() }.expect("a child") {
            ForkResult::Parent { child } => child,
            // SAFETY: as above.
            ForkResult::Child => unsafe { libc::_exit(i32::from(!leader_keeps_its_number())) },
        };
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    }
}

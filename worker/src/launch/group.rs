//! The processes of a rank's group.

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgid};

/// The processes of a group that have not ended. Empty where /proc is missing.
pub(super) fn members(group: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    all.filter(|pid| getpgid(Some(*pid)) == Ok(group) && runs(*pid)).collect()
}

/// Whether a process has not ended. One that has is still there until somebody takes its status.
fn runs(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether a child has ended, and by which signal, without taking its status.
pub(super) fn over(pid: Pid) -> Option<Option<Signal>> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) => None,
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Some(signal)),
        // Or by a real-time signal, which nix does not know.
        Ok(_) | Err(_) => Some(None),
    }
}

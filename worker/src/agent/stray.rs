//! Processes of a run whose shim was killed: found by the mark in their environment, and ended.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::begin::RUN_MARK;

/// Kills every process that carries the run's mark. Rounds, as a process may fork while it is looked for.
pub(super) fn kill_marked(mark: &str) {
    // A program that forks faster than this can be read is beyond help without a cgroup or a PID namespace.
    for _ in 0..16 {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn marked(mark: &str) -> Vec<Pid> {
    let wanted = format!("{RUN_MARK}={mark}").into_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environ.split(|byte| *byte == 0).any(|entry| entry == wanted) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

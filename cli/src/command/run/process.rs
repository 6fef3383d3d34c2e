//! No process outlives a run that was stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard_worker::shim::{ProcessId, RunState};

/// The node agent gets this long to kill what was to be killed, before we do it ourselves.
const PATIENCE: Duration = Duration::from_secs(3);
/// After our own SIGKILL the kernel needs a moment.
const LAST: Duration = Duration::from_secs(2);
/// How often we look.
const POLL: Duration = Duration::from_millis(20);
/// State files are at most this deep below a pod's folder.
const MAX_DEPTH: usize = 4;

/// Waits until no process of these pods is left; kills what is left in the end.
pub(crate) async fn gone(home: &Path, pod_uids: &[String]) {
    if !empty_within(home, pod_uids, PATIENCE).await {
        killed(home, pod_uids).await;
    }
}

/// Kills the processes of these pods.
pub(crate) async fn killed(home: &Path, pod_uids: &[String]) {
    for process in alive(home, pod_uids) {
        // Each container leads a session and a process group of its own. Who is gone by now needs no signal.
        let _ = kill(Pid::from_raw(-process.pid), Signal::SIGKILL);
    }
    if !empty_within(home, pod_uids, LAST).await {
        tracing::warn!("processes of the job are still there; see `trainyard top`");
    }
}

async fn empty_within(home: &Path, pod_uids: &[String], patience: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + patience;
    while !alive(home, pod_uids).is_empty() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Whether any container of this state folder runs.
pub(crate) fn any(home: &Path) -> bool {
    states(&home.join("pods"), MAX_DEPTH + 1)
        .into_iter()
        .any(|state| state.is_watched() && state.process.is_some_and(|process| process.is_alive()))
}

/// The first process of each container that runs.
fn alive(home: &Path, pod_uids: &[String]) -> Vec<ProcessId> {
    let folders = pod_uids.iter().map(|uid| home.join("pods").join(uid));
    let states = folders.flat_map(|folder| states(&folder, MAX_DEPTH));
    states.filter(RunState::is_watched).filter_map(|state| state.process).filter(ProcessId::is_alive).collect()
}

/// The state files of the shims below a pod's folder.
pub(crate) fn states(folder: &Path, depth: usize) -> Vec<RunState> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|entry| below(entry.path(), depth)).collect()
}

fn below(path: PathBuf, depth: usize) -> Vec<RunState> {
    if path.is_dir() {
        // Volumes belong to the user, and may be large.
        let volumes = path.file_name().is_some_and(|name| name == "volumes");
        return if depth > 0 && !volumes { states(&path, depth - 1) } else { Vec::new() };
    }
    let json = path.extension().is_some_and(|extension| extension == "json");
    if json { RunState::read(&path).into_iter().collect() } else { Vec::new() }
}

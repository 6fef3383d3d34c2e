//! What a pod's task observes of its containers: the shims' notes, and shims that are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use trainyard_worker_core::pod::{Attempt, AttemptState, Blocked, ContainerView, Ending};

use super::begin::run_mark;
use super::config::ContainerMode;
use super::task::{BLOCKED_RETRY_MS, Launching, Task};
use super::{engine, pidfd, stray};
use crate::shim::{RunState, now_ms, write_atomically};

impl Task {
    pub(super) fn read_runs(&mut self) {
        // Before the notes are read: a shim that is dead now has written all that it ever will.
        let dead: Vec<String> = self
            .live
            .iter()
            .filter(|(_, live)| {
                live.launching.is_some_and(|launching| launching.shim.is_none_or(|shim| !shim.is_alive()))
            })
            .map(|(name, _)| name.clone())
            .collect();
        self.runs = self.folder.runs(&self.runs);
        for (name, live) in &mut self.live {
            let Some(launching) = live.launching else { continue };
            let newest =
                self.runs.get(name).and_then(|runs| runs.first()).filter(|run| run.attempt >= launching.attempt);
            match newest {
                Some(run) if run.process.is_some() || run.ending.is_some() => live.launching = None,
                // The claim is there, the program is on the way; or the shim died in between, which is seen as such.
                Some(_) => {}
                None if dead.contains(name) => {
                    live.launching = None;
                    live.blocked = Some(Blocked {
                        reason: "RunContainerError".to_owned(),
                        message: "the process that watches over the container ended before it began; is the disk full?"
                            .to_owned(),
                        retry_at_ms: now_ms() + BLOCKED_RETRY_MS,
                    });
                }
                None => {}
            }
        }
    }

    /// Watches the shims of adopted and launched runs, and takes over from those that are gone.
    pub(super) fn keep_watch(&mut self) {
        let newest: Vec<RunState> = self.runs.values().filter_map(|runs| runs.first().cloned()).collect();
        for run in newest.into_iter().filter(|run| run.ending.is_none()) {
            if !run.is_watched() {
                // Its last word may have been written since it was read.
                let path = self.folder.state_file(&run.container, run.attempt);
                let run = RunState::read(&path).unwrap_or(run);
                if run.ending.is_none() {
                    self.take_over(&run);
                }
                self.changed.notify_one();
                continue;
            }
            let live = self.live.entry(run.container.clone()).or_default();
            if live.watched != Some(run.attempt) {
                live.watched = Some(run.attempt);
                let changed = self.changed.clone();
                let shim = run.shim;
                live.tasks.push(tokio::spawn(async move {
                    while shim.is_alive() {
                        pidfd::ended(shim.pid).await;
                        if shim.is_alive() {
                            // A kernel without pidfds.
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                    changed.notify_one();
                }));
            }
            self.start_probes(&run);
        }
    }

    /// The shim was killed: nobody knows the exit code, but nothing of the run may be left.
    fn take_over(&mut self, run: &RunState) {
        if let Some(engine) = &run.engine {
            engine.remove();
        }
        stray::kill_marked(&run_mark(&self.record.pod, &run.container, run.attempt));
        let ending = Ending {
            started_ms: run.started_ms,
            finished_ms: now_ms(),
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "the process that watched over this container was killed (or the machine was restarted); its exit code is not known"
                .to_owned(),
            lost_log_lines: 0,
        };
        let state = RunState { ending: Some(ending), ..run.clone() };
        let path = self.folder.state_file(&run.container, run.attempt);
        let written =
            serde_json::to_vec(&state).map_err(std::io::Error::other).and_then(|bytes| write_atomically(&path, &bytes));
        if let Err(error) = written {
            tracing::error!(path = %path.display(), %error, "the end of a lost container could not be written");
        }
    }

    pub(super) fn view(&self, now_ms: i64) -> BTreeMap<String, ContainerView> {
        let mut view: BTreeMap<String, ContainerView> = BTreeMap::new();
        for (name, runs) in &self.runs {
            let mut runs = runs.iter().map(|run| attempt_of(run, &self.record.pod));
            let (last, previous) = (runs.next(), runs.next());
            view.insert(name.clone(), ContainerView { last, previous, ..ContainerView::default() });
        }
        for (name, live) in &self.live {
            let seen = view.entry(name.clone()).or_default();
            if let Some(Launching { attempt: number, streak, .. }) = live.launching
                && seen.last.as_ref().is_none_or(|last| last.number < number)
            {
                let id = self.starting_id(name, number);
                let starting = Attempt { id, number, streak, state: AttemptState::Starting, stop_deadline_ms: None };
                seen.previous = seen.last.replace(starting);
            }
            if let (Some(last), Some((attempt, deadline))) = (&mut seen.last, live.stopping)
                && last.number == attempt
            {
                last.stop_deadline_ms = Some(last.stop_deadline_ms.map_or(deadline, |noted| noted.min(deadline)));
            }
            if seen.last.as_ref().map(|last| last.number) == live.probed {
                seen.probes = live.probes;
            }
            seen.blocked = live.blocked.clone().filter(|blocked| now_ms < blocked.retry_at_ms);
        }
        view.retain(|name, seen| seen.last.is_some() || seen.blocked.is_some() || self.container(name).is_some());
        view
    }
}

impl Task {
    /// The id of a run whose shim has not written anything yet.
    fn starting_id(&self, container: &str, attempt: u32) -> String {
        let mark = run_mark(&self.record.pod, container, attempt);
        match &self.shared.config.mode {
            ContainerMode::Process => process_id(&mark),
            ContainerMode::Engine { program } => engine_id(program, &engine::name(&mark)),
        }
    }
}

fn process_id(mark: &str) -> String {
    format!("process://{mark}")
}

/// Kubernetes has the engine's long id there; this is the name, which the engine takes in its place.
fn engine_id(program: &Path, name: &str) -> String {
    format!("{}://{name}", program.file_name().unwrap_or_default().to_string_lossy())
}

fn attempt_of(run: &RunState, pod: &Pod) -> Attempt {
    let state = match (&run.ending, run.process, run.started_ms) {
        (Some(ending), _, _) => AttemptState::Ended(ending.clone()),
        (None, Some(_), Some(started_ms)) => AttemptState::Running { started_ms },
        (None, _, _) => AttemptState::Starting,
    };
    let id = match &run.engine {
        Some(engine) => engine_id(Path::new(&engine.program), &engine.name),
        None => process_id(&run_mark(pod, &run.container, run.attempt)),
    };
    Attempt { id, number: run.attempt, streak: run.streak, state, stop_deadline_ms: run.stop_deadline_ms }
}

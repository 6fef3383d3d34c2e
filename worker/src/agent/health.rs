//! The probes of a pod's containers: begun with a run, ended with it, and what they say taken in.

use k8s_openapi::api::core::v1::Container;
use trainyard_proto::plan::EventSeverity;
use trainyard_worker_core::pod::Probes;

use super::begin::run_mark;
use super::probe::{self, Kind, Verdict};
use super::stray;
use super::task::Task;
use crate::shim::{Beside, RunState};

impl Task {
    /// Probes of a run that has ended are no more: they would speak to whoever has its place. What they left behind is
    /// ended as well.
    pub(super) fn stop_probes_of_the_ended(&mut self) {
        for (name, live) in &mut self.live {
            let over = |run: &&RunState| live.probed == Some(run.attempt) && run.ending.is_some();
            let Some(run) = self.runs.get(name).and_then(|runs| runs.iter().find(over)) else { continue };
            let Some(probing) = live.probing.take() else { continue };
            probing.abort();
            // An engine takes them away with the container.
            if run.engine.is_none() {
                let mark = run_mark(&self.record.pod, name, run.attempt);
                tokio::task::spawn_blocking(move || stray::kill_marked(&mark));
            }
        }
    }

    /// The same of runs that ended while no agent was there to see it.
    pub(super) fn end_probes_of_an_earlier_agent(&mut self) {
        if std::mem::replace(&mut self.looked_back, true) {
            return;
        }
        let newest = self.runs.values().filter_map(|runs| runs.first());
        for run in newest.filter(|run| run.ending.is_some() && run.engine.is_none()) {
            if self.container(&run.container).is_some_and(runs_commands) {
                let mark = run_mark(&self.record.pod, &run.container, run.attempt);
                tokio::task::spawn_blocking(move || stray::kill_marked(&mark));
            }
        }
    }

    pub(super) fn start_probes(&mut self, run: &RunState) {
        let Some(process) = run.process else { return };
        let Some(container) = self.container(&run.container).cloned() else { return };
        let Some(live) = self.live.get_mut(&run.container) else { return };
        if live.probed == Some(run.attempt) {
            return;
        }
        live.probed = Some(run.attempt);
        if let Some(probing) = live.probing.take() {
            probing.abort();
        }
        live.probes = Probes {
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
            live: true,
        };
        if container.startup_probe.is_none()
            && container.readiness_probe.is_none()
            && container.liveness_probe.is_none()
        {
            return;
        }
        let target = probe::Target {
            container,
            attempt: run.attempt,
            ip: self.record.ip.clone(),
            beside: Beside { process, user: run.user.clone(), cgroup: run.cgroup.clone() },
            engine: run.engine.clone(),
            shim_program: self.shared.config.shim_program.clone(),
        };
        live.probing = Some(tokio::spawn(probe::run(target, self.verdict_sender.clone())));
    }

    /// Takes in what a probe has found.
    pub(super) fn judge(&mut self, verdict: &Verdict) {
        let Some(live) = self.live.get_mut(&verdict.container) else { return };
        if live.probed != Some(verdict.attempt) {
            return;
        }
        let name = match verdict.kind {
            Kind::Startup => {
                live.probes.started = verdict.good;
                live.probes.live &= verdict.good;
                "Startup"
            }
            Kind::Readiness => {
                live.probes.ready = verdict.good;
                "Readiness"
            }
            Kind::Liveness => {
                live.probes.live &= verdict.good;
                "Liveness"
            }
        };
        if !verdict.good {
            let message = format!("{name} probe failed: {}", verdict.why);
            self.shared.pod_event(&self.record.pod, EventSeverity::Warning, "Unhealthy", message);
        }
    }
}

/// Whether a container has probes that are commands.
fn runs_commands(container: &Container) -> bool {
    let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
    probes.into_iter().flatten().any(|probe| probe.exec.is_some())
}

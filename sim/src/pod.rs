//! The node agent's own core, asked about a pod whose containers the simulation runs as one process: what its status is,
//! whether it starts again, and whether it can run at all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use serde_json::Value;
use trainyard_proto::refusal::Refusal;
use trainyard_runtime_core::store::Object;
use trainyard_worker_core::pod::env::{NodeFacts, Sources};
use trainyard_worker_core::pod::volume::volume_plan;
use trainyard_worker_core::pod::{
    Attempt, AttemptState, BackOff, ContainerView, Ending, PodAction, PodPlan, PodView, Setup, plan,
};

/// Restarts in place are not spaced here: the time between them is of no interest to the controllers.
const AT_ONCE: BackOff = BackOff { base_ms: 0, max_ms: 0, reset_after_ms: i64::MAX };

/// One run of all containers of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// 0 for the first.
    pub(crate) number: u32,
    pub(crate) started_ms: i64,
    /// If it is over.
    pub(crate) exit_code: Option<i32>,
}

/// What the core says.
pub(crate) struct Answer {
    plan: PodPlan,
}

impl Answer {
    /// The status to write.
    pub(crate) fn status(&self) -> Value {
        let status: Option<&PodStatus> = self.plan.status.as_ref();
        status.map(serde_json::to_value).and_then(Result::ok).unwrap_or_default()
    }

    /// The phase in that.
    pub(crate) fn phase(&self) -> &str {
        self.plan.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
    }

    /// Whether a run is to begin.
    pub(crate) fn starts(&self) -> bool {
        self.plan.actions.iter().any(|action| matches!(action, PodAction::Start { .. }))
    }
}

/// Asks about a pod.
pub(crate) fn ask(object: &Object, run: Option<Run>, now_ms: i64) -> Answer {
    let pod: Pod = serde_json::from_value(object.value().clone()).expect("the server stores pods that read as such");
    let before = run.map(|run| Run { exit_code: Some(0), ..run });
    let of = |containers: &[Container], run: Option<Run>| {
        let seen = containers.iter().filter_map(|container| Some((container.name.clone(), view(run?, now_ms))));
        seen.collect::<BTreeMap<String, ContainerView>>()
    };
    let spec = pod.spec.as_ref();
    let mut containers = spec.map(|spec| of(&spec.containers, run)).unwrap_or_default();
    // Init containers have ended well by the time that the others run.
    containers.extend(spec.and_then(|spec| Some(of(spec.init_containers.as_ref()?, before))).unwrap_or_default());
    let setup = setup(&pod);
    let view = PodView {
        pod: &pod,
        gone: false,
        setup: &setup,
        containers: &containers,
        accepted_ms: run.map_or(now_ms, |run| run.started_ms),
        pod_ip: "127.0.0.2",
        host_ip: "127.0.0.1",
        back_off: AT_ONCE,
    };
    Answer { plan: plan(&view, now_ms) }
}

fn view(run: Run, now_ms: i64) -> ContainerView {
    let state = run.exit_code.map_or(AttemptState::Running { started_ms: run.started_ms }, |exit_code| {
        AttemptState::Ended(Ending {
            started_ms: Some(run.started_ms),
            finished_ms: now_ms,
            exit_code,
            signal: None,
            reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: String::new(),
            lost_log_lines: 0,
        })
    });
    let id = format!("process://{}", run.number);
    let last = Attempt { id, number: run.number, streak: 0, state, stop_deadline_ms: None };
    ContainerView { last: Some(last), ..ContainerView::default() }
}

/// A volume that the node can never provide is the refusal of these worlds.
fn setup(pod: &Pod) -> Setup {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let (sources, facts) = (Sources::default(), NodeFacts::default());
    let mut errors = volumes.filter_map(|volume| volume_plan(pod, volume, &sources, &facts).err());
    match errors.find(|error| !error.may_heal()) {
        Some(error) => {
            Setup::Refused { reason: Refusal::VolumeNotAvailable.reason().to_owned(), message: error.to_string() }
        }
        None => Setup::Ready,
    }
}

//! What the API says of a pod: phase, conditions, the state of each container.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::machine::{
    Course, Down, Policy, any_active, containers, ending, init_containers, is_sidecar, mains_begun, next_run, policy,
    runs_again,
};
use super::view::{Attempt, AttemptState, ContainerView, Ending, PodView, Setup};

/// The status of a pod on this course.
pub(super) fn status(view: &PodView<'_>, course: &Course, now_ms: i64) -> PodStatus {
    let old = view.pod.status.clone().unwrap_or_default();
    if *course == Course::Down(Down::Final) {
        return old;
    }
    let (phase, reason, message) = phase(view, course);
    let ran = view.containers.values().any(|container| container.last.is_some());
    let refused = matches!(course, Course::Down(Down::Refused { .. })) && !ran;
    let list = |containers: &[Container], init: bool| -> Option<Vec<ContainerStatus>> {
        (!containers.is_empty() && !refused)
            .then(|| containers.iter().map(|c| container_status(view, course, c, init, now_ms)).collect())
    };
    let container_statuses = list(containers(view.pod), false);
    let init_container_statuses = list(init_containers(view.pod), true);
    let conditions = conditions(view, &old, phase, container_statuses.as_deref().unwrap_or_default(), now_ms);
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses,
        init_container_statuses,
        host_ip: Some(view.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: view.host_ip.to_owned() }]),
        pod_ip: Some(view.pod_ip.to_owned()),
        pod_ips: Some(vec![PodIP { ip: view.pod_ip.to_owned() }]),
        start_time: Some(time(view.accepted_ms)),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(view.pod).to_owned())),
        observed_generation: view.pod.metadata.generation,
        ..old
    }
}

/// A moment as the API writes it: whole seconds.
pub(super) fn time(at_ms: i64) -> Time {
    Time(jiff::Timestamp::from_second(at_ms.div_euclid(1_000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// Phase, reason and message. A final phase is told only when nothing runs any more.
fn phase(view: &PodView<'_>, course: &Course) -> (&'static str, Option<String>, Option<String>) {
    let begun = mains_begun(view);
    let going = if begun { "Running" } else { "Pending" };
    let active = any_active(view);
    match course {
        Course::Up => (going, None, None),
        Course::Down(Down::Refused { reason, message }) => ("Failed", Some(reason.clone()), Some(message.clone())),
        Course::Down(Down::Overdue) => {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            let phase = if active { going } else { "Failed" };
            (phase, Some("DeadlineExceeded".to_owned()), Some(message))
        }
        Course::Down(Down::InitFailed) => (if active { "Pending" } else { "Failed" }, None, None),
        Course::Down(Down::Finished | Down::Deleted { .. } | Down::Gone | Down::Final) if active => (going, None, None),
        Course::Down(Down::Finished | Down::Deleted { .. } | Down::Gone | Down::Final) => (outcome(view), None, None),
    }
}

/// The phase of a pod whose containers have all ended.
fn outcome(view: &PodView<'_>) -> &'static str {
    if !mains_begun(view) {
        let failed = |c: &Container| ending(view.containers.get(&c.name)).is_some_and(|ending| ending.exit_code != 0);
        return if init_containers(view.pod).iter().any(failed) { "Failed" } else { "Pending" };
    }
    let all_good = containers(view.pod)
        .iter()
        .all(|c| ending(view.containers.get(&c.name)).is_some_and(|ending| ending.exit_code == 0));
    if all_good { "Succeeded" } else { "Failed" }
}

fn container_status(
    view: &PodView<'_>,
    course: &Course,
    container: &Container,
    init: bool,
    now_ms: i64,
) -> ContainerStatus {
    let unseen = ContainerView::default();
    let seen = view.containers.get(&container.name).unwrap_or(&unseen);
    let (state, mut last_state) = states(view, course, container, seen, init, now_ms);
    if last_state.is_none() {
        last_state = seen.previous.as_ref().and_then(|previous| match &previous.state {
            AttemptState::Ended(ending) => Some(terminated(previous, ending)),
            AttemptState::Starting | AttemptState::Running { .. } => None,
        });
    }
    let running = state.running.is_some();
    let completed = state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0);
    let ready =
        if init && !is_sidecar(container) { completed } else { running && seen.probes.started && seen.probes.ready };
    let container_id = seen.last.as_ref().filter(|_| state.waiting.is_none()).map(|last| last.id.clone());
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        container_id,
        ready,
        started: Some(running && seen.probes.started),
        restart_count: seen.last.as_ref().map_or(0, |last| i32::try_from(last.number).unwrap_or(i32::MAX)),
        state: Some(state),
        last_state,
        ..ContainerStatus::default()
    }
}

/// The state of a container now and, where that is a wait for the next run, the run before.
fn states(
    view: &PodView<'_>,
    course: &Course,
    container: &Container,
    seen: &ContainerView,
    init: bool,
    now_ms: i64,
) -> (ContainerState, Option<ContainerState>) {
    let Some(last) = &seen.last else {
        return (waiting_for_first(view, seen, init), None);
    };
    match &last.state {
        AttemptState::Starting => (waiting("ContainerCreating", None), None),
        AttemptState::Running { started_ms } => {
            let running = ContainerStateRunning { started_at: Some(time(*started_ms)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, None)
        }
        AttemptState::Ended(ending) => {
            let ended = terminated(last, ending);
            if *course != Course::Up || !runs_again(restart_policy(view.pod, container, init), ending.exit_code) {
                return (ended, None);
            }
            (waiting_for_next(view, container, seen, last, ending, now_ms), Some(ended))
        }
    }
}

fn restart_policy(pod: &Pod, container: &Container, init: bool) -> Policy {
    match (init, is_sidecar(container), policy(pod)) {
        (true, true, _) => Policy::Always,
        (true, false, Policy::Never) | (false, _, Policy::Never) => Policy::Never,
        (true, false, Policy::Always | Policy::OnFailure) | (false, _, Policy::OnFailure) => Policy::OnFailure,
        (false, _, Policy::Always) => Policy::Always,
    }
}

fn waiting_for_first(view: &PodView<'_>, seen: &ContainerView, init: bool) -> ContainerState {
    if let Some(blocked) = &seen.blocked {
        return waiting(&blocked.reason, Some(blocked.message.clone()));
    }
    match view.setup {
        Setup::Waiting { message, .. } => waiting("ContainerCreating", Some(message.clone())),
        Setup::Needed | Setup::Refused { .. } | Setup::Ready => {
            let initializing = init || !init_containers(view.pod).is_empty();
            waiting(if initializing { "PodInitializing" } else { "ContainerCreating" }, None)
        }
    }
}

fn waiting_for_next(
    view: &PodView<'_>,
    container: &Container,
    seen: &ContainerView,
    last: &Attempt,
    ending: &Ending,
    now_ms: i64,
) -> ContainerState {
    if let Some(blocked) = &seen.blocked {
        return waiting(&blocked.reason, Some(blocked.message.clone()));
    }
    let (due_ms, _) = next_run(view, last, ending);
    if ending.reason == "StartError" {
        return waiting("RunContainerError", Some(ending.message.clone()));
    }
    if now_ms >= due_ms {
        return waiting("ContainerCreating", None);
    }
    let meta = &view.pod.metadata;
    let message = format!(
        "back-off {}s restarting failed container={} pod={}_{}({})",
        (due_ms - ending.finished_ms) / 1_000,
        container.name,
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    );
    waiting("CrashLoopBackOff", Some(message))
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(attempt: &Attempt, ending: &Ending) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(attempt.id.clone()),
        exit_code: ending.exit_code,
        signal: ending.signal,
        reason: Some(ending.reason.clone()),
        message: (!ending.message.is_empty()).then(|| ending.message.clone()),
        started_at: Some(time(ending.started_ms.unwrap_or(ending.finished_ms))),
        finished_at: Some(time(ending.finished_ms)),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn conditions(
    view: &PodView<'_>,
    old: &PodStatus,
    phase: &str,
    statuses: &[ContainerStatus],
    now_ms: i64,
) -> Vec<PodCondition> {
    let done = phase == "Succeeded";
    let initialized = done
        || mains_begun(view)
        || init_containers(view.pod).iter().all(|c| {
            let seen = view.containers.get(&c.name);
            if is_sidecar(c) {
                seen.is_some_and(|seen| seen.last.is_some())
            } else {
                ending(seen).is_some_and(|ending| ending.exit_code == 0)
            }
        });
    let unready: Vec<&str> = statuses.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let ready = !statuses.is_empty() && unready.is_empty();
    let (not_ready, not_ready_message) = match phase {
        "Succeeded" => ("PodCompleted", None),
        "Failed" => ("PodFailed", None),
        _ => ("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" ")))),
    };
    let ready_why = (!ready).then(|| (not_ready.to_owned(), not_ready_message));
    let init_why = (!initialized).then(|| ("ContainersNotInitialized".to_owned(), None));
    let set_up = *view.setup == Setup::Ready || view.containers.values().any(|seen| seen.last.is_some());
    let ours = [
        ("PodReadyToStartContainers", set_up && phase != "Succeeded" && phase != "Failed", None),
        ("Initialized", initialized, if done { Some(("PodCompleted".to_owned(), None)) } else { init_why }),
        ("Ready", ready, ready_why.clone()),
        ("ContainersReady", ready, ready_why),
        ("PodScheduled", true, None),
    ];
    let known = old.conditions.as_deref().unwrap_or_default();
    let mut conditions: Vec<PodCondition> =
        known.iter().filter(|c| ours.iter().all(|(type_, ..)| *type_ != c.type_)).cloned().collect();
    for (type_, holds, why) in ours {
        let status = if holds { "True" } else { "False" };
        let before = known.iter().find(|c| c.type_ == type_ && c.status == status);
        let (reason, message) = why.unzip();
        conditions.push(PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message: message.flatten(),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or_else(|| Some(time(now_ms))),
            observed_generation: view.pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    conditions
}

/// How much of what it may use a pod has asked for.
fn qos_class(pod: &Pod) -> &'static str {
    let all = || containers(pod).iter().chain(init_containers(pod));
    let amounts = |c: &Container, limits: bool, resource: &str| {
        let resources = c.resources.as_ref()?;
        let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
        list.and_then(|list| list.get(resource)).map(|quantity| quantity.0.clone())
    };
    let any = all()
        .any(|c| ["cpu", "memory"].iter().any(|r| amounts(c, true, r).is_some() || amounts(c, false, r).is_some()));
    let full = all().all(|c| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = amounts(c, true, r);
            limit.is_some() && amounts(c, false, r).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, full) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

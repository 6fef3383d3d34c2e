//! The life of a pod as one pure function of what was observed: init containers in order, then the containers, each
//! restarted as its policy says; everything stopped when the pod is deleted, overdue or done.
//!
//! Invariants, cited by tests:
//! - PM-1: a run is begun only when the run before it has ended.
//! - PM-2: under `Never` no container has a second run.
//! - PM-3: nothing is started for a pod that is deleted, gone, overdue, refused or finished.
//! - PM-4: no container starts before the init containers before it are done.
//! - PM-5: planning again after the actions were carried out gives no actions.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::status;
use super::view::{Attempt, AttemptState, ContainerView, Ending, PodAction, PodPlan, PodView, Setup, StopReason};

/// Grace of pods that do not say (Kubernetes' default).
const DEFAULT_GRACE_MS: i64 = 30_000;
/// Grace of pods whose object is gone already: nobody waits for them, but files may want to be closed.
const GONE_GRACE_MS: i64 = 2_000;
/// Two stop deadlines closer than this are the same order.
const STOP_SLACK_MS: i64 = 500;

/// What a pod's restart policy says, or what stands in for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// Where the pod as a whole is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Containers are started and restarted.
    Up,
    /// Everything is taken down, or is down.
    Down(Down),
}

/// Why a pod is on its way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Down {
    Gone,
    Deleted {
        grace_ms: i64,
    },
    Refused {
        reason: String,
        message: String,
    },
    Overdue,
    InitFailed,
    Finished,
    /// The API already holds a final phase.
    Final,
}

/// Plans one pod. Total: a pod without a spec simply has nothing to run.
#[must_use]
pub fn plan(view: &PodView<'_>, now_ms: i64) -> PodPlan {
    let mut machine = Machine { view, now_ms, actions: Vec::new(), wake_at_ms: None };
    let course = course(view, now_ms);
    match &course {
        Course::Up => machine.go_up(),
        Course::Down(down) => machine.go_down(down),
    }
    machine.wake_for_deadline(&course);
    let status = (!view.gone).then(|| status::status(view, &course, now_ms));
    PodPlan { actions: machine.actions, status, wake_at_ms: machine.wake_at_ms }
}

/// Where the pod is going; the first reason that holds wins.
pub(super) fn course(view: &PodView<'_>, now_ms: i64) -> Course {
    let meta = &view.pod.metadata;
    if view.gone {
        return Course::Down(Down::Gone);
    }
    if meta.deletion_timestamp.is_some() {
        let grace_ms = meta.deletion_grace_period_seconds.unwrap_or(0).max(0).saturating_mul(1_000);
        return Course::Down(Down::Deleted { grace_ms });
    }
    if has_final_phase(view.pod) && !any_active(view) {
        return Course::Down(Down::Final);
    }
    if is_overdue(view, now_ms) {
        return Course::Down(Down::Overdue);
    }
    if init_failed(view) {
        return Course::Down(Down::InitFailed);
    }
    if all_done(view) {
        return Course::Down(Down::Finished);
    }
    // What runs was begun when the node could run it, by an earlier agent in another mode: it goes on to its end.
    if let Setup::Refused { reason, message } = view.setup
        && !any_active(view)
    {
        return Course::Down(Down::Refused { reason: reason.clone(), message: message.clone() });
    }
    Course::Up
}

fn has_final_phase(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether any run has not ended.
pub(super) fn any_active(view: &PodView<'_>) -> bool {
    view.containers.values().any(|container| container.last.as_ref().is_some_and(is_active))
}

pub(super) fn is_active(attempt: &Attempt) -> bool {
    match attempt.state {
        AttemptState::Starting | AttemptState::Running { .. } => true,
        AttemptState::Ended(_) => false,
    }
}

pub(super) fn ending(container: Option<&ContainerView>) -> Option<&Ending> {
    match &container?.last.as_ref()?.state {
        AttemptState::Ended(ending) => Some(ending),
        AttemptState::Starting | AttemptState::Running { .. } => None,
    }
}

fn deadline_ms(view: &PodView<'_>) -> Option<i64> {
    let seconds = view.pod.spec.as_ref()?.active_deadline_seconds?;
    Some(view.accepted_ms.saturating_add(seconds.saturating_mul(1_000)))
}

/// Overdue is a pod that was still running when its deadline came; one that was done before it never becomes so.
fn is_overdue(view: &PodView<'_>, now_ms: i64) -> bool {
    let Some(deadline) = deadline_ms(view) else { return false };
    if now_ms < deadline {
        return false;
    }
    let finished_before = (all_done(view) || init_failed(view))
        && !any_active(view)
        && view.containers.values().filter_map(|c| ending(Some(c))).all(|ending| ending.finished_ms < deadline);
    !finished_before
}

pub(super) fn policy(pod: &Pod) -> Policy {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => Policy::Never,
        Some("OnFailure") => Policy::OnFailure,
        _ => Policy::Always,
    }
}

pub(super) fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| spec.containers.as_slice())
}

pub(super) fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// An init container that stays (`restartPolicy: Always`).
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Once any container ran, the init containers are history: they are not run again.
pub(super) fn mains_begun(view: &PodView<'_>) -> bool {
    containers(view.pod).iter().any(|c| view.containers.get(&c.name).is_some_and(|seen| seen.last.is_some()))
}

fn init_failed(view: &PodView<'_>) -> bool {
    policy(view.pod) == Policy::Never
        && !mains_begun(view)
        && init_containers(view.pod)
            .iter()
            .filter(|container| !is_sidecar(container))
            .any(|container| ending(view.containers.get(&container.name)).is_some_and(|ending| ending.exit_code != 0))
}

/// Whether each container has ended and none will be run again.
fn all_done(view: &PodView<'_>) -> bool {
    let policy = policy(view.pod);
    let containers = containers(view.pod);
    !containers.is_empty()
        && containers.iter().all(|container| {
            ending(view.containers.get(&container.name)).is_some_and(|ending| !runs_again(policy, ending.exit_code))
        })
}

pub(super) fn runs_again(policy: Policy, exit_code: i32) -> bool {
    match policy {
        Policy::Always => true,
        Policy::OnFailure => exit_code != 0,
        Policy::Never => false,
    }
}

/// When the next run of an ended container is due, and how many failures precede it.
pub(super) fn next_run(view: &PodView<'_>, attempt: &Attempt, ending: &Ending) -> (i64, u32) {
    let ran_ms = ending.started_ms.map_or(0, |started| ending.finished_ms - started);
    let streak = if ran_ms >= view.back_off.reset_after_ms { 1 } else { attempt.streak.saturating_add(1) };
    (ending.finished_ms.saturating_add(view.back_off.delay_ms(streak)), streak)
}

struct Machine<'a> {
    view: &'a PodView<'a>,
    now_ms: i64,
    actions: Vec<PodAction>,
    wake_at_ms: Option<i64>,
}

impl Machine<'_> {
    fn wake_at(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    fn wake_for_deadline(&mut self, course: &Course) {
        if *course == Course::Up
            && let Some(deadline) = deadline_ms(self.view)
        {
            self.wake_at(deadline);
        }
    }

    fn go_up(&mut self) {
        match self.view.setup {
            Setup::Needed => self.actions.push(PodAction::SetUp),
            Setup::Waiting { retry_at_ms, .. } if self.now_ms >= *retry_at_ms => self.actions.push(PodAction::SetUp),
            Setup::Waiting { retry_at_ms, .. } => self.wake_at(*retry_at_ms),
            Setup::Ready => {
                if self.init_done() {
                    let policy = policy(self.view.pod);
                    for container in containers(self.view.pod) {
                        self.keep(container, policy);
                    }
                }
            }
            Setup::Refused { .. } => {}
        }
    }

    /// Drives the init containers; whether the containers may run.
    fn init_done(&mut self) -> bool {
        let begun = mains_begun(self.view);
        let retry = match policy(self.view.pod) {
            Policy::Never => Policy::Never,
            Policy::Always | Policy::OnFailure => Policy::OnFailure,
        };
        for container in init_containers(self.view.pod) {
            let seen = self.view.containers.get(&container.name);
            if is_sidecar(container) {
                self.keep(container, Policy::Always);
                let up = seen.is_some_and(|seen| {
                    seen.probes.started
                        && matches!(&seen.last, Some(Attempt { state: AttemptState::Running { .. }, .. }))
                });
                if !up && !begun {
                    return false;
                }
            } else if !begun && ending(seen).is_none_or(|ending| ending.exit_code != 0) {
                self.keep(container, retry);
                return false;
            }
        }
        true
    }

    /// Starts or restarts one container as far as it is due, and stops an unhealthy one.
    fn keep(&mut self, container: &Container, policy: Policy) {
        let unseen = ContainerView::default();
        let seen = self.view.containers.get(&container.name).unwrap_or(&unseen);
        let (due_ms, attempt, streak) = match &seen.last {
            None => (self.now_ms, 0, 0),
            Some(attempt) => match &attempt.state {
                AttemptState::Starting => return,
                AttemptState::Running { .. } => {
                    if !seen.probes.live {
                        self.stop(&container.name, attempt, termination_grace_ms(self.view.pod), StopReason::Unhealthy);
                    }
                    return;
                }
                AttemptState::Ended(ending) => {
                    if !runs_again(policy, ending.exit_code) {
                        return;
                    }
                    let (due_ms, streak) = next_run(self.view, attempt, ending);
                    (due_ms, attempt.number.saturating_add(1), streak)
                }
            },
        };
        let due_ms = seen.blocked.as_ref().map_or(due_ms, |blocked| due_ms.max(blocked.retry_at_ms));
        if self.now_ms < due_ms {
            self.wake_at(due_ms);
            return;
        }
        self.actions.push(PodAction::Start { container: container.name.clone(), attempt, streak });
    }

    fn go_down(&mut self, down: &Down) {
        let usual = termination_grace_ms(self.view.pod);
        let (grace_ms, reason) = match down {
            Down::Gone => (usual.min(GONE_GRACE_MS), StopReason::Deleted),
            Down::Deleted { grace_ms } => (*grace_ms, StopReason::Deleted),
            Down::Overdue => (usual, StopReason::Deadline),
            Down::Refused { .. } | Down::InitFailed | Down::Finished | Down::Final => (usual, StopReason::Finished),
        };
        for (name, container) in self.view.containers {
            if let Some(attempt) = container.last.as_ref().filter(|attempt| is_active(attempt)) {
                self.stop(name, attempt, grace_ms, reason);
            }
        }
        if any_active(self.view) {
            return;
        }
        match down {
            Down::Gone => self.actions.push(PodAction::RemoveFolder),
            Down::Deleted { .. } => self.actions.push(PodAction::RemoveObject),
            Down::Refused { .. } | Down::Overdue | Down::InitFailed | Down::Finished | Down::Final => {}
        }
    }

    /// Orders a stop, unless one that comes as soon was ordered before.
    fn stop(&mut self, container: &str, attempt: &Attempt, grace_ms: i64, reason: StopReason) {
        let deadline = self.now_ms.saturating_add(grace_ms);
        if attempt.stop_deadline_ms.is_some_and(|ordered| ordered <= deadline.saturating_add(STOP_SLACK_MS)) {
            return;
        }
        self.actions.push(PodAction::Stop {
            container: container.to_owned(),
            attempt: attempt.number,
            grace_ms,
            reason,
        });
    }
}

/// How long a pod's containers may take to end, in milliseconds.
#[must_use]
pub fn termination_grace_ms(pod: &Pod) -> i64 {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds.map_or(DEFAULT_GRACE_MS, |seconds| seconds.max(0).saturating_mul(1_000))
}

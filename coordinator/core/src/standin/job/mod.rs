//! `batch/v1` Job: parallelism, completions, Indexed mode, back-off, deadline, suspension, time to live.
//!
//! Invariants, cited in tests:
//! - BJ-1: a pod's end is counted once, whatever crashes in between. A pod carries the tracking finalizer until its
//!   end has been written to `status.uncountedTerminatedPods`; the count goes up when the finalizer is seen gone.
//! - BJ-2: at most `parallelism` pods are active, and never more than completions are missing.
//! - BJ-3: a finished Job stays finished, and no pod of it is active.
//! - BJ-4: with `backoffLimitPerIndex`, the failures of an index are forgotten by nobody: the last failed pod of an index
//!   is kept until its successor, which carries the count, is there.
//!
//! Not here: adoption of foreign pods.

mod build;
mod index;
mod policy;
mod retry;
mod tally;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, ObjectRef, Plan};

use super::object::{cut, event, exact_fence, fence, json_of, ms, name, object_ref, set_condition, time, uid};
use super::pod;
use crate::backoff;
use build::Slot;
use policy::Verdict;
use tally::Tally;

/// Keeps a pod until its end has been counted; the name that Kubernetes uses.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Longest delay before a failed pod is replaced, as Kubernetes documents.
const BACKOFF_LAST_MS: i64 = 360_000;

/// What a Job that has all its completions says.
const COMPLETED: &str = "Reached expected number of succeeded pods";

/// Everything observed about one Job name.
pub struct View<'a> {
    /// The Job; `None` once it is gone.
    pub job: Option<&'a Job>,
    /// Pods whose controller is a Job of this name, of this or an earlier incarnation.
    pub pods: Vec<&'a Pod>,
}

/// One Job during planning.
struct Turn<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    object: ObjectRef,
    pods: Vec<&'a Pod>,
    tally: Tally,
    conditions: Vec<Value>,
    start_ms: Option<i64>,
    completion_ms: Option<i64>,
    now_ms: i64,
    plan: Plan,
}

/// What the names of all pods of a Job begin with.
#[must_use]
pub fn pod_prefix(job: &str) -> &str {
    cut(job)
}

/// Decide about one Job name.
pub fn plan(view: &View<'_>, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let alive = view.job.filter(|job| job.metadata.deletion_timestamp.is_none());
    let (ours, strays): (Vec<&Pod>, Vec<&Pod>) =
        view.pods.iter().copied().partition(|pod| alive.is_some_and(|job| owned_by(pod, uid(&job.metadata))));
    // Nobody will count them any more.
    plan.actions.extend(
        strays.iter().filter(|pod| pod::has_finalizer(pod, FINALIZER)).map(|pod| pod::drop_finalizer(pod, FINALIZER)),
    );
    let Some(job) = alive else { return plan };
    let Some(spec) = &job.spec else { return plan };
    if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
        return plan;
    }
    let status = job.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).map(json_of);
    let is_over = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
        condition.status == "True" && ["FailureTarget", "SuccessCriteriaMet"].contains(&condition.type_.as_str())
    });
    let turn = Turn {
        job,
        spec,
        object: object_ref("batch/v1", "Job", &job.metadata),
        tally: Tally::of(job, spec, &ours, is_over),
        pods: ours,
        conditions: conditions.and_then(|all| all.as_array().cloned()).unwrap_or_default(),
        start_ms: status.and_then(|status| status.start_time.as_ref()).map(ms),
        completion_ms: status.and_then(|status| status.completion_time.as_ref()).map(ms),
        now_ms,
        plan,
    };
    turn.run()
}

fn owned_by(pod: &Pod, uid: &str) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

impl<'a> Turn<'a> {
    fn run(mut self) -> Plan {
        if let Some(since) = self.finished_ms() {
            self.after_the_end(since);
            return self.plan;
        }
        let mut effects = self.release_counted();
        if !self.is_set("FailureTarget") && !self.is_set("SuccessCriteriaMet") {
            self.judge();
        }
        if self.is_set("FailureTarget") || self.is_set("SuccessCriteriaMet") {
            effects.extend(self.wind_down());
        } else if self.spec.suspend == Some(true) {
            effects.extend(self.suspend());
        } else {
            self.resume();
            effects.extend(self.manage());
        }
        // The status goes first, and only onto the version that was looked at: a view that is out of date is refused
        // before it can make a pod.
        self.write_status();
        self.plan.actions.extend(effects);
        self.plan
    }

    fn is_set(&self, kind: &str) -> bool {
        self.conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
    }

    fn condition(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        set_condition(&mut self.conditions, kind, status, reason, message, "lastProbeTime", self.now_ms);
    }

    fn say(&mut self, severity: EventSeverity, reason: &str, message: String) {
        self.plan.actions.push(event(&self.object, &self.job.metadata, severity, reason, message));
    }

    fn active(&self) -> Vec<&'a Pod> {
        self.pods.iter().copied().filter(|pod| pod::active(pod)).collect()
    }

    fn finished_ms(&self) -> Option<i64> {
        let end = self.job.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| {
            condition.status == "True" && (condition.type_ == "Complete" || condition.type_ == "Failed")
        })?;
        Some(end.last_transition_time.as_ref().map_or(0, ms))
    }

    fn after_the_end(&mut self, since_ms: i64) {
        for pod in self.pods.iter().filter(|pod| pod::has_finalizer(pod, FINALIZER)) {
            self.plan.actions.push(pod::drop_finalizer(pod, FINALIZER));
        }
        for pod in self.active() {
            self.plan.actions.push(pod::delete(pod, "the Job has finished"));
        }
        let Some(ttl) = self.spec.ttl_seconds_after_finished else { return };
        let due = since_ms.saturating_add(i64::from(ttl) * 1000);
        if due > self.now_ms {
            self.plan.wake_at_ms = Some(due);
            return;
        }
        self.plan.actions.push(Action::Delete {
            object: self.object.clone(),
            fence: fence(&self.job.metadata),
            grace_seconds: None,
            reason: format!("ttlSecondsAfterFinished {ttl} is over"),
        });
    }

    /// BJ-1: what the stored status already lists may lose its finalizer.
    fn release_counted(&self) -> Vec<Action> {
        let settled = |pod: &&&Pod| self.tally.is_settled(uid(&pod.metadata)) && pod::has_finalizer(pod, FINALIZER);
        self.pods.iter().filter(settled).map(|pod| pod::drop_finalizer(pod, FINALIZER)).collect()
    }

    /// Has it succeeded or failed?
    fn judge(&mut self) {
        if let Some((reason, message)) = self.failure() {
            self.condition("FailureTarget", true, reason, &message);
            self.say(EventSeverity::Warning, reason, message);
        } else if let Some(rule) = self.tally.completed().and_then(|done| policy::success_rule(self.spec, done)) {
            let message = format!("Matched rules at index {rule}");
            self.condition("SuccessCriteriaMet", true, "SuccessPolicy", &message);
        } else if self.has_succeeded() {
            self.condition("SuccessCriteriaMet", true, "CompletionsReached", COMPLETED);
        }
    }

    fn has_succeeded(&self) -> bool {
        match self.spec.completions {
            Some(completions) => self.tally.succeeded() >= i64::from(completions),
            None if self.is_work_queue() => self.tally.succeeded() > 0 && self.active().is_empty(),
            None => self.tally.succeeded() >= 1,
        }
    }

    /// No completions but a parallelism: pods share a queue of work, and one success says that it is empty.
    fn is_work_queue(&self) -> bool {
        self.spec.completions.is_none() && self.spec.parallelism.is_some()
    }

    fn failure(&mut self) -> Option<(&'static str, String)> {
        let failed = self.pods.iter().filter(|pod| !pod::succeeded(pod) && policy::has_failed(self.spec, pod));
        for pod in failed {
            if let Verdict::FailJob(message) = policy::verdict(self.spec, pod) {
                return Some(("PodFailurePolicy", message));
            }
        }
        if let Some((refusal, pod)) = self.pods.iter().find_map(|pod| Some((pod::refusal(pod)?, *pod))) {
            let why =
                pod.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("its node cannot run it");
            let message = format!(
                "Pod {} was refused: {why}; correct the Job, delete it, and apply it again",
                name(&pod.metadata)
            );
            return Some((refusal.reason(), message));
        }
        if self.is_past_backoff_limit() {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
        }
        if self.is_past_deadline() {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
        }
        let failed = self.tally.failed_indexes()?;
        if self.spec.max_failed_indexes.is_some_and(|most| failed > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message.to_owned()));
        }
        let all = i64::from(self.spec.completions?);
        (failed > 0 && failed + self.tally.succeeded() >= all)
            .then(|| ("FailedIndexes", "Job has failed indexes".to_owned()))
    }

    fn is_past_backoff_limit(&self) -> bool {
        // A limit for each index stands in for the one of the Job, unless both are given.
        let default = if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        let limit = i64::from(self.spec.backoff_limit.unwrap_or(default));
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        // As documented: with OnFailure the restarts in the pods count, and the limit is there to be reached.
        let in_place = || self.active().iter().map(|pod| pod::restarts(pod)).sum::<i64>() >= limit.max(1);
        self.tally.failed() > limit || policy == Some("OnFailure") && in_place()
    }

    /// Whether it was active for too long; wakes when it will have been.
    fn is_past_deadline(&mut self) -> bool {
        let Some((deadline, start)) = self.spec.active_deadline_seconds.zip(self.start_ms) else { return false };
        if self.spec.suspend == Some(true) {
            return false;
        }
        let due = start.saturating_add(deadline.saturating_mul(1000));
        let past = self.now_ms >= due;
        if !past {
            self.wake_at(due);
        }
        past
    }

    fn wake_at(&mut self, at_ms: i64) {
        self.plan.wake_at_ms = Some(self.plan.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    /// The verdict stands: let the pods go, and say it when the last one is gone and counted.
    fn wind_down(&mut self) -> Vec<Action> {
        let active = self.active();
        let leaving = self.pods.iter().any(|pod| pod::leaving(pod) && !pod::succeeded(pod) && !pod::failed(pod));
        if !active.is_empty() || leaving || self.tally.is_unsettled() {
            return active.into_iter().map(|pod| pod::delete(pod, "the Job is over")).collect();
        }
        let said = |kind: &str| {
            let condition = self.conditions.iter().find(|condition| condition["type"] == kind)?;
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            Some((text("reason"), text("message")))
        };
        if let Some((reason, message)) = said("FailureTarget") {
            self.condition("Failed", true, &reason, &message);
        } else if let Some((reason, message)) = said("SuccessCriteriaMet") {
            self.completion_ms = Some(self.now_ms);
            self.condition("Complete", true, &reason, &message);
            self.say(EventSeverity::Normal, "Completed", "Job completed".to_owned());
        }
        Vec::new()
    }

    fn suspend(&mut self) -> Vec<Action> {
        if !self.is_set("Suspended") {
            self.condition("Suspended", true, "JobSuspended", "Job suspended");
            self.say(EventSeverity::Normal, "Suspended", "Job suspended".to_owned());
        }
        self.start_ms = None;
        self.active().into_iter().flat_map(|pod| withdraw(pod, "the Job is suspended")).collect()
    }

    fn resume(&mut self) {
        if self.is_set("Suspended") {
            self.condition("Suspended", false, "JobResumed", "Job resumed");
            self.say(EventSeverity::Normal, "Resumed", "Job resumed".to_owned());
            self.start_ms = None;
        }
        if self.start_ms.is_none() {
            self.start_ms = Some(self.now_ms);
            if let Some(deadline) = self.spec.active_deadline_seconds {
                self.wake_at(self.now_ms.saturating_add(deadline.saturating_mul(1000)));
            }
        }
    }

    /// BJ-2: as many active pods as there should be.
    fn manage(&mut self) -> Vec<Action> {
        let mut active = self.active();
        let mut effects = Vec::new();
        let parallelism = i64::from(self.spec.parallelism.unwrap_or(1));
        let wanted = match self.spec.completions {
            Some(completions) => {
                let ended = self.tally.succeeded() + self.tally.failed_indexes().unwrap_or(0);
                parallelism.min(i64::from(completions) - ended)
            }
            None if self.is_work_queue() && self.tally.succeeded() > 0 => {
                parallelism.min(i64::try_from(active.len()).unwrap_or(i64::MAX))
            }
            None => parallelism,
        };
        let wanted = usize::try_from(wanted.max(0)).unwrap_or(usize::MAX);
        if self.tally.is_indexed() {
            let surplus = index::surplus(&active, &self.tally.ended_indexes(), self.spec.completions.unwrap_or(0));
            effects.extend(surplus.iter().flat_map(|pod| withdraw(pod, "its index is not wanted")));
            active.retain(|pod| !surplus.iter().any(|one| std::ptr::eq(*one, *pod)));
        }
        if active.len() > wanted {
            // The ones that are least far go first.
            active.sort_by_key(|pod| (pod::ready_since_ms(pod).is_some(), pod::running(pod), pod::scheduled(pod)));
            let over = active.len() - wanted;
            effects.extend(active[..over].iter().flat_map(|pod| withdraw(pod, "parallelism went down")));
            return effects;
        }
        // A pod that is replaced only once it has ended keeps its place until then.
        active.extend(self.pods.iter().copied().filter(|pod| policy::blocks_place(self.spec, pod)));
        let missing = wanted.saturating_sub(active.len()).min(super::BURST);
        if missing == 0 {
            return effects;
        }
        let by_index = self.spec.backoff_limit_per_index.is_some();
        if let Some(due) = self.backoff_until().filter(|due| !by_index && *due > self.now_ms) {
            self.wake_at(due);
            return effects;
        }
        effects.extend(self.create(missing, &active));
        effects
    }

    /// Places for up to `missing` pods of an Indexed Job, lowest index first.
    fn slots(&mut self, missing: usize, active: &[&Pod]) -> Vec<Slot> {
        let completions = self.spec.completions.unwrap_or(0);
        let mut busy = self.tally.ended_indexes();
        busy.extend(active.iter().filter_map(|pod| index::of(pod, completions)));
        let mut slots = Vec::new();
        for index in busy.absent(completions).take(missing) {
            let (failures, due) = retry::next(self.spec, index, &self.pods).unzip();
            match due.flatten().filter(|due| *due > self.now_ms) {
                Some(due) => self.wake_at(due),
                None => slots.push(Slot { index, failures }),
            }
        }
        slots
    }

    fn create(&mut self, missing: usize, active: &[&Pod]) -> Vec<Action> {
        let slots: Vec<Option<Slot>> = if self.tally.is_indexed() {
            self.slots(missing, active).into_iter().map(Some).collect()
        } else {
            vec![None; missing]
        };
        let mut taken: Vec<String> = self.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let era = self.start_ms.unwrap_or_default();
        let mut effects = Vec::new();
        for slot in slots {
            let action = build::pod(self.job, self.spec, &self.object, slot, era, &mut taken);
            effects.push(action);
        }
        let names = &taken[taken.len() - effects.len()..];
        for name in names {
            effects.push(event(
                &self.object,
                &self.job.metadata,
                EventSeverity::Normal,
                "SuccessfulCreate",
                format!("Created pod: {name}"),
            ));
        }
        effects
    }

    /// When the next pod may be made after failures in a row.
    fn backoff_until(&self) -> Option<i64> {
        let last_success = self.pods.iter().filter(|pod| pod::succeeded(pod)).map(|pod| pod::finished_ms(pod)).max();
        let failures: Vec<i64> = self
            .pods
            .iter()
            .filter(|pod| pod::failed(pod))
            .map(|pod| pod::finished_ms(pod))
            .filter(|at| last_success.is_none_or(|success| *at >= success))
            .collect();
        let last = failures.iter().max()?;
        let before = i32::try_from(failures.len().saturating_sub(1)).unwrap_or(i32::MAX);
        Some(last.saturating_add(backoff_ms(before)))
    }

    fn write_status(&mut self) {
        let old = self.job.status.as_ref().map(json_of).unwrap_or_else(|| json!({}));
        let mut new = old.clone();
        let ready = self.pods.iter().filter(|pod| pod::active(pod) && pod::ready_since_ms(pod).is_some()).count();
        let terminating =
            self.pods.iter().filter(|pod| pod::leaving(pod) && !pod::succeeded(pod) && !pod::failed(pod)).count();
        new["active"] = json!(self.active().len());
        new["ready"] = json!(ready);
        new["terminating"] = json!(terminating);
        self.tally.write(&mut new);
        new["conditions"] = if self.conditions.is_empty() { Value::Null } else { json!(self.conditions) };
        let stamps = [
            ("startTime", self.start_ms, self.job.status.as_ref().and_then(|status| status.start_time.as_ref())),
            ("completionTime", self.completion_ms, self.job.status.as_ref().and_then(|s| s.completion_time.as_ref())),
        ];
        for (field, at, known) in stamps {
            if known.map(ms) != at {
                new[field] = at.map_or(Value::Null, |at| json!(time(at)));
            }
        }
        // A count of nothing is not written into an empty status.
        let zero = ["active", "ready", "terminating", "succeeded", "failed"];
        if let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) {
            new.retain(|key, value| {
                !(zero.contains(&key.as_str()) && value == 0 || value.is_null()) || old.contains_key(key)
            });
        }
        if let Some(change) = crate::merge::difference(&old, &new) {
            self.plan.actions.insert(
                0,
                Action::PatchStatus {
                    object: self.object.clone(),
                    fence: exact_fence(&self.job.metadata),
                    patch: json!({"status": change}),
                },
            );
        }
    }
}

/// The delay after a failure that so many others came before.
fn backoff_ms(before: i32) -> i64 {
    backoff::doubled_ms(u32::try_from(before).unwrap_or(0), BACKOFF_LAST_MS)
}

/// Take a pod away without its end being counted as a failure.
fn withdraw(pod: &Pod, reason: &str) -> Vec<Action> {
    let release = pod::has_finalizer(pod, FINALIZER).then(|| pod::drop_finalizer(pod, FINALIZER));
    release.into_iter().chain([pod::delete(pod, reason)]).collect()
}

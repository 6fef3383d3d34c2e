//! `batch/v1` Job: parallelism, completions, Indexed mode, back-off, deadline, suspension, time to live.
//!
//! Invariants, cited in tests:
//! - BJ-1: a pod's end is counted once, whatever crashes in between. A pod carries the tracking finalizer until its
//!   end has been written to `status.uncountedTerminatedPods`; the count goes up when the finalizer is seen gone.
//! - BJ-2: at most `parallelism` pods are active, and never more than completions are missing.
//! - BJ-3: a finished Job stays finished, and no pod of it is active.
//!
//! Not here: `podFailurePolicy`, `backoffLimitPerIndex`, `successPolicy`, adoption of foreign pods.

mod build;
mod index;
mod tally;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, ObjectRef, Plan};

use super::object::{cut, event, exact_fence, fence, json_of, merge_diff, ms, object_ref, set_condition, time, uid};
use super::pod;
use tally::Tally;

/// Keeps a pod until its end has been counted; the name that Kubernetes uses.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// First delay before a failed pod is replaced; doubled with each further failure in a row, as Kubernetes documents.
const BACKOFF_FIRST_MS: i64 = 10_000;
/// Longest delay, as Kubernetes documents.
const BACKOFF_LAST_MS: i64 = 360_000;

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
    let turn = Turn {
        job,
        spec,
        object: object_ref("batch/v1", "Job", &job.metadata),
        tally: Tally::of(job, spec, &ours),
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
        let listed = |pod: &&&Pod| self.tally.is_listed(uid(&pod.metadata)) && pod::has_finalizer(pod, FINALIZER);
        self.pods.iter().filter(listed).map(|pod| pod::drop_finalizer(pod, FINALIZER)).collect()
    }

    /// Has it succeeded or failed?
    fn judge(&mut self) {
        if let Some((reason, message)) = self.failure() {
            self.condition("FailureTarget", true, reason, &message);
            self.say(EventSeverity::Warning, reason, message);
        } else if self.has_succeeded() {
            self.condition(
                "SuccessCriteriaMet",
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            );
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
        let limit = i64::from(self.spec.backoff_limit.unwrap_or(6));
        if self.tally.failed() > limit {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
        }
        let in_place = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if in_place == Some("OnFailure") {
            let restarts: i64 = self.active().iter().map(|pod| pod::restarts(pod)).sum();
            if if limit == 0 { restarts > 0 } else { restarts >= limit } {
                return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
            }
        }
        let (deadline, start) = (self.spec.active_deadline_seconds?, self.start_ms?);
        if self.spec.suspend == Some(true) {
            return None;
        }
        let due = start.saturating_add(deadline.saturating_mul(1000));
        if self.now_ms >= due {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
        }
        self.wake_at(due);
        None
    }

    fn wake_at(&mut self, at_ms: i64) {
        self.plan.wake_at_ms = Some(self.plan.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    /// The verdict stands: let the pods go, and say it when the last one is gone and counted.
    fn wind_down(&mut self) -> Vec<Action> {
        let active = self.active();
        let leaving = self.pods.iter().any(|pod| pod::leaving(pod) && !pod::succeeded(pod) && !pod::failed(pod));
        if !active.is_empty() || leaving || self.tally.has_uncounted() {
            return active.into_iter().map(|pod| pod::delete(pod, "the Job is over")).collect();
        }
        if let Some(target) = self.conditions.iter().find(|condition| condition["type"] == "FailureTarget").cloned() {
            let reason = target["reason"].as_str().unwrap_or_default();
            self.condition("Failed", true, reason, target["message"].as_str().unwrap_or_default());
        } else {
            self.completion_ms = Some(self.now_ms);
            let message = "Reached expected number of succeeded pods";
            self.condition("Complete", true, "CompletionsReached", message);
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
            Some(completions) => parallelism.min(i64::from(completions) - self.tally.succeeded()),
            None if self.is_work_queue() && self.tally.succeeded() > 0 => {
                parallelism.min(i64::try_from(active.len()).unwrap_or(i64::MAX))
            }
            None => parallelism,
        };
        let wanted = usize::try_from(wanted.max(0)).unwrap_or(usize::MAX);
        if self.tally.is_indexed() {
            let surplus = index::surplus(&active, &self.tally, self.spec.completions.unwrap_or(0));
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
        let missing = (wanted - active.len()).min(super::BURST);
        if missing == 0 {
            return effects;
        }
        if let Some(due) = self.backoff_until().filter(|due| *due > self.now_ms) {
            self.wake_at(due);
            return effects;
        }
        effects.extend(self.create(missing, &active));
        effects
    }

    fn create(&mut self, missing: usize, active: &[&Pod]) -> Vec<Action> {
        let indexes: Vec<Option<i32>> = if self.tally.is_indexed() {
            index::missing(active, &self.tally, self.spec.completions.unwrap_or(0)).take(missing).map(Some).collect()
        } else {
            vec![None; missing]
        };
        let mut taken: Vec<String> = self.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let era = self.start_ms.unwrap_or_default();
        let mut effects = Vec::new();
        for index in indexes {
            let action = build::pod(self.job, self.spec, &self.object, index, era, &mut taken);
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
        let doublings = u32::try_from(failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(10);
        Some(last + (BACKOFF_FIRST_MS << doublings).min(BACKOFF_LAST_MS))
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
        if let Some(change) = merge_diff(&old, &new) {
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

/// Take a pod away without its end being counted as a failure.
fn withdraw(pod: &Pod, reason: &str) -> Vec<Action> {
    let release = pod::has_finalizer(pod, FINALIZER).then(|| pod::drop_finalizer(pod, FINALIZER));
    release.into_iter().chain([pod::delete(pod, reason)]).collect()
}

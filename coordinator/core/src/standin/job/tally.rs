//! Counting ends exactly once (BJ-1).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::super::object::uid;
use super::super::pod;
use super::{FINALIZER, index};

/// What the stored status and the pods together say about ends.
pub(super) struct Tally {
    counted_succeeded: i64,
    counted_failed: i64,
    /// Listed in the stored status.
    listed: BTreeSet<String>,
    /// Will be listed in the status now written.
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// Indexed mode: indexes that have succeeded.
    completed: Option<BTreeSet<i32>>,
}

impl Tally {
    pub(super) fn of(job: &Job, spec: &JobSpec, pods: &[&Pod]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
        let stored_succeeded: BTreeSet<String> = uncounted.succeeded.into_iter().flatten().collect();
        let stored_failed: BTreeSet<String> = uncounted.failed.into_iter().flatten().collect();
        let held: BTreeMap<&str, &Pod> = pods
            .iter()
            .filter(|pod| pod::has_finalizer(pod, FINALIZER))
            .map(|pod| (uid(&pod.metadata), *pod))
            .collect();
        let is_held = |uid: &&String| held.contains_key(uid.as_str());
        let mut this = Self {
            counted_succeeded: i64::from(status.succeeded.unwrap_or(0)),
            counted_failed: i64::from(status.failed.unwrap_or(0)),
            uncounted_succeeded: stored_succeeded.iter().filter(is_held).cloned().collect(),
            uncounted_failed: stored_failed.iter().filter(is_held).cloned().collect(),
            listed: stored_succeeded.union(&stored_failed).cloned().collect(),
            completed: None,
        };
        this.counted_succeeded += count(stored_succeeded.len() - this.uncounted_succeeded.len());
        this.counted_failed += count(stored_failed.len() - this.uncounted_failed.len());
        for (uid, pod) in held.iter().filter(|(uid, _)| !this.listed.contains(**uid)) {
            if pod::succeeded(pod) {
                this.uncounted_succeeded.insert((*uid).to_owned());
            } else if pod::failed(pod) || pod::leaving(pod) {
                this.uncounted_failed.insert((*uid).to_owned());
            }
        }
        if spec.completion_mode.as_deref() == Some("Indexed") {
            let mut completed = index::parse(status.completed_indexes.as_deref().unwrap_or_default());
            completed.extend(pods.iter().filter(|pod| pod::succeeded(pod)).filter_map(|pod| index::of(pod)));
            completed.retain(|index| *index < spec.completions.unwrap_or(0));
            this.completed = Some(completed);
        }
        this
    }

    pub(super) fn is_listed(&self, uid: &str) -> bool {
        self.listed.contains(uid)
    }

    pub(super) fn has_uncounted(&self) -> bool {
        !self.uncounted_succeeded.is_empty() || !self.uncounted_failed.is_empty()
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.completed.is_some()
    }

    pub(super) fn is_completed(&self, index: i32) -> bool {
        self.completed.as_ref().is_some_and(|completed| completed.contains(&index))
    }

    /// Successes, counted or not: in Indexed mode each index once.
    pub(super) fn succeeded(&self) -> i64 {
        match &self.completed {
            Some(completed) => count(completed.len()),
            None => self.counted_succeeded + count(self.uncounted_succeeded.len()),
        }
    }

    /// Failures, counted or not.
    pub(super) fn failed(&self) -> i64 {
        self.counted_failed + count(self.uncounted_failed.len())
    }

    pub(super) fn write(&self, status: &mut Value) {
        status["succeeded"] = match &self.completed {
            Some(completed) => json!(completed.len()),
            None => json!(self.counted_succeeded),
        };
        status["failed"] = json!(self.counted_failed);
        status["uncountedTerminatedPods"] = if self.has_uncounted() {
            let mut lists = json!({});
            for (field, uids) in [("succeeded", &self.uncounted_succeeded), ("failed", &self.uncounted_failed)] {
                if !uids.is_empty() {
                    lists[field] = json!(uids);
                }
            }
            lists
        } else {
            Value::Null
        };
        if let Some(completed) = self.completed.as_ref().filter(|completed| !completed.is_empty()) {
            status["completedIndexes"] = json!(index::format(completed));
        }
    }
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

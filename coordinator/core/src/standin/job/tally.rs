//! Counting ends exactly once (BJ-1).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::super::object::uid;
use super::super::pod;
use super::index::{self, Indexes};
use super::policy::{self, Verdict};
use super::{FINALIZER, retry};

/// What the stored status and the pods together say about ends.
pub(super) struct Tally {
    counted_succeeded: i64,
    counted_failed: i64,
    /// Listed in the stored status.
    listed: BTreeSet<String>,
    /// Will be listed in the status now written.
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// Ended in a way that does not count: may go without having been listed.
    ignored: BTreeSet<String>,
    /// Failed, and kept until the next pod of their index knows of it.
    kept: BTreeSet<String>,
    /// Indexed mode: indexes that have succeeded.
    completed: Option<Indexes>,
    /// With a limit for each index: indexes that have failed.
    failed_indexes: Option<Indexes>,
}

impl Tally {
    /// `is_over` says that the verdict on the Job stands, so that nothing is started again.
    pub(super) fn of(job: &Job, spec: &JobSpec, pods: &[&Pod], is_over: bool) -> Self {
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
            ignored: BTreeSet::new(),
            kept: BTreeSet::new(),
            completed: None,
            failed_indexes: None,
        };
        this.counted_succeeded += count(stored_succeeded.len() - this.uncounted_succeeded.len());
        this.counted_failed += count(stored_failed.len() - this.uncounted_failed.len());
        this.read_indexes(job, spec, pods);
        for (uid, pod) in &held {
            if this.listed.contains(*uid) {
                continue;
            }
            if pod::succeeded(pod) {
                this.uncounted_succeeded.insert((*uid).to_owned());
            } else if policy::has_failed(spec, pod) {
                this.take_failure(uid, pod, spec, pods, is_over);
            }
        }
        this
    }

    fn take_failure(&mut self, uid: &str, pod: &Pod, spec: &JobSpec, pods: &[&Pod], is_over: bool) {
        let into = if !is_over && retry::is_awaited(spec, pod, pods, &self.ended_indexes()) {
            &mut self.kept
        } else {
            match policy::verdict(spec, pod) {
                Verdict::Ignore => &mut self.ignored,
                Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => &mut self.uncounted_failed,
            }
        };
        into.insert(uid.to_owned());
    }

    fn read_indexes(&mut self, job: &Job, spec: &JobSpec, pods: &[&Pod]) {
        if spec.completion_mode.as_deref() != Some("Indexed") {
            return;
        }
        let completions = spec.completions.unwrap_or(0);
        let status = job.status.as_ref();
        let stored = |text: Option<&String>| Indexes::parse(text.map(String::as_str).unwrap_or_default(), completions);
        let mut completed = stored(status.and_then(|status| status.completed_indexes.as_ref()));
        completed.extend(pods.iter().filter(|pod| pod::succeeded(pod)).filter_map(|pod| index::of(pod, completions)));
        self.completed = Some(completed);
        if spec.backoff_limit_per_index.is_some() {
            let mut failed = stored(status.and_then(|status| status.failed_indexes.as_ref()));
            let fails = |pod: &&&Pod| {
                pod::has_finalizer(pod, FINALIZER)
                    && policy::has_failed(spec, pod)
                    && !pod::succeeded(pod)
                    && retry::fails_index(spec, pod)
            };
            failed.extend(pods.iter().filter(fails).filter_map(|pod| index::of(pod, completions)));
            self.failed_indexes = Some(failed);
        }
    }

    /// Whether a pod may lose its finalizer: its end is on record, or does not count.
    pub(super) fn is_settled(&self, uid: &str) -> bool {
        self.listed.contains(uid) || self.ignored.contains(uid)
    }

    /// Whether ends of pods are still to be counted.
    pub(super) fn is_unsettled(&self) -> bool {
        self.has_uncounted() || !self.kept.is_empty()
    }

    fn has_uncounted(&self) -> bool {
        !self.uncounted_succeeded.is_empty() || !self.uncounted_failed.is_empty()
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.completed.is_some()
    }

    /// Indexed mode: indexes that have succeeded.
    pub(super) fn completed(&self) -> Option<&Indexes> {
        self.completed.as_ref()
    }

    /// How many indexes have failed, where that is counted.
    pub(super) fn failed_indexes(&self) -> Option<i64> {
        self.failed_indexes.as_ref().map(Indexes::len)
    }

    /// Indexes that need no more pods.
    pub(super) fn ended_indexes(&self) -> Indexes {
        let mut ended = self.completed.clone().unwrap_or_default();
        if let Some(failed) = &self.failed_indexes {
            ended.unite(failed);
        }
        ended
    }

    /// Successes, counted or not: in Indexed mode each index once.
    pub(super) fn succeeded(&self) -> i64 {
        match &self.completed {
            Some(completed) => completed.len(),
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
            status["completedIndexes"] = json!(completed.text());
        }
        if let Some(failed) = &self.failed_indexes {
            status["failedIndexes"] = json!(failed.text());
        }
    }
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

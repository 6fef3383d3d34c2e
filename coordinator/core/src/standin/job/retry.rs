//! `backoffLimitPerIndex`: each index has failures of its own.
//!
//! A pod carries how often its index failed before it. The last failed pod of an index is kept until its successor, which
//! carries one more, is there: so nothing is forgotten, whatever crashes in between.

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use super::super::pod;
use super::index::{self, Indexes};
use super::policy::{self, Verdict};

/// Annotation: how often the index failed before.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: how often it failed in a way that does not count.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Failures of an index so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
}

impl Failures {
    /// Before this pod.
    pub(super) fn before(pod: &Pod) -> Self {
        let number = |name: &str| -> i32 {
            let annotations = pod.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(name)?.parse().ok()).unwrap_or(0)
        };
        Self { counted: number(FAILURES), ignored: number(IGNORED) }
    }

    /// With the failure of this pod.
    fn after(spec: &JobSpec, pod: &Pod) -> Self {
        let Self { counted, ignored } = Self::before(pod);
        match policy::verdict(spec, pod) {
            Verdict::Ignore => Self { counted, ignored: ignored.saturating_add(1) },
            Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => {
                Self { counted: counted.saturating_add(1), ignored }
            }
        }
    }

    pub(super) const fn total(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

/// Whether a failed pod's failure is its index's.
pub(super) fn fails_index(spec: &JobSpec, pod: &Pod) -> bool {
    let Some(limit) = spec.backoff_limit_per_index else { return false };
    match policy::verdict(spec, pod) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => Failures::before(pod).counted >= limit,
    }
}

/// Whether a failed pod has no successor yet that knows of its failure, and will have one.
pub(super) fn is_awaited(spec: &JobSpec, pod: &Pod, pods: &[&Pod], over: &Indexes) -> bool {
    let completions = spec.completions.unwrap_or(0);
    let Some(index) = index::of(pod, completions).filter(|_| spec.backoff_limit_per_index.is_some()) else {
        return false;
    };
    let failures = Failures::before(pod).total();
    let later =
        |other: &&Pod| index::of(other, completions) == Some(index) && Failures::before(other).total() > failures;
    !over.contains(index) && !pods.iter().any(later)
}

/// What the next pod of an index is to know, and when it may come.
pub(super) fn next(spec: &JobSpec, index: i32, pods: &[&Pod]) -> Option<(Failures, Option<i64>)> {
    spec.backoff_limit_per_index?;
    let completions = spec.completions.unwrap_or(0);
    let of_index = pods.iter().filter(|pod| index::of(pod, completions) == Some(index));
    // What we took away ourselves has no finalizer, and did not fail.
    let held = of_index.filter(|pod| pod::has_finalizer(pod, super::FINALIZER));
    let last = held.filter(|pod| policy::has_failed(spec, pod)).max_by_key(|pod| Failures::before(pod).total());
    Some(last.map_or((Failures::default(), None), |pod| {
        let delay = super::backoff_ms(Failures::before(pod).total());
        (Failures::after(spec, pod), Some(pod::finished_ms(pod).saturating_add(delay)))
    }))
}

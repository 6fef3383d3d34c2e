//! What the store counts. One process has one store.

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::Metrics;

/// Counters of the store of this process.
#[derive(Debug)]
pub(super) struct StoreMetrics {
    pub(super) commits: Counter,
    pub(super) writes: Counter,
    pub(super) failures: Counter,
    pub(super) seconds: Histogram,
}

static METRICS: LazyLock<StoreMetrics> = LazyLock::new(|| StoreMetrics {
    commits: Counter::default(),
    writes: Counter::default(),
    failures: Counter::default(),
    seconds: Histogram::new([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.25, 1.0]),
});

pub(super) fn metrics() -> &'static StoreMetrics {
    &METRICS
}

/// Shows what the store counts on the page of `page`.
pub fn register(page: &Metrics) {
    page.register(|registry| {
        let registry = registry.sub_registry_with_prefix("trainyard_store");
        registry.register("commits", "Durable commits", METRICS.commits.clone());
        registry.register("writes", "Commands in those commits", METRICS.writes.clone());
        registry.register("commit_failures", "Commits that the disk refused", METRICS.failures.clone());
        registry.register("commit_seconds", "Time of a commit, with its fsync", METRICS.seconds.clone());
    });
}

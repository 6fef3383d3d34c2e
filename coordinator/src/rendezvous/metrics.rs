//! What rendezvous count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use trainyard_coordinator_core::rendezvous::{Happened, LastFailure};
use trainyard_runtime::metrics::Metrics;

/// From a spare that takes over at once to a node that has to be found.
const SECONDS: [f64; 15] = [0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InvariantLabel {
    invariant: String,
}

/// Counters of all rendezvous. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct RendezvousMetrics {
    generations: Counter,
    adopted: Counter,
    failures: Family<CauseLabel, Counter>,
    hangs: Counter,
    stragglers: Counter,
    recovery: Histogram,
    violations: Family<InvariantLabel, Counter>,
    pub(crate) open: Gauge,
    pub(crate) members: Gauge,
    pub(crate) missing: Gauge,
}

impl Default for RendezvousMetrics {
    fn default() -> Self {
        Self {
            generations: Counter::default(),
            adopted: Counter::default(),
            failures: Family::default(),
            hangs: Counter::default(),
            stragglers: Counter::default(),
            recovery: Histogram::new(SECONDS),
            violations: Family::default(),
            open: Gauge::default(),
            members: Gauge::default(),
            missing: Gauge::default(),
        }
    }
}

impl RendezvousMetrics {
    /// Counts what happened.
    pub(crate) fn count(&self, happened: &Happened) {
        match happened {
            Happened::Failed(LastFailure { cause, .. }) => {
                self.failures.get_or_create(&CauseLabel { cause: cause.word() }).inc();
            }
            Happened::Formed { adopted: true, .. } => {
                self.adopted.inc();
            }
            Happened::Formed { adopted: false, .. } => {
                self.generations.inc();
            }
            Happened::Ready { recovered_ms: Some(ms), .. } => {
                self.recovery.observe(std::time::Duration::from_millis(ms.unsigned_abs()).as_secs_f64());
            }
            Happened::Hangs { .. } => {
                self.hangs.inc();
            }
            Happened::Straggles(_) => {
                self.stragglers.inc();
            }
            Happened::Broken(words) => {
                // `R-2: generation …`: the label alone is bounded.
                let invariant = words.split(':').next().unwrap_or_default().to_owned();
                self.violations.get_or_create(&InvariantLabel { invariant }).inc();
            }
            // One that was blamed later was counted when it was told.
            Happened::Ready { recovered_ms: None, .. }
            | Happened::Blamed(_)
            | Happened::KeepsUp { .. }
            | Happened::Ended(_) => {}
        }
    }

    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("trainyard_rendezvous");
            registry.register("generations", "Generations of ranks that were ordered", self.generations.clone());
            registry.register(
                "adopted",
                "Generations that ran when this process came to know them",
                self.adopted.clone(),
            );
            registry.register("failures", "Failures of ranks by cause", self.failures.clone());
            registry.register("hangs", "Ranks that were found to stand still", self.hangs.clone());
            registry.register("stragglers", "Ranks that were found to make others wait", self.stragglers.clone());
            registry.register(
                "recovery_seconds",
                "Time from a failure until all ranks of the next generation were started",
                self.recovery.clone(),
            );
            registry.register(
                "invariant_violations",
                "Invariants of the rendezvous that did not hold; each is a bug",
                self.violations.clone(),
            );
            registry.register("open", "Jobs whose launchers meet", self.open.clone());
            registry.register("members", "Launchers that take part", self.members.clone());
            registry.register("missing", "Launchers that are awaited", self.missing.clone());
        });
    }
}

//! What the driver counts. Registered once by whoever serves `/metrics`.

use std::sync::LazyLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::Metrics;

/// Which controller.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ControllerLabel {
    /// Its name, as in logs.
    pub controller: &'static str,
}

/// Which controller did what to which kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ActionLabel {
    /// Its name, as in logs.
    pub controller: &'static str,
    /// `create`, `delete`, `patch`, `patchStatus`, `bind`, `event`.
    pub action: &'static str,
}

/// Counters of all controllers in this process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct DriverMetrics {
    /// Plans made.
    pub plans: Family<ControllerLabel, Counter>,
    /// Keys that wait to be planned.
    pub waiting: Family<ControllerLabel, Gauge>,
    /// Actions carried out.
    pub actions: Family<ActionLabel, Counter>,
    /// Actions that failed and are tried again.
    pub errors: Family<ControllerLabel, Counter>,
    /// Plans put off until a cache has shown our own writes.
    pub deferred: Family<ControllerLabel, Counter>,
    /// Writes that no cache showed in time; more than none means a broken watch.
    pub expectations_expired: Family<ControllerLabel, Counter>,
    /// Events dropped because the recorder was behind.
    pub events_dropped: Counter,
    /// Seconds from the plan to its last action.
    pub apply_seconds: Family<ControllerLabel, Histogram, fn() -> Histogram>,
}

fn seconds() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0])
}

static METRICS: LazyLock<DriverMetrics> = LazyLock::new(|| DriverMetrics {
    plans: Family::default(),
    waiting: Family::default(),
    actions: Family::default(),
    errors: Family::default(),
    deferred: Family::default(),
    expectations_expired: Family::default(),
    events_dropped: Counter::default(),
    apply_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
});

/// The metrics of this process.
pub fn metrics() -> &'static DriverMetrics {
    &METRICS
}

impl DriverMetrics {
    /// Show them on the page of `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("trainyard_controller");
            registry.register("plans", "Plans made", self.plans.clone());
            registry.register("waiting", "Keys that wait to be planned", self.waiting.clone());
            registry.register("actions", "Actions carried out", self.actions.clone());
            registry.register("errors", "Actions that failed and are tried again", self.errors.clone());
            registry.register("deferred", "Plans put off until a cache showed our own writes", self.deferred.clone());
            registry.register(
                "expectations_expired",
                "Writes that no cache showed in time",
                self.expectations_expired.clone(),
            );
            registry.register(
                "events_dropped",
                "Events dropped because the recorder was behind",
                self.events_dropped.clone(),
            );
            registry.register("apply_seconds", "Time to carry a plan out", self.apply_seconds.clone());
        });
    }
}

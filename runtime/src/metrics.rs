//! The one Prometheus registry of a process. Every shell registers its metrics here; `/metrics` prints them all.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What `/metrics` says it is; the same text the Prometheus server asks for first.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A cheap handle on the registry of this process.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics of one part of the program:
    /// `metrics.register(|r| r.register("trainyard_pods", "Pods running", gauge.clone()))`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.lock());
    }

    /// The registry in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        match text::encode(&mut page, &self.lock()) {
            Ok(()) => page,
            Err(error) => {
                // Writing to a String fails only if a metric's own encoder fails: that page would be a lie.
                tracing::error!(%error, "metrics could not be encoded");
                String::from("# EOF\n")
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Labels of the request counters. Names and namespaces of objects never appear: they would be unbounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `get`, `list`, `watch`, `create`, …
    pub verb: &'static str,
    /// `pods`, `pods/status`, `pytorchjobs`, …; `-` for what is not a resource.
    pub resource: String,
    /// The HTTP status.
    pub code: u16,
}

/// What the API server counts.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from the request's head to the answer's head.
    pub latency: Family<VerbLabels, Histogram, fn() -> Histogram>,
    /// Watches open now.
    pub watches: Gauge,
    /// Watch events sent since the start.
    pub watch_events: Counter,
}

/// Labels of the latency histogram: few, since each is worth a dozen series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabels {
    /// As in [`RequestLabels`].
    pub verb: &'static str,
}

/// 250 µs to 4 s in factors of four: an in-memory read, a durable write, and what is wrong.
fn latency_buckets() -> Histogram {
    Histogram::new([0.000_25, 0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0])
}

impl ServerMetrics {
    /// Registers the server's metrics.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(latency_buckets),
            watches: Gauge::default(),
            watch_events: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register("trainyard_api_requests", "API requests answered", this.requests.clone());
            registry.register(
                "trainyard_api_request_duration_seconds",
                "Time to the head of the answer",
                this.latency.clone(),
            );
            registry.register("trainyard_api_watches", "Watches open", this.watches.clone());
            registry.register("trainyard_api_watch_events", "Watch events sent", this.watch_events.clone());
        });
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_metric_is_on_the_page() {
        let metrics = Metrics::new();
        let server = ServerMetrics::register(&metrics);
        server.requests.get_or_create(&RequestLabels { verb: "get", resource: "pods".into(), code: 200 }).inc();
        server.latency.get_or_create(&VerbLabels { verb: "get" }).observe(0.002);
        let page = metrics.encode();
        assert!(page.contains(r#"trainyard_api_requests_total{verb="get",resource="pods",code="200"} 1"#), "{page}");
        assert!(page.contains("trainyard_api_request_duration_seconds_bucket"), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}

//! Diagnostics about Trainyard itself: log lines on stderr, and traces for OpenTelemetry if OTEL_EXPORTER_OTLP_ENDPOINT is set.
//!
//! `TRAINYARD_LOG` takes a filter (`info,trainyard_runtime=debug`) and wins over `-v`.

use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::arg::{Global, LogFormat};

/// The variable that switches traces on, as OpenTelemetry has it.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How long the last spans may take to leave at the end of a command. A collector that lives takes milliseconds; one
/// that is dead shall not be felt.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is logged without `-v`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quiet {
    /// Warnings: the command speaks for itself.
    Command,
    /// What a service says of itself.
    Service,
}

/// Traces are sent until this is finished.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// Sends what is left. An endpoint that does not answer costs no error and no more than a moment: the job's outcome
    /// counts.
    pub(crate) async fn finish(self) {
        if let Some(provider) = self.provider {
            // Flushing blocks its thread while the runtime sends.
            let flushing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE));
            let flushed = tokio::time::timeout(PATIENCE * 2, flushing).await;
            tracing::debug!(?flushed, "traces sent");
        }
    }
}

/// Sets logging up, for a command that sends no traces.
pub(crate) fn init(global: &Global) {
    // Set once in a process; a second time is impossible and harmless.
    let _ = Registry::default().with(lines(global, Quiet::Command)).try_init();
}

/// Sets logging and, if asked for, traces up. Call it inside the runtime that sends them.
pub(crate) fn init_with_traces(global: &Global, quiet: Quiet) -> Traces {
    let provider = provider();
    let layer = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("trainyard")).with_filter(EnvFilter::new("info"))
    });
    // Set once in a process; a second time is impossible and harmless.
    let _ = Registry::default().with(lines(global, quiet)).with(layer).try_init();
    Traces { provider }
}

fn lines(global: &Global, quiet: Quiet) -> Box<dyn Layer<Registry> + Send + Sync> {
    let level = match (global.verbose, quiet) {
        // Of the client's troubles the commands tell themselves; an insecure kubeconfig is the user's choice.
        (0, Quiet::Command) => "warn,kube_client=off",
        (0, Quiet::Service) | (1, _) => "info,sqlx=warn,hyper=warn,tower=warn,kube=warn",
        (2, _) => "debug,hyper=info,h2=info,sqlx=info",
        (3.., _) => "trace",
    };
    let filter = EnvFilter::try_from_env("TRAINYARD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => layer.with_ansi(colour).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

fn provider() -> Option<SdkTracerProvider> {
    std::env::var_os(ENDPOINT).filter(|endpoint| !endpoint.is_empty())?;
    let exporter = match opentelemetry_otlp::SpanExporter::builder().with_tonic().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            // The job matters more than its trace.
            eprintln!("warning: traces are not sent: {error}; check {ENDPOINT}");
            return None;
        }
    };
    let resource = Resource::builder()
        .with_service_name("trainyard")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_id_generator(Ids::default())
        .with_resource(resource)
        .build();
    // For spans that are told when they are over.
    opentelemetry::global::set_tracer_provider(provider.clone());
    Some(provider)
}

/// Random ids, but for spans whose id others know already.
#[derive(Debug, Default)]
struct Ids {
    random: RandomIdGenerator,
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.random.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        trainyard_runtime::trace::chosen_span_id().unwrap_or_else(|| self.random.new_span_id())
    }
}

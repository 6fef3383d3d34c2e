//! One trace for a job's way through the hops: its W3C `traceparent` travels as an annotation on the job and its pods.
//!
//! A job that came without one (from `kubectl apply`, say) still has one trace: its id is the job's uid.
//! Nothing here costs anything worth telling while no traces are exported.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The annotation that carries the trace parent.
pub const ANNOTATION: &str = "trainyard.dev/traceparent";

/// Make `span` a child of the span that `parent` (W3C `traceparent`) names. Nothing happens when there is no parent,
/// it is malformed, or traces are not exported.
pub fn adopt(span: &tracing::Span, parent: Option<&str>) {
    let Some(context) = parent.and_then(parse) else { return };
    // Without an exporting layer there is no trace to join: fine.
    let _ = span.set_parent(Context::new().with_remote_span_context(context));
}

/// The trace that an object belongs to: what its annotation says, else the trace of the object that controls it, else
/// its own.
#[must_use]
pub fn of(meta: &ObjectMeta) -> Option<String> {
    if let Some(parent) = meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION)) {
        return Some(parent.clone());
    }
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let uid = owner.map(|owner| owner.uid.as_str()).or(meta.uid.as_deref())?;
    let trace: String = uid.chars().filter(char::is_ascii_hexdigit).collect();
    // The first half of a random uid is as good a span id as any.
    (trace.len() == 32).then(|| format!("00-{trace}-{}-01", &trace[..16]))
}

/// The span that is active, if traces are exported.
#[must_use]
pub fn current() -> Option<String> {
    of_span(&tracing::Span::current())
}

/// How a span is named to others, if traces are exported.
#[must_use]
pub fn of_span(span: &tracing::Span) -> Option<String> {
    let context = span.context();
    let span = span_context(&context)?;
    Some(format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

fn span_context(context: &Context) -> Option<SpanContext> {
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| span.clone())
}

/// A name for a span under `parent` that is told with [`record`] when it is over, so that others can be its children
/// meanwhile.
#[must_use]
pub fn child_of(parent: &str) -> Option<String> {
    let parent = parse(parent)?;
    let id = rand::random::<u64>().max(1);
    Some(format!("00-{}-{id:016x}-{:02x}", parent.trace_id(), parent.trace_flags().to_u8()))
}

/// Something that is over.
#[derive(Clone, Debug)]
pub struct Finished<'a> {
    /// Its name from [`child_of`].
    pub this: &'a str,
    /// Whose child it is.
    pub parent: &'a str,
    /// What it was.
    pub name: String,
    /// When it began.
    pub start_ms: i64,
    /// When it ended.
    pub end_ms: i64,
    /// Why it counts as failed, if it does.
    pub failure: Option<String>,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, String)>,
}

/// Tells of something that is over. Nothing happens when no traces are exported.
pub fn record(finished: Finished<'_>) {
    let (Some(this), Some(parent)) = (parse(finished.this), parse(finished.parent)) else { return };
    let attributes = finished.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let builder =
        SpanBuilder::from_name(finished.name).with_start_time(moment(finished.start_ms)).with_attributes(attributes);
    let tracer = opentelemetry::global::tracer("trainyard");
    NEXT.set(Some(this.span_id()));
    let mut span = tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent));
    NEXT.set(None);
    if let Some(failure) = finished.failure {
        span.set_status(Status::error(failure));
    }
    span.end_with_timestamp(moment(finished.end_ms));
}

thread_local! {
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

/// The id that the span being made on this thread must get, if [`record`] makes it. For the exporter's id generator.
#[must_use]
pub fn chosen_span_id() -> Option<SpanId> {
    NEXT.take()
}

fn moment(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Parse `00-<32 hex>-<16 hex>-<2 hex>`.
fn parse(parent: &str) -> Option<SpanContext> {
    let mut parts = parent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::{child_of, of, parse};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    #[test]
    fn reads_the_w3c_form_and_nothing_else() {
        let good =
            parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("the example of the standard");
        assert_eq!(good.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(good.is_sampled());
        for bad in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "zz-x-y-z"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_job_without_an_annotation_and_its_pods_are_one_trace() {
        let uid = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736".to_owned();
        let job = ObjectMeta { uid: Some(uid.clone()), ..ObjectMeta::default() };
        let owner = OwnerReference { controller: Some(true), uid, ..OwnerReference::default() };
        let pod = ObjectMeta {
            uid: Some("00000000-0000-4000-8000-000000000001".to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        let parent = of(&job).expect("a trace");
        assert_eq!(of(&pod).as_deref(), Some(parent.as_str()));
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
        let child = child_of(&parent).expect("a child");
        assert_eq!(parse(&child).map(|c| c.trace_id()), parse(&parent).map(|c| c.trace_id()));
        assert_ne!(child, parent);
    }
}

//! One trace for a job's way through the hops: its W3C `traceparent` travels as an annotation on the job and its pods.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
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
    use super::parse;

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
}

//! Diagnostics about Trainyard itself.

/// The W3C trace parent of the span that is active, if traces are exported.
pub(crate) fn traceparent() -> Option<String> {
    None
}

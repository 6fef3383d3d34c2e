//! Events are news, not records: they go after a while.

use std::sync::Arc;

use serde_json::Value;

use crate::store::Object;

/// The events that were last seen before `now_ms - ttl_ms`.
pub fn expired_events<'a>(
    events: impl IntoIterator<Item = &'a Arc<Object>>,
    now_ms: i64,
    ttl_ms: i64,
) -> Vec<Arc<Object>> {
    let oldest_ms = now_ms.saturating_sub(ttl_ms);
    // One without any readable time stays: it was not written by us.
    let old = |e: &&Arc<Object>| last_seen_ms(e.value()).is_some_and(|at| at < oldest_ms);
    events.into_iter().filter(old).cloned().collect()
}

fn last_seen_ms(event: &Value) -> Option<i64> {
    const TIMES: [&str; 5] = [
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/series/lastObservedTime",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    let at = |pointer: &&str| event.pointer(pointer)?.as_str()?.parse::<jiff::Timestamp>().ok();
    TIMES.iter().filter_map(at).map(|t| t.as_millisecond()).max()
}

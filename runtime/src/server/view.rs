//! `events.k8s.io/v1` events: the same objects as core events under newer names. Pure.

use serde_json::{Map, Value, json};

/// Stored name and name in `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// A stored event as `events.k8s.io/v1` shows it.
pub(super) fn shown(stored: &Value) -> Value {
    let mut event =
        renamed(stored, "events.k8s.io/v1", |key| NAMES.iter().find(|(from, _)| *from == key).map(|(_, to)| *to));
    if let Some(fields) = event.as_object_mut() {
        // Core events always have them; the newer kind leaves them out where they say nothing.
        fields.retain(|key, value| !(key.starts_with("reporting") && *value == ""));
    }
    event
}

/// An `events.k8s.io/v1` event as it is stored.
pub(super) fn stored(shown: &Value) -> Value {
    let mut event = renamed(shown, "v1", |key| NAMES.iter().find(|(_, from)| *from == key).map(|(to, _)| *to));
    if event.get("involvedObject").is_none() {
        event["involvedObject"] = json!({});
    }
    event
}

/// A field selector's path, from the newer names to the stored ones.
pub(super) fn stored_selector(selector: &str) -> String {
    selector.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent")
}

fn renamed(event: &Value, api_version: &str, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let mut out = Map::new();
    for (key, value) in event.as_object().into_iter().flatten() {
        out.insert(rename(key).unwrap_or(key).to_owned(), value.clone());
    }
    out.insert("apiVersion".to_owned(), Value::from(api_version));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
            "message": "hello", "reason": "Started", "count": 2, "source": {"component": "agent"}});
        let shown = shown(&event);
        assert_eq!(shown["regarding"]["name"], "p");
        assert_eq!(shown["note"], "hello");
        assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
        assert_eq!(stored(&shown), event);
    }
}

//! Kinds that show the objects of another one under other names: events of `events.k8s.io/v1`, and Kueue's kinds in `v1beta2`. Pure.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// Stored name and shown name.
type Names = &'static [(&'static str, &'static str)];

/// Of core events in `events.k8s.io/v1`.
const OF_EVENTS: Names = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Of what is specified by Kueue's kinds, from `v1beta1` to `v1beta2`.
fn of_spec(kind: &Kind) -> Names {
    match kind.kind {
        "ClusterQueue" => &[("cohort", "cohortName")],
        "Cohort" => &[("parent", "parentName")],
        _ => &[],
    }
}

/// A stored object as a kind shows it.
pub(super) fn shown(kind: &Kind, stored: &Value) -> Value {
    let new = |names: Names, key: &str| names.iter().find(|(from, _)| *from == key).map(|(_, to)| *to);
    let is_event = kind.kind == "Event";
    let mut object = renamed(stored, |key| new(if is_event { OF_EVENTS } else { &[] }, key));
    object["apiVersion"] = Value::from(kind.api_version());
    if let Some(fields) = object.as_object_mut().filter(|_| is_event) {
        // Core events always have them; the newer kind leaves them out where they say nothing.
        fields.retain(|key, value| !(key.starts_with("reporting") && *value == ""));
    }
    if !is_event && object["spec"].is_object() {
        object["spec"] = renamed(&object["spec"], |key| new(of_spec(kind), key));
    }
    object
}

/// An object as a kind shows it, as it is stored.
pub(super) fn stored(kind: &Kind, shown: &Value) -> Value {
    let old = |names: Names, key: &str| names.iter().find(|(_, from)| *from == key).map(|(to, _)| *to);
    let is_event = kind.kind == "Event";
    let mut object = renamed(shown, |key| old(if is_event { OF_EVENTS } else { &[] }, key));
    if let Some((group, version)) = kind.stored_as {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        object["apiVersion"] = Value::from(api_version);
    }
    if is_event && object.get("involvedObject").is_none() {
        object["involvedObject"] = json!({});
    }
    if !is_event && object["spec"].is_object() {
        object["spec"] = renamed(&object["spec"], |key| old(of_spec(kind), key));
    }
    object
}

/// A field selector's path, from the newer names to the stored ones.
pub(super) fn stored_selector(selector: &str) -> String {
    selector.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent")
}

fn renamed(object: &Value, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let mut out = Map::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        out.insert(rename(key).unwrap_or(key).to_owned(), value.clone());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::registry;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
            "message": "hello", "reason": "Started", "count": 2, "source": {"component": "agent"}});
        let kind = registry().by_api_version("events.k8s.io/v1", "Event").expect("it is there");
        let shown = shown(kind, &event);
        assert_eq!(shown["regarding"]["name"], "p");
        assert_eq!(shown["note"], "hello");
        assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
        assert_eq!(stored(kind, &shown), event);
    }

    #[test]
    fn queues_and_cohorts_have_the_names_of_their_version() {
        let spec = json!({"cohort": "all", "parent": "top", "queueingStrategy": "StrictFIFO"});
        for (name, from, to) in [("ClusterQueue", "cohort", "cohortName"), ("Cohort", "parent", "parentName")] {
            let queue = json!({"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": name, "spec": spec});
            let kind = registry().by_api_version("kueue.x-k8s.io/v1beta2", name).expect("it is there");
            let shown = shown(kind, &queue);
            assert_eq!((&shown["apiVersion"], &shown["spec"][to]), (&json!("kueue.x-k8s.io/v1beta2"), &spec[from]));
            assert!(shown["spec"][from].is_null());
            assert_eq!(stored(kind, &shown), queue);
        }
    }
}

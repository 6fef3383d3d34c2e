//! Patches, server-side apply and tracking of owners: whatever the bytes, nothing panics, and what holds for all inputs holds.
//!
//! The input is a JSON list of two values: an object and what is to become of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use trainyard_runtime_core::apply::{ApplyOptions, UpdateOptions, apply, track_update};
use trainyard_runtime_core::patch;
use trainyard_runtime_core::schema::{
    Annotation, Builder, ListType, Schema, Strategy, default, prune, unknown_fields, validate,
};

fn annotate(_owner: &str, field: &str) -> Option<Annotation> {
    let keyed = |keys: &[&str]| Annotation {
        list_type: Some(ListType::Map(keys.iter().map(|key| (*key).into()).collect())),
        strategy: keys.first().map(|key| Strategy::MergeKey((*key).into())),
        ..Annotation::default()
    };
    match field {
        "containers" | "env" => Some(keyed(&["name"])),
        "ports" => Some(keyed(&["containerPort", "protocol"])),
        "protocol" => Some(Annotation { default: Some(json!("TCP")), ..Annotation::default() }),
        "finalizers" => Some(Annotation {
            list_type: Some(ListType::Set),
            strategy: Some(Strategy::Union),
            ..Annotation::default()
        }),
        "selector" => Some(Annotation { atomic: true, ..Annotation::default() }),
        _ => None,
    }
}

/// Has every sort of field that schemas know.
fn schema() -> Schema {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let list = |properties: Value| json!({"type": "array", "items": {"type": "object", "properties": properties, "required": ["name"]}});
    let container = json!({"name": text, "image": text, "args": texts, "env": list(json!({"name": text, "value": text})),
        "ports": list(json!({"containerPort": {"type": "integer", "format": "int32"}, "protocol": text, "name": text}))});
    let map = json!({"type": "object", "additionalProperties": text});
    let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer", "minimum": 0}, "containers": list(container), "selector": map,
        "port": {"x-kubernetes-int-or-string": true}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "either": {"anyOf": [texts, map]}, "policy": {"type": "string", "enum": ["A", "B"]}, "at": {"type": "string", "format": "date-time"}}});
    let metadata = json!({"type": "object", "properties": {"name": text, "labels": map, "annotations": map, "finalizers": texts,
        "managedFields": {"type": "array", "items": {}}}});
    let root = json!({"type": "object", "properties": {"apiVersion": text, "kind": text, "metadata": metadata, "spec": spec, "status": {"type": "object",
        "properties": {"ready": {"type": "integer"}}}}});
    Builder::new(&Map::new(), &annotate, BTreeMap::new()).schema("", &root)
}

thread_local! {
    static SCHEMA: Schema = schema();
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let Ok((document, change)) = serde_json::from_slice::<(Value, Value)>(data) else { return };
    SCHEMA.with(|schema| check(schema, &document, &change));
}

fn check(schema: &Schema, document: &Value, change: &Value) {
    let _ = patch::json(document, change);
    if let Ok(once) = patch::merge(document, change) {
        assert_eq!(patch::merge(&once, change).as_ref(), Ok(&once), "a merge patch is idempotent");
    }
    let _ = patch::strategic(document, change, schema);
    let _ = validate(schema, document);

    let mut pruned = document.clone();
    prune(schema, &mut pruned);
    assert!(unknown_fields(schema, &pruned).is_empty(), "pruning leaves nothing unknown");
    let mut filled = document.clone();
    default(schema, &mut filled);
    let once = filled.clone();
    default(schema, &mut filled);
    assert_eq!(once, filled, "defaults are idempotent");

    let update = UpdateOptions { manager: "fuzz", now_ms: 1, subresource: None, has_status: true, api_version: "v1" };
    let mut tracked = document.clone();
    track_update(None, &mut tracked, schema, update);
    let mut next = change.clone();
    track_update(Some(&tracked), &mut next, schema, update);

    let options = ApplyOptions {
        manager: "apply",
        force: true,
        now_ms: 2,
        subresource: None,
        has_status: true,
        api_version: "v1",
    };
    if let Ok(live) = apply(None, change, schema, options) {
        let again = apply(Some(&live), change, schema, ApplyOptions { now_ms: 3, ..options });
        assert_eq!(again.as_ref(), Ok(&live), "applying twice changes nothing");
    }
    if document.is_object() {
        let _ = apply(Some(document), change, schema, options);
        let _ = apply(
            Some(&tracked),
            change,
            schema,
            ApplyOptions { force: false, subresource: Some("status"), ..options },
        );
    }
}

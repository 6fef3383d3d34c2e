//! CustomResourceDefinitions of Kueue's kinds of queues, for a cluster that has no Kueue.
//!
//! There are no Rust types of these kinds: they are read field by field ([`crate::gang`]). So is the schema here: of each field that is
//! read it says what it may be, and takes any other as it is, since manifests that were written for Kueue have more.

use serde_json::{Map, Value, json};

/// Label of our own definitions: others are not touched.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "trainyard");
/// Their group.
pub const GROUP: &str = "kueue.x-k8s.io";
/// Kueue's versions, the one in which objects are stored first. What differs between them is in the schema by both names.
const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// The kinds: their names, printed columns, and fields of `spec`.
const KINDS: &str = include_str!("queue.json");
/// The fields of `spec` by which a queue or a cohort has quota.
const QUOTA: &str = include_str!("quota.json");

/// The definitions.
#[must_use]
pub fn definitions() -> Vec<Value> {
    let kinds: Vec<Value> = serde_json::from_str(KINDS).expect("it is tested to be read");
    kinds.iter().map(definition).collect()
}

/// Whether a definition on a cluster is one of these.
#[must_use]
pub fn is_ours(definition: &Value) -> bool {
    let labels = definition.pointer("/metadata/labels");
    labels.is_some_and(|labels| labels[PART_OF.0] == PART_OF.1)
}

fn open(properties: Value, required: &Value) -> Value {
    let mut schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": properties});
    if required.is_array() {
        schema["required"] = required.clone();
    }
    schema
}

fn definition(kind: &Value) -> Value {
    let (name, plural) = (kind["kind"].as_str().unwrap_or_default(), kind["plural"].as_str().unwrap_or_default());
    let has = |what: &str| kind[what] == true;
    let mut fields: Map<String, Value> = kind["spec"].as_object().cloned().unwrap_or_default();
    if has("quota") {
        let quota: Map<String, Value> = serde_json::from_str(QUOTA).expect("it is tested to be read");
        fields.extend(quota);
    }
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": open(Value::Object(fields), &kind["required"]),
        "status": open(json!({}), &Value::Null),
    }});
    let column = |pair: &Value| json!({"name": pair[0], "type": "string", "jsonPath": pair[1]});
    let mut columns: Vec<Value> = kind["columns"].as_array().into_iter().flatten().map(column).collect();
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    let version = |version: &&str| {
        let subresources = if has("status") { json!({"status": {}}) } else { json!({}) };
        json!({
            "name": version, "served": true, "storage": *version == VERSIONS[0], "subresources": subresources,
            "schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns,
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}"), "labels": {PART_OF.0: PART_OF.1}},
        "spec": {
            "group": GROUP,
            "scope": kind["scope"],
            "names": {
                "kind": name, "listKind": format!("{name}List"), "plural": plural, "singular": name.to_lowercase(),
                "shortNames": kind["short"],
            },
            "versions": VERSIONS.iter().map(version).collect::<Vec<_>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gang::QUEUE_KINDS;

    fn spec(kind: &str) -> Value {
        let all = definitions();
        let one = all.iter().find(|one| one["spec"]["names"]["kind"] == kind).unwrap();
        one["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    }

    #[test]
    fn every_kind_that_is_read_has_a_definition() {
        let all = definitions();
        for (kind, plural, namespaced) in QUEUE_KINDS {
            let name = format!("{plural}.kueue.x-k8s.io");
            let one = all.iter().find(|one| one["metadata"]["name"] == *name).unwrap();
            assert_eq!(one["spec"]["names"]["kind"], kind);
            assert_eq!(one["spec"]["scope"], if namespaced { "Namespaced" } else { "Cluster" });
            let stored =
                one["spec"]["versions"].as_array().unwrap().iter().filter(|version| version["storage"] == true);
            assert_eq!(stored.count(), 1);
            assert!(is_ours(one));
        }
    }

    /// What the schema says of the fields of the example, and no field of it is unknown.
    #[test]
    fn the_example_is_described() {
        fn known(path: &str, value: &Value, schema: &Value) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        let schema = &schema["properties"][name];
                        assert!(schema.is_object(), "{path}.{name} is not described");
                        known(&format!("{path}.{name}"), value, schema);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| known(path, item, &schema["items"])),
                Value::String(word) if schema["enum"].is_array() => {
                    assert!(schema["enum"].as_array().unwrap().contains(&json!(word)), "{path}: {word}");
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let text = include_str!("../../../../examples/queues.yaml");
        for object in text.split("\n---\n").map(|one| serde_saphyr::from_str::<Value>(one).unwrap()) {
            let kind = object["kind"].as_str().unwrap();
            known(kind, &object["spec"], &spec(kind));
        }
    }

    #[test]
    fn somebody_elses_definition_is_told_apart() {
        assert!(!is_ours(&json!({"metadata": {"name": "clusterqueues.kueue.x-k8s.io"}})));
        assert!(!is_ours(&json!({"metadata": {"labels": {PART_OF.0: "kueue"}}})));
    }
}

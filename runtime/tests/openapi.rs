//! The OpenAPI documents: whole, and with what kubectl reads in them.

use serde_json::Value;
use trainyard_runtime::{kinds::registry, openapi};

/// Every `$ref` in a document points at something in it.
fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let pointer = target.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{target} points nowhere");
            }
            map.values().for_each(|value| check_references(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(document, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_document_is_whole() {
    let index = openapi::v3_index(registry());
    let paths = index["paths"].as_object().expect("paths");
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/kubeflow.org/v1"));
    for path in paths.keys() {
        let document = openapi::v3(registry(), path).expect("a document for each path of the index");
        check_references(&document, &document);
        assert!(!document.to_string().contains("\"$defs"), "{path}");
    }
    assert!(openapi::v3(registry(), "apis/nothing/v1").is_none());
    let document = openapi::v2(registry());
    check_references(&document, &document);
}

#[test]
fn kubectl_finds_what_it_needs() {
    let document = openapi::v3(registry(), "api/v1").expect("the core group");
    let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert!(
        containers["description"]
            .as_str()
            .expect("a description")
            .starts_with("List of containers belonging to the pod")
    );
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert!(
        patch["parameters"]
            .as_array()
            .expect("parameters")
            .iter()
            .any(|parameter| parameter["name"] == "fieldValidation")
    );
    let jobs = openapi::v3(registry(), "apis/trainyard.dev/v1alpha1").expect("our group");
    let job = &jobs["components"]["schemas"]["dev.trainyard.v1alpha1.TrainingJob"];
    assert_eq!(job["x-kubernetes-group-version-kind"][0]["group"], "trainyard.dev");
    let replicas = &jobs["components"]["schemas"]["TrainingJobSpec"]["properties"]["replicas"];
    assert_eq!(replicas["type"], "integer");
    assert!(replicas["description"].as_str().expect("a description").contains("Number of pods"));
}

//! CustomResourceDefinitions, made from the Rust types of the kinds.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::kubeflow::PyTorchJob;
use trainyard_proto::schema;
use trainyard_proto::trainer::{ClusterTrainingRuntime, TrainJob, TrainingRuntime};
use trainyard_proto::trainyard::TrainingJob;
use trainyard_proto::tuning::{Experiment, Trial};

/// Keywords that mean the same in a structural schema.
const KEPT: [&str; 8] = ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "enum"];
/// Formats that the API server knows.
const FORMATS: [&str; 6] = ["int32", "int64", "float", "double", "byte", "date-time"];
/// Fields below which nothing is described: the types are Kubernetes' own, and their texts would make the definition larger than
/// `kubectl apply` can store.
const FOREIGN: [&str; 5] = ["template", "volumes", "volumeMounts", "tolerations", "metrics"];

const OURS: [KindInfo; 3] = [TrainingJob::INFO, Experiment::INFO, Trial::INFO];
const KUBEFLOW: [KindInfo; 4] = [PyTorchJob::INFO, TrainJob::INFO, TrainingRuntime::INFO, ClusterTrainingRuntime::INFO];

/// The definitions of our own kinds; with `kubeflow` also of Kubeflow's kinds that run here, for a cluster that has none.
#[must_use]
pub fn definitions(kubeflow: bool) -> Vec<Value> {
    let more = KUBEFLOW.iter().filter(|_| kubeflow);
    OURS.iter().chain(more).map(manifest).collect()
}

fn manifest(info: &KindInfo) -> Value {
    let mut version = json!({
        "name": info.version,
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": structural(info)},
        "additionalPrinterColumns": columns(info),
    });
    let mut subresources = Map::new();
    if info.status {
        subresources.insert("status".to_owned(), json!({}));
    }
    if let Some(scale) = &info.scale {
        let paths = json!({
            "specReplicasPath": scale.spec_path,
            "statusReplicasPath": scale.status_path,
            "labelSelectorPath": scale.selector_path,
        });
        subresources.insert("scale".to_owned(), paths);
    }
    if !subresources.is_empty() {
        version["subresources"] = Value::Object(subresources);
    }
    let mut names = json!({
        "kind": info.kind, "listKind": format!("{}List", info.kind), "plural": info.plural, "singular": info.singular,
    });
    if !info.short_names.is_empty() {
        names["shortNames"] = json!(info.short_names);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", info.plural, info.group)},
        "spec": {
            "group": info.group,
            "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
            "names": names,
            "versions": [version],
        },
    })
}

fn columns(info: &KindInfo) -> Vec<Value> {
    let own = info.columns.iter().map(|column| {
        let mut out = json!({"name": column.name, "type": column.kind, "jsonPath": column.path});
        if column.priority > 0 {
            out["priority"] = json!(column.priority);
        }
        out
    });
    own.chain([json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})]).collect()
}

/// A schema as `schemars` writes it, in the form that a CustomResourceDefinition must have: nothing is referred to, every node has
/// one type, and what has no type takes anything.
fn structural(info: &KindInfo) -> Value {
    let name = schema::of(info.api_version, info.kind).unwrap_or_default();
    let names = schema::definitions([name], |_| false);
    let mut out = Shaper { names: &names, open: BTreeSet::new() }.named(name, true);
    if let Some(Value::Object(properties)) = out.get_mut("properties") {
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
        properties.insert("metadata".to_owned(), json!({"type": "object"}));
    }
    out
}

fn anything() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}

struct Shaper<'root> {
    names: &'root Map<String, Value>,
    /// Types that contain the one that is looked at.
    open: BTreeSet<String>,
}

impl Shaper<'_> {
    fn node(&mut self, schema: &Value, described: bool) -> Value {
        let Value::Object(map) = schema else { return anything() };
        let mut out = self.shape(map, described);
        if let (Some(text), true, Some(out)) = (map.get("description"), described, out.as_object_mut()) {
            out.insert("description".to_owned(), text.clone());
        }
        // Without its default: that says how the Rust type reads what is absent, and would be stored as if somebody had written it.
        out
    }

    fn shape(&mut self, map: &Map<String, Value>, described: bool) -> Value {
        if let Some(name) = map.get("$ref").and_then(Value::as_str) {
            return self.named(name.rsplit('/').next().unwrap_or(name), described);
        }
        if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            return json!({"x-kubernetes-int-or-string": true});
        }
        let choices = ["anyOf", "oneOf", "allOf"].iter().find_map(|word| map.get(*word)).and_then(Value::as_array);
        if let Some(choices) = choices.filter(|_| !map.contains_key("properties")) {
            return self.choice(choices, described);
        }
        self.plain(map, described)
    }

    fn named(&mut self, name: &str, described: bool) -> Value {
        if name.ends_with(".Quantity") {
            return json!({"x-kubernetes-int-or-string": true});
        }
        // A number with a fraction, too, for which such a schema has no words: the lowering tells what is none.
        if name.ends_with(".Amount") {
            return anything();
        }
        if name.ends_with("ObjectMeta") {
            return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        let Some(schema) = self.names.get(name) else { return anything() };
        if !self.open.insert(name.to_owned()) {
            return anything();
        }
        let out = self.node(schema, described);
        self.open.remove(name);
        out
    }

    /// An optional type, a choice of words, or of a number and a text.
    fn choice(&mut self, choices: &[Value], described: bool) -> Value {
        let choices: Vec<&Value> =
            choices.iter().filter(|one| one["type"] != "null" && one["enum"] != json!([null])).collect();
        if let [only] = choices.as_slice() {
            return self.node(only, described);
        }
        let words: Option<Vec<&Value>> =
            choices.iter().map(|one| one.get("const").or_else(|| one.pointer("/enum/0"))).collect();
        if let Some(words) = words.filter(|words| !words.is_empty()) {
            return json!({"type": "string", "enum": words});
        }
        let kinds: BTreeSet<&str> = choices.iter().filter_map(|one| one["type"].as_str()).collect();
        if kinds == BTreeSet::from(["integer", "string"]) {
            return json!({"x-kubernetes-int-or-string": true});
        }
        anything()
    }

    fn plain(&mut self, map: &Map<String, Value>, described: bool) -> Value {
        let kind = match map.get("type") {
            Some(Value::Array(kinds)) => {
                let mut real = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
                real.next().filter(|_| real.next().is_none())
            }
            other => other.and_then(Value::as_str),
        };
        let kind = kind.or_else(|| map.contains_key("properties").then_some("object"));
        let Some(kind) = kind else { return anything() };
        let mut out = Map::from_iter([("type".to_owned(), json!(kind))]);
        for word in KEPT {
            if let Some(kept) = map.get(word) {
                out.insert(word.to_owned(), kept.clone());
            }
        }
        if let Some(format) = map.get("format").filter(|format| format.as_str().is_some_and(|it| FORMATS.contains(&it)))
        {
            out.insert("format".to_owned(), format.clone());
        }
        match kind {
            "array" => {
                out.insert(
                    "items".to_owned(),
                    map.get("items").map_or_else(anything, |items| self.node(items, described)),
                );
            }
            "object" => self.object(map, described, &mut out),
            _ => {}
        }
        Value::Object(out)
    }

    fn object(&mut self, map: &Map<String, Value>, described: bool, out: &mut Map<String, Value>) {
        if let Some(Value::Object(properties)) = map.get("properties") {
            let fields = properties.iter().map(|(name, schema)| {
                let described = described && !FOREIGN.contains(&name.as_str());
                (name.clone(), self.node(schema, described))
            });
            out.insert("properties".to_owned(), Value::Object(fields.collect()));
            if let Some(required) = map.get("required").filter(|list| list.as_array().is_some_and(|it| !it.is_empty()))
            {
                out.insert("required".to_owned(), required.clone());
            }
            return;
        }
        match map.get("additionalProperties") {
            Some(rest @ Value::Object(_)) => {
                out.insert("additionalProperties".to_owned(), self.node(rest, described));
            }
            Some(_) | None => {
                out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, node: &Value) {
        let map = node.as_object().unwrap();
        let any = map.get("x-kubernetes-preserve-unknown-fields").is_some();
        let either = map.get("x-kubernetes-int-or-string").is_some();
        assert!(any || either || map["type"].is_string(), "{path} has no type");
        for word in ["$ref", "anyOf", "oneOf", "allOf", "const", "definitions", "components", "default"] {
            assert!(!map.contains_key(word), "{path} has {word}");
        }
        assert!(!(map.contains_key("properties") && map.contains_key("additionalProperties")), "{path}");
        for (name, inner) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(&format!("{path}.{name}"), inner);
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = map.get(word) {
                check(&format!("{path}[]"), inner);
            }
        }
    }

    #[test]
    fn every_schema_is_structural_and_small_enough() {
        for definition in definitions(true) {
            let name = definition["metadata"]["name"].as_str().unwrap();
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            check(name, schema);
            assert_eq!(schema["properties"]["metadata"], json!({"type": "object"}));
            let size = definition.to_string().len();
            // What `kubectl apply` stores in an annotation.
            assert!(size < 262_144, "{name} has {size} bytes");
        }
    }

    #[test]
    fn a_training_job_takes_numbers_for_amounts_and_anything_for_its_environment() {
        let all = definitions(false);
        assert_eq!(all[0]["spec"]["names"]["kind"], "TrainingJob");
        let spec = &all[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let cpu = &spec["resources"]["properties"]["cpu"];
        assert_eq!(cpu["x-kubernetes-preserve-unknown-fields"], json!(true), "{}", spec["resources"]);
        assert_eq!(spec["env"]["x-kubernetes-preserve-unknown-fields"], json!(true));
        assert!(spec["command"]["description"].is_string());
        assert_eq!(all[0]["spec"]["versions"][0]["subresources"]["status"], json!({}));
    }

    #[test]
    fn a_pods_own_fields_are_known_in_kubeflows_kinds() {
        let all = definitions(true);
        let torch = all.iter().find(|one| one["spec"]["names"]["kind"] == "PyTorchJob").unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let container = "properties/spec/properties/containers/items/properties";
        let path = format!("{spec}/pytorchReplicaSpecs/additionalProperties/properties/template/{container}");
        let container = torch.pointer(&path).unwrap();
        let limits = &container["resources"]["properties"]["limits"]["additionalProperties"];
        assert_eq!(limits["x-kubernetes-int-or-string"], json!(true), "{limits}");
        assert_eq!(container["ports"]["items"]["properties"]["containerPort"]["format"], json!("int32"));
        assert_eq!(container["image"].get("description"), None, "Kubernetes' own texts are left out");
    }
}

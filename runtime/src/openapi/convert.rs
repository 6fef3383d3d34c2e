//! JSON schema, as `schemars` writes it, to the dialect of OpenAPI that Kubernetes speaks.

use serde_json::{Map, Value, json};

use crate::kinds::annotation::{self, Items, Merge, Note};

/// Which version of OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// Keywords that mean the same in both.
const KEPT: [&str; 12] = [
    "description",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
    "required",
    "enum",
    "uniqueItems",
];

/// Converts the schema of type `owner`.
pub(super) fn schema(owner: &str, value: &Value, dialect: Dialect) -> Value {
    let Value::Object(map) = value else { return json!({"x-kubernetes-preserve-unknown-fields": true}) };
    let mut out = Map::new();
    for key in KEPT {
        if let Some(kept) = map.get(key) {
            out.insert(key.to_owned(), kept.clone());
        }
    }
    if let Some(default) = map.get("default").filter(|default| !default.is_null()) {
        out.insert("default".to_owned(), default.clone());
    }
    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
        reference(target, &mut out, dialect);
    } else if let Some(Value::Array(choices)) =
        map.get("anyOf").or_else(|| map.get("oneOf")).or_else(|| map.get("allOf"))
    {
        choice(owner, choices, map, &mut out, dialect);
    } else {
        plain(owner, map, &mut out, dialect);
    }
    if let Some(Note::AtomicMap) = annotation::note(owner, "").filter(|_| map.contains_key("properties")) {
        out.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    Value::Object(out)
}

fn reference(target: &str, out: &mut Map<String, Value>, dialect: Dialect) {
    let target = dialect.reference(target.rsplit('/').next().unwrap_or(target));
    match dialect {
        Dialect::V2 => drop(out.insert("$ref".to_owned(), json!(target))),
        // Siblings of `$ref` do not count in OpenAPI 3.0.
        Dialect::V3 if out.is_empty() => drop(out.insert("$ref".to_owned(), json!(target))),
        Dialect::V3 => drop(out.insert("allOf".to_owned(), json!([{"$ref": target}]))),
    }
}

/// An optional type, a choice of constants, or a choice of shapes.
fn choice(owner: &str, choices: &[Value], map: &Map<String, Value>, out: &mut Map<String, Value>, dialect: Dialect) {
    let is_null = |choice: &&Value| choice.get("type").and_then(Value::as_str) != Some("null");
    let choices: Vec<&Value> = choices.iter().filter(is_null).collect();
    if let [only] = choices.as_slice() {
        if let Value::Object(inner) = schema(owner, only, dialect) {
            let description = out.get("description").cloned();
            if let (Some(target), Dialect::V3, Some(_)) = (inner.get("$ref").cloned(), dialect, &description) {
                out.insert("allOf".to_owned(), json!([{"$ref": target}]));
                return;
            }
            out.extend(inner);
            if let Some(description) = description {
                out.insert("description".to_owned(), description);
            }
        }
        return;
    }
    let constants: Option<Vec<Value>> =
        choices.iter().map(|choice| choice.get("const").filter(|value| value.is_string()).cloned()).collect();
    if let Some(constants) = constants.filter(|constants| !constants.is_empty()) {
        out.insert("type".to_owned(), json!("string"));
        out.insert("enum".to_owned(), json!(constants));
        return;
    }
    if map.contains_key("properties") || map.contains_key("type") {
        return plain(owner, map, out, dialect);
    }
    let kinds: Vec<&str> = choices.iter().filter_map(|choice| choice.get("type").and_then(Value::as_str)).collect();
    if kinds.len() == choices.len() && kinds.iter().all(|kind| matches!(*kind, "string" | "integer")) {
        return int_or_string("int-or-string", "integer", out, dialect);
    }
    out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
}

fn int_or_string(format: &str, number: &str, out: &mut Map<String, Value>, dialect: Dialect) {
    match dialect {
        Dialect::V2 => {
            out.insert("type".to_owned(), json!("string"));
            if !format.is_empty() {
                out.insert("format".to_owned(), json!(format));
            }
        }
        Dialect::V3 => {
            if !format.is_empty() {
                out.insert("format".to_owned(), json!(format));
            }
            out.insert("oneOf".to_owned(), json!([{"type": number}, {"type": "string"}]));
        }
    }
}

fn plain(owner: &str, map: &Map<String, Value>, out: &mut Map<String, Value>, dialect: Dialect) {
    if owner.ends_with(".resource.Quantity") {
        return int_or_string("", "number", out, dialect);
    }
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return int_or_string("int-or-string", "integer", out, dialect);
    }
    let kind = match map.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null").cloned(),
        other => other.cloned(),
    };
    if let Some(kind) = kind {
        out.insert("type".to_owned(), kind);
    }
    if let Some(constant) = map.get("const") {
        out.insert("enum".to_owned(), json!([constant]));
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    if let Some(items) = map.get("items") {
        out.insert("items".to_owned(), schema(owner, items, dialect));
    }
    if let Some(values @ Value::Object(_)) = map.get("additionalProperties") {
        out.insert("additionalProperties".to_owned(), schema(owner, values, dialect));
    }
    if let Some(Value::Object(properties)) = map.get("properties") {
        let converted = properties.iter().map(|(name, property)| {
            let mut property = schema("", property, dialect);
            if let Value::Object(map) = &mut property {
                annotate(owner, name, map);
            }
            (name.clone(), property)
        });
        out.insert("properties".to_owned(), converted.collect());
    }
}

/// What patches and server-side apply need to know of a field.
fn annotate(owner: &str, name: &str, out: &mut Map<String, Value>) {
    match annotation::note(owner, name) {
        Some(Note::List(items, merge)) => {
            let list_type = match items {
                Items::Atomic => "atomic",
                Items::Set => "set",
                Items::Map(keys) => {
                    out.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                    "map"
                }
            };
            out.insert("x-kubernetes-list-type".to_owned(), json!(list_type));
            let strategy = if matches!(name, "volumes" | "resourceClaims") { "merge,retainKeys" } else { "merge" };
            match merge {
                Merge::Replace => {}
                Merge::Union => drop(out.insert("x-kubernetes-patch-strategy".to_owned(), json!(strategy))),
                Merge::Key(key) => {
                    out.insert("x-kubernetes-patch-merge-key".to_owned(), json!(key));
                    out.insert("x-kubernetes-patch-strategy".to_owned(), json!(strategy));
                }
            }
        }
        Some(Note::AtomicMap) => drop(out.insert("x-kubernetes-map-type".to_owned(), json!("atomic"))),
        Some(Note::Tcp) => drop(out.insert("default".to_owned(), json!("TCP"))),
        None if owner.ends_with("apps.v1.DeploymentSpec") && name == "strategy" => {
            out.insert("x-kubernetes-patch-strategy".to_owned(), json!("retainKeys"));
        }
        Some(Note::Lenient) | None => {}
    }
}

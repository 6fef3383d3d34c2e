//! JSON schemas of all kinds that are known by type: Kubernetes' own, Kubeflow's and ours.
//!
//! They are written once, by a test, into `proto/schemas.json`, and are part of the program in a compressed form: the code that writes
//! them would be thirty times as large.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, from_str};

/// All of them, a line each: name, tab, JSON.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let packed = include_bytes!(concat!(env!("OUT_DIR"), "/schemas.deflate"));
    // The build packed it, so that it can be unpacked; without it nothing would be known of any kind, and that would be seen.
    let text = miniz_oxide::inflate::decompress_to_vec(packed).unwrap_or_default();
    String::from_utf8(text).unwrap_or_default()
});

/// The lines by their names.
static LINES: LazyLock<BTreeMap<&'static str, &'static str>> =
    LazyLock::new(|| TEXT.lines().filter_map(|line| line.split_once('\t')).collect());

/// How one definition refers to another one.
const REFERENCE: &str = "#/$defs/";

/// The definition that describes a kind: of `batch/v1`, `Job`.
#[must_use]
pub fn of(api_version: &str, kind: &str) -> Option<&'static str> {
    LINES.get(format!("{api_version} {kind}").as_str()).copied()
}

/// A definition, in JSON schema of draft 2020-12; others are referred to as `#/$defs/NAME`.
#[must_use]
pub fn definition(name: &str) -> Option<Value> {
    from_str(LINES.get(name)?).ok()
}

/// Definitions by name, with all that they refer to, but those that are `known` already and what only these refer to.
#[must_use]
pub fn definitions<'name>(
    names: impl IntoIterator<Item = &'name str>,
    known: impl Fn(&str) -> bool,
) -> Map<String, Value> {
    let mut found = Map::new();
    let mut open: Vec<String> = names.into_iter().map(str::to_owned).collect();
    while let Some(name) = open.pop() {
        if known(&name) || found.contains_key(&name) {
            continue;
        }
        if let Some(definition) = definition(&name) {
            references(&definition, &mut open);
            found.insert(name, definition);
        }
    }
    found
}

/// The name that `{"$ref": "#/$defs/NAME"}` refers to.
#[must_use]
pub fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)
}

fn references(schema: &Value, names: &mut Vec<String>) {
    names.extend(reference(schema).map(str::to_owned));
    match schema {
        Value::Object(map) => map.values().for_each(|value| references(value, names)),
        Value::Array(items) => items.iter().for_each(|value| references(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

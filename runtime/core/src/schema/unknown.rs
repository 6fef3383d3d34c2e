//! Fields that the schema does not know.

use serde_json::{Map, Value};

use super::{FieldPath, MAX_DEPTH, Object, Rest, Schema, Shape, closest};

/// A field that the schema does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it is: `spec.containers[0].imagee`.
    pub path: String,
    /// The known field of the same object that it resembles.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for UnknownField {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "unknown field \"{}\"", self.path)
    }
}

/// More than this many are not reported: the writer sees the pattern by then.
const MAX_REPORTED: usize = 64;

/// Every field of `value` that the schema does not know, in document order.
pub fn unknown_fields(schema: &Schema, value: &Value) -> Vec<UnknownField> {
    let mut found = Vec::new();
    walk(schema, value, &FieldPath::ROOT, 0, &mut found);
    found
}

fn walk(schema: &Schema, value: &Value, path: &FieldPath<'_>, depth: usize, found: &mut Vec<UnknownField>) {
    if depth > MAX_DEPTH || found.len() >= MAX_REPORTED {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => walk_object(object, map, path, depth, found),
        (Shape::List(list), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                walk(&list.items, item, &path.index(index), depth + 1, found);
            }
        }
        _ => {}
    }
}

fn walk_object(
    object: &Object,
    map: &Map<String, Value>,
    path: &FieldPath<'_>,
    depth: usize,
    found: &mut Vec<UnknownField>,
) {
    for (key, value) in map {
        match (object.fields.get(key.as_str()), &object.rest) {
            (Some(schema), _) => walk(schema, value, &path.field(key), depth + 1, found),
            (None, Rest::Values(schema)) => walk(schema, value, &path.key(key), depth + 1, found),
            (None, Rest::Kept) => {}
            (None, Rest::Refused) => {
                if found.len() < MAX_REPORTED {
                    let suggestion = closest(key, object.fields.keys().map(AsRef::as_ref)).map(str::to_owned);
                    found.push(UnknownField { path: path.field(key).to_string(), suggestion });
                }
            }
        }
    }
}

/// Removes what [`unknown_fields`] reports, without its cap on their number.
pub fn prune(schema: &Schema, value: &mut Value) {
    prune_at(schema, value, 0);
}

fn prune_at(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            if matches!(object.rest, Rest::Refused) {
                map.retain(|key, _| object.fields.contains_key(key.as_str()));
            }
            for (key, child) in map.iter_mut() {
                if let Some(schema) = object.field(key) {
                    prune_at(schema, child, depth + 1);
                }
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                prune_at(&list.items, item, depth + 1);
            }
        }
        _ => {}
    }
}

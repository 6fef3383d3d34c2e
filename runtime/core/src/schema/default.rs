//! Defaults that the schema declares.

use serde_json::Value;

use super::{MAX_DEPTH, Schema, Shape};

/// Fills absent fields that have a default, inside objects that are there. Objects are not created for the sake of
/// the defaults inside them, as in Kubernetes. An explicit `null` counts as absent where the field has a default.
pub fn default(schema: &Schema, value: &mut Value) {
    fill(schema, value, 0);
}

fn fill(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            for (name, field) in &object.fields {
                let Some(default) = &field.default else { continue };
                let absent = match map.get(name.as_ref()) {
                    None => true,
                    Some(present) => present.is_null() && !field.nullable,
                };
                if absent {
                    map.insert(name.to_string(), (**default).clone());
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(schema) = object.field(key) {
                    fill(schema, child, depth + 1);
                }
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                fill(&list.items, item, depth + 1);
            }
        }
        _ => {}
    }
}

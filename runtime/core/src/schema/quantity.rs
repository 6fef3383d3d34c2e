//! Quantities as the API server writes them.

use serde_json::Value;
use trainyard_proto::quantity::Quantity;

use super::{MAX_DEPTH, Schema, Shape};

/// Writes each quantity as Kubernetes' own kinds have it once they were decoded: `0.5` becomes `500m`, the number 1 the text
/// `"1"`. Clients that compare what they wrote with what is there rely on one of the two forms, and meet this one on a cluster.
/// What is no quantity stays, for validation to say so.
pub fn write_quantities(schema: &Schema, value: &mut Value) {
    write(schema, value, 0);
}

/// Whether [`write_quantities`] would change nothing.
pub fn has_written_quantities(schema: &Schema, value: &Value) -> bool {
    written(schema, value, 0)
}

fn write(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            for (key, child) in map.iter_mut() {
                if let Some(schema) = object.field(key) {
                    write(schema, child, depth + 1);
                }
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                write(&list.items, item, depth + 1);
            }
        }
        (Shape::Quantity, value) => {
            if let Some(text) = other_form(value) {
                *value = Value::from(text);
            }
        }
        _ => {}
    }
}

fn written(schema: &Schema, value: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return true;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            map.iter().all(|(key, child)| object.field(key).is_none_or(|schema| written(schema, child, depth + 1)))
        }
        (Shape::List(list), Value::Array(items)) => items.iter().all(|item| written(&list.items, item, depth + 1)),
        (Shape::Quantity, value) => other_form(value).is_none(),
        _ => true,
    }
}

/// The quantity in the server's form, where that is another one.
fn other_form(value: &Value) -> Option<String> {
    let text = Quantity::from_json(value).ok().flatten()?.to_string();
    (value.as_str() != Some(text.as_str())).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::{Object, Rest};
    use super::*;

    #[test]
    fn numbers_become_texts_and_fractions_thousandths() {
        let rest = Rest::Values(Arc::new(Schema::of(Shape::Quantity)));
        let schema = Schema::of(Shape::Object(Object {
            fields: Default::default(),
            required: Default::default(),
            rest,
            atomic: false,
        }));
        let mut value = json!({"cpu": 0.5, "memory": "1.5Gi", "gpu": 1, "same": "250m", "wrong": "much"});
        assert!(!has_written_quantities(&schema, &value));
        write_quantities(&schema, &mut value);
        assert_eq!(value, json!({"cpu": "500m", "memory": "1536Mi", "gpu": "1", "same": "250m", "wrong": "much"}));
        assert!(has_written_quantities(&schema, &value));
    }
}

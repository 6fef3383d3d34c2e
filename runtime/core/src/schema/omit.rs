//! What encoding leaves out.

use serde_json::Value;

use super::{MAX_DEPTH, Rest, Schema, Shape};

/// Removes nulls, and optional maps and lists without entries, as the encoding of Kubernetes' own kinds does: there, absent and empty are
/// the same. Empty structs stay (`emptyDir: {}` says something), and so does what nothing is known of.
pub fn omit_empty(schema: &Schema, value: &mut Value) {
    omit(schema, value, 0);
}

fn omit(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            map.retain(|key, child| {
                let Some(schema) = object.field(key) else { return true };
                omit(schema, child, depth + 1);
                let declared = object.fields.contains_key(key.as_str());
                let absent = child.is_null() || is_empty_collection(schema, child);
                !declared || object.required.iter().any(|name| **name == **key) || !absent
            });
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                omit(&list.items, item, depth + 1);
            }
        }
        _ => {}
    }
}

fn is_empty_collection(schema: &Schema, value: &Value) -> bool {
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            map.is_empty() && object.fields.is_empty() && matches!(object.rest, Rest::Values(_))
        }
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::{List, ListType, Object, Strategy};
    use super::*;

    fn object(fields: Vec<(&str, Schema)>, required: &[&str], rest: Rest) -> Schema {
        Schema::of(Shape::Object(Object {
            fields: fields.into_iter().map(|(name, schema)| (name.into(), Arc::new(schema))).collect(),
            required: required.iter().map(|name| (*name).into()).collect(),
            rest,
            atomic: false,
        }))
    }

    #[test]
    fn empty_maps_and_lists_go_and_empty_structs_stay() {
        let list = || {
            let items = Arc::new(Schema::any());
            Schema::of(Shape::List(List { items, list_type: ListType::Atomic, strategy: Strategy::Replace }))
        };
        let map = object(vec![], &[], Rest::Values(Arc::new(Schema::any())));
        let schema = object(
            vec![
                ("data", map),
                ("emptyDir", object(vec![], &[], Rest::Refused)),
                ("finalizers", list()),
                ("containers", list()),
                ("any", Schema::any()),
                ("none", Schema::any()),
            ],
            &["containers"],
            Rest::Refused,
        );
        let mut value =
            json!({"data": {}, "emptyDir": {}, "finalizers": [], "containers": [], "any": {}, "none": null});
        omit_empty(&schema, &mut value);
        assert_eq!(value, json!({"emptyDir": {}, "containers": [], "any": {}}));
    }
}

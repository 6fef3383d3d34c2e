//! What encoding leaves out.

use serde_json::Value;

use super::{MAX_DEPTH, Rest, Schema, Shape};

/// Removes nulls, and optional maps and lists without entries, as the encoding of Kubernetes' own kinds does: there, absent and empty are
/// the same, and null in a map of strings is an empty one. Empty structs stay (`emptyDir: {}` says something), and so does what nothing is known of.
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
                if !declared && child.is_null() {
                    nothing_of(schema, child);
                }
                let absent = child.is_null() || is_empty_collection(schema, child);
                let required = object.required.iter().any(|name| **name == **key);
                // What a reference names is left out where it is nothing, although the schema wants it.
                let named = key == "name" && object.required.len() == 1;
                let zero = (!required || named) && schema.accepts_type(child) && is_left_out(key, child);
                !declared || !zero && (required || !absent)
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

/// Fields whose zero says no more than their absence: they are no pointers in Go. Sorted.
const ZEROES: [&str; 48] = [
    "action",
    "active",
    "availableReplicas",
    "clusterIP",
    "component",
    "count",
    "effect",
    "externalName",
    "failed",
    "fieldPath",
    "fullyLabeledReplicas",
    "generateName",
    "globalDefault",
    "host",
    "hostIP",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "hostname",
    "image",
    "initialDelaySeconds",
    "key",
    "loadBalancerIP",
    "medium",
    "message",
    "minReadySeconds",
    "name",
    "nodeName",
    "nodePort",
    "note",
    "observedGeneration",
    "operator",
    "paused",
    "podIP",
    "priorityClassName",
    "publishNotReadyAddresses",
    "readOnly",
    "readyReplicas",
    "reason",
    "serviceAccountName",
    "stdin",
    "subPath",
    "subdomain",
    "succeeded",
    "tty",
    "value",
    "workingDir",
];

fn is_left_out(key: &str, value: &Value) -> bool {
    let zero = match value {
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    zero && ZEROES.binary_search(&key).is_ok()
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

/// What null is in a map of strings or of amounts.
fn nothing_of(schema: &Schema, value: &mut Value) {
    if matches!(schema.shape, Shape::String(_)) {
        *value = Value::from("");
    } else if schema.shape == Shape::Quantity {
        *value = Value::from("0");
    }
}

/// What Kubernetes' own kinds make of nulls: a field without a value, and in a map of strings an empty one.
pub fn settle_nulls(schema: &Schema, value: &mut Value) {
    settle(schema, value, true, 0);
}

/// Removes the nulls that are no values: all of a known type that does not allow them.
pub fn drop_nulls(schema: &Schema, value: &mut Value) {
    settle(schema, value, false, 0);
}

fn settle(schema: &Schema, value: &mut Value, native: bool, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (&schema.resolve(value).shape, value) {
        (Shape::Object(object), Value::Object(map)) => {
            for (key, child) in map.iter_mut() {
                let declared = object.fields.contains_key(key.as_str());
                match object.field(key) {
                    Some(inner) if child.is_null() && !declared && native => nothing_of(inner, child),
                    Some(inner) => settle(inner, child, native, depth + 1),
                    None => {}
                }
            }
            map.retain(|key, child| {
                let typed = object.field(key).is_some_and(|inner| !inner.nullable && inner.shape != Shape::Any);
                !child.is_null() || !typed || native && !object.fields.contains_key(key.as_str())
            });
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                settle(&list.items, item, native, depth + 1);
            }
        }
        _ => {}
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

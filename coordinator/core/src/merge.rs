//! Merge patches (RFC 7396) as differences.

use serde_json::{Map, Value};

/// The merge patch that makes `old` into `new`, or `None` if they are the same. A null in `new` is the same as nothing: no
/// patch can write one.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match old.get(name) {
            Some(present) => {
                if let Some(change) = difference(present, value) {
                    patch.insert(name.clone(), change);
                }
            }
            None if value.is_null() => {}
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::difference;

    #[test]
    fn only_what_differs_is_in_the_patch() {
        for (old, new, patch) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1, "y": 3}}), Some(json!({"a": {"y": 3}}))),
            (json!({"a": [1]}), json!({"a": [1, 2]}), Some(json!({"a": [1, 2]}))),
            (json!(null), json!({"a": 1}), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!({"a": 1, "f": null}), None),
            (json!({"b": {"c": 2, "d": 3}}), json!({"b": {"c": 4}}), Some(json!({"b": {"c": 4, "d": null}}))),
        ] {
            assert_eq!(difference(&old, &new), patch, "{old} -> {new}");
        }
    }
}

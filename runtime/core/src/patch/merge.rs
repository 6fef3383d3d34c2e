//! RFC 7396.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::MAX_DEPTH;

/// Applies a JSON merge patch: `null` removes, objects merge, everything else replaces.
pub fn merge(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("error decoding patch: a merge patch must be a JSON object".to_owned()));
    };
    let mut merged = document.clone();
    merge_object(&mut merged, patch, 0)?;
    Ok(merged)
}

fn merge_object(target: &mut Value, patch: &Map<String, Value>, depth: usize) -> Result<(), PatchError> {
    if depth > MAX_DEPTH {
        return Err(PatchError::TooLarge(format!("the patch is nested deeper than {MAX_DEPTH} levels")));
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    for (key, value) in patch {
        match value {
            // Order of the keys that stay is kept: people read the result as YAML.
            Value::Null => drop(map.shift_remove(key)),
            Value::Object(inner) => merge_object(map.entry(key.as_str()).or_insert(Value::Null), inner, depth + 1)?,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                drop(map.insert(key.clone(), value.clone()))
            }
        }
    }
    Ok(())
}

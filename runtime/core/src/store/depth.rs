//! How deep stored objects may be nested: whatever is stored can be read back.

use std::fmt::Write as _;

use serde_json::Value;

use super::error::{FieldCause, StoreError};
use super::object::{Key, Object};
use super::validate::refuse;

/// Levels of maps and lists in a stored object, its `managedFields` included, which mirror it four levels deeper. Text is read
/// back with at most 127, and what objects are answered in (lists, watch events, tables) adds a few.
pub(crate) const MAX_DEPTH: usize = 100;

/// Steps of the path in a refusal: enough to find the place.
const SHOWN_STEPS: usize = 8;
/// Characters of one step.
const SHOWN_CHARS: usize = 64;

/// Refuses a value that is nested too deep. What is as deep already, from before there was this limit, may stay so, or its
/// finalizers could never be taken off.
pub(crate) fn check_depth(key: &Key, current: Option<&Object>, value: &Value) -> Result<(), StoreError> {
    let depth = depth(value);
    if depth <= MAX_DEPTH || current.is_some_and(|current| self::depth(current.value()) >= depth) {
        return Ok(());
    }
    let message = format!(
        "Invalid value: {depth} levels: maps and lists, with what metadata.managedFields says of them, must not be nested \
         deeper than {MAX_DEPTH} levels; keep such data as text"
    );
    let cause = FieldCause { field: deepest(value), reason: "FieldValueInvalid", message };
    refuse(key, vec![cause])
}

/// Levels of maps and lists.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The beginning of the path to the deepest place, outside of what only mirrors the rest.
fn deepest(value: &Value) -> String {
    let mut path = String::new();
    let mut at = value;
    for _ in 0..SHOWN_STEPS {
        match at {
            Value::Array(items) => {
                let Some((index, item)) = items.iter().enumerate().max_by_key(|(_, item)| depth(item)) else { break };
                let _ = write!(path, "[{index}]");
                at = item;
            }
            Value::Object(map) => {
                let fields = map.iter().filter(|(name, _)| *name != "managedFields");
                let Some((name, field)) = fields.max_by_key(|(name, field)| rank(name, field)) else { break };
                if !path.is_empty() {
                    path.push('.');
                }
                path.extend(name.chars().take(SHOWN_CHARS));
                at = field;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => break,
        }
    }
    path
}

/// `metadata` is deep by its mirror alone.
fn rank(name: &str, field: &Value) -> usize {
    if name == "metadata" { 0 } else { depth(field) }
}

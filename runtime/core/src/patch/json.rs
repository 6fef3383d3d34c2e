//! RFC 6902, with limits on what a small patch can make of a document.

use serde_json::Value;

use super::PatchError;
use crate::store::{MAX_DEPTH, depth};

/// The API server's own limit (`maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;

/// Most values that the `copy` operations of one patch may write: each can double the document. What other operations write was
/// in the request, whose size is bounded. A full pod has about a thousand values.
const MAX_COPIED: usize = 100_000;

/// What the API server says of a patch that does not fit; what exactly does not, it does not say.
const REJECTED: &str = "the server rejected our request due to an error in our request";

/// Applies a JSON patch; either all of its operations or none.
pub fn json(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    if patch.is_null() {
        return Ok(document.clone());
    }
    let operations = patch.as_array().ok_or_else(|| {
        PatchError::Malformed("error decoding patch: a JSON patch must be a list of operations".to_owned())
    })?;
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        return Err(PatchError::TooLarge(format!(
            "the JSON patch has {count} operations, and at most {MAX_OPERATIONS} are allowed"
        )));
    }
    let mut patch = patch.clone();
    for operation in patch.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        // A value that is left out is null to the API server.
        if operation.get("op").is_some_and(|op| op == "add" || op == "replace" || op == "test") {
            operation.entry("value").or_insert(Value::Null);
        }
    }
    let parsed: json_patch::Patch =
        serde_json::from_value(patch).map_err(|error| PatchError::Mismatch(format!("{REJECTED}: {error}")))?;
    let mut patched = document.clone();
    let mut copied = 0_usize;
    for (index, operation) in parsed.0.iter().enumerate() {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied = copied.saturating_add(copy.from.resolve(&patched).map_or(0, count));
        }
        if copied > MAX_COPIED {
            return Err(PatchError::TooLarge(format!("operation {index} copies more than is allowed")));
        }
        check_depth(&patched, operation, index)?;
        let lenient = replacing_nothing(&patched, operation);
        let operation = lenient.as_ref().unwrap_or(operation);
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Mismatch(sentence(index, operation, &error)))?;
    }
    Ok(patched)
}

/// The API server's patch library lets `replace` set a field that an object does not have, against the RFC; clients rely on it.
fn replacing_nothing(document: &Value, operation: &json_patch::PatchOperation) -> Option<json_patch::PatchOperation> {
    let json_patch::PatchOperation::Replace(replace) = operation else { return None };
    let absent = replace.path.resolve(document).is_err();
    let parent = replace.path.parent()?.resolve(document).ok()?;
    (absent && parent.is_object()).then(|| {
        json_patch::PatchOperation::Add(json_patch::AddOperation {
            path: replace.path.clone(),
            value: replace.value.clone(),
        })
    })
}

fn sentence(index: usize, operation: &json_patch::PatchOperation, error: &json_patch::PatchError) -> String {
    let reason = match &error.kind {
        json_patch::PatchErrorKind::TestFailed => "the value there is not the one tested for".to_owned(),
        json_patch::PatchErrorKind::InvalidPointer | json_patch::PatchErrorKind::InvalidFromPointer => {
            "there is nothing at that path".to_owned()
        }
        // The crate may add kinds of errors; each says what it is.
        other @ (json_patch::PatchErrorKind::CannotMoveInsideItself | _) => other.to_string(),
    };
    format!("{REJECTED}: operation {index} at \"{}\": {reason}", operation.path())
}

fn check_depth(document: &Value, operation: &json_patch::PatchOperation, index: usize) -> Result<(), PatchError> {
    let inner = match operation {
        json_patch::PatchOperation::Add(add) => depth(&add.value),
        json_patch::PatchOperation::Replace(replace) => depth(&replace.value),
        json_patch::PatchOperation::Copy(copy) => copy.from.resolve(document).map_or(0, depth),
        json_patch::PatchOperation::Move(moved) => moved.from.resolve(document).map_or(0, depth),
        json_patch::PatchOperation::Remove(_) | json_patch::PatchOperation::Test(_) => return Ok(()),
    };
    if operation.path().tokens().count() + inner > MAX_DEPTH {
        return Err(PatchError::TooLarge(format!("operation {index} nests the object deeper than {MAX_DEPTH} levels")));
    }
    Ok(())
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().fold(1, |sum, item| sum + count(item)),
        Value::Object(map) => map.values().fold(1, |sum, item| sum + count(item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

//! Strategic merge patch.

use serde_json::Value;

use super::PatchError;
use crate::schema::Schema;

/// Applies a strategic merge patch.
pub fn strategic(document: &Value, patch: &Value, _schema: &Schema) -> Result<Value, PatchError> {
    super::merge(document, patch)
}

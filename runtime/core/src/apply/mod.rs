//! Server-side apply: who owns which field, and what an applied object changes.

mod identity;

use serde_json::Value;

use crate::schema::Schema;

pub use identity::item_identity;

/// How an object is applied.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Whether to take fields from other managers.
    pub force: bool,
    /// When.
    pub now_ms: i64,
    /// `None` for the object itself, `Some("status")` for its status. Where a kind has a status subresource, the
    /// object itself cannot be used to change it.
    pub subresource: Option<&'a str>,
    /// Whether the kind has a status subresource.
    pub has_status: bool,
    /// The version that the manager speaks (`batch/v1`).
    pub api_version: &'a str,
}

/// Why an object was not applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change (409).
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied object cannot be used (400).
    #[error("{0}")]
    Malformed(String),
}

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager that owns it.
    pub manager: String,
    /// The manager as messages name it: `"kubectl-edit" using apps/v1 at 2026-01-31T15:04:05Z`.
    pub described: String,
    /// The field: `.spec.replicas`.
    pub field: String,
}

/// The message of a 409.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    let _ = conflicts;
    String::new()
}

/// Applies `applied` over `live` (`None`: it is created). The result carries `metadata.managedFields`. When nothing changed the
/// result equals `live`, down to the times in the managed fields: nothing needs to be written then.
pub fn apply(live: Option<&Value>, applied: &Value, schema: &Schema, options: ApplyOptions<'_>) -> Result<Value, ApplyError> {
    let _ = (live, schema, options);
    Ok(applied.clone())
}

/// Who made an ordinary write (create, update, patch).
#[derive(Debug, Clone, Copy)]
pub struct UpdateOptions<'a> {
    /// The field manager (`fieldManager`, or else the first word of the user agent).
    pub manager: &'a str,
    /// When.
    pub now_ms: i64,
    /// `None` for the object itself, else `status`, `scale`…
    pub subresource: Option<&'a str>,
    /// Whether the kind has a status subresource.
    pub has_status: bool,
    /// The version that the manager speaks.
    pub api_version: &'a str,
}

/// Writes into `new.metadata.managedFields` who owns what after an ordinary write that turned `old` (`None`: it is created) into `new`.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Schema, options: UpdateOptions<'_>) {
    let _ = (old, new, schema, options);
}

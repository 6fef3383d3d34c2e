//! What every write goes through before the store sees it: known fields, defaults, validity, ownership of fields. Pure.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use trainyard_runtime_core::apply::{self, ApplyError, UpdateOptions};
use trainyard_runtime_core::patch::PatchError;
use trainyard_runtime_core::schema::{self, Cause, CauseReason};
use trainyard_runtime_core::store::{FieldCause, Key, Part, StoreError};

use super::call::Call;
use super::query::FieldValidation;
use super::status::{ApiError, Subject};
use super::{admit, now_ms};
use crate::kinds::Kind;

/// Owners that go on to the store, which refuses more than 64.
const LOOKED_AT_OWNERS: usize = 128;

/// The part of a call that travels into the store's writer.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) kind: &'static Kind,
    pub(super) manager: String,
    pub(super) validation: FieldValidation,
    pub(super) part: Part,
    /// `None` for the main resource.
    pub(super) subresource: Option<&'static str>,
    /// Fields that the body says more than once.
    pub(super) duplicates: Vec<String>,
}

impl Writer {
    pub(super) fn of(call: &Call) -> Self {
        let (part, subresource) = match call.subresource.as_str() {
            "status" => (Part::Status, Some("status")),
            "finalize" => (Part::Whole, Some("finalize")),
            _ => (Part::Main, None),
        };
        Self {
            kind: call.kind,
            manager: call.manager.clone(),
            validation: call.params.validation,
            part,
            subresource,
            duplicates: Vec::new(),
        }
    }

    fn track(&self, old: Option<&Value>, new: &mut Value) {
        let options = UpdateOptions {
            manager: &self.manager,
            now_ms: now_ms(),
            subresource: self.subresource,
            has_status: self.kind.status,
            api_version: &self.kind.api_version(),
        };
        apply::track_update(old, new, self.kind.schema(), options);
    }

    /// The complete new object from what a client sent, and warnings for it.
    pub(super) fn created(&self, mut new: Value, tracked: bool) -> Result<(Value, Vec<String>), ApiError> {
        let warnings = self.known_fields(&mut new)?;
        self.kind.apply_defaults(&mut new);
        admit::created(self.kind, &mut new, &timestamp(now_ms()));
        self.omit_empty(&mut new);
        Self::owners_once(None, &mut new);
        self.valid(&new)?;
        if tracked {
            self.track(None, &mut new);
        }
        Ok((new, warnings))
    }

    /// The object to store, from the stored one and from what a client wants of it, and warnings for it.
    pub(super) fn updated(&self, old: &Value, new: Value, tracked: bool) -> Result<(Value, Vec<String>), ApiError> {
        let mut new = self.identified(new)?;
        let warnings = self.known_fields(&mut new)?;
        let mut new = self.restricted(old, new);
        if self.part != Part::Status {
            self.kind.apply_defaults(&mut new);
            admit::updated(self.kind, old, &mut new)?;
        }
        self.omit_empty(&mut new);
        Self::owners_once(Some(old), &mut new);
        self.valid(&new)?;
        let frozen = if self.part == Part::Status { Vec::new() } else { self.kind.validate_update(old, &new) };
        if !frozen.is_empty() {
            return Err(invalid(self.kind, new["metadata"]["name"].as_str().unwrap_or_default(), frozen));
        }
        if tracked {
            self.track(Some(old), &mut new);
        }
        Ok((new, warnings))
    }

    /// An owner that is named twice alike is named once.
    fn owners_once(old: Option<&Value>, value: &mut Value) {
        let stored = old.and_then(|old| old.pointer("/metadata/ownerReferences")).and_then(Value::as_array);
        let Some(Value::Array(owners)) = value.pointer_mut("/metadata/ownerReferences") else { return };
        let mut seen: HashSet<String> = HashSet::with_capacity(owners.len());
        owners.retain(|owner| seen.insert(owner.to_string()));
        // The store refuses far fewer; until then nobody is to go through more than it has let through already.
        owners.truncate(LOOKED_AT_OWNERS.max(stored.map_or(0, Vec::len)));
    }

    /// Kubernetes' own kinds do not tell an empty map or list from an absent one.
    fn omit_empty(&self, value: &mut Value) {
        if self.kind.builtin {
            schema::omit_empty(self.kind.schema(), value);
        }
    }

    /// Says what it is, and is what the path says.
    pub(super) fn identified(&self, mut value: Value) -> Result<Value, ApiError> {
        let kind = self.kind;
        let Some(root) = value.as_object_mut() else {
            return Err(ApiError::bad_request("the body of the request is not a JSON object"));
        };
        let api_version = kind.api_version();
        let given = |field: &str| root.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version_given, kind_given) = (given("apiVersion"), given("kind"));
        let mismatch = (!version_given.is_empty() && version_given != api_version)
            || (!kind_given.is_empty() && kind_given != kind.kind);
        if mismatch {
            let given = if kind_given.is_empty() { kind.kind } else { kind_given };
            let (_, version) = version_given.rsplit_once('/').unwrap_or(("", version_given));
            let group = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
            return Err(ApiError::bad_request(format!(
                "{given} in version \"{version}\" cannot be handled as a {}: converting ({version}.{given}) to \
                 ({group}.{}): unknown conversion",
                kind.kind, kind.kind
            )));
        }
        root.insert("apiVersion".to_owned(), Value::from(api_version));
        root.insert("kind".to_owned(), Value::from(kind.kind));
        match root.get("metadata") {
            Some(Value::Object(_)) => {}
            None | Some(Value::Null) => {
                root.insert("metadata".to_owned(), json!({}));
            }
            Some(_) => return Err(ApiError::bad_request("metadata is not an object")),
        }
        Ok(value)
    }

    /// Refuses, tells or drops unknown fields, as the client wishes.
    fn known_fields(&self, value: &mut Value) -> Result<Vec<String>, ApiError> {
        let schema = self.kind.schema();
        let unknown = match self.validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => schema::unknown_fields(schema, value),
        };
        let told = if self.validation == FieldValidation::Ignore { &[][..] } else { &self.duplicates };
        let duplicates = told.iter().map(|path| format!("duplicate field \"{path}\""));
        let unknown = unknown.iter().map(|field| match &field.suggestion {
            Some(meant) => format!("{field} (did you mean \"{meant}\"?)"),
            None => field.to_string(),
        });
        let texts: Vec<String> = duplicates.chain(unknown).collect();
        if self.validation == FieldValidation::Strict && !texts.is_empty() {
            return Err(ApiError::bad_request(format!(
                "{} strict decoding error: {}",
                cannot_be_handled(self.kind),
                texts.join(", ")
            )));
        }
        schema::prune(schema, value);
        Ok(texts)
    }

    /// What this write may change of the stored object: the store would drop the rest, but ownership of fields must
    /// not count what is dropped.
    fn restricted(&self, old: &Value, mut new: Value) -> Value {
        match self.part {
            Part::Whole => new,
            Part::Main => {
                if self.kind.status {
                    set(&mut new, "status", old.get("status"));
                }
                new
            }
            Part::Status => {
                let mut whole = old.clone();
                set(&mut whole, "status", new.get("status"));
                let fields: &[&str] = if self.kind.builtin {
                    &[
                        "uid",
                        "resourceVersion",
                        "managedFields",
                        "labels",
                        "annotations",
                        "finalizers",
                        "ownerReferences",
                    ]
                } else {
                    &["uid", "resourceVersion", "managedFields"]
                };
                for field in fields {
                    let given = new["metadata"].get(*field).cloned();
                    set(&mut whole["metadata"], field, given.as_ref());
                }
                whole
            }
        }
    }

    fn valid(&self, value: &Value) -> Result<(), ApiError> {
        if self.kind.builtin && matches!(self.kind.plural, "secrets" | "configmaps") {
            let field = if self.kind.plural == "secrets" { "data" } else { "binaryData" };
            let data = value[field].as_object().into_iter().flatten();
            if let Some(at) = data.filter_map(|(_, value)| value.as_str()).find_map(illegal_base64) {
                return Err(ApiError::bad_request(format!(
                    "{} illegal base64 data at input byte {at}",
                    cannot_be_handled(self.kind)
                )));
            }
        }
        let causes = self.kind.validate(value);
        if causes.is_empty() {
            return Ok(());
        }
        // Kubernetes' own kinds are decoded into types before they are validated, so that a wrong type is a bad request.
        if self.kind.builtin
            && let Some(cause) = causes.iter().find(|cause| cause.reason == CauseReason::TypeInvalid)
        {
            return Err(ApiError::bad_request(format!("{} {cause}", cannot_be_handled(self.kind))));
        }
        let name = value["metadata"]["name"].as_str().or(value["metadata"]["generateName"].as_str());
        Err(invalid(self.kind, name.unwrap_or_default(), causes))
    }
}

/// A time as objects have it.
fn timestamp(now_ms: i64) -> String {
    jiff::Timestamp::from_second(now_ms / 1000).unwrap_or_default().to_string()
}

/// Where base64 stops being base64, counted as Go counts; line ends are allowed.
fn illegal_base64(text: &str) -> Option<usize> {
    use base64::Engine as _;
    let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    if base64::engine::general_purpose::STANDARD.decode(&plain).is_ok() {
        return None;
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'\r' | b'\n');
    let stray = text.bytes().position(|byte| !legal(byte));
    Some(stray.unwrap_or_else(|| plain.len() / 4 * 4))
}

fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

fn cannot_be_handled(kind: &Kind) -> String {
    format!("{} in version \"{}\" cannot be handled as a {}:", kind.kind, kind.version, kind.kind)
}

/// 422 with the causes that validation found.
pub(super) fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
    let causes = causes
        .into_iter()
        .map(|cause| FieldCause { field: cause.field, reason: cause.reason.as_str(), message: cause.message })
        .collect();
    ApiError::invalid(Subject::new(kind.group, kind.kind, name), causes)
}

/// 422 for one field.
pub(super) fn invalid_field(kind: &Kind, name: &str, reason: CauseReason, field: &str, message: String) -> ApiError {
    invalid(kind, name, vec![Cause { reason, field: field.to_owned(), message }])
}

/// What refused a write inside the store's writer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The store.
    Store(StoreError),
    /// What the store asked before it wrote.
    Api(ApiError),
    /// The object that was to be changed has gone since it was looked at, and creating it needs more.
    Vanished(Key),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl Refusal {
    pub(super) fn into_api(self, kind: &Kind) -> ApiError {
        match self {
            Self::Store(error) => ApiError::from_store(error, kind.kind),
            Self::Api(error) => error,
            Self::Vanished(key) => ApiError::from_store(StoreError::modified(&key), kind.kind),
        }
    }
}

/// The API's answer to a patch that cannot be used.
pub(super) fn patch_error(error: PatchError, subject: Subject) -> ApiError {
    match error {
        PatchError::Malformed(message) => ApiError::bad_request(message),
        PatchError::TooLarge(message) => ApiError::too_large(message),
        PatchError::Mismatch(message) => {
            // The API server says no more than that it is the client's fault; what exactly goes to the log.
            tracing::info!(kind = subject.kind, name = subject.name, message, "patch refused");
            ApiError::rejected()
        }
    }
}

/// The API's answer to an apply that cannot be done.
pub(super) fn apply_error(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Malformed(message) => ApiError::bad_request(message),
        ApplyError::Conflicts(conflicts) => {
            let cause = |conflict: apply::Conflict| FieldCause {
                field: conflict.field,
                reason: "FieldManagerConflict",
                message: format!("conflict with {}", conflict.described),
            };
            ApiError::apply_conflict(message, conflicts.into_iter().map(cause).collect())
        }
    }
}

/// The map at `field`, made if it is absent or none.
pub(super) fn map_at<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let root = object.as_object_mut()?;
    let value = root.entry(field).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_are_stored_are_not_lost_by_a_write() {
        let owned = |owners: usize| {
            let owners: Vec<Value> = (0..owners).map(|n| json!({"uid": n.to_string()})).collect();
            json!({"metadata": {"ownerReferences": owners}})
        };
        let mut more = owned(300);
        Writer::owners_once(Some(&owned(200)), &mut more);
        assert_eq!(more, owned(200));
        Writer::owners_once(Some(&owned(3)), &mut more);
        assert_eq!(more, owned(LOOKED_AT_OWNERS));
        let mut twice = json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}, {"uid": "a"}]}});
        Writer::owners_once(None, &mut twice);
        assert_eq!(twice, json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}]}}));
    }
}

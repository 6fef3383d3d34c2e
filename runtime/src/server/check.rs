//! What every write goes through before the store sees it: known fields, defaults, validity, ownership of fields. Pure.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value, json};
use trainyard_runtime_core::apply::{self, ApplyError, UpdateOptions};
use trainyard_runtime_core::patch::PatchError;
use trainyard_runtime_core::schema::{self, Cause, CauseReason};
use trainyard_runtime_core::store::{FieldCause, Key, Part, StoreError, changed_causes, new_causes};

use super::call::Call;
use super::identity::type_causes;
use super::query::FieldValidation;
use super::rules::rule;
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

    /// Objects of some kinds are written only by who says which version he has read.
    pub(super) fn versioned(&self, key: &Key, new: &Value) -> Result<(), StoreError> {
        let said = new["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty());
        if said || rule(self.kind).unconditional_update { Ok(()) } else { Err(StoreError::unversioned(key)) }
    }

    fn writes<'a>(&'a self, api_version: &'a str) -> UpdateOptions<'a> {
        UpdateOptions {
            manager: &self.manager,
            now_ms: now_ms(),
            subresource: self.subresource,
            has_status: self.kind.status,
            api_version,
        }
    }

    fn track(&self, old: Option<&Value>, new: &mut Value) {
        apply::track_update(old, new, self.kind.schema(), self.writes(&self.kind.api_version()));
    }

    /// Who owns the number of replicas, at `path`, after a write to the scale; `said` unless there are to be none.
    pub(super) fn track_scale(&self, old: &Value, new: &mut Value, path: &str, said: bool) {
        apply::track_scale(old, new, path, said, self.writes(&self.kind.api_version()));
    }

    /// What a body says as an object of the kind, and warnings for it: all that can be told of it before anything stored is
    /// looked at.
    pub(super) fn read(&self, value: Value) -> Result<(Value, Vec<String>), ApiError> {
        let mut value = self.identified(value)?;
        let warnings = self.known_fields(&mut value)?;
        Ok((value, warnings))
    }

    /// The same of what a patch made of an object.
    pub(super) fn read_patched(&self, value: Value) -> Result<(Value, Vec<String>), ApiError> {
        let mut value = self.identified_by(value, false)?;
        let warnings = self.known_fields(&mut value)?;
        Ok((value, warnings))
    }

    /// The complete new object from what was read, and more warnings for it.
    pub(super) fn created(&self, mut new: Value, tracked: bool) -> Result<(Value, Vec<String>), ApiError> {
        let mut warnings = Vec::new();
        // The status of a new custom object is dropped before anybody looks at it, and so is the uid of any.
        if !self.kind.builtin && self.kind.status {
            set(&mut new, "status", None);
        }
        set(&mut new["metadata"], "uid", None);
        self.write_quantities(&mut new);
        self.kind.apply_defaults(&mut new);
        admit::read(self.kind, &mut new);
        // Nobody owns what the server adds.
        if tracked {
            self.omit_empty(&mut new);
            self.track(None, &mut new);
        }
        admit::created(self.kind, &mut new, &timestamp(now_ms()));
        self.omit_empty(&mut new);
        Self::owners_once(None, &mut new, &mut warnings);
        self.valid(&new, Checked::New).map_err(|error| error.warning(&warnings))?;
        warnings.extend(self.kind.warnings(None, &new));
        Ok((new, warnings))
    }

    /// The object to store, from the stored one and from what was read of what a client wants of it, and more warnings for it.
    pub(super) fn updated(&self, old: &Value, new: Value, tracked: bool) -> Result<(Value, Vec<String>), ApiError> {
        let mut warnings = Vec::new();
        let old = &*self.with_written_quantities(old);
        let mut new = self.restricted(old, new);
        // Who writes it need not say which one it is.
        if new["metadata"]["uid"].as_str().is_none_or(str::is_empty) {
            set(&mut new["metadata"], "uid", old["metadata"].get("uid"));
        }
        self.write_quantities(&mut new);
        let written = if self.part == Part::Status {
            admit::reported(self.kind, old, &mut new);
            Vec::new()
        } else {
            self.kind.apply_defaults(&mut new);
            admit::read(self.kind, &mut new);
            self.kind.validate_written(old, &new)
        };
        self.reset_ownership(&mut new);
        self.omit_empty(&mut new);
        // Nobody owns what the server gives back.
        if tracked {
            self.track(Some(old), &mut new);
        }
        if self.part != Part::Status {
            admit::updated(self.kind, old, &mut new);
        }
        Self::owners_once(Some(old), &mut new, &mut warnings);
        let mut frozen = match self.part {
            Part::Status => self.kind.validate_status(old, &new),
            Part::Main | Part::Whole => self.kind.validate_update(old, &new),
        };
        frozen.splice(0..0, written);
        let frozen = Frozen {
            metadata: changed_causes(old, &new),
            deletion: deletion_changes(&old["metadata"], &new["metadata"]),
            fields: frozen,
        };
        self.valid(&new, Checked::Changed(frozen)).map_err(|error| error.warning(&warnings))?;
        if self.part != Part::Status {
            warnings.extend(self.kind.warnings(Some(old), &new));
        }
        Ok((new, warnings))
    }

    /// Of Kubernetes' own kinds a list of nobody says that nobody owns anything; of others it is what clients write that do not
    /// know the field.
    fn reset_ownership(&self, value: &mut Value) {
        let Some(managed) = value.pointer_mut("/metadata/managedFields") else { return };
        if self.kind.builtin && managed.as_array().is_some_and(Vec::is_empty) {
            *managed = json!([{}]);
        }
    }

    /// An owner that is named twice alike is named once.
    fn owners_once(old: Option<&Value>, value: &mut Value, warnings: &mut Vec<String>) {
        let stored = old.and_then(|old| old.pointer("/metadata/ownerReferences")).and_then(Value::as_array);
        let Some(Value::Array(owners)) = value.pointer_mut("/metadata/ownerReferences") else { return };
        let mut seen: HashSet<String> = HashSet::with_capacity(owners.len());
        let mut twice: Vec<String> = Vec::new();
        owners.retain(|owner| {
            let new = seen.insert(owner.to_string());
            if !new {
                twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
            }
            new
        });
        if !twice.is_empty() {
            warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and \
                 may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
                twice.join(",")
            ));
        }
        // The store refuses far fewer; until then nobody is to go through more than it has let through already.
        owners.truncate(LOOKED_AT_OWNERS.max(stored.map_or(0, Vec::len)));
    }

    /// Kubernetes' own kinds have one form for each amount.
    fn write_quantities(&self, value: &mut Value) {
        if self.kind.builtin {
            schema::write_quantities(self.kind.schema(), value);
        }
    }

    /// A stored object as it would be stored today: what an older version kept as it came must not seem to change.
    fn with_written_quantities<'v>(&self, old: &'v Value) -> Cow<'v, Value> {
        if !self.kind.builtin || schema::has_written_quantities(self.kind.schema(), old) {
            return Cow::Borrowed(old);
        }
        let mut old = old.clone();
        schema::write_quantities(self.kind.schema(), &mut old);
        Cow::Owned(old)
    }

    /// Kubernetes' own kinds, and all metadata, do not tell an empty map or list from an absent one.
    fn omit_empty(&self, value: &mut Value) {
        let schema = self.kind.schema();
        if self.kind.builtin {
            schema::omit_empty(schema, value);
        } else {
            if let (Some(schema), Some(metadata)) = (schema.field("metadata"), value.get_mut("metadata")) {
                schema::omit_empty(schema, metadata);
            }
            schema::drop_nulls(schema, value);
        }
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
        let unknown = unknown.iter().map(|field| {
            let told = self.kind.told(&field.to_string());
            match &field.suggestion {
                Some(meant) => format!("{told} (did you mean \"{meant}\"?)"),
                None => told,
            }
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

    /// Whether an object of Kubernetes' own kinds, or the metadata of another, reads as what it is.
    pub(super) fn typed(&self, value: &Value) -> Result<(), ApiError> {
        let typed = |cause: &Cause| self.kind.builtin || cause.field.starts_with("metadata");
        let causes = schema::validate(self.kind.schema(), value);
        match causes.iter().find(|cause| cause.reason == CauseReason::TypeInvalid && typed(cause)) {
            Some(cause) => Err(ApiError::bad_request(format!("{} {cause}", cannot_be_handled(self.kind)))),
            None => Ok(()),
        }
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
                // Its finalizers are changed through `/finalize` alone.
                if self.kind.builtin && self.kind.plural == "namespaces" {
                    set(&mut new, "spec", old.get("spec"));
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
                    &["resourceVersion", "managedFields"]
                };
                for field in fields {
                    let given = new["metadata"].get(*field).cloned();
                    set(&mut whole["metadata"], field, given.as_ref());
                }
                whole
            }
        }
    }

    /// What is wrong with a new object's metadata, and how many of what else is wrong are told before that.
    fn metadata_causes(&self, value: &Value, causes: &[Cause]) -> (Vec<FieldCause>, usize) {
        let nothing = Map::new();
        let metadata = value["metadata"].as_object().unwrap_or(&nothing);
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        // Of an object with a name the store says the rest, if nothing else is wrong. Newer events are kept among the older ones,
        // of which less is asked.
        if causes.is_empty() && !name.is_empty() && self.kind.group != "events.k8s.io" {
            return (Vec::new(), 0);
        }
        let first = new_causes(&rule(self.kind), name, metadata);
        match (self.kind.group, self.kind.kind) {
            // What an event is about is looked at first, and of older ones nothing more where that is wrong.
            ("", "Event") if !causes.is_empty() => (Vec::new(), 0),
            ("events.k8s.io", "Event") => {
                let newer = ["series", "eventTime", "type", "firstTimestamp", "lastTimestamp", "count", "source"];
                let is_newer = |cause: &Cause| newer.contains(&cause.field.split('.').next().unwrap_or_default());
                (first, causes.iter().position(is_newer).unwrap_or(causes.len()))
            }
            _ => (first, 0),
        }
    }

    fn valid(&self, value: &Value, checked: Checked) -> Result<(), ApiError> {
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
        if let (false, Some(said)) = (self.kind.builtin, value["kind"].as_str()) {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            type_causes(self.kind, &self.kind.api_version(), said, name)?;
        }
        let mut causes = self.kind.validate(value);
        let (first, place) = match checked {
            Checked::New => self.metadata_causes(value, &causes),
            Checked::Changed(Frozen { metadata, deletion, fields }) => {
                // What is immutable about a secret is said first.
                let place = if self.kind.kind == "Secret" { 0 } else { causes.len() };
                causes.splice(place..place, fields);
                causes.splice(0..0, deletion);
                (metadata, 0)
            }
        };
        // Kubernetes' own kinds, and all metadata, are decoded into types before they are validated, so that a wrong type is a
        // bad request.
        let typed = |cause: &&Cause| self.kind.builtin || cause.field.starts_with("metadata");
        if let Some(cause) = causes.iter().filter(typed).find(|cause| cause.reason == CauseReason::TypeInvalid) {
            return Err(ApiError::bad_request(format!("{} {cause}", cannot_be_handled(self.kind))));
        }
        if causes.is_empty() && first.is_empty() {
            return Ok(());
        }
        let name = value["metadata"]["name"].as_str().or(value["metadata"]["generateName"].as_str());
        let mut all = field_causes(causes);
        all.splice(place..place, first);
        Err(ApiError::invalid(subject(self.kind, name.unwrap_or_default()), all))
    }
}

/// What is looked at.
enum Checked {
    /// A new object.
    New,
    /// A changed one, and what must not have changed of it.
    Changed(Frozen),
}

/// What must not have changed of an object.
struct Frozen {
    metadata: Vec<FieldCause>,
    /// When it goes: that is for deletions to say.
    deletion: Vec<Cause>,
    fields: Vec<Cause>,
}

/// An object's end is told by a deletion, and by no other write. What a writer says of the end of one that is going does not count.
fn deletion_changes(old: &Value, new: &Value) -> Vec<Cause> {
    let changed = ["deletionTimestamp", "deletionGracePeriodSeconds"].into_iter().filter(|field| {
        let going = *field == "deletionTimestamp" && old[*field].is_string();
        !new[*field].is_null() && !going && new[*field] != old[*field]
    });
    let cause = |field: &str| Cause {
        reason: CauseReason::Invalid,
        field: format!("metadata.{field}"),
        message: format!("Invalid value: {}: field is immutable", new[field]),
    };
    changed.map(cause).collect()
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

pub(super) fn cannot_be_handled(kind: &Kind) -> String {
    format!("{} in version \"{}\" cannot be handled as a {}:", kind.kind, kind.version, kind.kind)
}

/// 422 with the causes that validation found.
pub(super) fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
    ApiError::invalid(subject(kind, name), field_causes(causes))
}

/// What is not valid, as the API names it.
fn subject(kind: &Kind, name: &str) -> Subject {
    Subject::new(kind.stored_as.map_or(kind.group, |(group, _)| group), kind.kind, name)
}

fn field_causes(causes: Vec<Cause>) -> Vec<FieldCause> {
    let one = |cause: Cause| FieldCause { field: cause.field, reason: cause.reason.as_str(), message: cause.message };
    causes.into_iter().map(one).collect()
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
            Self::Store(error) => ApiError::from_store(error, kind.kind).seen_as(kind),
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
    fn only_a_deletion_says_when_an_object_goes() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        let fields = |old: &Value, new: &Value| -> Vec<String> {
            deletion_changes(old, new).into_iter().map(|cause| cause.field).collect()
        };
        let both = ["metadata.deletionTimestamp", "metadata.deletionGracePeriodSeconds"];
        assert_eq!(fields(&json!({}), &going), both);
        assert_eq!(fields(&going, &going), [""; 0]);
        // Who has read it before it was deleted.
        assert_eq!(fields(&going, &json!({})), [""; 0]);
        let later = json!({"deletionTimestamp": "2027-01-01T00:00:00Z", "deletionGracePeriodSeconds": 9});
        assert_eq!(fields(&going, &later), [both[1]]);
    }

    #[test]
    fn owners_that_are_stored_are_not_lost_by_a_write() {
        let owned = |owners: usize| {
            let owners: Vec<Value> = (0..owners).map(|n| json!({"uid": n.to_string()})).collect();
            json!({"metadata": {"ownerReferences": owners}})
        };
        let mut more = owned(300);
        Writer::owners_once(Some(&owned(200)), &mut more, &mut Vec::new());
        assert_eq!(more, owned(200));
        Writer::owners_once(Some(&owned(3)), &mut more, &mut Vec::new());
        assert_eq!(more, owned(LOOKED_AT_OWNERS));
        let mut twice = json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}, {"uid": "a"}]}});
        let mut warnings = Vec::new();
        Writer::owners_once(None, &mut twice, &mut warnings);
        assert!(matches!(warnings.as_slice(), [only] if only.ends_with("observed: a")), "{warnings:?}");
        assert_eq!(twice, json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}]}}));
    }
}

//! Creating and replacing objects.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::batch::{Batch, Decision};
use super::command::{Create, Effect, NewObject, Part};
use super::error::StoreError;
use super::object::{Key, Object, strings};
use super::rules::ResourceRules;
use super::state::Store;
use super::validate::{check_metadata, check_namespace, check_new, check_new_finalizers};

/// Names are at most 63 characters where generated, so that they can be labels; five are the suffix.
const GENERATED_PREFIX_CHARS: usize = 58;

pub(crate) fn create(batch: &Batch, store: &Store, now_ms: i64, mut create: Create) -> Result<Decision, StoreError> {
    let meta = create.value.get("metadata");
    let text = |field: &str| meta.and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default();
    let key = Key::new(create.resource.clone(), create.namespace.as_str(), text("name"));
    let name = match (text("name"), text("generateName")) {
        ("", "") => {
            let message = "Required value: name or generateName is required".to_owned();
            return Err(StoreError::invalid_field(&key, "metadata.name", "FieldValueRequired", message));
        }
        ("", prefix) => {
            let prefix: String = prefix.chars().take(GENERATED_PREFIX_CHARS).collect();
            format!("{prefix}{}", create.new.suffix)
        }
        (name, _) => name.to_owned(),
    };
    let key = Key { name: name.into(), ..key };
    if let Some(meta) = create.value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.retain(|field, _| !matches!(field.as_str(), "deletionTimestamp" | "deletionGracePeriodSeconds"));
    }
    create_named(batch, store, now_ms, &key, create.value, &create.new)
}

/// Creates under a full key. Unlike a POST, what makes an object of which the name is known may say when it is to end.
pub(crate) fn create_named(
    batch: &Batch,
    store: &Store,
    now_ms: i64,
    key: &Key,
    mut value: Value,
    new: &NewObject,
) -> Result<Decision, StoreError> {
    let rules = rules_of(store, key)?;
    check_namespace(batch, store, rules, key)?;
    let meta = metadata_mut(object_mut(&mut value)?)?;
    same_or_bad_request(meta, "name", &key.name)?;
    same_or_bad_request(meta, "namespace", &key.namespace)?;
    check_new(rules, key, meta)?;
    if let Some(existing) = batch.get(store, key).map(Object::on_its_own) {
        return Err(StoreError::AlreadyExists {
            resource: key.resource.clone(),
            name: key.name.to_string(),
            deleting: existing.is_deleting(),
        });
    }
    let root = object_mut(&mut value)?;
    if rules.status_subresource && !new.keep_status {
        root.remove("status");
    }
    if rules.spec_finalizers {
        prepare_namespace(root, key);
    }
    let meta = metadata_mut(root)?;
    if meta.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        return Err(StoreError::BadRequest {
            message: "resourceVersion should not be set on objects to be created".to_owned(),
        });
    }
    for field in ["selfLink", "generation"] {
        meta.remove(field);
    }
    meta.insert("name".to_owned(), Value::from(&*key.name));
    if rules.namespaced {
        meta.insert("namespace".to_owned(), Value::from(&*key.namespace));
    }
    meta.insert("creationTimestamp".to_owned(), Value::from(timestamp(now_ms)));
    if rules.generation {
        meta.insert("generation".to_owned(), Value::from(1));
    }
    Ok(Decision::Put { key: key.clone(), uid: new.uid.as_str().into(), value, effect: Effect::Created })
}

/// Namespaces are born active and held by the finalizer that the namespace's emptying takes off.
fn prepare_namespace(root: &mut Map<String, Value>, key: &Key) {
    root.insert("spec".to_owned(), json!({ "finalizers": ["kubernetes"] }));
    root.insert("status".to_owned(), json!({ "phase": "Active" }));
    if let Ok(meta) = metadata_mut(root) {
        label_namespace(meta, key);
    }
}

/// A namespace carries its name as a label, whatever its writers say.
fn label_namespace(meta: &mut Map<String, Value>, key: &Key) {
    let labels = meta.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(&*key.name));
    }
}

pub(crate) fn update(
    store: &Store,
    current: &Arc<Object>,
    mut value: Value,
    part: Part,
) -> Result<Decision, StoreError> {
    let key = current.key();
    let rules = rules_of(store, key)?;
    let meta = metadata_mut(object_mut(&mut value)?)?;
    same_or_bad_request(meta, "name", &key.name)?;
    same_or_bad_request(meta, "namespace", &key.namespace)?;
    check_update_preconditions(rules, current, meta)?;
    check_metadata(current, meta)?;
    let mut next = merge_part(rules, current, value, part)?;
    keep_server_fields(current, metadata_mut(object_mut(&mut next)?)?);
    if rules.spec_finalizers {
        label_namespace(metadata_mut(object_mut(&mut next)?)?, key);
    }
    check_new_finalizers(current, &next)?;
    let annotated = rules.annotations_count && part != Part::Status && annotations_changed(current.value(), &next);
    // A binding is not the pod's writer's change.
    let counted = rules.generation && !(rules.graceful_deletion && part == Part::Whole);
    if counted && (annotated || spec_changed(current.value(), &next)) {
        let generation = current.generation().unwrap_or(0) + 1;
        metadata_mut(object_mut(&mut next)?)?.insert("generation".to_owned(), Value::from(generation));
    }
    if same_content(current.value(), &next) {
        return Ok(Decision::Keep(Arc::clone(current)));
    }
    // The last finalizer is gone and no grace is left: the update is the end of the deletion.
    if current.is_deleting() && current.deletion_grace_seconds().unwrap_or(0) == 0 && !is_held(rules, &next) {
        return Ok(Decision::Remove { current: Arc::clone(current), last: None, answer: Some(next) });
    }
    Ok(Decision::Put { key: key.clone(), uid: current.uid().clone(), value: next, effect: Effect::Updated })
}

/// Whether finalizers hold the object back.
pub(crate) fn is_held(rules: &ResourceRules, value: &Value) -> bool {
    let listed = |at: &str| strings(value.pointer(at)).next().is_some();
    listed("/metadata/finalizers") || (rules.spec_finalizers && listed("/spec/finalizers"))
}

fn merge_part(rules: &ResourceRules, current: &Object, mut value: Value, part: Part) -> Result<Value, StoreError> {
    match part {
        Part::Whole => Ok(value),
        Part::Main => {
            if rules.status_subresource {
                let root = object_mut(&mut value)?;
                set_or_remove(root, "status", current.value().get("status").cloned());
            }
            if rules.spec_finalizers {
                // `spec.finalizers` is changed through `/finalize` only.
                set_or_remove(object_mut(&mut value)?, "spec", current.value().get("spec").cloned());
            }
            Ok(value)
        }
        Part::Status => {
            let root = object_mut(&mut value)?;
            let status = root.remove("status");
            let meta = root.remove("metadata").unwrap_or_else(|| json!({}));
            let mut next = current.value().clone();
            let next_root = object_mut(&mut next)?;
            set_or_remove(next_root, "status", status);
            let next_meta = metadata_mut(next_root)?;
            let via_status: &[&str] = if rules.metadata_via_status {
                &["labels", "annotations", "finalizers", "managedFields"]
            } else {
                &["managedFields"]
            };
            for field in via_status {
                set_or_remove(next_meta, field, meta.get(*field).cloned());
            }
            Ok(next)
        }
    }
}

fn set_or_remove(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.remove(field);
        }
    }
}

fn keep_server_fields(current: &Object, meta: &mut Map<String, Value>) {
    meta.remove("selfLink");
    let fields = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in fields {
        set_or_remove(meta, field, current.metadata().get(field).cloned());
    }
}

impl Object {
    /// Whether a writer who says a uid or a version in `value` means this object as it is.
    ///
    /// # Errors
    /// A conflict where he does not.
    pub fn is_meant(&self, value: &Value) -> Result<(), StoreError> {
        match said(value, "uid").filter(|uid| *uid != &**self.uid()) {
            Some(uid) => Err(uid_conflict(self, uid)),
            None => self.is_at(value),
        }
    }

    /// Whether a writer who says a version in `value` means this object as it is; a uid is something that a patch cannot change.
    ///
    /// # Errors
    /// A conflict where he does not.
    pub fn is_at(&self, value: &Value) -> Result<(), StoreError> {
        match said(value, "resourceVersion") {
            Some(version) if version != self.resource_version().to_string() => Err(StoreError::modified(self.key())),
            Some(_) | None => Ok(()),
        }
    }
}

/// What an object's metadata says, unless that is nothing.
fn said<'v>(object: &'v Value, field: &str) -> Option<&'v str> {
    object.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty())
}

fn check_update_preconditions(
    rules: &ResourceRules,
    current: &Object,
    meta: &Map<String, Value>,
) -> Result<(), StoreError> {
    let key = current.key();
    let text = |field: &str| meta.get(field).and_then(Value::as_str).filter(|v| !v.is_empty());
    if let Some(uid) = text("uid").filter(|uid| *uid != &**current.uid()) {
        return Err(uid_conflict(current, uid));
    }
    match text("resourceVersion") {
        None if rules.unconditional_update => Ok(()),
        None => Err(StoreError::unversioned(key)),
        Some(version) if version == current.resource_version().to_string() => Ok(()),
        Some(_) => Err(StoreError::modified(key)),
    }
}

/// In the words of the API server, which here shows through to its storage.
fn uid_conflict(current: &Object, asked: &str) -> StoreError {
    let Key { resource, namespace, name } = current.key();
    let (group, plural) = match (&*resource.group, &*resource.plural) {
        ("", "services") => ("", "services/specs"),
        ("", "nodes") => ("", "minions"),
        // Kubernetes' own kinds are stored without their groups.
        (group, plural) if !group.contains('.') || group.ends_with(".k8s.io") => ("", plural),
        custom => custom,
    };
    let parts = ["/registry", group, plural, namespace, name];
    let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    StoreError::Conflict {
        resource: resource.clone(),
        name: name.to_string(),
        message: format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
             failed: UID in precondition: {asked}, UID in object meta: {}",
            path.join("/"),
            current.uid()
        ),
    }
}

fn annotations_changed(old: &Value, new: &Value) -> bool {
    let annotations = |v: &Value| v.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
    annotations(old).unwrap_or_default() != annotations(new).unwrap_or_default()
}

/// Everything but `metadata` and `status` counts as spec.
fn spec_changed(old: &Value, new: &Value) -> bool {
    let counts = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let fields = |v: &Value| v.as_object().into_iter().flatten().filter(|(name, _)| counts(name)).count();
    let differs = |(name, value): (&String, &Value)| counts(name) && new.get(name) != Some(value);
    fields(old) != fields(new) || old.as_object().into_iter().flatten().any(differs)
}

/// Equal but for the times in `managedFields`, which a repeated apply renews without changing anything. Whether there is one counts.
fn same_content(old: &Value, new: &Value) -> bool {
    if old == new {
        return true;
    }
    let managed = |v: &Value| v.pointer("/metadata/managedFields").is_some();
    if !managed(old) || !managed(new) {
        return false;
    }
    without_managed_times(old) == without_managed_times(new)
}

fn without_managed_times(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        for time in fields.iter_mut().filter_map(|field| field.get_mut("time")) {
            *time = Value::Null;
        }
    }
    value
}

pub(crate) fn rules_of<'a>(store: &'a Store, key: &Key) -> Result<&'a ResourceRules, StoreError> {
    let rules = store.rules(&key.resource).ok_or_else(|| StoreError::BadRequest {
        message: format!("the server could not find the requested resource {}", key.resource),
    })?;
    if rules.namespaced == key.namespace.is_empty() {
        let message = if rules.namespaced {
            format!("an empty namespace may not be set when a resource name of {} is given", key.resource)
        } else {
            format!("{} is not namespaced", key.resource)
        };
        return Err(StoreError::BadRequest { message });
    }
    Ok(rules)
}

fn same_or_bad_request(meta: &Map<String, Value>, field: &str, expected: &str) -> Result<(), StoreError> {
    let found = meta.get(field).and_then(Value::as_str).unwrap_or_default();
    if found.is_empty() || found == expected {
        return Ok(());
    }
    let message = if field == "namespace" {
        "the namespace of the provided object does not match the namespace sent on the request".to_owned()
    } else {
        format!("the {field} of the object ({found}) does not match the {field} on the URL ({expected})")
    };
    Err(StoreError::BadRequest { message })
}

pub(crate) fn object_mut(value: &mut Value) -> Result<&mut Map<String, Value>, StoreError> {
    value
        .as_object_mut()
        .ok_or_else(|| StoreError::BadRequest { message: "the request's body is not a JSON object".to_owned() })
}

pub(crate) fn metadata_mut(root: &mut Map<String, Value>) -> Result<&mut Map<String, Value>, StoreError> {
    root.entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| StoreError::BadRequest { message: "metadata is not a JSON object".to_owned() })
}

/// RFC 3339 in whole seconds, as all timestamps in `metadata` are.
pub(crate) fn timestamp(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    // Out of jiff's range only beyond the year 9999.
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

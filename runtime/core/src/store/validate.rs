//! What the store itself refuses in an object, in the API server's words. Kinds' own rules are checked before.

use serde_json::{Map, Value};

use crate::selector::name::{is_dns_label, is_subdomain};
use crate::selector::{key_problems, value_problems};

use super::batch::Batch;
use super::error::{FieldCause, StoreError};
use super::object::{Key, Object, strings};
use super::rules::{NameRule, ResourceRules};
use super::state::Store;

/// DNS-1123 subdomain.
const SUBDOMAIN_CHARS: usize = 253;
/// DNS-1123 and DNS-1035 labels.
const LABEL_CHARS: usize = 63;
/// All keys and values of the annotations together.
const ANNOTATIONS_BYTES: usize = 256 << 10;

/// Owners of one object. Real ones have one or two; each is looked up when one of them goes.
const OWNERS: usize = 64;
/// Most problems told at once: an answer is for people to read.
const MAX_CAUSES: usize = 64;
/// What is shown of a wrong value.
const SHOWN_CHARS: usize = 1_024;

/// What a name must be that is a subdomain, in the API server's words.
pub const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What a name must be that is a label, in the API server's words.
pub const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SERVICE_LABEL_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
     an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const PATH_TEXT: &str = "may not be '.' or '..' and may not contain '/' or '%'";

/// The name and everything in `metadata` of a new object.
pub(crate) fn check_new(rules: &ResourceRules, key: &Key, meta: &Map<String, Value>) -> Result<(), StoreError> {
    refuse(key, new_causes(rules, &key.name, meta))
}

/// What is wrong with the name and with `metadata` of a new object.
#[must_use]
pub fn new_causes(rules: &ResourceRules, name: &str, meta: &Map<String, Value>) -> Vec<FieldCause> {
    let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let mut causes = Vec::new();
    if name.is_empty() && prefix.is_empty() {
        let message = "Required value: name or generateName is required".to_owned();
        causes.push(FieldCause { field: "metadata.name".to_owned(), reason: "FieldValueRequired", message });
        metadata_causes(meta, OWNERS, &mut causes);
        return causes;
    }
    if !prefix.is_empty() {
        // A name may go on behind a dash.
        let prefix = if prefix.len() > 1 { prefix.strip_suffix('-').unwrap_or(prefix) } else { prefix };
        causes.extend(name_causes(rules, "metadata.generateName", prefix));
    }
    causes.extend(name_causes(rules, "metadata.name", name));
    metadata_causes(meta, OWNERS, &mut causes);
    causes
}

/// What is wrong with `metadata` of an object that was `old`: what it says, and what it says anew although it is on its way out.
#[must_use]
pub fn changed_causes(old: &Value, new: &Value) -> Vec<FieldCause> {
    let owners =
        |object: &Value| object.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(0, Vec::len);
    let mut causes = Vec::new();
    if let Some(meta) = new.get("metadata").and_then(Value::as_object) {
        metadata_causes(meta, OWNERS.max(owners(old)), &mut causes);
    }
    let had: Vec<&str> = strings(old.pointer("/metadata/finalizers")).collect();
    let going = old.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
    causes.extend(added_finalizers(&had, new).filter(|_| going));
    let uid = |object: &Value| object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    if uid(old) != uid(new) {
        causes.push(invalid("metadata.uid", &format!("{:?}", uid(new)), "field is immutable"));
    }
    causes
}

/// Everything in `metadata` of a changed object. As many owners as it has already, from before there was a limit, it may keep,
/// or its finalizers could never be taken off.
pub(crate) fn check_metadata(current: &Object, meta: &Map<String, Value>) -> Result<(), StoreError> {
    let key = current.key();
    let stored = current.metadata().get("ownerReferences").and_then(Value::as_array).map_or(0, Vec::len);
    let mut causes = Vec::new();
    metadata_causes(meta, OWNERS.max(stored), &mut causes);
    refuse(key, causes)
}

fn name_causes(rules: &ResourceRules, field: &str, name: &str) -> Vec<FieldCause> {
    let (limit, legal, text) = match rules.name {
        NameRule::Subdomain => (SUBDOMAIN_CHARS, is_subdomain(name), SUBDOMAIN_TEXT),
        NameRule::Label => (LABEL_CHARS, is_dns_label(name), LABEL_TEXT),
        NameRule::ServiceLabel => {
            (LABEL_CHARS, is_dns_label(name) && !name.starts_with(|c: char| c.is_ascii_digit()), SERVICE_LABEL_TEXT)
        }
        NameRule::PathSegment => {
            (usize::MAX, !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']), PATH_TEXT)
        }
    };
    if rules.name == NameRule::Label && name.contains('.') {
        return vec![invalid(field, &format!("{name:?}"), "must not contain dots")];
    }
    let long = (name.len() > limit).then(|| format!("must be no more than {limit} characters"));
    let illegal = (!legal).then(|| text.to_owned());
    let value = format!("{name:?}");
    long.into_iter().chain(illegal).map(|problem| invalid(field, &value, &problem)).collect()
}

fn metadata_causes(meta: &Map<String, Value>, most_owners: usize, causes: &mut Vec<FieldCause>) {
    let entries = |field: &str| meta.get(field).and_then(Value::as_object).into_iter().flatten();
    for (key, value) in entries("labels") {
        if causes.len() >= MAX_CAUSES {
            return;
        }
        let value = value.as_str().unwrap_or_default();
        causes.extend(key_problems(key).iter().map(|p| invalid("metadata.labels", &format!("{key:?}"), p)));
        causes.extend(value_problems(value).iter().map(|p| invalid("metadata.labels", &format!("{value:?}"), p)));
    }
    let mut size_bytes = 0;
    for (key, value) in entries("annotations") {
        size_bytes += key.len() + value.as_str().map_or(0, str::len);
        if causes.len() >= MAX_CAUSES {
            continue;
        }
        let lower = key.to_lowercase();
        causes.extend(key_problems(&lower).iter().map(|p| invalid("metadata.annotations", &format!("{key:?}"), p)));
    }
    if size_bytes > ANNOTATIONS_BYTES {
        let message = format!("Too long: may not be more than {ANNOTATIONS_BYTES} bytes");
        causes.push(FieldCause { field: "metadata.annotations".to_owned(), reason: "FieldValueTooLong", message });
    }
    owner_causes(meta, most_owners, causes);
    for name in strings(meta.get("finalizers")) {
        if causes.len() >= MAX_CAUSES {
            return;
        }
        causes.extend(key_problems(name).iter().map(|p| invalid("metadata.finalizers", &format!("{name:?}"), p)));
    }
}

/// The namespace exists and takes new objects.
pub(crate) fn check_namespace(
    batch: &Batch,
    store: &Store,
    rules: &ResourceRules,
    key: &Key,
) -> Result<(), StoreError> {
    let namespace_key = Key::namespace_object(key.namespace.clone());
    if !rules.namespaced || store.rules(&namespace_key.resource).is_none() {
        return Ok(());
    }
    let namespace = batch.get(store, &namespace_key).ok_or_else(|| StoreError::not_found(&namespace_key))?;
    if namespace.is_deleting() {
        let (resource, name) = (key.resource.clone(), key.name.to_string());
        return Err(StoreError::Terminating { resource, name, namespace: key.namespace.to_string() });
    }
    Ok(())
}

fn owner_causes(meta: &Map<String, Value>, most: usize, causes: &mut Vec<FieldCause>) {
    let Some(list) = meta.get("ownerReferences").filter(|list| list.is_array()) else { return };
    let owners = list.as_array().map_or(&[][..], Vec::as_slice);
    let text = |owner: &Value, field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if owners.len() > most {
        let message = format!("Too many: must have at most {most} items");
        causes.push(FieldCause { field: "metadata.ownerReferences".to_owned(), reason: "FieldValueTooMany", message });
        return;
    }
    let mut controller: Option<&Value> = None;
    let mut told = false;
    for owner in owners {
        let api_version = text(owner, "apiVersion");
        if api_version.is_empty() {
            causes.push(invalid("metadata.ownerReferences.apiVersion", "\"\"", "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                causes.push(invalid(&format!("metadata.ownerReferences.{field}"), "\"\"", "must not be empty"));
            }
        }
        if text(owner, "kind") == "Event" && matches!(api_version.as_str(), "v1" | "events.k8s.io/v1") {
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let problem = format!("{group}/{version}, Kind=Event is disallowed from being an owner");
            causes.push(invalid("metadata.ownerReferences", &shown(owner), &problem));
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        if let (Some(first), false) = (controller, told) {
            told = true;
            let problem = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                text(first, "kind"),
                text(first, "name"),
                text(owner, "kind"),
                text(owner, "name")
            );
            causes.push(invalid("metadata.ownerReferences", &shown(list), &problem));
        }
        controller = controller.or(Some(owner));
    }
}

/// A value in a refusal, cut where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// An object on its way out takes no new reasons to stay.
pub(crate) fn check_new_finalizers(current: &Object, next: &Value) -> Result<(), StoreError> {
    let had: Vec<&str> = current.finalizers().collect();
    let cause = added_finalizers(&had, next).filter(|_| current.is_deleting());
    refuse(current.key(), cause.into_iter().collect())
}

/// What is wrong with finalizers that an object on its way out did not have.
fn added_finalizers(had: &[&str], next: &Value) -> Option<FieldCause> {
    let added: Vec<String> = strings(next.pointer("/metadata/finalizers"))
        .filter(|name| !had.contains(name))
        .map(|name| format!("{name:?}"))
        .collect();
    let message = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let cause = FieldCause { field: "metadata.finalizers".to_owned(), reason: "FieldValueForbidden", message };
    (!added.is_empty()).then_some(cause)
}

fn invalid(field: &str, value: &str, problem: &str) -> FieldCause {
    let message = format!("Invalid value: {value}: {problem}");
    FieldCause { field: field.to_owned(), reason: "FieldValueInvalid", message }
}

pub(crate) fn refuse(key: &Key, causes: Vec<FieldCause>) -> Result<(), StoreError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(StoreError::Invalid { resource: key.resource.clone(), name: key.name.to_string(), causes })
}

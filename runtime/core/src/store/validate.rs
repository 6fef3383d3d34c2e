//! What the store itself refuses in an object, in the API server's words. Kinds' own rules are checked before.

use serde_json::{Map, Value};

use super::batch::Batch;
use super::error::{FieldCause, StoreError};
use super::object::{Key, Object, strings};
use super::rules::{NameRule, ResourceRules};
use super::state::Store;

/// DNS-1123 subdomain.
const SUBDOMAIN_CHARS: usize = 253;
/// DNS-1123 and DNS-1035 labels.
const LABEL_CHARS: usize = 63;

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SERVICE_LABEL_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
     an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const PATH_TEXT: &str = "may not be '.' or '..' and may not contain '/' or '%'";

pub(crate) fn check_name(rules: &ResourceRules, key: &Key) -> Result<(), StoreError> {
    let name = &*key.name;
    let (limit, legal, text) = match rules.name {
        NameRule::Subdomain => (SUBDOMAIN_CHARS, name.split('.').all(is_label), SUBDOMAIN_TEXT),
        NameRule::Label => (LABEL_CHARS, is_label(name), LABEL_TEXT),
        NameRule::ServiceLabel => {
            (LABEL_CHARS, is_label(name) && !name.starts_with(|c: char| c.is_ascii_digit()), SERVICE_LABEL_TEXT)
        }
        NameRule::PathSegment => {
            (usize::MAX, !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']), PATH_TEXT)
        }
    };
    let mut problems = Vec::new();
    if name.len() > limit {
        problems.push(format!("must be no more than {limit} characters"));
    }
    if !legal {
        problems.push(text.to_owned());
    }
    let cause = |problem: String| invalid("metadata.name", &format!("{name:?}"), &problem);
    refuse(key, problems.into_iter().map(cause).collect())
}

fn is_label(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(part.chars().next())
        && edge(part.chars().last())
        && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
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

pub(crate) fn check_owners(key: &Key, meta: &Map<String, Value>) -> Result<(), StoreError> {
    let Some(list) = meta.get("ownerReferences").filter(|list| list.is_array()) else { return Ok(()) };
    let owners = list.as_array().map_or(&[][..], Vec::as_slice);
    let text = |owner: &Value, field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut causes = Vec::new();
    let mut controller: Option<&Value> = None;
    for owner in owners {
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                causes.push(invalid(&format!("metadata.ownerReferences.{field}"), "\"\"", "must not be empty"));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        if let Some(first) = controller {
            let problem = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                text(first, "kind"),
                text(first, "name"),
                text(owner, "kind"),
                text(owner, "name")
            );
            causes.push(invalid("metadata.ownerReferences", &list.to_string(), &problem));
        }
        controller = controller.or(Some(owner));
    }
    refuse(key, causes)
}

/// An object on its way out takes no new reasons to stay.
pub(crate) fn check_new_finalizers(current: &Object, next: &Value) -> Result<(), StoreError> {
    let added: Vec<&str> =
        strings(next.pointer("/metadata/finalizers")).filter(|f| !current.finalizers().any(|old| old == *f)).collect();
    if !current.is_deleting() || added.is_empty() {
        return Ok(());
    }
    let added: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
    let message = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let cause = FieldCause { field: "metadata.finalizers".to_owned(), reason: "FieldValueForbidden", message };
    // The API server checks it twice, and says so.
    refuse(current.key(), vec![cause.clone(), cause])
}

fn invalid(field: &str, value: &str, problem: &str) -> FieldCause {
    let message = format!("Invalid value: {value}: {problem}");
    FieldCause { field: field.to_owned(), reason: "FieldValueInvalid", message }
}

fn refuse(key: &Key, causes: Vec<FieldCause>) -> Result<(), StoreError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(StoreError::Invalid { resource: key.resource.clone(), name: key.name.to_string(), causes })
}

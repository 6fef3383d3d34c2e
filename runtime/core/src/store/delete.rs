//! Deletion: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::batch::Decision;
use super::command::{Delete, Effect, Propagation};
use super::error::StoreError;
use super::object::Object;
use super::rules::ResourceRules;
use super::state::Store;
use super::write::{is_held, metadata_mut, object_mut, rules_of, timestamp};

/// The finalizer by which an owner waits for what it owns.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer by which an owner waits until what it owns has forgotten it.
pub(crate) const ORPHAN: &str = "orphan";
/// A pod's grace where its spec says none.
const DEFAULT_GRACE_SECONDS: i64 = 30;

pub(crate) fn delete(
    store: &Store,
    now_ms: i64,
    current: &Arc<Object>,
    request: &Delete,
) -> Result<Decision, StoreError> {
    let rules = rules_of(store, current.key())?;
    check_preconditions(current, request)?;
    let grace = grace_seconds(rules, current, request.grace_seconds);
    let mut next = current.value().clone();
    let root = object_mut(&mut next)?;
    let finalizers = finalizers_after(current, request.propagation);
    let meta = metadata_mut(root)?;
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), json!(finalizers));
    }
    mark(rules, now_ms, current, grace, &mut next)?;
    if !is_held(rules, &next) && grace == 0 {
        // A pod's watchers see that it was told to end; other objects are just gone.
        let last = rules.graceful_deletion.then_some(next);
        return Ok(Decision::Remove { current: Arc::clone(current), last, answer: None });
    }
    if next == *current.value() {
        return Ok(Decision::Keep(Arc::clone(current)));
    }
    let (key, uid) = (current.key().clone(), current.uid().clone());
    Ok(Decision::Put { key, uid, value: next, effect: Effect::Deleting })
}

fn check_preconditions(current: &Object, request: &Delete) -> Result<(), StoreError> {
    let refuse = |message| {
        let (resource, name) = (current.key().resource.clone(), current.key().name.to_string());
        Err(StoreError::Precondition { resource, name, message })
    };
    if let Some(asked) = request.preconditions.uid.as_deref().filter(|uid| *uid != &**current.uid()) {
        return refuse(format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            current.uid()
        ));
    }
    let version = current.resource_version().to_string();
    match request.preconditions.resource_version.as_deref() {
        Some(asked) if asked != version => refuse(format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        )),
        Some(_) | None => Ok(()),
    }
}

/// How long the object may still live. A pod that no node runs, or that has ended, needs no grace.
fn grace_seconds(rules: &ResourceRules, current: &Object, asked: Option<i64>) -> i64 {
    if !rules.graceful_deletion {
        return 0;
    }
    let value = current.value();
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default();
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let wanted = match asked.unwrap_or_else(|| own.unwrap_or(DEFAULT_GRACE_SECONDS)) {
        negative if negative < 0 => 1,
        seconds => seconds,
    };
    // A deletion that is under way can be hurried, never delayed.
    match (current.is_deleting(), current.deletion_grace_seconds(), asked) {
        (true, Some(left), None) => left,
        (true, Some(left), Some(_)) => left.min(wanted),
        (true, None, _) | (false, _, _) => wanted,
    }
}

fn finalizers_after(current: &Object, propagation: Option<Propagation>) -> Vec<&str> {
    let mut finalizers: Vec<&str> = current.finalizers().collect();
    let (add, drop): (Option<&str>, &[&str]) = match propagation {
        None => (None, &[]),
        Some(Propagation::Background) => (None, &[FOREGROUND, ORPHAN]),
        Some(Propagation::Foreground) => (Some(FOREGROUND), &[ORPHAN]),
        Some(Propagation::Orphan) => (Some(ORPHAN), &[FOREGROUND]),
    };
    finalizers.retain(|f| !drop.contains(f));
    if let Some(add) = add.filter(|add| !finalizers.contains(add)) {
        finalizers.push(add);
    }
    finalizers
}

fn mark(rules: &ResourceRules, now_ms: i64, current: &Object, grace: i64, next: &mut Value) -> Result<(), StoreError> {
    let root = object_mut(next)?;
    let meta = metadata_mut(root)?;
    let end = match (current.deletion_ms(), current.deletion_grace_seconds()) {
        (None, _) => Some(now_ms.saturating_add(grace.saturating_mul(1000))),
        // Hurried: counted from when the deletion was asked for first.
        (Some(end_ms), Some(left)) if grace < left => Some(end_ms - (left - grace).saturating_mul(1000)),
        (Some(_), _) => None,
    };
    if let Some(end_ms) = end {
        meta.insert("deletionTimestamp".to_owned(), Value::from(timestamp(end_ms)));
        if !rules.spec_finalizers {
            meta.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
        }
    }
    if !current.is_deleting() {
        if let Some(generation) = current.generation() {
            // What the object's controllers shall do has changed.
            meta.insert("generation".to_owned(), Value::from(generation + 1));
        }
        if rules.spec_finalizers {
            let status = root.entry("status").or_insert_with(|| json!({}));
            if let Some(status) = status.as_object_mut() {
                status.insert("phase".to_owned(), Value::from("Terminating"));
            }
        }
    }
    Ok(())
}

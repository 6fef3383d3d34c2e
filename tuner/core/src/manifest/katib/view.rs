//! A Katib object as the planner of our own sees it.

use serde_json::{Value as Json, json};
use trainyard_proto::katib::{ExperimentSpec, TrialSpec};

use super::{BEGINNING, condition};
use crate::control::{Keep, Setup};

/// Stands behind each brace of a job that has its values already, so that none is taken for a place. No text that people write has it.
const GUARD: char = '\u{f8ff}';

/// What our planner keeps of an object that is viewed.
pub(super) fn kept(viewed: &Json) -> Json {
    viewed.get("status").filter(|kept| kept.is_object()).cloned().unwrap_or_else(|| json!({}))
}

pub(super) fn text<'object>(object: &'object Json, pointer: &str) -> &'object str {
    object.pointer(pointer).and_then(Json::as_str).unwrap_or_default()
}

/// An object as it is stored, of one that is viewed.
#[must_use]
pub fn foreign(viewed: &Json) -> Json {
    let field = |pointer: &str| viewed.pointer(pointer).cloned().unwrap_or(Json::Null);
    json!({
        "apiVersion": field("/apiVersion"), "kind": field("/kind"), "metadata": field("/metadata"),
        "spec": field("/foreign/spec"), "status": field("/foreign/status"),
    })
}

/// Spec and status of an experiment with these metadata, and beside them `foreign`, what it is made of, and what is `wrong` with it.
/// One that has ended with all its trials and is given more goes on.
#[must_use]
pub fn experiment(metadata: &Json, foreign: Json) -> Json {
    let mut status = foreign.pointer("/status/trainyard").cloned().unwrap_or_else(|| json!({}));
    if is_resumed(&foreign, &status)
        && let Some(status) = status.as_object_mut()
    {
        for field in ["phase", "message", "completionTime"] {
            status.shift_remove(field);
        }
    }
    let lowered = super::lower(&json!({"metadata": metadata, "spec": foreign.get("spec")}));
    let (spec, wrong) = match lowered {
        Ok(lowered) => {
            let field = |name: &str| lowered.job.get(name).cloned().unwrap_or(Json::Null);
            let mut spec = lowered.spec;
            // Trials have their jobs with them; of this one the kind is looked at, and that all parameters have their places.
            let job = json!({
                "apiVersion": field("apiVersion"), "kind": field("kind"), "spec": {},
                "metadata": {"annotations": {"parameters": "{trial.parameters}"}},
            });
            let keep = if lowered.keep == Keep::All { "all" } else { "none" };
            spec.insert("trial".to_owned(), json!({"job": job, "keep": keep}));
            (Json::Object(spec), None)
        }
        Err(wrong) => {
            let words = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            (json!({}), Some(words))
        }
    };
    json!({"spec": spec, "status": status, "foreign": foreign, "wrong": wrong})
}

/// Spec and status of a trial with these metadata, and beside them `foreign`, what it is made of. One that no experiment of ours has
/// made has no number.
#[must_use]
pub fn trial(metadata: &Json, foreign: Json) -> Json {
    let beginning = metadata.pointer("/annotations").and_then(|all| all.get(BEGINNING)).and_then(Json::as_str);
    let spec: Json = beginning.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| json!({}));
    let status = foreign.pointer("/status/trainyard").cloned().unwrap_or_else(|| json!({}));
    json!({"spec": spec, "status": status, "foreign": foreign})
}

fn is_resumed(object: &Json, status: &Json) -> bool {
    let spec: Option<ExperimentSpec> = object.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
    let Some(spec) = spec.filter(|_| text(status, "/phase") == "Succeeded") else { return false };
    let last = object.pointer("/status/conditions").and_then(Json::as_array).and_then(|all| all.last());
    let started = status.pointer("/trials/started").and_then(Json::as_i64).unwrap_or(0);
    last.is_some_and(|last| text(last, "/reason") == super::state::MAX_TRIALS)
        && matches!(spec.resume_policy.as_deref(), Some("LongRunning" | "FromVolume"))
        && spec.max_trial_count.is_none_or(|trials| i64::from(trials) > started)
}

/// What the planner goes by for one trial, as it is viewed: its job has its values already.
#[must_use]
pub fn setup(setup: &Setup, viewed: &Json) -> Setup {
    let job = viewed.pointer("/foreign/spec/runSpec").map_or(Json::Null, guarded);
    Setup { job, ..setup.clone() }
}

fn guarded(value: &Json) -> Json {
    mapped(value, &|text| text.replace('{', &format!("{{{GUARD}")))
}

pub(super) fn unguarded(value: &Json) -> Json {
    mapped(value, &|text| text.replace(GUARD, ""))
}

fn mapped(value: &Json, change: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(text) => Json::String(change(text)),
        Json::Array(items) => items.iter().map(|item| mapped(item, change)).collect(),
        Json::Object(entries) => {
            Json::Object(entries.iter().map(|(name, entry)| (name.clone(), mapped(entry, change))).collect())
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.clone(),
    }
}

/// The job of a trial, as that is viewed, with the conditions that it looks for as the planner knows them.
#[must_use]
pub fn job(job: &Json, viewed: &Json) -> Json {
    let spec: Option<TrialSpec> =
        viewed.pointer("/foreign/spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
    let Some(spec) = spec else { return job.clone() };
    let (Some(success), Some(failure)) = (spec.success_condition, spec.failure_condition) else { return job.clone() };
    let mut seen = job.clone();
    let mut conditions = Vec::new();
    // Failure is looked for first.
    for (kind, path) in [("Failed", failure), ("Complete", success)] {
        if let Some((reason, message)) = condition::matched(&path, job) {
            conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message}));
            break;
        }
    }
    if !seen["status"].is_object() {
        seen["status"] = json!({});
    }
    seen["status"]["conditions"] = Json::Array(conditions);
    seen
}

/// Shows the templates of pods in a manifest.
pub(super) fn each_template(value: &Json, act: &mut dyn FnMut(&Json)) {
    let Json::Object(entries) = value else { return };
    for (name, entry) in entries {
        if name == "template" && entry.pointer("/spec/containers").is_some() {
            act(entry);
        } else {
            each_template(entry, act);
        }
    }
}

/// Changes the templates of pods in a manifest.
pub(super) fn change_templates(value: &mut Json, act: &mut dyn FnMut(&mut Json)) {
    let Json::Object(entries) = value else { return };
    for (name, entry) in entries.iter_mut() {
        if name == "template" && entry.pointer("/spec/containers").is_some() {
            act(entry);
        } else {
            change_templates(entry, act);
        }
    }
}

//! Jobs of all kinds, as far as a trial looks at them.

use serde_json::{Value as Json, json};
use trainyard_proto::tuning::{EXPERIMENT, TRIAL};

use super::text;

/// Where a job is.
pub(super) enum Stage {
    /// It has not ended.
    Active,
    /// It did what it was to do.
    Succeeded,
    /// It failed.
    Failed(String),
}

pub(super) fn stage(job: &Json) -> Stage {
    let conditions = job.pointer("/status/conditions").and_then(Json::as_array).into_iter().flatten();
    let mut stage = Stage::Active;
    for condition in conditions.filter(|condition| text(condition, "/status") == "True") {
        match text(condition, "/type") {
            "Complete" | "Succeeded" => stage = Stage::Succeeded,
            "Failed" => {
                let (message, reason) = (text(condition, "/message"), text(condition, "/reason"));
                return Stage::Failed(if message.is_empty() { reason } else { message }.to_owned());
            }
            _ => {}
        }
    }
    stage
}

/// Where the job's kind says that it is suspended.
fn suspend(kind: &str) -> &'static [&'static str] {
    match kind {
        "PyTorchJob" | "TFJob" | "MPIJob" | "XGBoostJob" | "PaddleJob" | "JAXJob" => &["spec", "runPolicy", "suspend"],
        _ => &["spec", "suspend"],
    }
}

pub(super) fn is_suspended(job: &Json) -> bool {
    suspend(text(job, "/kind")).iter().try_fold(job, |value, name| value.get(name)).is_some_and(|value| value == true)
}

/// The merge patch that suspends a job, or lets it go on.
pub(super) fn suspended(job: &Json, suspended: bool) -> Json {
    suspend(text(job, "/kind")).iter().rev().fold(json!(suspended), |inner, name| json!({ *name: inner }))
}

/// Puts the names of experiment and trial on a job and on the pods that it will have.
pub(super) fn label(job: &mut Json, experiment: &str, trial: &str) {
    put(job, experiment, trial);
    let kind = text(job, "/kind").to_owned();
    match kind.as_str() {
        "TrainingJob" => {
            let spec = job.get_mut("spec").and_then(Json::as_object_mut);
            if let Some(spec) = spec {
                put(spec.entry("template").or_insert_with(|| json!({})), experiment, trial);
            }
        }
        "TrainJob" => {
            let labels = json!({EXPERIMENT: experiment, TRIAL: trial});
            if let Some(spec) = job.get_mut("spec").and_then(Json::as_object_mut) {
                let own = spec.entry("labels").or_insert_with(|| json!({}));
                if let (Some(own), Json::Object(labels)) = (own.as_object_mut(), labels) {
                    own.extend(labels);
                }
            }
        }
        _ => templates(job.get_mut("spec"), experiment, trial),
    }
}

/// Every pod template below: a table `template` with a `spec` that has `containers`.
fn templates(value: Option<&mut Json>, experiment: &str, trial: &str) {
    let Some(Json::Object(entries)) = value else { return };
    for (name, entry) in entries.iter_mut() {
        if name == "template" && entry.pointer("/spec/containers").is_some() {
            put(entry, experiment, trial);
        } else {
            templates(Some(entry), experiment, trial);
        }
    }
}

fn put(object: &mut Json, experiment: &str, trial: &str) {
    if !object.is_object() {
        return;
    }
    if !object.get("metadata").is_some_and(Json::is_object) {
        object["metadata"] = json!({});
    }
    let labels = &mut object["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[EXPERIMENT] = json!(experiment);
    labels[TRIAL] = json!(trial);
}

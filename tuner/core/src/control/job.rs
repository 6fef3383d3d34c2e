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

/// When it ended: not every kind has a time for that.
pub(super) fn ended_ms(job: &Json) -> Option<i64> {
    let ms = |text: &str| text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond());
    let conditions = job.pointer("/status/conditions").and_then(Json::as_array).into_iter().flatten();
    let mut last = conditions.filter(|condition| {
        matches!(text(condition, "/type"), "Complete" | "Succeeded" | "Failed") && text(condition, "/status") == "True"
    });
    ms(text(job, "/status/completionTime"))
        .or_else(|| last.find_map(|condition| ms(text(condition, "/lastTransitionTime"))))
}

/// Where the job's kind says when it, and its pods, go after its end: the time, and which pods.
fn leaving(kind: &str) -> [&'static [&'static str]; 2] {
    match suspend(kind) {
        ["spec", "runPolicy", ..] => {
            [&["spec", "runPolicy", "ttlSecondsAfterFinished"], &["spec", "runPolicy", "cleanPodPolicy"]]
        }
        _ => [&["spec", "ttlSecondsAfterFinished"], &["spec", "cleanPodPolicy"]],
    }
}

fn within<'job>(job: &'job Json, path: &[&str]) -> Option<&'job Json> {
    path.iter().try_fold(job, |value, name| value.get(name))
}

/// Nothing of a job goes by itself at its end, before what its pods told has been read: see [`released`].
pub(super) fn hold(job: &mut Json) {
    let [ttl, pods] = leaving(text(job, "/kind"));
    let mut of = |path: &[&str], change: &dyn Fn(&mut serde_json::Map<String, Json>, &str)| {
        if let Some((name, above)) = path.split_last()
            && let Some(Json::Object(table)) = above.iter().try_fold(&mut *job, |value, name| value.get_mut(*name))
        {
            change(table, name);
        }
    };
    of(ttl, &|table, name| {
        table.shift_remove(name);
    });
    of(pods, &|table, name| {
        if let Some(policy) = table.get_mut(name).filter(|policy| **policy == "All") {
            *policy = json!("Running");
        }
    });
}

/// The merge patch that gives a job what was held back of its template, if it has not got that.
pub(super) fn released(job: &Json, template: &Json) -> Option<Json> {
    let [ttl, pods] = leaving(text(job, "/kind"));
    let wanted = [(ttl, within(template, ttl)), (pods, within(template, pods).filter(|policy| **policy == "All"))];
    let mut patch = json!({});
    for (path, wanted) in wanted {
        if let Some(wanted) = wanted.filter(|wanted| within(job, path) != Some(wanted)) {
            *path.iter().fold(&mut patch, |value, name| &mut value[name]) = wanted.clone();
        }
    }
    Some(patch).filter(|patch| patch.as_object().is_some_and(|table| !table.is_empty()))
}

/// Where the job's kind says that it is suspended.
fn suspend(kind: &str) -> &'static [&'static str] {
    match kind {
        "PyTorchJob" | "TFJob" | "MPIJob" | "XGBoostJob" | "PaddleJob" | "JAXJob" => &["spec", "runPolicy", "suspend"],
        _ => &["spec", "suspend"],
    }
}

pub(super) fn is_suspended(job: &Json) -> bool {
    within(job, suspend(text(job, "/kind"))).is_some_and(|value| value == true)
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

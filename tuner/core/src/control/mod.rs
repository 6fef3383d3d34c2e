//! What is done about the objects of experiments and trials: functions of what is stored, of what trials told, and of the time.

mod experiment;
mod job;
#[cfg(test)]
mod tests;
mod trial;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use trainyard_proto::plan::{Action, Fence, ObjectRef};

use crate::budget::Budget;
use crate::objective::{Objective, short};
use crate::stopping::Stopping;

pub use experiment::{ExperimentView, experiment};
pub use trial::{Seen, TrialView, stored, trial};

/// The API version of experiments and trials.
pub const API_VERSION: &str = "trainyard.dev/v1alpha1";
/// An experiment's name has at most so many bytes, so that those of its trials' pods are not too long.
pub const LONGEST_NAME: usize = 40;

/// Of so many trials the jobs stay if nothing else is said: of tens of thousands they would fill the machine's memory.
pub const RECENT: u64 = 1_000;

/// What an experiment says beside its search.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// What it is after.
    pub objectives: Vec<Objective>,
    /// How much may be tried.
    pub budget: Budget,
    /// The manifest of a trial's job, with places.
    pub job: Json,
    /// Which jobs stay when their trial has ended.
    pub keep: Keep,
    /// The name of who says what to try next.
    pub algorithm: String,
    /// When trials are ended early.
    pub stopping: Option<Stopping>,
    /// The folder in which each configuration has one for its checkpoints; in a population each trial.
    pub checkpoints: String,
    /// Whether trials go on from each other, as members of a population.
    pub has_population: bool,
}

/// Which jobs stay when their trial has ended, and their pods and logs with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Those of the last [`RECENT`] trials, and that of the best one.
    #[default]
    Recent,
    /// All of them.
    All,
    /// Those of trials that failed.
    Failed,
    /// None.
    Nothing,
}

fn time(ms: i64) -> Time {
    Time(Timestamp::from_second(ms.div_euclid(1000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn text<'object>(object: &'object Json, pointer: &str) -> &'object str {
    object.pointer(pointer).and_then(Json::as_str).unwrap_or_default()
}

fn reference(object: &Json) -> ObjectRef {
    ObjectRef {
        api_version: text(object, "/apiVersion").to_owned(),
        kind: text(object, "/kind").to_owned(),
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: text(object, "/metadata/name").to_owned(),
    }
}

fn fence(object: &Json) -> Fence {
    Fence { uid: object.pointer("/metadata/uid").and_then(Json::as_str).map(str::to_owned), resource_version: None }
}

fn is_going(object: &Json) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// A reference to the object that controls another one.
fn owner(object: &Json) -> Json {
    json!({
        "apiVersion": text(object, "/apiVersion"), "kind": text(object, "/kind"), "name": text(object, "/metadata/name"),
        "uid": text(object, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
    })
}

/// The patch that makes an object's status this one, if it is another.
fn status(object: &Json, wanted: &impl Serialize) -> Option<Action> {
    let Ok(Json::Object(mut wanted)) = serde_json::to_value(wanted) else { return None };
    let known = object.get("status").and_then(Json::as_object);
    if same_table(known.unwrap_or(&Map::new()), &wanted) {
        return None;
    }
    for gone in known.into_iter().flatten().map(|(name, _)| name) {
        wanted.entry(gone).or_insert(Json::Null);
    }
    // A merge patch keeps what it does not name: of these tables all that is not wanted any more.
    for table in ["best", "values", "report"] {
        let old = known.and_then(|known| known.get(table)).and_then(Json::as_object);
        if let (Some(old), Some(Json::Object(new))) = (old, wanted.get_mut(table)) {
            forget(old, new);
        }
    }
    let patch = json!({ "status": wanted });
    Some(Action::PatchStatus { object: reference(object), fence: fence(object), patch })
}

/// Whether two values say the same: an API server may store 1.0 as 1.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => same_table(one, other),
        _ => one == other,
    }
}

fn same_table(one: &Map<String, Json>, other: &Map<String, Json>) -> bool {
    let is_there = |(name, value): (&String, &Json)| other.get(name).is_some_and(|other| same(value, other));
    one.len() == other.len() && one.iter().all(is_there)
}

fn forget(old: &Map<String, Json>, new: &mut Map<String, Json>) {
    for (name, value) in old {
        if let (Json::Object(old), Json::Object(new)) = (value, new.entry(name).or_insert(Json::Null)) {
            forget(old, new);
        }
    }
}

/// `accuracy=0.93 loss=0.2`.
fn summary(objectives: &[Objective], values: &[f64]) -> String {
    let pairs = objectives.iter().zip(values).map(|(objective, value)| format!("{}={}", objective.name, short(*value)));
    pairs.collect::<Vec<_>>().join(" ")
}

fn table(objectives: &[Objective], values: &[f64]) -> Map<String, Json> {
    objectives.iter().zip(values).map(|(objective, value)| (objective.name.clone(), json!(value))).collect()
}

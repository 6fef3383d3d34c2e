use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{anything, table, tables};
use crate::kind::{Column, custom_kind, scope::InNamespace};

custom_kind! {
    /// Experiment searches for the configuration of a program that makes its metrics best, by running trials.
    Experiment, group: "trainyard.dev", version: "v1alpha1", plural: "experiments", singular: "experiment",
    short: ["exp"], scope: Namespaced, spec: ExperimentSpec, status: ExperimentStatus; scale: None,
    columns: &[
        Column { name: "Phase", kind: "string", path: ".status.phase", priority: 0 },
        Column { name: "Trials", kind: "integer", path: ".status.trials.started", priority: 0 },
        Column { name: "Running", kind: "integer", path: ".status.trials.running", priority: 0 },
        Column { name: "Failed", kind: "integer", path: ".status.trials.failed", priority: 0 },
        Column { name: "Best", kind: "string", path: ".status.best.summary", priority: 0 },
        Column { name: "Message", kind: "string", path: ".status.message", priority: 1 },
    ],
}

/// ExperimentSpec says what is searched, what for, how, and what a trial runs. It has the keys of an experiment's TOML file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentSpec {
    /// What random numbers are made of. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// What is to be made better: `{metric, goal: minimize | maximize, target, take: last | best}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub objective: Option<Value>,
    /// Several of them, in place of `objective`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tables")]
    pub objectives: Option<Value>,
    /// What is chosen, by name: `{type, min, max, scale, step, choices, when}`.
    #[serde(default)]
    #[schemars(schema_with = "table")]
    pub parameters: Map<String, Value>,
    /// Conditions that each configuration keeps, as expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<String>>,
    /// Who says what to try next: a name, or a table of name and settings. Defaults to auto, or to bohb where there is a fidelity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub algorithm: Option<Value>,
    /// What trials have more of the better they are: `{parameter, min, max, eta, checkpoints}`. For asha, hyperband and bohb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub fidelity: Option<Value>,
    /// When trials are ended early: the name of a rule, a table of rule and settings, or a list of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub stopping: Option<Value>,
    /// How much may be tried: `{trials, parallel, failures, time, repeats, candidates}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub budget: Option<Value>,
    /// What a trial runs: `{command, …}`, or `{job}` with any manifest of a job.
    #[schemars(schema_with = "table")]
    pub trial: Value,
    /// Starts no trials and stops those that run, to go on with them later, while true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// ExperimentStatus is how far an experiment is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentStatus {
    /// Running, Suspended, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why it ended, or cannot begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Counts of its trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<TrialCounts>,
    /// The best trial so far; with several objectives, the first of those that no other one beats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Who says what to try next, if the spec does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// The trials whose ends were learned, in that order, where nothing could be suggested since, so that no trial says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<u64>,
    /// When the first trial was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// TrialCounts counts the trials of an experiment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialCounts {
    /// All of them.
    pub started: u64,
    /// Those that have not ended.
    pub running: u64,
    /// Those that told their values.
    pub succeeded: u64,
    /// Those that told nothing of use.
    pub failed: u64,
    /// Those that were stopped early.
    pub stopped: u64,
    /// One more than the highest number of a trial that is there.
    #[serde(default)]
    pub next: u64,
}

/// Best is the best trial of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Best {
    /// Its name.
    pub trial: String,
    /// Its values, by metric; the means of its repeats, if it was tried again.
    #[schemars(schema_with = "table")]
    pub values: Map<String, Value>,
    /// How many repeats these are the means of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// Where the true mean is, if it was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<ConfidenceInterval>,
    /// What it tried.
    #[schemars(schema_with = "table")]
    pub parameters: Map<String, Value>,
    /// Its values in a few words.
    pub summary: String,
}

/// ConfidenceInterval says where a mean is that was measured a few times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfidenceInterval {
    /// How probable it was before measuring that the interval would hold the mean.
    pub level: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

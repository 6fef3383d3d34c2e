use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table;
use crate::kind::{Column, custom_kind, scope::InNamespace};

custom_kind! {
    /// Trial is one configuration that an experiment tries, as a job of its own.
    Trial, group: "trainyard.dev", version: "v1alpha1", plural: "trials", singular: "trial",
    short: [], scope: Namespaced, spec: TrialSpec, status: TrialStatus; scale: None,
    columns: &[
        Column { name: "Phase", kind: "string", path: ".status.phase", priority: 0 },
        Column { name: "Values", kind: "string", path: ".status.summary", priority: 0 },
        Column { name: "Step", kind: "integer", path: ".status.report.step", priority: 0 },
        Column { name: "Message", kind: "string", path: ".status.message", priority: 1 },
    ],
}

/// TrialSpec is what a trial tries. Written by the experiment's controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialSpec {
    /// Its number in the experiment, from 0.
    pub number: u64,
    /// The values of the parameters that are used.
    #[schemars(schema_with = "table")]
    pub parameters: Map<String, Value>,
    /// The trials whose ends were known when its batch was suggested and not yet when the batch before it was. With them an
    /// experiment that is read anew goes on as if it had never been interrupted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<u64>,
    /// The batch in which it was suggested. One that was made by hand is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<TrialBatch>,
    /// Which of several algorithms suggested it, where there are several, as with auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggested_by: Option<String>,
    /// The trial that it goes on from: the first of its configuration, with more of the resource, or its parent with pbt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<u64>,
    /// The bracket of Hyperband that it belongs to, or the member of a population that it is. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bracket: Option<u64>,
    /// The number of the trial whose configuration it tries again, to see how much of that one's values was luck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
}

/// TrialBatch names trials that were suggested at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialBatch {
    /// The number of the first one; those of the others follow.
    pub first: u64,
    /// How many there are.
    pub trials: u64,
}

/// TrialStatus is what became of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialStatus {
    /// Running, Suspended, Succeeded, Failed or Stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why it failed or was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The values of the objectives, by metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub values: Option<Map<String, Value>>,
    /// The values in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The last values that it told on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<TrialReport>,
    /// What it told on its way, where trials are stopped early: step and values of each report. Of many some are kept, each with how many
    /// there were up to it, and their means, lowest and highest values. Of a trial that runs, those at the rungs that it has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Vec<f64>>,
    /// The job that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobReference>,
    /// When its job was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// TrialReport is what a trial told on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialReport {
    /// How far it was.
    pub step: u64,
    /// The values, by metric.
    #[schemars(schema_with = "table")]
    pub values: Map<String, Value>,
}

/// JobReference names a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobReference {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid, once it has been seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

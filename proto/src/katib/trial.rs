use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::experiment::{MetricsCollectorSpec, NamedValue, ObjectiveSpec};
use super::{STATUS, TYPE, table};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// Trial is one choice of parameters that an experiment tries, as a job of its own.
    #[schemars(rename = "KatibTrial")]
    Trial, group: "kubeflow.org", version: "v1beta1", plural: "trials", singular: "trial",
    short: [], scope: Namespaced, spec: TrialSpec, status: TrialStatus; scale: None,
    columns: &[TYPE, STATUS],
}

/// TrialSpec is what a trial tries and runs. Written by the experiment's controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibTrialSpec")]
pub struct TrialSpec {
    /// Objective is that of the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveSpec>,
    /// ParameterAssignments is what it tries.
    #[serde(default)]
    pub parameter_assignments: Vec<NamedValue>,
    /// EarlyStoppingRules end it early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_rules: Option<Vec<EarlyStoppingRule>>,
    /// RunSpec is the job that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub run_spec: Option<Value>,
    /// RetainRun keeps the job when the trial has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_run: Option<bool>,
    /// MetricsCollector says how it tells its metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_collector: Option<MetricsCollectorSpec>,
    /// PrimaryPodLabels are the labels of the pod that tells the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_pod_labels: Option<BTreeMap<String, String>>,
    /// PrimaryContainerName is the container that tells the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_container_name: Option<String>,
    /// SuccessCondition is a path (GJSON) in the job that finds something once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_condition: Option<String>,
    /// FailureCondition is a path (GJSON) in the job that finds something once it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_condition: Option<String>,
    /// Labels that the algorithm gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// EarlyStoppingRule ends a trial whose metric compares so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibEarlyStoppingRule")]
pub struct EarlyStoppingRule {
    /// Name of the metric.
    #[serde(default)]
    pub name: String,
    /// Value that it is compared with.
    #[serde(default)]
    pub value: String,
    /// Comparison is equal, less or greater.
    #[serde(default)]
    pub comparison: String,
    /// StartStep is the number of values before which it is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_step: Option<i32>,
}

/// TrialStatus is what became of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibTrialStatus")]
pub struct TrialStatus {
    /// StartTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// CompletionTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// LastReconcileTime is when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// Conditions are Created, Running, Succeeded, Killed, Failed, MetricsUnavailable and EarlyStopped; the last one is the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Observation is what it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Trainyard is what its own controller keeps here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub trainyard: Option<Value>,
}

/// Condition is a state that an object is or was in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibCondition")]
pub struct Condition {
    /// Type of the state.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Status is True, False or Unknown.
    #[serde(default)]
    pub status: String,
    /// Reason, for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Message, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// LastUpdateTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// LastTransitionTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

/// Observation is what a trial told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibObservation")]
pub struct Observation {
    /// Metrics, by name.
    #[serde(default)]
    pub metrics: Vec<Metric>,
}

/// Metric is what a trial told of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibMetric")]
pub struct Metric {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Min is the least value, as it was told.
    #[serde(default)]
    pub min: String,
    /// Max is the greatest value, as it was told.
    #[serde(default)]
    pub max: String,
    /// Latest is the last value, as it was told.
    #[serde(default)]
    pub latest: String,
}

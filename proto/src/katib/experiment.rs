use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::trial::{Condition, Observation};
use super::{STATUS, TYPE, anything, table};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// Experiment searches for the parameters with which a program does best, by running trials.
    #[schemars(rename = "KatibExperiment")]
    Experiment, group: "kubeflow.org", version: "v1beta1", plural: "experiments", singular: "experiment",
    short: [], scope: Namespaced, spec: ExperimentSpec, status: ExperimentStatus; scale: None,
    columns: &[TYPE, STATUS],
}

/// ExperimentSpec says what is searched, what for, how, and what a trial runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibExperimentSpec")]
pub struct ExperimentSpec {
    /// Parameters are what is chosen for each trial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<ParameterSpec>,
    /// Objective is what is to be made better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveSpec>,
    /// Algorithm says what to try next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<AlgorithmSpec>,
    /// EarlyStopping ends trials that are not worth their while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingSpec>,
    /// TrialTemplate is what a trial runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_template: Option<TrialTemplate>,
    /// ParallelTrialCount is how many trials run at the same time. Defaults to 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_trial_count: Option<i32>,
    /// MaxTrialCount is how many trials there are. Without it, as many as it takes to reach the goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_trial_count: Option<i32>,
    /// MaxFailedTrialCount is after how many failed trials the experiment has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed_trial_count: Option<i32>,
    /// MetricsCollectorSpec says how trials tell their metrics. Defaults to what they print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_collector_spec: Option<MetricsCollectorSpec>,
    /// NasConfig is the space of a neural architecture search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nas_config: Option<NasConfig>,
    /// ResumePolicy says whether more trials can be asked for when the experiment has ended: Never, LongRunning or FromVolume. Defaults to
    /// Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Never", "LongRunning", "FromVolume"]))]
    pub resume_policy: Option<String>,
}

/// ParameterSpec is one thing that is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibParameterSpec")]
pub struct ParameterSpec {
    /// Name of the parameter.
    #[serde(default)]
    pub name: String,
    /// ParameterType is double, int, discrete or categorical.
    #[serde(default)]
    pub parameter_type: String,
    /// FeasibleSpace is what it may be.
    #[serde(default)]
    pub feasible_space: FeasibleSpace,
}

/// FeasibleSpace is what a parameter may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibFeasibleSpace")]
pub struct FeasibleSpace {
    /// Max is the greatest value of a double or an int.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// Min is the least value of a double or an int.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// List is the values of one that is discrete or categorical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<Vec<String>>,
    /// Step is the distance of neighbouring values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Distribution is uniform, logUniform, normal or logNormal. (A list is taken for `list`: the Python client's `search.categorical`
    /// writes it here.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub distribution: Option<Value>,
}

/// ObjectiveSpec is what is to be made better.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibObjectiveSpec")]
pub struct ObjectiveSpec {
    /// Type is minimize or maximize.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Goal is the value at which the experiment has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
    /// ObjectiveMetricName is the metric that is made better.
    #[serde(default)]
    pub objective_metric_name: String,
    /// AdditionalMetricNames are metrics that are kept beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_metric_names: Option<Vec<String>>,
    /// MetricStrategies say which of the values that a trial tells counts: min, max or latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_strategies: Option<Vec<MetricStrategy>>,
}

/// MetricStrategy says which of a metric's values counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibMetricStrategy")]
pub struct MetricStrategy {
    /// Name of the metric.
    #[serde(default)]
    pub name: String,
    /// Value is min, max or latest.
    #[serde(default)]
    pub value: String,
}

/// AlgorithmSpec says what to try next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibAlgorithmSpec")]
pub struct AlgorithmSpec {
    /// AlgorithmName is random, grid, tpe, multivariate-tpe, bayesianoptimization, cmaes or sobol.
    #[serde(default)]
    pub algorithm_name: String,
    /// AlgorithmSettings are its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm_settings: Option<Vec<NamedValue>>,
}

/// EarlyStoppingSpec ends trials that are not worth their while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibEarlyStoppingSpec")]
pub struct EarlyStoppingSpec {
    /// AlgorithmName is medianstop.
    #[serde(default)]
    pub algorithm_name: String,
    /// AlgorithmSettings are its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm_settings: Option<Vec<NamedValue>>,
}

/// NamedValue is a name with a value: a setting, or what a trial tries of a parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibNamedValue")]
pub struct NamedValue {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Value, as a text.
    #[serde(default)]
    pub value: String,
}

/// TrialTemplate is what a trial runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibTrialTemplate")]
pub struct TrialTemplate {
    /// Retain keeps the jobs of trials that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// TrialSpec is the manifest of a trial's job, with `${trialParameters.name}` where values go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub trial_spec: Option<Value>,
    /// ConfigMap has the manifest in place of trialSpec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// TrialParameters are the names that the manifest uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_parameters: Option<Vec<TrialParameter>>,
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
}

/// ConfigMapSource is a template in a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibConfigMapSource")]
pub struct ConfigMapSource {
    /// ConfigMapName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_name: Option<String>,
    /// ConfigMapNamespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_namespace: Option<String>,
    /// TemplatePath is the key in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_path: Option<String>,
}

/// TrialParameter is a name that the manifest of a trial uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibTrialParameterSpec")]
pub struct TrialParameter {
    /// Name, as in `${trialParameters.name}`.
    #[serde(default)]
    pub name: String,
    /// Description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Reference is a parameter of the experiment, or something of the job such as `${trialSpec.Name}`.
    #[serde(default)]
    pub reference: String,
}

/// MetricsCollectorSpec says how trials tell their metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibMetricsCollectorSpec")]
pub struct MetricsCollectorSpec {
    /// Source is where the metrics are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSpec>,
    /// Collector is how they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<CollectorSpec>,
}

/// SourceSpec is where the metrics are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibSourceSpec")]
pub struct SourceSpec {
    /// HttpGet is where an exporter answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub http_get: Option<Value>,
    /// FileSystemPath is the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system_path: Option<FileSystemPath>,
    /// Filter finds metrics in lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterSpec>,
}

/// FilterSpec finds metrics in lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibFilterSpec")]
pub struct FilterSpec {
    /// MetricsFormat are regular expressions with two groups: name and value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_format: Option<Vec<String>>,
}

/// FileSystemPath is a file, or a folder, of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibFileSystemPath")]
pub struct FileSystemPath {
    /// Path, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Kind is File or Directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Format is TEXT or JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// CollectorSpec is how metrics are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibCollectorSpec")]
pub struct CollectorSpec {
    /// Kind is StdOut, File, Push or None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// CustomCollector is a container that reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub custom_collector: Option<Value>,
}

/// NasConfig is the space of a neural architecture search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibNasConfig")]
pub struct NasConfig {
    /// GraphConfig is the shape of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_config: Option<GraphConfig>,
    /// Operations are what layers may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
}

/// GraphConfig is the shape of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibGraphConfig")]
pub struct GraphConfig {
    /// NumLayers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_layers: Option<i32>,
    /// InputSizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_sizes: Option<Vec<i32>>,
    /// OutputSizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_sizes: Option<Vec<i32>>,
}

/// Operation is what a layer may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibOperation")]
pub struct Operation {
    /// OperationType.
    #[serde(default)]
    pub operation_type: String,
    /// Parameters of the operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<ParameterSpec>,
}

/// ExperimentStatus is how far an experiment is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibExperimentStatus")]
pub struct ExperimentStatus {
    /// StartTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// CompletionTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// LastReconcileTime is when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// Conditions are Created, Running, Restarting, Succeeded and Failed; the last one is the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// CurrentOptimalTrial is the best trial so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_optimal_trial: Option<OptimalTrial>,
    /// RunningTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running_trial_list: Vec<String>,
    /// PendingTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_trial_list: Vec<String>,
    /// FailedTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_trial_list: Vec<String>,
    /// SucceededTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub succeeded_trial_list: Vec<String>,
    /// KilledTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub killed_trial_list: Vec<String>,
    /// EarlyStoppedTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_stopped_trial_list: Vec<String>,
    /// MetricsUnavailableTrialList.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_unavailable_trial_list: Vec<String>,
    /// Trials is how many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials: i32,
    /// TrialsSucceeded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_succeeded: i32,
    /// TrialsFailed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_failed: i32,
    /// TrialsKilled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_killed: i32,
    /// TrialsPending.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_pending: i32,
    /// TrialsRunning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_running: i32,
    /// TrialsEarlyStopped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trials_early_stopped: i32,
    /// TrialMetricsUnavailable.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trial_metrics_unavailable: i32,
    /// Trainyard is what its own controller keeps here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "table")]
    pub trainyard: Option<Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// OptimalTrial is the best trial of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibOptimalTrial")]
pub struct OptimalTrial {
    /// BestTrialName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_trial_name: Option<String>,
    /// ParameterAssignments is what it tried.
    #[serde(default)]
    pub parameter_assignments: Vec<NamedValue>,
    /// Observation is what it told.
    #[serde(default)]
    pub observation: Observation,
}

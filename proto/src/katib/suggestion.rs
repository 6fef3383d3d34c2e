use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::experiment::{AlgorithmSpec, EarlyStoppingSpec, NamedValue};
use super::trial::{Condition, EarlyStoppingRule};
use super::{STATUS, TYPE};
use crate::kind::{Column, custom_kind, scope::InNamespace};

custom_kind! {
    /// Suggestion is what was suggested for the trials of an experiment, which has its name.
    #[schemars(rename = "KatibSuggestion")]
    Suggestion, group: "kubeflow.org", version: "v1beta1", plural: "suggestions", singular: "suggestion",
    short: [], scope: Namespaced, spec: SuggestionSpec, status: SuggestionStatus; scale: None,
    columns: &[
        TYPE,
        STATUS,
        Column { name: "Requested", kind: "string", path: ".spec.requests", priority: 0 },
        Column { name: "Assigned", kind: "string", path: ".status.suggestionCount", priority: 0 },
    ],
}

/// SuggestionSpec is what was asked for. Written by the experiment's controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibSuggestionSpec")]
pub struct SuggestionSpec {
    /// Algorithm that suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<AlgorithmSpec>,
    /// EarlyStopping of the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingSpec>,
    /// Requests is how many were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<i32>,
    /// ResumePolicy of the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_policy: Option<String>,
}

/// SuggestionStatus is what was suggested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibSuggestionStatus")]
pub struct SuggestionStatus {
    /// AlgorithmSettings that the algorithm changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm_settings: Option<Vec<NamedValue>>,
    /// SuggestionCount is how many were suggested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion_count: Option<i32>,
    /// Suggestions, of many the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestions: Option<Vec<TrialAssignment>>,
    /// StartTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// CompletionTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// LastReconcileTime is when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// Conditions are Created, Running, Succeeded and Failed; the last one is the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// TrialAssignment is what was suggested for one trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KatibTrialAssignment")]
pub struct TrialAssignment {
    /// ParameterAssignments is what it tries.
    #[serde(default)]
    pub parameter_assignments: Vec<NamedValue>,
    /// Name of the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// EarlyStoppingRules of the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_rules: Option<Vec<EarlyStoppingRule>>,
    /// Labels of the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

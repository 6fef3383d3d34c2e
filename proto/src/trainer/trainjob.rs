//! TrainJob.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kind::{Column, custom_kind, scope::InNamespace};

custom_kind! {
    /// TrainJob runs a training on a training runtime that an administrator prepared.
    TrainJob, group: "trainer.kubeflow.org", version: "v1alpha1", plural: "trainjobs", singular: "trainjob",
    short: [], scope: Namespaced, spec: TrainJobSpec, status: TrainJobStatus;
    scale: None,
    columns: &[Column { name: "State", kind: "string", path: ".status.conditions[-1:].type", priority: 0 }],
}

/// TrainJobSpec is the wanted state of a TrainJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainJobSpec {
    /// RuntimeRef names the training runtime.
    #[serde(default)]
    pub runtime_ref: RuntimeRef,
    /// Initializer fetches the data set and the model before the training starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initializer: Option<Initializer>,
    /// Trainer overrides the runtime's training step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer: Option<Trainer>,
    /// RuntimePatches change the runtime's job set for this job, in order, by strategic merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub runtime_patches: Option<Vec<Value>>,
    /// PodTemplateOverrides is the older form of runtimePatches (2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub pod_template_overrides: Option<Vec<Value>>,
    /// PodSpecOverrides is the oldest form of runtimePatches (2.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub pod_spec_overrides: Option<Vec<Value>>,
    /// Labels for the job set (2.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations for the job set (2.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Suspend ends all pods and keeps the job stopped while true. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// ActiveDeadlineSeconds is how long the job may be active before it is ended and marked failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// ManagedBy names the controller: trainer.kubeflow.org/trainjob-controller or kueue.x-k8s.io/multikueue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// RuntimeRef names a training runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeRef {
    /// Name of the runtime.
    #[serde(default)]
    pub name: String,
    /// APIGroup of the runtime. Defaults to trainer.kubeflow.org.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// Kind of the runtime: ClusterTrainingRuntime or TrainingRuntime. Defaults to ClusterTrainingRuntime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Initializer fetches the data set and the model before the training starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Initializer {
    /// Dataset to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetInitializer>,
    /// Model to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<DatasetInitializer>,
}

/// Where something is fetched from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetInitializer {
    /// StorageUri, as scheme://….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_uri: Option<String>,
    /// Env for the initializer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// SecretRef with credentials, given to the initializer as environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// Trainer overrides the runtime's training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trainer {
    /// Image of the training container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Command of the training container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Args of the training container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Env of the training container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// NumNodes is the number of training nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_nodes: Option<i32>,
    /// ResourcesPerNode is what each training node needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources_per_node: Option<ResourceRequirements>,
    /// NumProcPerNode is the number of ranks per node: an integer (2.0 and 2.1 also took auto, cpu and gpu).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_proc_per_node: Option<IntOrString>,
}

/// TrainJobStatus is what was last observed of a TrainJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainJobStatus {
    /// Conditions of the job: Suspended, Complete, Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// JobsStatus counts the pods of each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_status: Option<Vec<JobStatus>>,
    /// TrainerStatus is how far the training is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer_status: Option<TrainerStatus>,
}

/// JobStatus counts the pods of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// Kubeflow's older kinds have a type of this name, too.
#[schemars(rename = "TrainJobStep")]
pub struct JobStatus {
    /// Name of the step.
    #[serde(default)]
    pub name: String,
    /// Ready jobs.
    #[serde(default)]
    pub ready: i32,
    /// Succeeded jobs.
    #[serde(default)]
    pub succeeded: i32,
    /// Failed jobs.
    #[serde(default)]
    pub failed: i32,
    /// Active jobs.
    #[serde(default)]
    pub active: i32,
    /// Suspended jobs.
    #[serde(default)]
    pub suspended: i32,
}

/// TrainerStatus is how far the training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainerStatus {
    /// ProgressPercentage from 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percentage: Option<i32>,
    /// EstimatedRemainingSeconds until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_remaining_seconds: Option<i64>,
    /// Metrics, each {name, value}, the value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub metrics: Option<Vec<Value>>,
    /// LastUpdatedTime of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated_time: Option<Time>,
}

fn free_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

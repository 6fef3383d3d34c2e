//! PaddleJob.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// PaddleJob runs a PaddlePaddle training.
    PaddleJob, group: "kubeflow.org", version: "v1", plural: "paddlejobs", singular: "paddlejob",
    short: [], scope: Namespaced, spec: PaddleJobSpec, status: JobStatus;
    scale: None,
    columns: super::COLUMNS,
}

/// PaddleJobSpec is the wanted state of a PaddleJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaddleJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Maps a role (Master or Worker) to its pods.
    #[serde(default)]
    pub paddle_replica_specs: BTreeMap<String, ReplicaSpec>,
    /// ElasticPolicy makes the job elastic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic_policy: Option<PaddleElasticPolicy>,
}

/// PaddleElasticPolicy says between which bounds an elastic job runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaddleElasticPolicy {
    /// MinReplicas is the smallest number of Workers to run with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// MaxReplicas is the greatest number of Workers to scale to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// MaxRestarts is the number of restarts of the worker group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<i32>,
    /// Metrics from which the number of Workers is computed, by a HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<k8s_openapi::api::autoscaling::v2::MetricSpec>>,
}

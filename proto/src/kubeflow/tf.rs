//! TFJob.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// TFJob runs a TensorFlow training, with parameter servers or without.
    TFJob, group: "kubeflow.org", version: "v1", plural: "tfjobs", singular: "tfjob",
    short: [], scope: Namespaced, spec: TFJobSpec, status: JobStatus;
    scale: None,
    columns: super::COLUMNS,
}

/// TFJobSpec is the wanted state of a TFJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TFJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Maps a role (Chief, Master, PS, Worker or Evaluator) to its pods.
    #[serde(default)]
    pub tf_replica_specs: BTreeMap<String, ReplicaSpec>,
    /// SuccessPolicy says when the job has succeeded: empty (the chief, or the first worker) or AllWorkers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "AllWorkers"]))]
    pub success_policy: Option<String>,
    /// EnableDynamicWorker lets the number of workers change while the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_dynamic_worker: Option<bool>,
}

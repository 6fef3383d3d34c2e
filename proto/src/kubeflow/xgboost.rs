//! XGBoostJob.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// XGBoostJob runs a distributed XGBoost or LightGBM training.
    XGBoostJob, group: "kubeflow.org", version: "v1", plural: "xgboostjobs", singular: "xgboostjob",
    short: [], scope: Namespaced, spec: XGBoostJobSpec, status: JobStatus;
    scale: None,
    columns: super::COLUMNS,
}

/// XGBoostJobSpec is the wanted state of a XGBoostJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct XGBoostJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Maps a role (Master or Worker) to its pods.
    #[serde(default)]
    pub xgb_replica_specs: BTreeMap<String, ReplicaSpec>,
}

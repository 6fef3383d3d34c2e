//! JAXJob.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// JAXJob runs a multi-process JAX training.
    JAXJob, group: "kubeflow.org", version: "v1", plural: "jaxjobs", singular: "jaxjob",
    short: [], scope: Namespaced, spec: JAXJobSpec, status: JobStatus;
    scale: None,
    columns: super::COLUMNS,
}

/// JAXJobSpec is the wanted state of a JAXJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JAXJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Maps a role (Worker) to its pods.
    #[serde(default)]
    pub jax_replica_specs: BTreeMap<String, ReplicaSpec>,
}

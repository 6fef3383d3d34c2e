//! MPIJob.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{custom_kind, scope::InNamespace};

custom_kind! {
    /// MPIJob runs mpirun in a Launcher over its Workers.
    MPIJob, group: "kubeflow.org", version: "v1", plural: "mpijobs", singular: "mpijob",
    short: [], scope: Namespaced, spec: MPIJobSpec, status: JobStatus;
    scale: None,
    columns: super::COLUMNS,
}

/// MPIJobSpec is the wanted state of a MPIJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MPIJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Maps a role (Launcher or Worker) to its pods.
    #[serde(default)]
    pub mpi_replica_specs: BTreeMap<String, ReplicaSpec>,
    /// SlotsPerWorker is the number of ranks per Worker. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_per_worker: Option<i32>,
    /// CleanPodPolicy says which pods are deleted once the job is finished. Deprecated: use runPolicy.cleanPodPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "All", "Running", "None"]))]
    pub clean_pod_policy: Option<String>,
    /// MainContainer names the container that runs the program. Defaults to the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_container: Option<String>,
    /// RunLauncherAsWorker runs a rank in the launcher as well. Only in v2beta1; defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_launcher_as_worker: Option<bool>,
    /// SSHAuthMountPath is the folder where the SSH keys are mounted. Only in v2beta1; defaults to /root/.ssh.
    #[serde(default, rename = "sshAuthMountPath", skip_serializing_if = "Option::is_none")]
    pub ssh_auth_mount_path: Option<String>,
    /// LauncherCreationPolicy says when the launcher is created: AtStartup or WaitForWorkersReady. Only in v2beta1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["AtStartup", "WaitForWorkersReady"]))]
    pub launcher_creation_policy: Option<String>,
    /// MPIImplementation is OpenMPI, Intel or MPICH. Only in v2beta1; defaults to OpenMPI.
    #[serde(default, rename = "mpiImplementation", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["OpenMPI", "Intel", "MPICH"]))]
    pub mpi_implementation: Option<String>,
}

//! PyTorchJob.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::MetricSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{JobStatus, ReplicaSpec, RunPolicy};
use crate::kind::{Scale, custom_kind, scope::InNamespace};

custom_kind! {
    /// PyTorchJob runs a PyTorch training: one Master and any number of Workers, or Workers alone.
    PyTorchJob, group: "kubeflow.org", version: "v1", plural: "pytorchjobs", singular: "pytorchjob",
    short: [], scope: Namespaced, spec: PyTorchJobSpec, status: JobStatus;
    scale: Some(Scale {
        spec_path: ".spec.pytorchReplicaSpecs.Worker.replicas",
        status_path: ".status.replicaStatuses.Worker.active",
        selector_path: ".status.replicaStatuses.Worker.selector",
    }),
    columns: super::COLUMNS,
}

/// PyTorchJobSpec is the wanted state of a PyTorchJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PyTorchJobSpec {
    /// RunPolicy says how the job as a whole is run and cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// ElasticPolicy makes the job elastic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic_policy: Option<ElasticPolicy>,
    /// PyTorchReplicaSpecs maps a role, Master or Worker, to its pods.
    #[serde(default, rename = "pytorchReplicaSpecs")]
    pub pytorch_replica_specs: BTreeMap<String, ReplicaSpec>,
    /// NprocPerNode is the number of ranks per pod: auto, cpu, gpu or an integer in quotes. Defaults to auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nproc_per_node: Option<String>,
}

/// ElasticPolicy says between which bounds, and how, an elastic job runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElasticPolicy {
    /// MinReplicas is the smallest number of Workers to run with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// MaxReplicas is the greatest number of Workers to scale to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// RDZVBackend is the rendezvous backend: c10d, etcd or etcd-v2. Defaults to c10d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["c10d", "etcd", "etcd-v2"]))]
    pub rdzv_backend: Option<String>,
    /// RdzvPort is the rendezvous port. Defaults to the Worker's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdzv_port: Option<i32>,
    /// RdzvHost is the rendezvous host. Defaults to the first Worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdzv_host: Option<String>,
    /// RdzvID names the rendezvous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdzv_id: Option<String>,
    /// RDZVConf holds further settings of the rendezvous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdzv_conf: Option<Vec<RdzvConf>>,
    /// Standalone starts a local rendezvous for a job of one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standalone: Option<bool>,
    /// NProcPerNode is the number of ranks per node. Deprecated: use spec.nprocPerNode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_proc_per_node: Option<i32>,
    /// MaxRestarts is the number of restarts of the worker group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<i32>,
    /// Metrics from which the number of Workers is computed, by a HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<MetricSpec>>,
}

/// RdzvConf is one setting of the rendezvous.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RdzvConf {
    /// Key of the setting.
    #[serde(default)]
    pub key: String,
    /// Value of the setting.
    #[serde(default)]
    pub value: String,
}

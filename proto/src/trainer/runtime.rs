//! TrainingRuntime and ClusterTrainingRuntime: the templates that TrainJobs refer to.

use k8s_openapi::api::batch::v1::JobTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cluster::ClusterTrainingRuntime;
pub use namespaced::TrainingRuntime;

mod namespaced {
    use super::TrainingRuntimeSpec;
    use crate::kind::{custom_kind, scope::InNamespace};

    custom_kind! {
        /// TrainingRuntime is a template for the TrainJobs of one namespace.
        TrainingRuntime, group: "trainer.kubeflow.org", version: "v1alpha1", plural: "trainingruntimes",
        singular: "trainingruntime", short: [], scope: Namespaced, spec: TrainingRuntimeSpec, status: ;
        scale: None,
        columns: &[],
    }
}

mod cluster {
    use super::TrainingRuntimeSpec;
    use crate::kind::{custom_kind, scope::InNamespace};

    custom_kind! {
        /// ClusterTrainingRuntime is a template for TrainJobs of all namespaces.
        ClusterTrainingRuntime, group: "trainer.kubeflow.org", version: "v1alpha1", plural: "clustertrainingruntimes",
        singular: "clustertrainingruntime", short: [], scope: Cluster, spec: TrainingRuntimeSpec, status: ;
        scale: None,
        columns: &[],
    }
}

/// TrainingRuntimeSpec describes how jobs of this runtime run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingRuntimeSpec {
    /// MLPolicy says which framework runs, and on how many nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_policy: Option<MlPolicy>,
    /// PodGroupPolicy says by which gang scheduler the pods are scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub pod_group_policy: Option<Value>,
    /// Template of the job set.
    #[serde(default)]
    pub template: JobSetTemplateSpec,
}

/// MLPolicy says which framework runs, and on how many nodes. At most one framework may be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MlPolicy {
    /// NumNodes is the number of training nodes. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_nodes: Option<i32>,
    /// Torch runs torchrun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub torch: Option<Value>,
    /// MPI runs mpirun from a launcher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub mpi: Option<Value>,
    /// Flux runs the Flux framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub flux: Option<Value>,
    /// JAX runs multi-process JAX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub jax: Option<Value>,
    /// XGBoost runs distributed XGBoost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub xgboost: Option<Value>,
}

/// JobSetTemplateSpec is the template of the job set that a TrainJob becomes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSetTemplateSpec {
    /// Metadata of the job set: labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ObjectMeta>,
    /// Spec of the job set.
    #[serde(default)]
    pub spec: JobSetSpec,
}

/// JobSetSpec is the spec of a jobset.x-k8s.io JobSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSetSpec {
    /// ReplicatedJobs are the steps: dataset-initializer, model-initializer, launcher, node.
    #[serde(default)]
    pub replicated_jobs: Vec<ReplicatedJob>,
    /// Network settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub network: Option<Value>,
    /// SuccessPolicy says when the job set has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub success_policy: Option<Value>,
    /// FailurePolicy says what a failed job does to the job set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub failure_policy: Option<Value>,
    /// StartupPolicy orders the start of the jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub startup_policy: Option<Value>,
    /// Coordinator names the pod that coordinates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub coordinator: Option<Value>,
    /// Suspend stops the job set while true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// TTLSecondsAfterFinished is the time after which the finished job set is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<i32>,
    /// VolumeClaimPolicies create volume claims for the jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub volume_claim_policies: Option<Vec<Value>>,
    /// ManagedBy names the controller of the job set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// ReplicatedJob is one step of a job set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedJob {
    /// Name of the step.
    #[serde(default)]
    pub name: String,
    /// GroupName of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// Replicas of the job. Always 1 in a training runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// DependsOn names the steps that must be Ready or Complete before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_list")]
    pub depends_on: Option<Vec<Value>>,
    /// Template of the job.
    #[serde(default)]
    pub template: JobTemplateSpec,
}

fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn free_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

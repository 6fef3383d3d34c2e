//! What all kinds of `kubeflow.org/v1` share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ReplicaSpec describes the pods of one role of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSpec {
    /// Replicas is the desired number of pods of this role. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Template is the pod that is created for each replica. Its restartPolicy is overwritten by the replica's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplateSpec>,
    /// RestartPolicy for all replicas of this role: Always, OnFailure, Never or ExitCode. With ExitCode, an exit code from
    /// 1 to 127 is permanent and fails the job; 128 and above (a signal) is retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Always", "OnFailure", "Never", "ExitCode"]))]
    pub restart_policy: Option<String>,
}

/// RunPolicy says how the job as a whole is run and cleaned up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunPolicy {
    /// CleanPodPolicy says which pods are deleted once the job is finished: None, Running or All. Defaults to None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "All", "Running", "None"]))]
    pub clean_pod_policy: Option<String>,
    /// TTLSecondsAfterFinished is the time after which a finished job is deleted. Defaults to infinite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<i32>,
    /// ActiveDeadlineSeconds is how long the job may be active before it is ended and marked failed: the time for which its pods have
    /// places. What they wait for them does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<i64>,
    /// BackoffLimit is the number of restarts before the job is marked failed. Defaults to unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<i32>,
    /// SchedulingPolicy says how the job is scheduled, for example as a gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling_policy: Option<SchedulingPolicy>,
    /// Suspend ends all pods of the job and keeps it stopped while true. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// ManagedBy names the controller that runs the job: empty, kubeflow.org/training-operator or kueue.x-k8s.io/multikueue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// SchedulingPolicy holds the gang scheduling settings of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingPolicy {
    /// MinAvailable is the number of pods that must be able to start together. Defaults to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<i32>,
    /// Queue that the job waits in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// MinResources that must be free before the gang starts. Defaults to the sum of the pods' requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_resources: Option<BTreeMap<String, Quantity>>,
    /// PriorityClass of the gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// ScheduleTimeoutSeconds is how long the gang may wait for its last pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_timeout_seconds: Option<i32>,
}

/// JobStatus is what the controller last observed of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Conditions of the job. The last one in the list is the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<JobCondition>>,
    /// ReplicaStatuses counts the pods of each role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_statuses: Option<BTreeMap<String, ReplicaStatus>>,
    /// StartTime is when the controller took up the job, or resumed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// CompletionTime is when the job succeeded or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// LastReconcileTime is when the status was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
}

/// ReplicaStatus counts the pods of one role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Active is the number of running pods.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub active: i32,
    /// Succeeded is the number of pods that ended with success.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub succeeded: i32,
    /// Failed is the number of pods that ended with failure.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: i32,
    /// Selector is the label selector of these pods, in text form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference to skip_serializing_if")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// JobCondition describes the state of the job at a certain point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCondition {
    /// Type of the condition: Created, Running, Restarting, Succeeded, Suspended or Failed.
    #[serde(rename = "type")]
    pub type_: String,
    /// Status of the condition: True, False or Unknown.
    pub status: String,
    /// Reason for the condition's last change, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Message for people, with the details of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// LastUpdateTime is when the condition was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// LastTransitionTime is when the condition's status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

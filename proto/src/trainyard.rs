//! Kinds of `trainyard.dev/v1alpha1`.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{PodTemplateSpec, Toleration, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::kind::{Column, Scale, custom_kind, scope::InNamespace};
use crate::kubeflow::common::{JobCondition, ReplicaStatus};

custom_kind! {
    /// TrainingJob runs one program as the ranks of a distributed training.
    TrainingJob, group: "trainyard.dev", version: "v1alpha1", plural: "trainingjobs", singular: "trainingjob",
    short: ["tj"], scope: Namespaced, spec: TrainingJobSpec, status: TrainingJobStatus;
    scale: Some(Scale {
        spec_path: ".spec.replicas",
        status_path: ".status.replicaStatuses.Worker.active",
        selector_path: ".status.replicaStatuses.Worker.selector",
    }),
    columns: &[
        Column { name: "Phase", kind: "string", path: ".status.phase", priority: 0 },
        Column { name: "Step", kind: "integer", path: ".status.progress.step", priority: 0 },
        Column { name: "Restarts", kind: "integer", path: ".status.restarts", priority: 0 },
        Column { name: "Message", kind: "string", path: ".status.message", priority: 1 },
    ],
}

/// TrainingJobSpec is the wanted state of a TrainingJob. Only `command` is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobSpec {
    /// Number of pods. Defaults to 1, or to `elastic.maxReplicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub replicas: Option<i32>,
    /// Ranks per pod: a number, `auto`, `cpu` (one per CPU) or `gpu` (one per GPU). Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procs_per_replica: Option<IntOrString>,
    /// The program that every rank runs, with its arguments. Not run in a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Further arguments, after those of `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables: a map from name to value, or a list of `{name, value | valueFrom}` as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "env_schema")]
    pub env: Option<Value>,
    /// Container image, used where containers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Folder in which the program starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// What each pod needs: `{cpu, memory, gpu}`, or `{requests, limits}` as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Volumes of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// Where the volumes are mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Labels that a node must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of nodes that the pods tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// When a failed rank starts the whole gang again: Never, OnFailure, ExitCode (only codes from 128 on) or Always (as
    /// OnFailure). Defaults to Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Never", "OnFailure", "ExitCode", "Always"]))]
    pub restart_policy: Option<String>,
    /// How many times the gang is started again before the job has failed. Defaults to 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub backoff_limit: Option<i32>,
    /// How the job comes back from failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Between which numbers of pods the job may train. Without it, it trains with all of them or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<Elastic>,
    /// Whether the links between the ranks, an all-reduce and the GPUs are checked before the program starts for the first
    /// time; the job fails where something is bad, and names it. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<bool>,
    /// Where the program writes its checkpoints. Then the newest whole one is shown, and a stop waits for one that is being
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// How long the job may be active before it is ended and has failed: the time for which its gang has places. What it waits for them
    /// does not count, and after a suspension it begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// Time after which the finished job is deleted. Kept for ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Which pods are deleted once the job is finished: None, Running or All. Defaults to Running, so that logs stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["None", "Running", "All"]))]
    pub clean_pod_policy: Option<String>,
    /// Ends all pods and keeps the job stopped while true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Queue that the job waits in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Who lets the pods go on a cluster: trainyard (all of them together), kubernetes (one by one), kueue or volcano. Defaults
    /// to trainyard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["trainyard", "kubernetes", "kueue", "volcano"]))]
    pub scheduler: Option<String>,
    /// Priority: a number (greater is earlier) or the name of a PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<IntOrString>,
    /// Controller that runs the job, if not trainyard.dev/trainyard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// Pod template for everything else, merged under the fields above. Its container named `trainer` (or its first) is the one
    /// that runs the program; containers may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template_schema")]
    pub template: Option<PodTemplateSpec>,
}

/// Recovery says how a job comes back from failures. How often it does is up to `restartPolicy` and `backoffLimit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Whether interpreters are kept ready to take a failed rank's place: auto or off. Defaults to auto, which is Python
    /// programs that can have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["auto", "off"]))]
    pub spares: Option<String>,
    /// What is done about ranks that stand still: report or restart. Defaults to report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["report", "restart"]))]
    pub on_hang: Option<String>,
    /// Whether ranks are started again in the pods that are there. Defaults to true; with false, every restart is one of all
    /// pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<bool>,
    /// How long a lost pod is awaited. Then an elastic job goes on with fewer, and another one starts all pods again. Defaults
    /// to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub return_seconds: Option<i64>,
    /// Restarts at most for one cause, within `backoffLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<RecoveryBudgets>,
}

/// RecoveryBudgets are restarts at most, by cause. A cause that is not named has only the job's `backoffLimit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryBudgets {
    /// After the program ended with an exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub exit_code: Option<i32>,
    /// After a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub signal: Option<i32>,
    /// After a rank ran out of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub out_of_memory: Option<i32>,
    /// After a Python module was not found or did not load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub import_error: Option<i32>,
    /// After the program raised an exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub exception: Option<i32>,
    /// After the ranks did not all meet in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub rendezvous_timeout: Option<i32>,
    /// After a rank stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub hang: Option<i32>,
    /// After a node, or a launcher, was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub node_lost: Option<i32>,
    /// After a GPU reported an Xid error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub gpu_xid: Option<i32>,
}

/// Elastic says between which numbers of pods a job may train.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Elastic {
    /// Pods without which it does not train. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_replicas: Option<i32>,
    /// Pods at most. Defaults to `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_replicas: Option<i32>,
}

/// Resources that each pod needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPUs, such as 2, 0.5 or 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Memory, such as 4Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
    /// NVIDIA GPUs (the resource nvidia.com/gpu).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Amount>,
    /// Requests by resource name, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, Amount>>,
    /// Limits by resource name, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Amount>>,
}

/// A Kubernetes quantity that may also be written as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount(pub String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity such as 2, 0.5, 500m or 4Gi")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "dev.trainyard.Amount".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A Kubernetes quantity that may also be written as a number.",
            "x-kubernetes-int-or-string": true,
        })
    }
}

fn env_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

fn template_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// TrainingJobStatus is what was last observed of a TrainingJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobStatus {
    /// Where the job is: Pending, Starting, Running, Restarting, Succeeded, Failed or Suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Conditions of the job: Created, Running, Restarting, Succeeded, Suspended, Failed. The last one is the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<JobCondition>>,
    /// Counts of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_statuses: Option<BTreeMap<String, ReplicaStatus>>,
    /// When the job was taken up, or last resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job succeeded or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How far the training is, as the leader's output says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Exit code of the job: 0, or the code of the container that failed first (128 + n for signal n).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What happened and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many times ranks were started again, in place or in new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i32>,
    /// Number of the generation of ranks that runs, or ran last. Every restart and every change of size is a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Pods whose launchers have not joined, while the others wait for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
    /// Ranks that stand still: those that are to blame, then those that wait for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Vec<StalledRank>>,
    /// Ranks that make the others wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stragglers: Option<Vec<SlowRank>>,
    /// Interpreters that are ready to take a failed rank's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spares: Option<SpareInterpreters>,
    /// The newest complete checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// Number of ranks, if it is known before they start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<i32>,
}

/// A failure, and how it was recovered from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// The rank that failed first; absent when a whole pod was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why: exitCode, signal, outOfMemory, importError, exception, rendezvousTimeout, hang, nodeLost or gpuXid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The exit code that it stands for (128 + n for signal n).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The first meaningful line of what the rank said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation that it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When it became known, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Milliseconds from then until all ranks of the next generation were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_ms: Option<i64>,
    /// Steps that were done since the newest whole checkpoint, and are to be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_steps: Option<i64>,
}

/// A rank that stands still.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StalledRank {
    /// Which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    /// Its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The function, or the system call, that it waits in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_in: Option<String>,
    /// Since when, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Whether it waits for other ranks. Those that do not are to blame, and are listed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_collective: Option<bool>,
}

/// The most ranks that one replica may have: far more than any machine has GPUs or CPUs, and few enough to be started.
pub const MAX_PROCS_PER_REPLICA: u32 = 4_096;

/// A rank that makes the others wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowRank {
    /// Which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    /// Its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How many times as long as the others it takes for its part of a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowdown: Option<f64>,
    /// Since when, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
}

/// Interpreters that are ready to take a failed rank's place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpareInterpreters {
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Memory that they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
}

/// Where a program writes its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The folder, as the program sees it; below the folder in which it starts if it is not absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How many checkpoints stay: older whole ones that have a step or an epoch in their names are removed. All stay if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub keep: Option<i32>,
    /// How often the folder is looked at. Defaults to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every_seconds: Option<i32>,
}

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The step that it was written after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// When it was complete, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
}

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Steps to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_steps: Option<i64>,
    /// Epochs done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Epochs to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_epochs: Option<i64>,
    /// Steps per second, lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_second: Option<f64>,
    /// Estimated time left, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
    /// Latest value of each metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<BTreeMap<String, f64>>,
    /// When this was read, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

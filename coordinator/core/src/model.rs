//! The job model: what every dialect is lowered to, and all that the engine knows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodTemplateSpec, ServicePort};
use serde::{Deserialize, Serialize};
use trainyard_proto::plan::ObjectRef;

use crate::rendezvous;

/// A job of any dialect, complete and free of contradictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobModel {
    /// The object that the user applied.
    pub owner: ObjectRef,
    /// Its uid; empty when the object was never stored.
    pub uid: String,
    /// Roles in rank order: the role of rank 0 first.
    pub roles: Vec<Role>,
    /// Services that make the replicas reachable by name.
    pub services: Vec<ServiceModel>,
    /// Other objects that the job needs, complete but for the owner reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<serde_json::Value>,
    /// The port on which the ranks meet.
    pub port: PortWish,
    /// How the job is run as a whole.
    pub policy: Policy,
    /// When the job has succeeded.
    pub success: SuccessRule,
    /// What a failed replica takes with it when it is started again.
    pub restart_scope: RestartScope,
    /// The replica whose progress and log stand for the job's.
    pub leader: ReplicaKey,
    /// Number of ranks, if it is known before they start.
    pub ranks: Option<u32>,
    /// The rendezvous of its launchers, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendezvous: Option<rendezvous::Config>,
    /// What the user may like to know. The message becomes an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Warning>,
    /// What the user should know though the job runs: overwritten or ignored fields. The message becomes an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

impl JobModel {
    /// Number of pods.
    #[must_use]
    pub fn size(&self) -> usize {
        self.roles.iter().map(|role| role.replicas.len()).sum()
    }

    /// All replicas with their roles, in rank order.
    pub fn replicas(&self) -> impl Iterator<Item = (&Role, &Replica)> {
        self.roles.iter().flat_map(|role| role.replicas.iter().map(move |replica| (role, replica)))
    }

    /// The replica that stands for the job.
    #[must_use]
    pub fn leader(&self) -> Option<&Replica> {
        self.roles.get(self.leader.role)?.replicas.get(self.leader.index)
    }
}

/// Something to tell the user as an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// CamelCase event reason.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

impl Warning {
    /// A field that is accepted and has no effect.
    #[must_use]
    pub fn ignored(path: &str) -> Self {
        Self { reason: "FieldIgnored".to_owned(), message: format!("{path} has no effect here") }
    }
}

/// Replicas of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Name in the dialect and in `replicaStatuses`: `Master`, `Worker`, ….
    pub name: String,
    /// What every pod of this role is made from: labels, annotations, containers with the environment that is the same for all.
    pub template: PodTemplateSpec,
    /// The pods.
    pub replicas: Vec<Replica>,
    /// When a failed replica is started again.
    pub restart: RestartRule,
    /// The container whose exit code decides.
    pub main_container: String,
    /// Which containers get the replica's environment.
    pub env_into: EnvInto,
    /// Name of the port of the main container that is [`JobModel::port`], where the number must be filled in.
    pub port_name: Option<String>,
    /// Selector of the role's pods, in text form.
    pub selector: String,
}

/// Which containers get the replica's environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvInto {
    /// All but the init containers.
    All,
    /// The main container.
    Main,
}

/// One pod to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Pod name.
    pub name: String,
    /// Index in the role.
    pub index: u32,
    /// Node rank: position among all pods of the job.
    pub node_rank: u32,
    /// Labels of this pod alone.
    pub labels: BTreeMap<String, String>,
    /// Environment of this pod alone, appended after the template's.
    pub env: Vec<EnvModel>,
    /// `spec.hostname`, where the dialect sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// One variable of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvModel {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// As is.
    Text(String),
    /// This text, then the port on which the ranks meet.
    Port(String),
    /// The generation of the gang.
    Generation,
    /// How often the gang was started again because it failed.
    Restarts,
    /// A field of the pod.
    Field(String),
}

/// A service to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceModel {
    /// Service name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Selector of its pods.
    pub selector: BTreeMap<String, String>,
    /// Ports. One named as [`Self::port_name`] gets the number of [`JobModel::port`].
    pub ports: Vec<ServicePort>,
    /// Name of the port whose number must be filled in.
    pub port_name: Option<String>,
    /// Whether names resolve before pods are ready.
    pub publish_not_ready: bool,
}

/// The port on which the ranks meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortWish {
    /// The user chose it.
    Fixed(u16),
    /// The dialect's default; another may be taken where pods share the host's ports.
    Default(u16),
}

impl PortWish {
    /// The number as the dialect has it.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Fixed(number) | Self::Default(number) => number,
        }
    }
}

/// How the job is run as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Which pods go once the job is finished.
    pub clean_pods: CleanPods,
    /// Milliseconds from the end to the deletion of the job.
    pub ttl_ms: Option<i64>,
    /// Milliseconds that the job may be active.
    pub active_deadline_ms: Option<i64>,
    /// Restarts before the job fails; `None` for no limit.
    pub backoff_limit: Option<u32>,
    /// Whether the job is to be stopped.
    pub suspend: bool,
    /// How many pods must start together.
    pub min_available: u32,
    /// Queue.
    pub queue: Option<String>,
    /// Priority as a number, where the dialect has one.
    pub priority: Option<i32>,
    /// Priority class of the gang.
    pub priority_class: Option<String>,
    /// Who lets the pods go.
    #[serde(default, skip_serializing_if = "Scheduler::is_own")]
    pub scheduler: Scheduler,
}

/// Who decides when the pods of a job go, and where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheduler {
    /// Our own: all of a gang or none of it.
    #[default]
    Trainyard,
    /// The cluster's, one by one.
    Kubernetes,
    /// Kueue says when; the cluster's scheduler says where to.
    Kueue,
    /// Volcano.
    Volcano,
}

impl Scheduler {
    /// Whether it is our own.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::Trainyard)
    }
}

/// Which pods are deleted once the job is finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CleanPods {
    /// None.
    #[default]
    None,
    /// Those that have not ended.
    Running,
    /// All, and their services.
    All,
}

/// When a failed replica is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartRule {
    /// Whenever it ends.
    Always,
    /// When it failed.
    OnFailure,
    /// Never: its failure is the job's.
    Never,
    /// When it failed with an exit code of 128 or above, or without one.
    ExitCode,
}

/// What a failed replica takes with it when it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartScope {
    /// Only itself, as the training operator has it.
    Replica,
    /// The whole gang, as a new generation.
    Gang,
}

/// When the job has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SuccessRule {
    /// When all replicas of this role have.
    AllOf {
        /// Position in [`JobModel::roles`].
        role: usize,
    },
    /// When any replica of this role has.
    AnyOf {
        /// Position in [`JobModel::roles`].
        role: usize,
    },
    /// When this replica has.
    One(ReplicaKey),
    /// When all replicas of all roles have.
    All,
    /// When any replica has and none runs: those that never came are not needed.
    Elastic,
}

/// A replica by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaKey {
    /// Position in [`JobModel::roles`].
    pub role: usize,
    /// Position in [`Role::replicas`].
    pub index: usize,
}

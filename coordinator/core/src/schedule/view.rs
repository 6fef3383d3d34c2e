//! What the engine looks at: plain data, positions instead of names where one thing refers to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Amounts of resources, by position in [`View::resources`]; what is missing at the end is zero.
pub type Amounts = Vec<i64>;

/// Everything that a decision depends on, but the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Names of the resources: `cpu` (in thousandths), `memory` (in bytes), `pods`, `nvidia.com/gpu`, and so on.
    pub resources: Vec<String>,
    /// Where gangs may run.
    pub nodes: Vec<Node>,
    /// Groups of queues that lend to each other.
    pub cohorts: Vec<Cohort>,
    /// Where gangs wait.
    pub queues: Vec<ClusterQueue>,
    /// Gangs that wait or run.
    pub gangs: Vec<Gang>,
    /// What the cluster's owner chose.
    pub policy: Policy,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name; no two are the same.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Cordoned: nothing new is placed here.
    #[serde(default)]
    pub unschedulable: bool,
    /// What gangs may use in all: allocatable, less what pods that are no gang of this view use.
    pub capacity: Amounts,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Nothing is placed here that does not tolerate it.
    NoSchedule,
    /// As little as possible is placed here.
    PreferNoSchedule,
    /// As `NoSchedule`, and what runs has to go.
    NoExecute,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
    /// Effect.
    pub effect: Effect,
}

/// What a pod tolerates.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key; every key without one.
    pub key: Option<String>,
    /// Value; every value without one (`operator: Exists`).
    pub value: Option<String>,
    /// Effect; every effect without one.
    pub effect: Option<Effect>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// The value is none of these, or there is none.
    NotIn,
    /// There is a value.
    Exists,
    /// There is none.
    DoesNotExist,
    /// The value is a number above.
    Gt,
    /// The value is a number below.
    Lt,
}

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Key of the label.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what.
    #[serde(default)]
    pub values: Vec<String>,
}

/// On which nodes a pod may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRules {
    /// All of these labels (`nodeSelector`).
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// One of these terms, all requirements of it (`requiredDuringSchedulingIgnoredDuringExecution`); empty: any node.
    #[serde(default)]
    pub any_of: Vec<Vec<Requirement>>,
    /// Weighted terms that are liked.
    #[serde(default)]
    pub preferred: Vec<(i32, Vec<Requirement>)>,
    /// What is tolerated.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
}

/// Other pods, within a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTerm {
    /// Which pods: all of these.
    pub pods: Vec<Requirement>,
    /// Nodes with the same value of this label are one domain.
    pub topology_key: String,
}

/// Pods of a role that belong together more closely than the gang.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// So many pods (the last slice may have fewer).
    pub size: u32,
    /// Within one domain of this level (a label of [`Policy::levels`]).
    pub level: String,
}

/// Pods of a gang that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Pods at most, and if there is room.
    pub count: u32,
    /// Pods at least; the same as `count` if the role is not elastic.
    pub min: u32,
    /// What each pod asks for.
    pub requests: Amounts,
    /// Labels of its pods.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// On which nodes.
    #[serde(default)]
    pub rules: NodeRules,
    /// Pods that have to be near.
    #[serde(default)]
    pub affinity: Vec<PodTerm>,
    /// Pods that must not be near.
    #[serde(default)]
    pub anti_affinity: Vec<PodTerm>,
    /// Ports of the host that each pod takes.
    #[serde(default)]
    pub host_ports: Vec<u16>,
    /// Parts of the role that stay within a domain.
    #[serde(default)]
    pub slice: Option<Slice>,
}

/// How closely a gang has to be placed, by level.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closeness {
    /// Within one domain of this level, or not at all.
    pub required: Option<String>,
    /// Within one domain of this level if there is one; otherwise of the next level out, and so on.
    pub preferred: Option<String>,
}

/// What a gang looks like; gangs of equal shape share the work of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    /// Its namespace: pod terms see pods of the same one.
    #[serde(default)]
    pub namespace: String,
    /// Its roles.
    pub roles: Vec<Role>,
    /// How close.
    #[serde(default)]
    pub closeness: Closeness,
    /// Bytes that each pod sends around in an all-reduce, for the predicted time of a layout.
    #[serde(default)]
    pub all_reduce_bytes: u64,
}

/// Pods of one role on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Position of the role in the shape.
    pub role: u32,
    /// Position of the node in the view.
    pub node: u32,
    /// How many pods.
    pub count: u32,
}

/// Places that are kept for a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// When they are free at the latest (a promise), or when they are expected to be.
    pub start_ms: i64,
    /// Whether that is a promise: everything it waits for has a limit on its run time.
    pub promised: bool,
    /// Where.
    pub places: Vec<Place>,
    /// Position of the shape that it starts in among the gang's [`options`](Gang::options).
    #[serde(default)]
    pub option: u32,
}

/// Where a gang is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It waits for its turn.
    #[serde(rename_all = "camelCase")]
    Waiting {
        /// What an earlier decision set aside for it.
        reservation: Option<Reservation>,
    },
    /// It has its places.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Since when.
        since_ms: i64,
        /// When its places last changed.
        changed_ms: i64,
        /// When it last saved its work; from then on work is lost if it is stopped.
        saved_ms: i64,
        /// Its places.
        places: Vec<Place>,
    },
}

/// Pods that start together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gang {
    /// Its name (`namespace/name`); no two are the same.
    pub name: String,
    /// Position of its queue.
    pub queue: u32,
    /// Value of its priority class.
    pub priority: i32,
    /// When it was submitted.
    pub submitted_ms: i64,
    /// What it looks like. Of a gang with [`options`](Self::options) that waits, those count.
    pub shape: Arc<Shape>,
    /// Shapes of which it starts in one, those first that are liked better: it is tried in one after the other. They differ in what their
    /// roles ask for and where they may run, not in which roles there are. Empty: it has its shape alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Arc<Shape>>,
    /// It is stopped when it has run for so long.
    pub run_limit_ms: Option<i64>,
    /// How long it is expected to run; for estimates only.
    pub expected_ms: Option<i64>,
    /// Whether it may be stopped for others.
    pub preemptible: bool,
    /// Where it is.
    pub phase: Phase,
    /// Pods that were told to stop and are not gone yet.
    #[serde(default)]
    pub leaving: Vec<Place>,
}

/// Quota of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Position of the resource.
    pub resource: u32,
    /// What is its own.
    pub nominal: i64,
    /// What it may borrow at most of its cohort; no limit without one.
    pub borrowing_limit: Option<i64>,
    /// What it lends at most to its cohort; everything without one.
    pub lending_limit: Option<i64>,
}

/// Queues, and cohorts of them, that lend each other what they do not use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cohort {
    /// Its name.
    pub name: String,
    /// Position of the cohort it is part of.
    pub parent: Option<u32>,
    /// Its own quota, beside what its queues lend.
    #[serde(default)]
    pub quotas: Vec<Quota>,
    /// Its weight in fair sharing, in thousandths.
    pub weight_milli: u32,
}

/// In which order a queue has its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueingStrategy {
    /// A gang that cannot start does not keep later ones from starting.
    #[default]
    BestEffortFifo,
    /// It does.
    StrictFifo,
}

/// Of whom a queue may take by preemption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreemptionPolicy {
    /// Of nobody.
    #[default]
    Never,
    /// Of gangs of a lower priority.
    LowerPriority,
    /// Of gangs of a lower priority; and of those of the same one where a queue takes back what it is entitled to.
    Any,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterQueue {
    /// Its name.
    pub name: String,
    /// Position of its cohort.
    pub cohort: Option<u32>,
    /// Its quota; a resource that neither it nor a cohort above it names is not limited.
    #[serde(default)]
    pub quotas: Vec<Quota>,
    /// Its weight in fair sharing, in thousandths.
    pub weight_milli: u32,
    /// What it used in the past, decayed: see [`decay`](super::decay).
    #[serde(default)]
    pub history: Amounts,
    /// Order of turns.
    #[serde(default)]
    pub queueing_strategy: QueueingStrategy,
    /// Preemption of its own gangs.
    #[serde(default)]
    pub within_cluster_queue: PreemptionPolicy,
    /// Preemption of gangs of other queues of its cohorts that use more than they are entitled to.
    #[serde(default)]
    pub reclaim_within_cohort: PreemptionPolicy,
    /// Nothing is admitted (`stopPolicy: Hold`).
    #[serde(default)]
    pub stopped: bool,
    /// Which of its options a gang gets.
    #[serde(default)]
    pub fungibility: Fungibility,
}

/// When the next of a gang's options is tried (`flavorFungibility`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fungibility {
    /// Before something is borrowed (`whenCanBorrow: TryNextFlavor`).
    pub spare_cohort: bool,
    /// Only after others could not be stopped either (`whenCanPreempt: Preempt`).
    pub preempt_first: bool,
}

/// A level of the topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    /// Nodes with the same value of this label, and of those of all levels above, are one domain.
    pub label: String,
    /// Bytes per second from one node to another inside a domain of this level.
    pub bytes_per_s: u64,
    /// How long a message takes from one node to another inside a domain of this level.
    pub latency_ns: u64,
}

/// What the cluster's owner chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Levels of the topology, outermost first: zone, block, rack, NVLink domain. The node is the last level by itself.
    pub levels: Vec<Level>,
    /// Bytes per second between two pods of a node.
    pub node_bytes_per_s: u64,
    /// Bytes per second from one node to another that share no domain.
    pub cluster_bytes_per_s: u64,
    /// How long a message takes from one node to another that share no domain.
    pub cluster_latency_ns: u64,
    /// Position of the resource whose fragments are counted: the accelerators.
    pub scarce: Option<u32>,
    /// For so long after a change of its places a gang is not touched by preemption.
    pub min_run_ms: i64,
    /// A gang that has waited for so long has its turn before all that have not.
    pub age_after_ms: i64,
    /// A gang that has waited for so long has places set aside even if nobody knows when they will be free.
    pub hold_after_ms: i64,
    /// So many gangs at most have places set aside.
    pub reservations: u32,
    /// Between gangs of the same priority, preemption has to bring entitlements nearer by more than this part of the
    /// cluster, in millionths.
    pub hysteresis_ppm: u64,
    /// Resources that no share and no entitlement is told by, since others stand for them: those of which there are several flavors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncounted: Vec<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            node_bytes_per_s: 300_000_000_000,
            cluster_bytes_per_s: 12_500_000_000,
            cluster_latency_ns: 10_000,
            scarce: None,
            min_run_ms: 60_000,
            age_after_ms: 86_400_000,
            hold_after_ms: 600_000,
            reservations: 2,
            hysteresis_ppm: 1_000,
            uncounted: Vec::new(),
        }
    }
}

impl Role {
    /// What a pod asks of a resource.
    #[must_use]
    pub fn request(&self, resource: usize) -> i64 {
        self.requests.get(resource).copied().unwrap_or(0)
    }
}

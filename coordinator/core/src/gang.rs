//! The gang scheduler: which waiting gangs start, and where.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::plan::Plan;

use crate::schedule;

mod answer;
pub mod cluster;
mod demand;
mod flavor;
mod gather;
mod network;
mod outlook;
mod queue;
mod reason;
mod remedy;
mod report;
mod rule;
mod scene;
mod suppose;

#[cfg(test)]
mod tests;

pub use network::{Layout, layouts};
pub use outlook::{Fate, Outlook, Prospect, Share, Shift, Totals, outlook};
pub use queue::{API_VERSION as QUEUE_API_VERSION, KINDS as QUEUE_KINDS};
pub use reason::show;
pub use remedy::{Change, QueueState, QuotaState, Remedy, queues, remedies};
pub use suppose::{NewNodes, SupposeError, Supposition, suppose};

/// Everything the scheduler looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GangView {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All pods of all namespaces.
    pub pods: Vec<Pod>,
    /// Value of each PriorityClass.
    #[serde(default)]
    pub priority_classes: BTreeMap<String, i32>,
    /// Queues, cohorts and topologies, of Kueue's kinds, as they are stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<Value>,
    /// Labels of the namespaces, which queues select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// Why a gang waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitCode {
    /// Not all its pods exist yet.
    GangIncomplete,
    /// A pod has a scheduling gate that is not ours.
    Gated,
    /// There is no node, or none is ready.
    NoNodes,
    /// No node matches the pods' node selector, affinity or tolerations.
    NoMatchingNode,
    /// It asks for more than the nodes have: it can never start.
    TooLarge,
    /// What it asks for is there, but others use it.
    InsufficientResources,
    /// A request is not a quantity.
    BadRequest,
    /// What it asks of the topology makes no sense.
    Invalid,
    /// The queue that it names does not exist, or takes nothing of its namespace.
    NoQueue,
    /// Its queue is stopped.
    QueueStopped,
    /// One before it in its queue waits, and the queue keeps strictly to the order.
    BehindHead,
    /// Its queue could never have that much.
    AboveQuota,
    /// The queue's quota is in use.
    QuotaUsed,
    /// There is room, but it is set aside for gangs whose turn is before.
    Reserved,
    /// It has its places as soon as others have left them.
    RoomLeaving,
}

/// A gang that waits, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingGang {
    /// Namespace.
    pub namespace: String,
    /// Name of the gang.
    pub name: String,
    /// Names of its waiting pods.
    pub pods: Vec<String>,
    /// Why it waits.
    pub code: WaitCode,
    /// The same in one sentence, with numbers.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Its ClusterQueue; empty if it names none.
    #[serde(default)]
    pub queue: String,
    /// Its place among those of its queue that wait: 1 has its turn next. 0 if it has no turn so far.
    #[serde(default)]
    pub position: u32,
    /// When it is expected to start, if that can be told.
    #[serde(default)]
    pub estimate: Option<schedule::Estimate>,
    /// Whether places are set aside for it.
    #[serde(default)]
    pub reserved: bool,
}

/// The scheduler's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Bindings, conditions and events.
    pub plan: Plan,
    /// Gangs that wait, in the order of their turn.
    pub waiting: Vec<WaitingGang>,
}

impl WaitCode {
    /// The code as text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GangIncomplete => "GangIncomplete",
            Self::Gated => "Gated",
            Self::NoNodes => "NoNodes",
            Self::NoMatchingNode => "NoMatchingNode",
            Self::TooLarge => "TooLarge",
            Self::InsufficientResources => "InsufficientResources",
            Self::BadRequest => "BadRequest",
            Self::Invalid => "Invalid",
            Self::NoQueue => "NoQueue",
            Self::QueueStopped => "QueueStopped",
            Self::BehindHead => "BehindHead",
            Self::AboveQuota => "AboveQuota",
            Self::QuotaUsed => "QuotaUsed",
            Self::Reserved => "Reserved",
            Self::RoomLeaving => "RoomLeaving",
        }
    }
}

/// Which waiting gangs start, and where. All or nothing: a gang gets places for all its pods, or at least for as many as it
/// must start with, or none.
///
/// The engine of [`crate::schedule`] decides; here objects become its view, and its answer becomes actions. A gang of which a part
/// has places has its turn before all others; if the rest has none, and none of it runs, the places are given back.
#[must_use]
pub fn place(view: &GangView, now_ms: i64) -> Placement {
    let scene = scene::Scene::new(view, now_ms);
    let decision = schedule::decide(&scene.view, now_ms);
    let mut placement = answer::placement(&scene, &decision, now_ms);
    report::tell(view, &scene, &decision, now_ms, &mut placement);
    placement
}

/// The same as the engine sees it, to ask it what would be.
#[must_use]
pub fn picture(view: &GangView, now_ms: i64) -> schedule::View {
    scene::Scene::new(view, now_ms).view
}

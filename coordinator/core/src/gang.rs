//! The gang scheduler: which waiting gangs start, and where.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use trainyard_proto::plan::Plan;

mod affinity;
mod answer;
pub mod cluster;
mod demand;
mod fit;
mod gather;
mod reason;

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
        }
    }
}

/// Which waiting gangs start, and where. All or nothing: a gang gets places for all its pods, or at least for as many as it
/// must start with, or none.
///
/// Gangs have their turn by priority, then by age; one that does not fit does not keep later ones from starting. A gang of which a
/// part has places has its turn before all others; if the rest has none, and none of it runs, the places are given back.
#[must_use]
pub fn place(view: &GangView, now_ms: i64) -> Placement {
    let mut sites = gather::sites(view);
    let mut placement = Placement::default();
    for gang in gather::gangs(view) {
        match place_gang(&gang, &mut sites) {
            Ok(places) => {
                let waits = gang.waiting.len() - places.len();
                answer::bind(&places, &sites, &mut placement);
                if waits > 0 {
                    let bound: BTreeSet<_> = places.iter().map(|(pod, _)| pod.metadata.name.as_deref()).collect();
                    let rest: Vec<_> = gang
                        .waiting
                        .iter()
                        .copied()
                        .filter(|pod| !bound.contains(&pod.metadata.name.as_deref()))
                        .collect();
                    let rest = gather::Gang { waiting: rest, ..gang };
                    let wait = why(&rest, &sites);
                    answer::wait(&rest, wait, now_ms, &mut placement);
                }
            }
            Err(wait) if gives_back(&gang, wait.code) => {
                answer::give_back(&gang, &wait, &mut placement);
                let rest = gather::Gang { placed: 0, idle: Vec::new(), ..gang };
                // What it gives back is free only when its pods are gone, so that it waits in any case.
                if let Err(wait) = place_gang(&rest, &mut sites.clone()) {
                    answer::wait(&rest, wait, now_ms, &mut placement);
                }
            }
            Err(wait) => answer::wait(&gang, wait, now_ms, &mut placement),
        }
    }
    placement
}

/// Whether a gang that cannot be completed gives up the places that it has. One that runs does not: a replica of it failed, and the
/// others are not ended for the time that its successor waits. One that has no process yet would only keep others from the room: it
/// was begun and its room was lost, or it lost pods before they started. One that lacks pods gets them at once, or has none to wait for.
fn gives_back(gang: &gather::Gang<'_>, code: WaitCode) -> bool {
    code != WaitCode::GangIncomplete && gang.placed > 0 && gang.placed < gang.size && gang.idle.len() == gang.placed
}

/// Places for the whole gang, or for as many pods as it must start with.
fn place_gang<'view>(
    gang: &gather::Gang<'view>,
    sites: &mut [gather::Site<'_>],
) -> Result<Vec<(&'view Pod, usize)>, reason::Wait> {
    let present = gang.waiting.len() + gang.placed;
    if present < gang.size {
        return Err(reason::Wait {
            code: WaitCode::GangIncomplete,
            message: format!("{present} of {} pods of the gang exist", gang.size),
            hint: None,
        });
    }
    if let Some(gate) = gang.waiting.iter().find_map(|pod| foreign_gate(pod)) {
        return Err(reason::Wait {
            code: WaitCode::Gated,
            message: format!("the scheduling gate {gate} is closed"),
            hint: Some(format!("whoever set the gate {gate} has to take it off")),
        });
    }
    let shapes = fit::shapes(&gang.waiting, sites).map_err(bad_request)?;
    if let Some(places) = fit::place(&shapes, sites) {
        return Ok(places);
    }
    // With fewer pods than all, if the gang may start so; those of the lowest index, which hold the leader.
    let least = gang.size.saturating_sub(gang.placed);
    if least > 0 && least < gang.waiting.len() {
        let shapes = fit::shapes(&gang.waiting[..least], sites).map_err(bad_request)?;
        if let Some(places) = fit::place(&shapes, sites) {
            return Ok(places);
        }
    }
    Err(reason::explain(&shapes, sites, gang.waiting.len()))
}

fn why(gang: &gather::Gang<'_>, sites: &[gather::Site<'_>]) -> reason::Wait {
    match fit::shapes(&gang.waiting, sites) {
        Ok(shapes) => reason::explain(&shapes, sites, gang.waiting.len()),
        Err(error) => bad_request(error),
    }
}

fn bad_request(error: String) -> reason::Wait {
    reason::Wait {
        code: WaitCode::BadRequest,
        message: error,
        hint: Some("correct the container's resources".to_owned()),
    }
}

/// The first scheduling gate that is not ours.
fn foreign_gate(pod: &Pod) -> Option<&str> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    gates.iter().map(|gate| gate.name.as_str()).find(|name| *name != crate::label::GANG_GATE)
}

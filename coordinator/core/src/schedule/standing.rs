//! How queues stand: what they use, may use, and whose turn comes sooner.

use serde::{Deserialize, Serialize};

use super::cluster::len;
use super::engine::Engine;
use super::view::View;

/// How a queue stands with one resource that is limited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stake {
    /// Position of the resource.
    pub resource: u32,
    /// What it uses.
    pub used: i64,
    /// What it is entitled to.
    pub entitled: i64,
    /// What it may use more now, borrowed or its own.
    pub available: i64,
}

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// By resource.
    pub stakes: Vec<Stake>,
    /// What it uses, and used, beyond what it is entitled to, by weight: in millionths of the cluster. The least has its turn first.
    pub share_ppm: u64,
}

/// How each queue stands, by position in the view.
#[must_use]
pub fn standings(view: &View, now_ms: i64) -> Vec<Standing> {
    let engine = Engine::new(view, now_ms);
    let (tree, usage) = (&engine.tree, &engine.timeline.slots[0].usage);
    let standing = |queue: usize| {
        let stake = |resource: usize| Stake {
            resource: len(resource),
            used: tree.used(usage, queue, resource),
            entitled: tree.entitled(queue, resource),
            available: tree.available(usage, queue, resource).max(0),
        };
        let limited = (0..view.resources.len()).filter(|resource| tree.is_limited(queue, *resource));
        Standing { stakes: limited.map(stake).collect(), share_ppm: engine.order.share_of(tree, usage, queue) }
    };
    (0..view.queues.len()).map(standing).collect()
}

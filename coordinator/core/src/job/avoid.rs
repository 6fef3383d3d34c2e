//! Nodes to which the replicas of a job do not come back, as long as there are others.
//!
//! A node gets its blame from what failed on it. Whether there is another one is not known here: new pods only say what
//! they would like, and whoever places them, our scheduler or a cluster's, looks at that last.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PreferredSchedulingTerm};
use serde::{Deserialize, Serialize};
use trainyard_proto::plan::EventSeverity;

use super::ledger::Ledger;
use super::planner::Planner;
use super::restart::Lost;
use crate::rendezvous::{Cause, RendezvousView};

/// So many failures on one node are no accident.
const MANY: u32 = 2;
/// A node is avoided for so long after the last failure on it: by then somebody has looked at it.
const FORGET_MS: i64 = 3_600_000;
/// Nodes that are remembered: those that failed last.
const MOST: usize = 16;
/// The most that a preference can weigh.
const WEIGHT: i32 = 100;

/// What is held against a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Blame {
    /// Failures on it.
    pub failures: u32,
    /// Whether one of them was of the kind that a node is to blame for.
    pub grave: bool,
    /// When the last one became known.
    pub at_ms: i64,
}

impl Blame {
    const fn holds(&self, now_ms: i64) -> bool {
        (self.grave || self.failures >= MANY) && now_ms.saturating_sub(self.at_ms) < FORGET_MS
    }
}

impl Ledger {
    /// Nodes that new pods avoid.
    #[must_use]
    pub fn avoided(&self, now_ms: i64) -> Vec<(&str, Blame)> {
        let nodes = self.nodes.iter().filter(|(_, blame)| blame.holds(now_ms));
        nodes.map(|(name, blame)| (name.as_str(), *blame)).collect()
    }

    /// Answers whether the node is avoided from now on, and was not before.
    fn blame(&mut self, node: &str, grave: bool, now_ms: i64) -> bool {
        self.nodes.retain(|_, blame| now_ms.saturating_sub(blame.at_ms) < FORGET_MS);
        let blame = self.nodes.entry(node.to_owned()).or_default();
        let before = blame.holds(now_ms);
        *blame = Blame { failures: blame.failures.saturating_add(1), grave: blame.grave || grave, at_ms: now_ms };
        let news = blame.holds(now_ms) && !before;
        while self.nodes.len() > MOST {
            let oldest = self.nodes.iter().min_by_key(|(_, blame)| blame.at_ms).map(|(name, _)| name.clone());
            self.nodes.remove(&oldest.unwrap_or_default());
        }
        news
    }
}

impl Planner<'_> {
    /// Takes in the node of the last failure that launchers told, once.
    pub(super) fn blame_told(&mut self, meeting: &RendezvousView) {
        let Some(last) = &meeting.last_failure else { return };
        let Some(node) = &last.place.node else { return };
        if self.ledger.blamed_ms.is_some_and(|known| last.at_ms <= known) {
            return;
        }
        self.ledger.blamed_ms = Some(last.at_ms);
        // A launcher that is gone may have been ended by anybody.
        let grave = matches!(last.cause, Cause::Hang | Cause::GpuXid);
        self.blame(node, grave);
        self.write_ledger();
    }

    /// Takes in the nodes of pods that failed by themselves.
    pub(super) fn blame_lost(&mut self, lost: &[Lost<'_>]) {
        let failed = lost.iter().filter_map(|lost| lost.pod.as_ref()).filter(|pod| !pod.deleting);
        let nodes: Vec<String> =
            failed.filter_map(|pod| pod.pod.spec.as_ref().and_then(|spec| spec.node_name.clone())).collect();
        for node in nodes {
            self.blame(&node, false);
        }
    }

    fn blame(&mut self, node: &str, grave: bool) {
        let news = self.ledger.blame(node, grave, self.now_ms);
        // The embedded server has one node: there is nowhere else to go.
        if news && !self.view.config.embedded {
            let message = format!("New pods avoid node {node}, where ranks failed, as long as another one has room");
            self.event(EventSeverity::Warning, "NodeAvoided", &message);
        }
    }
}

/// Tells whoever places a pod which nodes to look at last.
pub(super) fn avoid(spec: &mut PodSpec, nodes: &[&str]) {
    if nodes.is_empty() {
        return;
    }
    // A requirement on the name of a node may have one value.
    let not = |node: &&str| NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec![(*node).to_owned()]),
    };
    let preference = NodeSelectorTerm { match_fields: Some(nodes.iter().map(not).collect()), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
    preferred.push(PreferredSchedulingTerm { preference, weight: WEIGHT });
}

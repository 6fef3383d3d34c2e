//! Why a node is out of the question for a pod, whatever is free on it.

use serde::{Deserialize, Serialize};

use super::cluster::{holds, tolerates};
use super::view::{Node, NodeRules, Requirement};

/// Why a node is out of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Misfit {
    /// It is cordoned.
    Unschedulable,
    /// It has not the labels that are asked for.
    Labels,
    /// It has a taint that is not tolerated.
    Taint,
}

impl NodeRules {
    /// Why a pod with these rules may not run on a node, if it may not.
    #[must_use]
    pub fn misfit(&self, node: &Node) -> Option<Misfit> {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        let held = |one: &Requirement| holds(one, label(&one.key));
        let selected = self.selector.iter().all(|(key, value)| label(key) == Some(value));
        let any = self.any_of.is_empty() || self.any_of.iter().any(|term| !term.is_empty() && term.iter().all(held));
        if node.unschedulable {
            Some(Misfit::Unschedulable)
        } else if !(selected && any) {
            Some(Misfit::Labels)
        } else if !tolerates(&self.tolerations, &node.taints) {
            Some(Misfit::Taint)
        } else {
            None
        }
    }
}

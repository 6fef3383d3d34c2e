//! Pods that nobody can end: their node is out of the cluster's reach, or their launcher obeys no more.
//!
//! | node | launcher | pod | what follows |
//! |---|---|---|---|
//! | out of reach | silent, too: no member of the rendezvous any more | is there | it is removed at once, without asking its node |
//! | out of reach | takes part | is there | nothing: only the way from the node to the cluster is cut, and it trains |
//! | out of reach | the job has none | is there | nothing: Kubernetes deletes it when its tolerations say so (after 300 s by default) |
//! | out of reach | whatever | was to be gone by now | it is removed: its node will not say that it is |
//! | in reach | no member for as long as lost pods are awaited | runs | it is deleted; the others are not started anew for it |
//!
//! Without an answer of its node nobody knows that the processes of a pod have ended. Those of a launcher do no harm: it is no
//! member, so no generation has a place for it, and the API server knows its pod no more. A job without launchers is given the
//! time that Kubernetes gives every pod.

use k8s_openapi::api::core::v1::Node;
use trainyard_proto::plan::Action;

use super::planner::Planner;
use super::replica::{Observed, Standing};
use crate::instant;
use crate::rendezvous::{Config, RendezvousView, Stage};

/// Kubernetes' words for a node that does not report, and a user's for one that is switched off.
const UNREACHABLE: [&str; 2] = ["node.kubernetes.io/unreachable", "node.kubernetes.io/out-of-service"];

/// Whether nothing that is asked of a node's pods is done.
#[must_use]
pub fn is_out_of_reach(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.effect == "NoExecute" && UNREACHABLE.contains(&taint.key.as_str()))
}

impl Planner<'_> {
    pub(super) fn is_out_of_reach(&self, pod: &Observed<'_>) -> bool {
        let node = pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        node.is_some_and(|node| self.view.silent_nodes.contains(node))
    }

    /// Removes the pods that were to be gone by now, and whose nodes cannot say that they are.
    pub(super) fn remove_strays(&mut self) {
        let strays: Vec<Observed<'_>> =
            self.pods.iter().filter(|pod| pod.deleting && self.is_out_of_reach(pod)).cloned().collect();
        let mut removals = Vec::new();
        for pod in strays {
            let due_ms = pod.pod.metadata.deletion_timestamp.as_ref().map_or(0, instant::ms);
            if self.now_ms < due_ms && !self.is_counted(&pod) {
                self.wake_at(Some(due_ms));
                continue;
            }
            removals.push(self.removal(&pod, "its node is out of reach, and it was to be gone by now"));
        }
        self.push_after(removals);
    }

    /// Takes a pod away without waiting for its node.
    pub(super) fn removal(&self, pod: &Observed<'_>, reason: &str) -> Action {
        self.delete("Pod", pod.name, Some(pod.uid), Some(0), reason)
    }

    /// A pod that runs and is about to be deleted counts as one that is being deleted.
    pub(super) fn count_as_failed(&mut self, role: &str, pod: &Observed<'_>) {
        let mut tallies = self.change.tallies.iter_mut().flatten();
        if let Some((_, tally)) = tallies.find(|(name, _)| name == role)
            && pod.standing == Standing::Active
        {
            tally.active -= 1;
            tally.failed += 1;
        }
    }

    /// Whether the launcher of a pod is not awaited any more, though the pod has not ended.
    pub(super) fn is_given_up(&mut self, pod: &Observed<'_>, meeting: &RendezvousView, config: &Config) -> bool {
        let is_there = matches!(pod.standing, Standing::Starting | Standing::Active) && !pod.deleting;
        if !is_there || self.view.config.embedded || meeting.members.contains(pod.uid) {
            return false;
        }
        let had_joined = meeting.joined.contains(pod.uid);
        let is_out = self.is_out_of_reach(pod);
        if had_joined && is_out {
            return true;
        }
        let waits = matches!(meeting.stage, Stage::Joining | Stage::Recovering);
        // This control plane may have begun when the job ran already: then all of its launchers had met under another one.
        let had_met = had_joined || self.lifecycle.running;
        let patience_ms = match is_out {
            // Whoever is alive is back by then.
            true => config.away_ms,
            false if had_met && waits && pod.standing == Standing::Active => config.return_ms,
            false => return false,
        };
        let created_ms = pod.pod.metadata.creation_timestamp.as_ref().map_or(0, instant::ms);
        let Some(since_ms) = meeting.since_ms else { return is_out };
        let due_ms = since_ms.max(created_ms).saturating_add(patience_ms);
        if self.now_ms < due_ms {
            self.wake_at(Some(due_ms));
        }
        self.now_ms >= due_ms
    }
}

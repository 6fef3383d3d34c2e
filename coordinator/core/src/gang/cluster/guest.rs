//! Pods that others make, and that wait at our gate: of a Deployment, a batch Job, anybody. Each is a gang of its own. One write lets it
//! go, which needs no intent beforehand: that write says when it was, and where the pod is to go.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::gather::annotation;
use super::{
    Action, EventSeverity, Fence, Pod, Turn, Value, fence, is_bound_here, is_gated, is_leaving, is_over, label,
    node_of, reference, uid,
};

/// Owners that make another pod for one that is deleted, and count no failure.
const MAKE_ANOTHER: [&str; 4] = ["DaemonSet", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// What is written on such a pod when its gate is lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LetGo {
    /// Of this pod, and none that was copied from it.
    uid: String,
    at_ms: i64,
    pub(super) node: String,
    /// It can go nowhere else.
    is_sent: bool,
}

/// Whether it waits at our gate, or was let go from there, and no controller of ours made it.
pub(super) fn is_guest(pod: &Pod) -> bool {
    annotation(pod, label::GANG).is_none() && !is_bound_here(pod) && (is_gated(pod) || let_go(pod).is_some())
}

/// What was decided on it, if it was.
pub(super) fn let_go(pod: &Pod) -> Option<LetGo> {
    let text = annotation(pod, label::LET_GO).filter(|_| !is_gated(pod))?;
    serde_json::from_str::<LetGo>(text).ok().filter(|known| known.uid == uid(pod))
}

/// Whether nothing is lost when it is deleted.
fn is_made_anew(pod: &Pod) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && MAKE_ANOTHER.contains(&owner.kind.as_str()))
}

impl Turn<'_> {
    /// What the lifting of its gate writes beside it.
    pub(super) fn noted(&self, pod: &Pod, node: &str, is_sent: bool, patch: &mut Value) {
        if is_guest(pod) {
            let known = LetGo { uid: uid(pod).to_owned(), at_ms: self.now_ms, node: node.to_owned(), is_sent };
            let text = serde_json::to_string(&known).unwrap_or_default();
            patch["metadata"]["annotations"][label::LET_GO] = json!(text);
        }
    }

    /// Takes back the guests that the cluster's scheduler did not bind in time where they were sent, of those whose owner makes another
    /// one. Until they are gone they hold their room.
    pub(super) fn take_back_guests(&mut self) {
        for pod in self.view.gangs.pods.iter().filter(|pod| is_guest(pod) && is_made_anew(pod)) {
            let is_unbound = node_of(pod).is_none() && !is_leaving(pod) && !is_over(pod);
            let Some(known) = let_go(pod).filter(|known| is_unbound && known.is_sent) else { continue };
            let due_ms = known.at_ms.min(self.now_ms).saturating_add(self.view.patience_ms);
            if self.now_ms < due_ms {
                self.wake(due_ms);
            } else {
                self.give_back(pod, &known.node);
            }
        }
    }

    /// In the version that was seen: one that was bound meanwhile stays.
    fn give_back(&mut self, pod: &Pod, node: &str) {
        let seconds = self.view.patience_ms / 1000;
        self.actions.push(Action::Event {
            regarding: reference(pod),
            uid: uid(pod).to_owned(),
            severity: EventSeverity::Warning,
            reason: "GangGivenBack".to_owned(),
            message: format!(
                "the pod did not come to node {node} within {seconds} s: its successor waits for another decision"
            ),
        });
        self.actions.push(Action::Delete {
            object: reference(pod),
            fence: Fence { resource_version: pod.metadata.resource_version.clone(), ..fence(uid(pod)) },
            grace_seconds: None,
            reason: "it was not bound in time".to_owned(),
        });
    }
}

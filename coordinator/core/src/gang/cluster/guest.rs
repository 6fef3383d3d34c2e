//! Pods that others make, and that wait at our gate: of a Deployment, a batch Job, anybody. Each is a gang of its own. One write lets it
//! go, which needs no intent beforehand: that write says when it was, and where the pod is to go.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Action, EventSeverity, ObjectRef, Pod, Turn, Value, fence, is_gated, is_leaving, is_over, label, node_of,
    owner_uid, reference, uid,
};

/// What is written on such a pod when its gate is lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LetGo {
    at_ms: i64,
    pub(super) node: String,
}

/// What is written on a pod of ours or of others.
fn annotation<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether it waits at our gate, or was let go from there, and no controller of ours made it.
pub(super) fn is_guest(pod: &Pod) -> bool {
    annotation(pod, label::GANG).is_none() && (is_gated(pod) || annotation(pod, label::LET_GO).is_some())
}

/// What was decided on it, if it was.
pub(super) fn let_go(pod: &Pod) -> Option<LetGo> {
    let text = annotation(pod, label::LET_GO).filter(|_| is_guest(pod) && !is_gated(pod))?;
    serde_json::from_str(text).ok()
}

impl<'view> Turn<'view> {
    /// What the lifting of its gate writes beside it.
    pub(super) fn noted(&self, pod: &Pod, node: &str, patch: &mut Value) {
        if is_guest(pod) {
            let text = serde_json::to_string(&LetGo { at_ms: self.now_ms, node: node.to_owned() }).unwrap_or_default();
            patch["metadata"]["annotations"][label::LET_GO] = json!(text);
        }
    }

    /// Takes back the guests that the cluster's scheduler did not bind in time, of those whose owner makes another one. Answers their uids.
    pub(super) fn take_back_guests(&mut self) -> Vec<&'view str> {
        let mut late = Vec::new();
        for pod in &self.view.gangs.pods {
            let Some(known) = let_go(pod).filter(|_| node_of(pod).is_none() && !is_leaving(pod) && !is_over(pod))
            else {
                continue;
            };
            let due_ms = known.at_ms.saturating_add(self.view.patience_ms);
            if self.now_ms < due_ms {
                self.wake(due_ms);
            } else if owner_uid(pod).is_some() {
                self.give_back(pod, &known.node);
                late.push(uid(pod));
            }
        }
        late
    }

    fn give_back(&mut self, pod: &Pod, node: &str) {
        let object: ObjectRef = reference(pod);
        let seconds = self.view.patience_ms / 1000;
        self.actions.push(Action::Event {
            regarding: object.clone(),
            uid: uid(pod).to_owned(),
            severity: EventSeverity::Warning,
            reason: "GangGivenBack".to_owned(),
            message: format!(
                "the pod did not come to node {node} within {seconds} s: its successor waits for another decision"
            ),
        });
        self.actions.push(Action::Delete {
            object,
            fence: fence(uid(pod)),
            grace_seconds: None,
            reason: "it was not bound in time".to_owned(),
        });
    }
}

//! What a Deployment says of itself.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::{Value, json};
use trainyard_proto::plan::Action;

use super::super::object::{fence, json_of, ms, set_condition};
use super::Turn;

struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

impl Turn<'_> {
    fn counts(&self) -> Counts {
        let sum = |of: &dyn Fn(&ReplicaSetStatus) -> i32| -> i64 {
            self.old
                .iter()
                .copied()
                .chain(self.new)
                .filter_map(|set| set.status.as_ref())
                .map(|status| i64::from(of(status)))
                .sum()
        };
        Counts {
            replicas: sum(&|status| status.replicas),
            updated: self.new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas.into()),
            ready: sum(&|status| status.ready_replicas.unwrap_or(0)),
            available: sum(&|status| status.available_replicas.unwrap_or(0)),
        }
    }

    pub(super) fn write_status(&mut self) {
        let counts = self.counts();
        let old = self.deployment.status.as_ref().map(json_of).unwrap_or_else(|| json!({}));
        let mut new = old.clone();
        for (field, count) in [
            ("replicas", counts.replicas),
            ("updatedReplicas", counts.updated),
            ("readyReplicas", counts.ready),
            ("availableReplicas", counts.available),
            ("unavailableReplicas", (self.wanted().max(counts.replicas) - counts.available).max(0)),
        ] {
            new[field] = if count == 0 { Value::Null } else { json!(count) };
        }
        new["observedGeneration"] = json!(self.deployment.metadata.generation.unwrap_or(0));
        let moved = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .any(|field| old.get(field).cloned().unwrap_or_default() != new[*field]);
        let mut conditions = new["conditions"].as_array().cloned().unwrap_or_default();
        self.available_condition(&counts, &mut conditions);
        self.progressing_condition(&counts, moved, &mut conditions);
        new["conditions"] = json!(conditions);
        if let Some(map) = new.as_object_mut() {
            map.retain(|_, value| !value.is_null());
        }
        if let Some(change) = crate::merge::difference(&old, &new) {
            self.plan.actions.push(Action::PatchStatus {
                object: self.object.clone(),
                fence: fence(&self.deployment.metadata),
                patch: json!({"status": change}),
            });
        }
    }

    fn available_condition(&self, counts: &Counts, conditions: &mut Vec<Value>) {
        let (_, unavailable) = self.surge_and_unavailable();
        let (status, reason, message) = if counts.available >= self.wanted() - unavailable {
            (true, "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            (false, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set_condition(conditions, "Available", status, reason, message, "lastUpdateTime", self.now_ms);
    }

    /// (maxSurge, maxUnavailable) in pods.
    pub(super) fn surge_and_unavailable(&self) -> (i64, i64) {
        match self.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) {
            Some("Recreate") => (0, 0),
            Some(_) | None => self.room(),
        }
    }

    fn is_complete(&self, counts: &Counts) -> bool {
        let observed = self.new.is_some_and(|set| {
            set.status.as_ref().and_then(|status| status.observed_generation) == set.metadata.generation
        });
        let wanted = self.wanted();
        observed && counts.updated == wanted && counts.replicas == wanted && counts.available == wanted
    }

    fn progressing_condition(&mut self, counts: &Counts, moved: bool, conditions: &mut Vec<Value>) {
        let name = self.new.and_then(|set| set.metadata.name.clone()).unwrap_or_default();
        let known = conditions.iter().find(|condition| condition["type"] == "Progressing").cloned();
        let known_reason = known.as_ref().and_then(|known| known["reason"].as_str().map(str::to_owned));
        let mut set = |status: bool, reason: &str, message: String| {
            set_condition(conditions, "Progressing", status, reason, &message, "lastUpdateTime", self.now_ms);
        };
        if self.spec.paused == Some(true) {
            set(true, "DeploymentPaused", "Deployment is paused".to_owned());
            return;
        }
        if self.is_complete(counts) {
            set(true, "NewReplicaSetAvailable", format!("ReplicaSet \"{name}\" has successfully progressed."));
            return;
        }
        let deadline_ms = i64::from(self.spec.progress_deadline_seconds.unwrap_or(600)) * 1000;
        let since = known
            .as_ref()
            .and_then(|known| serde_json::from_value(known["lastUpdateTime"].clone()).ok())
            .map(|at| ms(&at));
        let steady = !moved
            && known_reason.as_deref().is_some_and(|reason| {
                matches!(
                    reason,
                    "ReplicaSetUpdated" | "NewReplicaSetCreated" | "FoundNewReplicaSet" | "ProgressDeadlineExceeded"
                )
            });
        match since.filter(|_| steady) {
            Some(since) if self.now_ms >= since + deadline_ms => {
                let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
                set(false, "ProgressDeadlineExceeded", message);
            }
            Some(since) => {
                let due = since + deadline_ms;
                self.plan.wake_at_ms = Some(self.plan.wake_at_ms.map_or(due, |at| at.min(due)));
            }
            None => {
                let (reason, message) = if self.new.is_none() {
                    ("NewReplicaSetCreated", "Created new replica set".to_owned())
                } else {
                    ("ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."))
                };
                // A move counts as progress even though the words stay the same: the deadline starts over.
                if let Some(known) = conditions.iter_mut().find(|condition| condition["type"] == "Progressing") {
                    known["lastUpdateTime"] = json!(super::super::object::time(self.now_ms));
                }
                set_condition(conditions, "Progressing", true, reason, &message, "lastUpdateTime", self.now_ms);
                let due = self.now_ms + deadline_ms;
                self.plan.wake_at_ms = Some(self.plan.wake_at_ms.map_or(due, |at| at.min(due)));
            }
        }
    }
}

//! `apps/v1` Deployment: revisions of a template, rolled out one ReplicaSet over the other.
//!
//! - DP-1: during a rolling update, at most `replicas + maxSurge` pods exist and at least
//!   `replicas - maxUnavailable` are available, as far as the pods themselves allow.
//! - DP-2: the set whose template equals the Deployment's is the new one; going back to an earlier template takes
//!   its set up again under a new revision number.
//! - DP-3: `Recreate` starts no new pod before the last old one is gone.
//! - DP-4: a change of scale during a roll-out is shared out between the sets in proportion to their sizes.

mod rollout;
mod scale;
mod sets;
mod status;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use trainyard_proto::plan::{Action, EventSeverity, ObjectRef, Plan};

use super::object::{event, fence, object_ref};

/// Annotation that numbers revisions; `kubectl rollout history` reads it.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Label that tells the pods of one revision from those of another.
pub const HASH: &str = "pod-template-hash";

/// Annotation on sets: `replicas` of the Deployment when the set was last told.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation on sets: the most pods that the Deployment may have had then.
const MOST: &str = "deployment.kubernetes.io/max-replicas";

/// Everything observed about one Deployment.
pub struct View<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// The sets it controls.
    pub sets: Vec<&'a ReplicaSet>,
    /// The pods of those sets. Only `Recreate` looks at them.
    pub pods: Vec<&'a Pod>,
}

/// One Deployment during planning.
struct Turn<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    object: ObjectRef,
    /// Its template is the Deployment's (DP-2).
    new: Option<&'a ReplicaSet>,
    old: Vec<&'a ReplicaSet>,
    pods: &'a [&'a Pod],
    now_ms: i64,
    plan: Plan,
}

/// Decide about one Deployment.
pub fn plan(view: &View<'_>, now_ms: i64) -> Plan {
    let deployment = view.deployment;
    let Some(spec) = &deployment.spec else { return Plan::default() };
    if deployment.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let (new, old) = sets::split(spec, &view.sets);
    let mut turn = Turn {
        deployment,
        spec,
        object: object_ref("apps/v1", "Deployment", &deployment.metadata),
        new,
        old,
        pods: &view.pods,
        now_ms,
        plan: Plan::default(),
    };
    if turn.is_rescaled() {
        turn.rescale();
    } else if spec.paused != Some(true) {
        turn.plan.actions.extend(turn.new.and_then(|set| sets::update(deployment, spec, set)));
        turn.number_revision();
        match spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) {
            Some("Recreate") => turn.recreate(),
            Some(_) | None => turn.roll(),
        }
        turn.forget_old();
    }
    turn.write_status();
    turn.plan
}

impl Turn<'_> {
    fn wanted(&self) -> i64 {
        self.spec.replicas.unwrap_or(1).max(0).into()
    }

    fn say(&mut self, reason: &str, message: String) {
        self.plan.actions.push(event(&self.object, &self.deployment.metadata, EventSeverity::Normal, reason, message));
    }

    /// The Deployment carries the number of its newest revision.
    fn number_revision(&mut self) {
        let Some(new) = self.new else { return };
        let newest_old = self.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0);
        let revision = sets::revision(new);
        let number = if revision > newest_old { revision } else { newest_old + 1 };
        let patch = json!({"metadata": {"annotations": {(REVISION): number.to_string()}}});
        if number != revision {
            self.plan.actions.push(Action::Patch {
                object: sets::set_ref(new),
                fence: fence(&new.metadata),
                patch: patch.clone(),
            });
        }
        let known = self.deployment.metadata.annotations.as_ref().and_then(|all| all.get(REVISION));
        if known != Some(&number.to_string()) {
            self.plan.actions.push(Action::Patch {
                object: self.object.clone(),
                fence: fence(&self.deployment.metadata),
                patch,
            });
        }
    }

    fn create_new(&mut self, replicas: i64) {
        let revision = self.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0) + 1;
        let action =
            sets::create(self.deployment, self.spec, &self.object, replicas, revision, &self.size_annotations());
        let name = if let Action::Create { object, .. } = &action { object.name.clone() } else { String::new() };
        self.plan.actions.push(action);
        self.say("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"));
        let known = self.deployment.metadata.annotations.as_ref().and_then(|all| all.get(REVISION));
        if known != Some(&revision.to_string()) {
            self.plan.actions.push(Action::Patch {
                object: self.object.clone(),
                fence: fence(&self.deployment.metadata),
                patch: json!({"metadata": {"annotations": {(REVISION): revision.to_string()}}}),
            });
        }
    }

    /// Old sets beyond the history limit go, oldest first.
    fn forget_old(&mut self) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut idle: Vec<&ReplicaSet> = self
            .old
            .iter()
            .copied()
            .filter(|set| {
                let pods = set.status.as_ref().map_or(0, |status| status.replicas);
                super::replicaset::replicas(set) == 0 && pods == 0 && set.metadata.deletion_timestamp.is_none()
            })
            .collect();
        idle.sort_by_key(|set| sets::revision(set));
        let over = idle.len().saturating_sub(limit);
        for set in &idle[..over] {
            self.plan.actions.push(Action::Delete {
                object: sets::set_ref(set),
                fence: fence(&set.metadata),
                grace_seconds: None,
                reason: format!("revisionHistoryLimit is {limit}"),
            });
        }
    }
}

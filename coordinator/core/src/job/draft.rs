//! Pods that are made on their nodes, where the operator binds by itself: the job waits for a decision about the pods that it is about to
//! have, and makes them with the nodes that they got. `gang::cluster` decides.
//!
//! The first status of such a job is written when its pods are made: it says then what a second one would have to. Where nothing is decided,
//! or pods cannot be made, it comes earlier than they do.
//!
//! That is for the start of a gang. Once it has run, or with a pod of it that was made otherwise, a pod that is missing is made without a
//! node and waits for its turn.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::Deserialize as _;
use serde_json::Value;
use trainyard_proto::plan::Action;

use super::build::Site;
use super::ledger::Ledger;
use super::planner::Planner;
use crate::gang::cluster::{Draft, Intent, Owner, placed};
use crate::model::JobModel;
use crate::{fnv, instant, label};

/// A job of which nothing is decided for so long has its status.
const DECIDED_WITHIN_MS: i64 = 5_000;
/// A job whose pods are not all made so long after it was decided has its status. Where many jobs begin at the same time, that is how long it
/// may take until it is the last one's turn.
const MADE_WITHIN_MS: i64 = 60_000;

/// How missing pods are made.
pub(super) enum Birth {
    /// Without a node.
    Waiting,
    /// Not yet: nobody has decided about them.
    Held,
    /// On their nodes, by name, as it was decided then.
    Placed { nodes: BTreeMap<String, String>, at_ms: i64 },
}

impl Planner<'_> {
    /// How the pods that are missing are made, by the hashes of what all are made from.
    pub(super) fn birth(&self, model: &JobModel, site: &Site<'_>, hashes: &BTreeMap<&str, String>) -> Birth {
        if !self.starts_on_nodes(model, site) {
            return Birth::Waiting;
        }
        let intent = self.intent();
        let pods = || {
            self.view.pods.iter().filter(|pod| hashes.contains_key(pod.metadata.name.as_deref().unwrap_or_default()))
        };
        let generation = Some(self.ledger.generation.to_string());
        let of_attempt = |pod: &Pod| {
            let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(label::GENERATION));
            self.subject.owns(&pod.metadata)
                && annotation == generation.as_ref()
                && intent.as_ref().is_some_and(|intent| placed(pod) == Some(intent.at_ms))
        };
        if !pods().all(of_attempt) {
            return Birth::Waiting;
        }
        let id = self.draft_id(hashes);
        match &intent {
            Some(intent) if intent.not_before_ms.is_some_and(|at| self.now_ms < at) => Birth::Waiting,
            Some(intent) if intent.drafted.as_ref().is_some_and(|drafted| drafted.id == id) => {
                intent.places(&id).map_or(Birth::Waiting, |places| {
                    let names = model.replicas().map(|(_, replica)| replica.name.clone());
                    let nodes = names.zip(places.nodes().map(str::to_owned)).collect();
                    Birth::Placed { nodes, at_ms: intent.at_ms }
                })
            }
            Some(_) | None if pods().next().is_none() => Birth::Held,
            Some(_) | None => Birth::Waiting,
        }
    }

    /// Until when a job that was just taken up goes without a status, if it does.
    pub(super) fn status_waits_until(&self, birth: &Birth) -> Option<i64> {
        let (since_ms, within_ms) = match birth {
            Birth::Waiting => return None,
            Birth::Held => {
                let created = self.view.job.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
                (created.and_then(instant::parse)?, DECIDED_WITHIN_MS)
            }
            Birth::Placed { at_ms, .. } => (*at_ms, MADE_WITHIN_MS),
        };
        // By a clock that is ahead of ours nobody waits.
        let waits = !self.lifecycle.created && (0..within_ms).contains(&self.now_ms.saturating_sub(since_ms));
        waits.then(|| since_ms.saturating_add(within_ms))
    }

    /// What is decided about, of a gang that is made on its nodes. Its status is written by then, or comes later: nothing else of ours changes
    /// the job while it waits for a decision, which is for exactly the version that was looked at.
    pub(super) fn draft(
        &self,
        model: &JobModel,
        site: &Site<'_>,
        hashes: &BTreeMap<&str, String>,
        birth: &Birth,
        status_until: Option<i64>,
    ) -> Option<Draft> {
        let is_drafted = (self.lifecycle.created || status_until.is_some()) && !matches!(birth, Birth::Waiting);
        is_drafted.then(|| Draft { id: self.draft_id(hashes), pods: sketch(model, site) })
    }

    /// What was decided on already. Its room is kept, whatever became of a pod of it, until the ledger or the status says that it started, or
    /// starts anew: both are written when none of its pods is on its way any more.
    pub(super) fn begun_draft(&self) -> Option<Draft> {
        let model = self.dialect.lower(&self.view.job, &self.view.related, &self.view.config).ok()?;
        let site = self.site(&model);
        if !self.starts_on_nodes(&model, &site) || (model.policy.suspend && self.pods.is_empty()) {
            return None;
        }
        let id = self.draft_id(&site.template_hashes());
        self.intent()?.places(&id)?;
        Some(Draft { id, pods: sketch(&model, &site) })
    }

    /// Whether the gang is yet to start, and all its pods are bound here.
    fn starts_on_nodes(&self, model: &JobModel, site: &Site<'_>) -> bool {
        let has_run = self.lifecycle.running && !self.ledger.starting;
        let mut specs = model.roles.iter().map(|role| role.template.spec.clone().unwrap_or_default());
        let is_free = |spec: &PodSpec| {
            site.binds_here(spec)
                && spec.node_name.is_none()
                && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        };
        !self.view.config.embedded && !has_run && specs.all(|spec| is_free(&spec))
    }

    fn intent(&self) -> Option<Intent> {
        let text = self.view.job.pointer("/metadata/annotations")?.get(label::PLACEMENT)?.as_str()?;
        let annotations = BTreeMap::from([(label::PLACEMENT.to_owned(), text.to_owned())]);
        Owner::read(self.subject.object.clone(), None, Some(&annotations)).intent
    }

    /// Another one as soon as other pods are wanted, the gang starts anew, or one of its pods is counted as failed.
    fn draft_id(&self, hashes: &BTreeMap<&str, String>) -> String {
        let restarts = Ledger::read(&self.view.job).all_restarts();
        let head = format!("{}/{restarts}", self.ledger.generation);
        let all = hashes.iter().flat_map(|(name, hash)| [*name, hash.as_str()]);
        let parts: Vec<&str> = std::iter::once(head.as_str()).chain(all).collect();
        format!("{:016x}", fnv::texts(&parts))
    }
}

/// The pods as far as the decision looks at them. Those of a role differ in their names and labels.
fn sketch(model: &JobModel, site: &Site<'_>) -> Vec<Pod> {
    let mut pods = Vec::new();
    for role in &model.roles {
        let Some(first) = role.replicas.first() else { continue };
        let Action::Create { body, .. } = site.pod(role, first, "", None) else { continue };
        let Ok(mut whole) = Pod::deserialize(&body) else { continue };
        for container in whole.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
            (container.env, container.command, container.args) = (None, None, None);
        }
        whole.metadata.labels.get_or_insert_default().retain(|name, _| !first.labels.contains_key(name));
        pods.extend(role.replicas.iter().map(|replica| {
            let mut pod = whole.clone();
            pod.metadata.name = Some(replica.name.clone());
            pod.metadata.labels.get_or_insert_default().extend(replica.labels.clone());
            pod
        }));
    }
    pods
}

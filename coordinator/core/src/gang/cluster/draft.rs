//! Gangs that are decided before their pods are made: where the operator binds by itself, a pod can be made on its node, by one write
//! instead of two.
//!
//! | the job says | its pods | what is done |
//! |---|---|---|
//! | nothing of this draft | are not made | the draft is decided like a gang that waits: with places for all of its pods, or with none |
//! | places for this draft | are not all made | the job's controller makes them there; until then their room is theirs |
//! | places for this draft | are not all made in time, or one of their nodes is not fit any more | it is marked as taken back |
//! | none for this draft | are made without a node | they wait like all others |
//!
//! A gang that is given flavors counts as one without places: they are written on its pods when these are there.
//!
//! A draft is decided for the version of the job that was looked at, so that it is decided once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::plan::{Action, ObjectRef};

use super::super::answer::reference;
use super::super::demand::is_ready;
use super::{Drafted, Turn, given, is_leaving, is_over, node_of, on_node, owner_uid, placed};
use crate::{instant, label};

/// Pods that were told something before they were made are looked at again after this.
const LOOK_AGAIN_MS: i64 = 1000;

/// Annotations of pods that have to make room.
const MARKS: [&str; 2] = [label::PREEMPTED, label::SHRUNK];

/// The pods of a gang as they are about to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// The same as long as the same pods are about to be made, for the same start of the gang.
    pub id: String,
    /// All of them, in the order of their ranks.
    pub pods: Vec<Pod>,
}

/// Whether a change of a pod tells nothing to whoever decided last: it was made on its node by a decision that was looked at, or was there
/// before, and holds what its draft held. `placed_ms` is [`super::Owner::placed_ms`] of the job with a uid, as it was looked at.
#[must_use]
pub fn is_as_decided(old: Option<&Pod>, new: Option<&Pod>, placed_ms: impl FnOnce(&str) -> Option<i64>) -> bool {
    let Some(new) = new else { return false };
    let was_there = old.is_none_or(|old| old.metadata.uid == new.metadata.uid && holds_its_place(old));
    let decided_ms = || placed_ms(owner_uid(new)?);
    was_there && holds_its_place(new) && placed(new) == decided_ms()
}

/// Whether a pod was made on its node and goes on there.
fn holds_its_place(pod: &Pod) -> bool {
    let is_marked = |all: &BTreeMap<String, String>| MARKS.iter().any(|mark| all.contains_key(*mark));
    let told_to_go = pod.metadata.annotations.as_ref().is_some_and(is_marked);
    placed(pod).is_some() && node_of(pod).is_some() && !told_to_go && !is_leaving(pod) && !is_over(pod)
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// As if it had been made then. What is not made cannot be told to go.
fn made_at(mut pod: Pod, at_ms: i64) -> Pod {
    pod.metadata.creation_timestamp = Some(instant::time(at_ms));
    pod.metadata.annotations.get_or_insert_default().remove(label::GANG_LEAST);
    pod
}

/// Whether it tells a pod to make room.
fn makes_room(action: &Action) -> bool {
    let Action::Patch { patch, .. } = action else { return false };
    let is_marked = |annotations: &Value| MARKS.iter().any(|mark| annotations[*mark].is_string());
    patch.pointer("/metadata/annotations").is_some_and(is_marked)
}

impl<'view> Turn<'view> {
    /// Pods that have a place and are not made yet, with their nodes.
    pub(super) fn unmade(&self, owner: &str) -> Vec<(&'view Pod, &'view str)> {
        let Some(draft) = self.view.drafts.get(owner) else { return Vec::new() };
        let intent = self.view.owners.get(owner).and_then(|known| known.intent.as_ref());
        let Some(places) = intent.and_then(|intent| intent.places(&draft.id)) else { return Vec::new() };
        let made: BTreeSet<&str> = self.pods_of(owner).iter().map(|pod| name(pod)).collect();
        let all = draft.pods.iter().zip(places.nodes());
        all.filter(|(pod, _)| !made.contains(name(pod))).collect()
    }

    /// Whether a pod may be made on this node.
    pub(super) fn is_fit(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| {
            let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
            node.metadata.deletion_timestamp.is_none() && !cordoned && is_ready(node)
        })
    }

    fn is_decided(&self, owner: &str, draft: &Draft) -> bool {
        let intent = self.view.owners.get(owner).and_then(|known| known.intent.as_ref());
        intent.and_then(|intent| intent.drafted.as_ref()).is_some_and(|drafted| drafted.id == draft.id)
    }

    /// Drafts that wait for a decision.
    fn undecided(&self) -> impl Iterator<Item = (&'view str, &'view Draft)> {
        let drafts = self.view.drafts.iter().map(|(owner, draft)| (owner.as_str(), &**draft));
        drafts.filter(|(owner, draft)| self.view.owners.contains_key(*owner) && !self.is_decided(owner, draft))
    }

    /// The pods that are about to be made: with a node, where one was decided.
    pub(super) fn drafted(&self, late: &[&str]) -> Vec<Pod> {
        let mut pods = Vec::new();
        for (owner, known) in self.view.owners.iter().filter(|(owner, _)| !late.contains(&owner.as_str())) {
            let at_ms = known.intent.as_ref().map_or(self.now_ms, |intent| intent.at_ms);
            pods.extend(self.unmade(owner).into_iter().map(|(pod, node)| made_at(on_node(pod, node, None), at_ms)));
        }
        let undecided = self.undecided().flat_map(|(_, draft)| &draft.pods);
        pods.extend(undecided.map(|pod| made_at(pod.clone(), self.now_ms)));
        pods
    }

    /// Writes down what was decided for drafts. Answers what else was decided: nothing is written to a pod that is not made.
    pub(super) fn answer(&mut self, mut decided: Vec<Action>) -> Vec<Action> {
        if self.view.drafts.is_empty() {
            return decided;
        }
        let mut chosen: BTreeMap<ObjectRef, String> = BTreeMap::new();
        for action in &decided {
            if let Action::Bind { pod, node, .. } = action {
                chosen.insert(pod.clone(), node.clone());
            }
        }
        let flavored: BTreeSet<ObjectRef> = decided.iter().filter_map(given).map(|(pod, _)| pod.clone()).collect();
        let undecided: Vec<(&str, &Draft)> = self.undecided().collect();
        for (owner, draft) in undecided {
            // Flavors are written on pods: those that are given some are made first.
            let place = |pod: &ObjectRef| chosen.get(pod).filter(|_| !flavored.contains(pod)).map(String::as_str);
            let nodes: Option<Vec<&str>> = draft.pods.iter().map(|pod| place(&reference(pod))).collect();
            let places = nodes.unwrap_or_default().into_iter().collect();
            let mut intent = self.begun(owner);
            intent.drafted = Some(Drafted { id: draft.id.clone(), places });
            if !self.write(owner, &intent) {
                intent.drafted = Some(Drafted { id: draft.id.clone(), ..Drafted::default() });
                self.write(owner, &intent);
            }
        }
        let made: BTreeSet<ObjectRef> = self.view.gangs.pods.iter().map(reference).collect();
        let drafts = self.view.drafts.values().flat_map(|draft| &draft.pods).map(reference);
        let unmade: BTreeSet<ObjectRef> = drafts.filter(|pod| !made.contains(pod)).collect();
        if decided.iter().any(|action| makes_room(action) && unmade.contains(action.subject())) {
            // Their coming is no news that wakes anybody ([`is_as_decided`]).
            self.wake(self.now_ms.saturating_add(LOOK_AGAIN_MS));
        }
        decided.retain(|action| !unmade.contains(action.subject()));
        decided
    }
}

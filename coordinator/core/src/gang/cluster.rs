//! Gangs on a cluster: the same decision, carried out by lifting scheduling gates together with the chosen nodes.
//!
//! The cluster's own scheduler binds the pods; here is decided when, and where to. What was decided is written down first, as an annotation
//! of the job (its [`Intent`]): one write, before the first gate is lifted. All gangs of one decision are written down before the first
//! gate of any, so that these writes go at the same time, and then those of all their pods.
//!
//! | the job says | its pods | what is done |
//! |---|---|---|
//! | nothing, or all that it says is done | wait at their gate | a whole gang is placed, or none of it |
//! | an intent | some still wait at their gate | their gates are lifted as it says: whoever wrote it may have died since |
//! | an intent | some have no node after [`ClusterView::patience_ms`] | it is marked as taken back |
//! | an intent that is taken back | some are still there | they are deleted, all of the attempt; the job's controller makes them anew |
//! | an intent that is taken back | wait at their gate | they are left alone until its back-off is over |
//!
//! A pod whose `schedulerName` is ours ([`label::SCHEDULER_NAME`]) has no gate and waits for nobody else: instead of lifting a gate it is
//! bound here. Where nothing of such a gang is made yet it is decided as a draft, and its pods are made on their nodes ([`Draft`]).
//!
//! So a crash between any two writes leaves what the next look completes, or takes back. Pods that are lifted count as if they were on
//! their node already, so that nothing else is promised their room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Volume};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use super::answer::reference;
use super::{GangView, Placement, flavor, gather, place};
use crate::{backoff, label};

mod draft;
mod guest;
mod intent;

pub use draft::{Draft, is_as_decided};
pub use intent::{Drafted, Intent, Owner, Runs, placed};

/// By which label a pod is sent to its node.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Longest time between two attempts.
const LONGEST_MS: i64 = 600_000;
/// Longest intent that is written: all annotations of an object together may have 256 KiB, and there are others. Of a gang whose intent is
/// longer, a part that was lifted is completed like any other gang of which a part has places, on whatever nodes fit.
const MAX_BYTES: usize = 230_000;

/// Kinds that have no conditions on a cluster.
const UNTOLD: [&str; 3] = ["Cohort", "Topology", "ResourceFlavor"];

/// Everything that is looked at on a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// Nodes, pods of all namespaces, and priorities.
    pub gangs: GangView,
    /// Jobs by their uid.
    pub owners: BTreeMap<String, Owner>,
    /// Pods that jobs are about to have, by the uid of the job: of those whose pods are made on their nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drafts: BTreeMap<String, Arc<Draft>>,
    /// How long the cluster's scheduler may take to bind a whole gang.
    pub patience_ms: i64,
}

/// Which gangs go, and which are taken back.
#[must_use]
pub fn place_on_cluster(view: &ClusterView, now_ms: i64) -> Placement {
    let (mut turn, shown) = Turn::begin(view, now_ms);
    let mut placement = place(&shown, now_ms);
    let mut decided = std::mem::take(&mut placement.plan.actions);
    decided.retain(|action| !is_untold(action));
    turn.admit(decided);
    placement.plan.actions = turn.actions;
    placement.plan.wake_at_ms = [placement.plan.wake_at_ms, turn.wake_at_ms].into_iter().flatten().min();
    placement
}

/// What a decision is made from: who waits for a decision of ours, and who has places already or is about to have them. Pods that the
/// cluster's scheduler places by itself are none of either until they have a node.
#[must_use]
pub fn shown(view: &ClusterView, now_ms: i64) -> GangView {
    Turn::begin(view, now_ms).1
}

struct Turn<'view> {
    view: &'view ClusterView,
    now_ms: i64,
    /// Pods by the uid of their owner.
    owned: BTreeMap<&'view str, Vec<&'view Pod>>,
    /// Nodes by name.
    nodes: BTreeMap<&'view str, &'view Node>,
    /// Names of nodes by the value of the label by which pods are sent to them.
    hosts: BTreeMap<&'view str, &'view str>,
    actions: Vec<Action>,
    wake_at_ms: Option<i64>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn owner_uid(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.into_iter().flatten().any(|gate| gate.name == label::GANG_GATE)
}

/// Whether it is bound here, and not by the cluster's scheduler.
fn is_bound_here(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()) == Some(label::SCHEDULER_NAME)
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether nobody has to be asked about such a pod's node: it names no other scheduler, and nothing of it is the cluster's
/// scheduler's alone.
pub(crate) fn may_be_bound_here(spec: &PodSpec) -> bool {
    matches!(spec.scheduler_name.as_deref(), None | Some("default-scheduler" | label::SCHEDULER_NAME))
        && is_seen_whole(spec)
        && !has_claims(spec)
}

/// Whether it claims something that may be on some nodes only.
fn has_claims(spec: &PodSpec) -> bool {
    let claims = |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
    spec.volumes.iter().flatten().any(claims) || spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

/// Whether all that decides on a pod's node is looked at here. Where it is not, the cluster's scheduler chooses the node.
fn is_seen_whole(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.as_ref();
    spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
        && affinity.is_none_or(|affinity| affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none())
}

/// The value of a node's label by which pods are sent to it.
fn hostname(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(HOSTNAME).map(String::as_str)
}

fn on_node(pod: &Pod, node: &str, flavors: Option<&str>) -> Pod {
    let mut shown = pod.clone();
    shown.spec.get_or_insert_default().node_name = Some(node.to_owned());
    if let Some(flavors) = flavors {
        shown.metadata.annotations.get_or_insert_default().insert(label::FLAVORS.to_owned(), flavors.to_owned());
    }
    shown
}

/// The flavors that an action writes on a pod.
fn given(action: &Action) -> Option<(&ObjectRef, &str)> {
    let Action::Patch { object, patch, .. } = action else { return None };
    let flavors = patch["metadata"]["annotations"][label::FLAVORS].as_str()?;
    Some((object, flavors))
}

/// A pod that we did not let go is in none of our queues, whatever it is labelled: it takes room, but no quota, and nobody ends it.
fn of_nobody(pod: &Pod) -> Pod {
    let mut shown = pod.clone();
    if let Some(labels) = &mut shown.metadata.labels {
        labels.remove(label::QUEUE_NAME);
    }
    if let Some(annotations) = &mut shown.metadata.annotations {
        annotations.remove(label::QUEUE);
        annotations.remove(label::PREEMPTED);
        annotations.remove(label::SHRUNK);
    }
    shown
}

/// Whether it is about a kind of which Kueue's own definition has no place for what is told.
fn is_untold(action: &Action) -> bool {
    let (Action::PatchStatus { object, .. } | Action::Event { regarding: object, .. }) = action else { return false };
    UNTOLD.contains(&object.kind.as_str())
}

fn fence(uid: &str) -> Fence {
    Fence { uid: Some(uid.to_owned()), resource_version: None }
}

impl<'view> Turn<'view> {
    /// Takes back what is late, and completes what was begun.
    fn begin(view: &'view ClusterView, now_ms: i64) -> (Self, GangView) {
        let mut turn = Self::new(view, now_ms);
        let late = turn.take_back();
        turn.take_back_guests();
        let shown = turn.complete(&late);
        (turn, shown)
    }

    fn new(view: &'view ClusterView, now_ms: i64) -> Self {
        let mut owned: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in &view.gangs.pods {
            if let Some(owner) = owner_uid(pod) {
                owned.entry(owner).or_default().push(pod);
            }
        }
        let named = |node: &'view Node| Some((node.metadata.name.as_deref()?, node));
        let nodes: BTreeMap<&str, &Node> = view.gangs.nodes.iter().filter_map(named).collect();
        let hosts = nodes.iter().filter_map(|(name, node)| Some((hostname(node)?, *name))).collect();
        Self { view, now_ms, owned, nodes, hosts, actions: Vec::new(), wake_at_ms: None }
    }

    fn pods_of(&self, owner: &str) -> &[&'view Pod] {
        self.owned.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Of a guest there is none, whoever owns it.
    fn intent_of(&self, pod: &Pod) -> Option<&'view Intent> {
        if guest::is_guest(pod) {
            return None;
        }
        self.view.owners.get(owner_uid(pod)?)?.intent.as_ref()
    }

    fn wake(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    /// Answers whether it can be written.
    fn write(&mut self, owner: &str, intent: &Intent) -> bool {
        let Some(known) = self.view.owners.get(owner) else { return false };
        let text = intent.text();
        if text.len() > MAX_BYTES {
            return false;
        }
        // What pods are made by must not change unseen.
        let version = known.version.clone().filter(|_| intent.drafted.is_some());
        self.actions.push(Action::Patch {
            object: known.object.clone(),
            fence: Fence { resource_version: version, ..fence(owner) },
            patch: json!({"metadata": {"annotations": {label::PLACEMENT: text}}}),
        });
        true
    }

    /// Marks attempts that were not completed in time, and deletes the pods of those that are marked. Answers the owners of which
    /// nothing is to be completed.
    fn take_back(&mut self) -> Vec<&'view str> {
        let mut late = Vec::new();
        for (owner, known) in &self.view.owners {
            let Some(intent) = &known.intent else { continue };
            let meant = |pod: &&Pod| intent.means(pod) && !is_leaving(pod) && !is_over(pod);
            let pods: Vec<&Pod> = self.pods_of(owner).iter().copied().filter(meant).collect();
            let unmade = self.unmade(owner);
            let lost = unmade.iter().any(|(_, node)| !self.is_fit(node));
            let due_ms = intent.at_ms.saturating_add(self.view.patience_ms);
            match intent.not_before_ms {
                None if unmade.is_empty() && pods.iter().all(|pod| node_of(pod).is_some()) => continue,
                None if self.now_ms < due_ms && !lost => {
                    self.wake(due_ms);
                    continue;
                }
                None => {
                    let pause = backoff::doubled_ms(intent.attempt, LONGEST_MS);
                    let marked = Intent { not_before_ms: Some(self.now_ms.saturating_add(pause)), ..intent.clone() };
                    self.write(owner, &marked);
                    self.tell(known, owner, &pods, unmade.len(), pause);
                }
                // Its successors wait for their turn.
                Some(_) if pods.is_empty() => continue,
                Some(_) => {}
            }
            late.push(owner.as_str());
            for pod in pods {
                self.actions.push(Action::Delete {
                    object: reference(pod),
                    fence: fence(uid(pod)),
                    grace_seconds: None,
                    reason: "its gang was not bound in time".to_owned(),
                });
            }
        }
        late
    }

    fn tell(&mut self, owner: &Owner, uid: &str, pods: &[&Pod], unmade: usize, pause_ms: i64) {
        let bound = pods.iter().filter(|pod| node_of(pod).is_some()).count();
        self.actions.push(Action::Event {
            regarding: owner.object.clone(),
            uid: uid.to_owned(),
            severity: EventSeverity::Warning,
            reason: "GangGivenBack".to_owned(),
            message: format!(
                "{bound} of {} pods came to their nodes, for which they have {} s: all of them are taken back; the next attempt is in {} s",
                pods.len() + unmade,
                self.view.patience_ms / 1000,
                pause_ms / 1000
            ),
        });
    }

    /// Lifts the gates that an intent speaks of. Answers the view in which lifted pods are where they were sent.
    fn complete(&mut self, late: &[&str]) -> GangView {
        let nodes: Vec<Node> = self.view.gangs.nodes.iter().filter(|node| hostname(node).is_some()).cloned().collect();
        let broken = self.broken();
        let mut pods = Vec::new();
        for pod in &self.view.gangs.pods {
            let is_gang = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(label::GANG));
            let is_guest = guest::is_guest(pod);
            let is_ours = is_gang || is_guest;
            if node_of(pod).is_some() || is_leaving(pod) || is_over(pod) {
                pods.push(if is_ours { self.as_it_may_shrink(pod) } else { of_nobody(pod) });
                continue;
            }
            // What the cluster's scheduler places by itself, or is about to go.
            let is_late = !is_guest && owner_uid(pod).is_some_and(|owner| late.contains(&owner));
            if !is_ours || is_late {
                continue;
            }
            // What is left of a gang that is not whole any more waits with the pods that are to come.
            let waits = is_gated(pod) || is_bound_here(pod);
            let is_broken = waits && owner_uid(pod).is_some_and(|owner| broken.contains(owner));
            let intent = self.intent_of(pod).filter(|_| !is_broken);
            let chosen = intent.and_then(|intent| intent.node_of(uid(pod)));
            let flavors = intent.and_then(|intent| intent.flavors_of(uid(pod)));
            match (chosen, waits) {
                (Some(node), waits) => {
                    if waits {
                        self.assign(pod, flavors);
                        self.lift(pod, node, flavors);
                    }
                    pods.push(on_node(pod, node, flavors));
                }
                (None, false) => match guest::let_go(pod) {
                    Some(known) => pods.push(on_node(pod, &known.node, None)),
                    None => pods.extend(self.sent_to(pod).map(|node| on_node(pod, node, None))),
                },
                (None, true) => match intent.and_then(|intent| intent.not_before_ms) {
                    Some(at) if self.now_ms < at => self.wake(at),
                    Some(_) | None => pods.push(pod.clone()),
                },
            }
        }
        pods.extend(self.drafted(late));
        let GangView { priority_classes, queues, namespaces, .. } = &self.view.gangs;
        let (queues, namespaces) = (queues.clone(), namespaces.clone());
        GangView { nodes, pods, priority_classes: priority_classes.clone(), queues, namespaces }
    }

    /// A gang that is made on its nodes does not shrink until it has run: a pod of it that went would be made there again.
    fn as_it_may_shrink(&self, pod: &Pod) -> Pod {
        let mut shown = pod.clone();
        if owner_uid(pod).is_some_and(|owner| self.view.drafts.contains_key(owner))
            && let Some(annotations) = &mut shown.metadata.annotations
        {
            annotations.remove(label::GANG_LEAST);
        }
        shown
    }

    /// Owners of which fewer pods would have places than must start together, if all that is decided were carried out: some of those that
    /// it was decided for have gone since.
    fn broken(&self) -> BTreeSet<&'view str> {
        let is_broken = |(owner, known): (&'view String, &'view Owner)| {
            let intent = known.intent.as_ref().filter(|intent| intent.not_before_ms.is_none())?;
            let pods = self.pods_of(owner).iter().copied();
            let pods = pods.filter(|pod| !is_leaving(pod) && !guest::is_guest(pod));
            let waits = |pod: &&Pod| node_of(pod).is_none() && (is_gated(pod) || is_bound_here(pod));
            let (waiting, others): (Vec<&Pod>, Vec<&Pod>) = pods.partition(waits);
            let chosen: Vec<&Pod> = waiting.into_iter().filter(|pod| intent.node_of(uid(pod)).is_some()).collect();
            let size = chosen.iter().map(|pod| gather::size(pod)).max()?;
            let there = others.iter().filter(|pod| gather::phase(pod) != "Failed").count() + self.unmade(owner).len();
            (there + chosen.len() < size).then_some(owner.as_str())
        };
        self.view.owners.iter().filter_map(is_broken).collect()
    }

    /// The node that a lifted pod was sent to.
    fn sent_to(&self, pod: &Pod) -> Option<&'view str> {
        let host = pod.spec.as_ref()?.node_selector.as_ref()?.get(HOSTNAME)?;
        self.hosts.get(host.as_str()).copied()
    }

    /// The labels by which flavors know a node, for a pod in a queue.
    fn flavor_of<'node>(&self, pod: &Pod, node: &'node Node) -> BTreeMap<&'node str, &'node str> {
        let is_queued = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(label::QUEUE));
        let flavors = self.view.gangs.queues.iter().filter(|object| is_queued && object["kind"] == "ResourceFlavor");
        let keys: BTreeSet<&String> = flavors
            .filter_map(|flavor| Some(flavor.pointer("/spec/nodeLabels")?.as_object()?.keys()))
            .flatten()
            .collect();
        let labels = node.metadata.labels.iter().flatten().filter(|(key, _)| keys.contains(key));
        labels.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// What has to be written on a pod for the flavors that it was given.
    fn of_flavors(&self, pod: &Pod, flavors: &str) -> Value {
        let names: BTreeSet<&str> = flavors.split(',').filter_map(|pair| Some(pair.rsplit_once('=')?.1)).collect();
        let objects = self.view.gangs.queues.iter().filter(|object| object["kind"] == "ResourceFlavor");
        let meant =
            objects.filter(|object| object["metadata"]["name"].as_str().is_some_and(|name| names.contains(name)));
        let tolerations = meant.filter_map(|object| object.pointer("/spec/tolerations")?.as_array()).flatten();
        flavor::patch(pod, flavors, &tolerations.cloned().collect::<Vec<Value>>())
    }

    /// Writes down the flavors of a pod that is bound here; of others they are written with the gate.
    fn assign(&mut self, pod: &Pod, flavors: Option<&str>) {
        let Some(flavors) = flavors.filter(|_| is_bound_here(pod) && !is_gated(pod)) else { return };
        let patch = self.of_flavors(pod, flavors);
        self.actions.push(Action::Patch { object: reference(pod), fence: fence(uid(pod)), patch });
    }

    fn lift(&mut self, pod: &Pod, node: &str, flavors: Option<&str>) {
        // A node that is gone binds nothing: the gang is taken back when its time is over.
        let found = self.nodes.get(node).copied();
        let Some(host) = found.and_then(hostname) else { return };
        if is_bound_here(pod) && !is_gated(pod) {
            self.actions.push(Action::Bind { pod: reference(pod), fence: fence(uid(pod)), node: node.to_owned() });
            return;
        }
        // Guests with claims are sent nowhere: a successor would only be sent there again.
        let is_sent = |spec: &PodSpec| is_seen_whole(spec) && !(guest::is_guest(pod) && has_claims(spec));
        let is_sent = pod.spec.as_ref().is_none_or(is_sent);
        let selector = if is_sent {
            BTreeMap::from([(HOSTNAME, host)])
        } else {
            // The cluster's scheduler chooses among the nodes of the same flavor.
            found.map(|node| self.flavor_of(pod, node)).unwrap_or_default()
        };
        let mut patch = flavors.map_or_else(|| json!({}), |flavors| self.of_flavors(pod, flavors));
        patch["spec"]["schedulingGates"] = Value::Null;
        if !selector.is_empty() {
            patch["spec"]["nodeSelector"] = json!(selector);
        }
        self.noted(pod, node, is_sent, &mut patch);
        self.actions.push(Action::Patch { object: reference(pod), fence: fence(uid(pod)), patch });
    }

    /// Writes down what was decided for all gangs, and then lifts their gates.
    fn admit(&mut self, decided: Vec<Action>) {
        let decided = self.answer(decided);
        let by_name: BTreeMap<ObjectRef, &Pod> = self.view.gangs.pods.iter().map(|pod| (reference(pod), pod)).collect();
        let told: BTreeMap<ObjectRef, String> =
            decided.iter().filter_map(given).map(|(pod, flavors)| (pod.clone(), flavors.to_owned())).collect();
        let mut intents: BTreeMap<&str, Intent> = BTreeMap::new();
        for action in &decided {
            if let Action::Bind { pod: object, node, .. } = action
                && let Some(pod) = by_name.get(object)
                && let Some(owner) = self.owner_of(pod)
            {
                let intent = intents.entry(owner).or_insert_with(|| self.begun(owner));
                intent.pods.insert(uid(pod).to_owned(), node.clone());
                intent.flavors.extend(told.get(object).map(|flavors| (uid(pod).to_owned(), flavors.clone())));
            }
        }
        for (owner, intent) in &intents {
            self.write(owner, intent);
        }
        // Last, since nothing else is to wait for what somebody has against one of them.
        let mut guests = Vec::new();
        for action in decided {
            let Action::Bind { pod: object, node, .. } = &action else {
                match given(&action).map(|(pod, _)| by_name.get(pod)) {
                    Some(Some(pod)) => self.assign(pod, told.get(&reference(pod)).map(String::as_str)),
                    Some(None) => {}
                    None => self.actions.push(action),
                }
                continue;
            };
            let Some(pod) = by_name.get(object).copied() else { continue };
            if guest::is_guest(pod) {
                guests.push((pod, node.clone()));
            } else if self.owner_of(pod).is_some() {
                self.lift(pod, node, told.get(object).map(String::as_str));
            }
        }
        for (pod, node) in guests {
            self.lift(pod, &node, told.get(&reference(pod)).map(String::as_str));
        }
    }

    /// The job of ours that made a pod.
    fn owner_of<'pod>(&self, pod: &'pod Pod) -> Option<&'pod str> {
        owner_uid(pod).filter(|owner| self.view.owners.contains_key(*owner) && !guest::is_guest(pod))
    }

    /// The intent of a gang of which nothing is decided in this turn yet: what an earlier one still waits for stays in it.
    fn begun(&self, owner: &str) -> Intent {
        let before = self.view.owners.get(owner).and_then(|owner| owner.intent.as_ref());
        let taken_back = before.is_some_and(|intent| intent.not_before_ms.is_some());
        let unbound = self.pods_of(owner).iter().filter(|pod| node_of(pod).is_none());
        let waits: Vec<&str> = unbound.map(|pod| uid(pod)).collect();
        let kept = before.filter(|_| !taken_back);
        let of = |what: fn(&'view Intent, &str) -> Option<&'view str>| {
            let some = waits.iter().filter_map(|pod| Some(((*pod).to_owned(), what(kept?, pod)?.to_owned())));
            some.collect::<BTreeMap<String, String>>()
        };
        Intent {
            attempt: before.filter(|_| taken_back).map_or(0, |intent| intent.attempt.saturating_add(1)),
            at_ms: self.now_ms,
            pods: of(Intent::node_of),
            flavors: of(Intent::flavors_of),
            ..Intent::default()
        }
    }
}

#[cfg(test)]
mod tests;

//! Gangs on a cluster: the same decision, carried out by lifting scheduling gates together with the chosen nodes.
//!
//! The cluster's own scheduler binds the pods; here is decided when, and where to. What was decided is written down first, as an annotation
//! of the job (its [`Intent`]): one write, before the first gate is lifted.
//!
//! | the job says | its pods | what is done |
//! |---|---|---|
//! | nothing, or all that it says is done | wait at their gate | a whole gang is placed, or none of it |
//! | an intent | some still wait at their gate | their gates are lifted as it says: whoever wrote it may have died since |
//! | an intent | some have no node after [`ClusterView::patience_ms`] | it is marked as taken back |
//! | an intent that is taken back | some are still there | they are deleted, all of the attempt; the job's controller makes them anew |
//! | an intent that is taken back | wait at their gate | they are left alone until its back-off is over |
//!
//! So a crash between any two writes leaves what the next look completes, or takes back. Pods that are lifted count as if they were on
//! their node already, so that nothing else is promised their room.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use serde_json::json;
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use super::answer::reference;
use super::{GangView, Placement, place};
use crate::{backoff, label};

/// By which label a pod is sent to its node.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Longest time between two attempts.
const LONGEST_MS: i64 = 600_000;
/// Longest intent that is written: all annotations of an object together may have 256 KiB. That is a gang of some 3,500 pods; of a
/// larger one a part that was lifted is completed like any other gang of which a part has places, on whatever nodes fit.
const MAX_BYTES: usize = 200_000;

/// What was decided for a gang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// How often the gang was taken back before.
    #[serde(default)]
    pub attempt: u32,
    /// When.
    pub at_ms: i64,
    /// Nodes by the pods' uids.
    pub pods: BTreeMap<String, String>,
    /// Taken back: the next attempt is not made before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<i64>,
}

/// A job whose pods wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The job.
    pub object: ObjectRef,
    /// What it says was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
}

impl Owner {
    /// Reads what a job's annotation says. One that makes no sense says nothing.
    #[must_use]
    pub fn read(object: ObjectRef, annotations: Option<&BTreeMap<String, String>>) -> Self {
        let text = annotations.and_then(|all| all.get(label::PLACEMENT));
        Self { object, intent: text.and_then(|text| serde_json::from_str(text).ok()) }
    }
}

/// Everything that is looked at on a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// Nodes, pods of all namespaces, and priorities.
    pub gangs: GangView,
    /// Jobs by their uid.
    pub owners: BTreeMap<String, Owner>,
    /// How long the cluster's scheduler may take to bind a whole gang.
    pub patience_ms: i64,
}

/// Which gangs go, and which are taken back.
#[must_use]
pub fn place_on_cluster(view: &ClusterView, now_ms: i64) -> Placement {
    let mut turn = Turn { view, now_ms, actions: Vec::new(), wake_at_ms: None };
    let late = turn.take_back();
    let shown = turn.complete(&late);
    let mut placement = place(&shown, now_ms);
    let decided = std::mem::take(&mut placement.plan.actions);
    turn.admit(decided);
    placement.plan.actions = turn.actions;
    placement.plan.wake_at_ms = [placement.plan.wake_at_ms, turn.wake_at_ms].into_iter().flatten().min();
    placement
}

struct Turn<'view> {
    view: &'view ClusterView,
    now_ms: i64,
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

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether all that decides on a pod's node is looked at here. Where it is not, the cluster's scheduler chooses the node.
fn is_seen_whole(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let affinity = spec.affinity.as_ref();
    spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
        && affinity.is_none_or(|affinity| affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none())
}

/// The value of a node's label by which pods are sent to it.
fn hostname(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(HOSTNAME).map(String::as_str)
}

fn on_node(pod: &Pod, node: &str) -> Pod {
    let mut shown = pod.clone();
    shown.spec.get_or_insert_default().node_name = Some(node.to_owned());
    shown
}

fn fence(uid: &str) -> Fence {
    Fence { uid: Some(uid.to_owned()), resource_version: None }
}

impl<'view> Turn<'view> {
    fn intent_of(&self, pod: &Pod) -> Option<&'view Intent> {
        self.view.owners.get(owner_uid(pod)?)?.intent.as_ref()
    }

    fn wake(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    fn write(&mut self, owner: &str, intent: &Intent) {
        let Some(known) = self.view.owners.get(owner) else { return };
        let text = serde_json::to_string(intent).expect("numbers and texts serialise");
        if text.len() > MAX_BYTES {
            return;
        }
        self.actions.push(Action::Patch {
            object: known.object.clone(),
            fence: fence(owner),
            patch: json!({"metadata": {"annotations": {label::PLACEMENT: text}}}),
        });
    }

    /// Marks attempts that were not completed in time, and deletes the pods of those that are marked. Answers the owners of which
    /// nothing is to be completed.
    fn take_back(&mut self) -> Vec<&'view str> {
        let mut late = Vec::new();
        for (owner, known) in &self.view.owners {
            let Some(intent) = &known.intent else { continue };
            let pods: Vec<&Pod> = self
                .view
                .gangs
                .pods
                .iter()
                .filter(|pod| intent.pods.contains_key(uid(pod)) && !is_leaving(pod) && !is_over(pod))
                .collect();
            let due_ms = intent.at_ms.saturating_add(self.view.patience_ms);
            match intent.not_before_ms {
                None if pods.iter().all(|pod| node_of(pod).is_some()) => continue,
                None if self.now_ms < due_ms => {
                    self.wake(due_ms);
                    continue;
                }
                None => {
                    let pause = backoff::doubled_ms(intent.attempt, LONGEST_MS);
                    let marked = Intent { not_before_ms: Some(self.now_ms.saturating_add(pause)), ..intent.clone() };
                    self.write(owner, &marked);
                    self.tell(known, owner, &pods, pause);
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

    fn tell(&mut self, owner: &Owner, uid: &str, pods: &[&Pod], pause_ms: i64) {
        let bound = pods.iter().filter(|pod| node_of(pod).is_some()).count();
        self.actions.push(Action::Event {
            regarding: owner.object.clone(),
            uid: uid.to_owned(),
            severity: EventSeverity::Warning,
            reason: "GangGivenBack".to_owned(),
            message: format!(
                "The cluster bound {bound} of {} pods within {} s, so all of them are taken back; the next attempt is in {} s",
                pods.len(),
                self.view.patience_ms / 1000,
                pause_ms / 1000
            ),
        });
    }

    /// Lifts the gates that an intent speaks of. Answers the view in which lifted pods are where they were sent.
    fn complete(&mut self, late: &[&str]) -> GangView {
        let nodes: Vec<Node> = self.view.gangs.nodes.iter().filter(|node| hostname(node).is_some()).cloned().collect();
        let mut pods = Vec::new();
        for pod in &self.view.gangs.pods {
            if node_of(pod).is_some() || is_leaving(pod) || is_over(pod) {
                pods.push(pod.clone());
                continue;
            }
            let is_gang = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(label::GANG));
            // What the cluster's scheduler places by itself, or is about to go.
            if !is_gang || owner_uid(pod).is_some_and(|owner| late.contains(&owner)) {
                continue;
            }
            let intent = self.intent_of(pod);
            let chosen = intent.and_then(|intent| intent.pods.get(uid(pod)));
            match (chosen, is_gated(pod)) {
                (Some(node), gated) => {
                    if gated {
                        self.lift(pod, node);
                    }
                    pods.push(on_node(pod, node));
                }
                (None, false) => pods.extend(self.sent_to(pod).map(|node| on_node(pod, node))),
                (None, true) => match intent.and_then(|intent| intent.not_before_ms) {
                    Some(at) if self.now_ms < at => self.wake(at),
                    Some(_) | None => pods.push(pod.clone()),
                },
            }
        }
        let GangView { priority_classes, queues, .. } = &self.view.gangs;
        GangView { nodes, pods, priority_classes: priority_classes.clone(), queues: queues.clone() }
    }

    /// The node that a lifted pod was sent to.
    fn sent_to(&self, pod: &Pod) -> Option<&'view str> {
        let host = pod.spec.as_ref()?.node_selector.as_ref()?.get(HOSTNAME)?;
        let node = self.view.gangs.nodes.iter().find(|node| hostname(node) == Some(host.as_str()))?;
        node.metadata.name.as_deref()
    }

    fn lift(&mut self, pod: &Pod, node: &str) {
        let nodes = &self.view.gangs.nodes;
        let found = nodes.iter().find(|known| known.metadata.name.as_deref() == Some(node));
        // A node that is gone binds nothing: the gang is taken back when its time is over.
        let Some(host) = found.and_then(hostname) else { return };
        let spec = if is_seen_whole(pod) {
            json!({"schedulingGates": null, "nodeSelector": {HOSTNAME: host}})
        } else {
            json!({ "schedulingGates": null })
        };
        self.actions.push(Action::Patch {
            object: reference(pod),
            fence: fence(uid(pod)),
            patch: json!({ "spec": spec }),
        });
    }

    /// Writes down what was decided, gang by gang, each before its first gate is lifted.
    fn admit(&mut self, decided: Vec<Action>) {
        let by_name: BTreeMap<ObjectRef, &Pod> = self.view.gangs.pods.iter().map(|pod| (reference(pod), pod)).collect();
        let mut intents: BTreeMap<&str, Intent> = BTreeMap::new();
        for action in &decided {
            if let Action::Bind { pod, node, .. } = action
                && let Some(pod) = by_name.get(pod)
                && let Some(owner) = owner_uid(pod)
            {
                let intent = intents.entry(owner).or_insert_with(|| self.begun(owner));
                intent.pods.insert(uid(pod).to_owned(), node.clone());
            }
        }
        for action in decided {
            let Action::Bind { pod, node, .. } = &action else {
                self.actions.push(action);
                continue;
            };
            let Some((pod, owner)) = by_name.get(pod).and_then(|pod| Some((*pod, owner_uid(pod)?))) else { continue };
            if !self.view.owners.contains_key(owner) {
                continue;
            }
            if let Some(intent) = intents.remove(owner) {
                self.write(owner, &intent);
            }
            self.lift(pod, node);
        }
    }

    /// The intent of a gang of which nothing is decided in this turn yet: what an earlier one still waits for stays in it.
    fn begun(&self, owner: &str) -> Intent {
        let before = self.view.owners.get(owner).and_then(|owner| owner.intent.as_ref());
        let taken_back = before.is_some_and(|intent| intent.not_before_ms.is_some());
        let waits = |of: &str| self.view.gangs.pods.iter().any(|pod| uid(pod) == of && node_of(pod).is_none());
        let pods = before.filter(|_| !taken_back).map(|intent| intent.pods.clone()).unwrap_or_default();
        Intent {
            attempt: before.filter(|_| taken_back).map_or(0, |intent| intent.attempt.saturating_add(1)),
            at_ms: self.now_ms,
            pods: pods.into_iter().filter(|(pod, _)| waits(pod)).collect(),
            not_before_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    const NOW: i64 = 1_000_000;
    const PATIENCE: i64 = 60_000;

    fn node(name: &str, cpus: u32) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {HOSTNAME: format!("host-of-{name}")}},
            "status": {"allocatable": {"cpu": cpus.to_string(), "pods": "10"}},
        }))
        .unwrap()
    }

    /// Pods of one job that ask for a CPU each and wait at their gate.
    fn pods(job: &str, count: usize) -> Vec<Pod> {
        let pod = |index: usize| {
            serde_json::from_value(json!({
                "metadata": {
                    "namespace": "team", "name": format!("{job}-{index}"), "uid": format!("{job}-{index}-uid"),
                    "creationTimestamp": crate::instant::text(NOW),
                    "annotations": {label::GANG: job, label::GANG_SIZE: count.to_string()},
                    "labels": {label::REPLICA_INDEX: index.to_string()},
                    "ownerReferences": [{"apiVersion": "x/v1", "kind": "Job", "name": job, "uid": job, "controller": true}],
                },
                "spec": {
                    "schedulingGates": [{"name": label::GANG_GATE}],
                    "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
                },
                "status": {"phase": "Pending"},
            }))
            .unwrap()
        };
        (0..count).map(pod).collect()
    }

    fn view(nodes: Vec<Node>, pods: Vec<Pod>) -> ClusterView {
        let mut owners = BTreeMap::new();
        for pod in &pods {
            let job = owner_uid(pod).unwrap().to_owned();
            let object = ObjectRef {
                api_version: "x/v1".to_owned(),
                kind: "Job".to_owned(),
                namespace: "team".to_owned(),
                name: job.clone(),
            };
            owners.insert(job, Owner { object, intent: None });
        }
        let gangs = GangView { nodes, pods, ..GangView::default() };
        ClusterView { gangs, owners, patience_ms: PATIENCE }
    }

    /// What the API server makes of one action.
    fn carry_out(view: &mut ClusterView, action: &Action) {
        match action {
            Action::Patch { object, patch, .. } if object.kind == "Pod" => {
                let pod = view.gangs.pods.iter_mut().find(|pod| reference(pod) == *object).unwrap();
                let spec = pod.spec.as_mut().unwrap();
                assert!(patch["spec"]["schedulingGates"].is_null());
                spec.scheduling_gates = None;
                let host = patch["spec"]["nodeSelector"][HOSTNAME].as_str().unwrap().to_owned();
                spec.node_selector = Some(BTreeMap::from([(HOSTNAME.to_owned(), host)]));
            }
            Action::Patch { object, patch, .. } => {
                let text = patch["metadata"]["annotations"][label::PLACEMENT].as_str().unwrap();
                let all = BTreeMap::from([(label::PLACEMENT.to_owned(), text.to_owned())]);
                view.owners.insert(object.name.clone(), Owner::read(object.clone(), Some(&all)));
            }
            Action::Delete { object, .. } => view.gangs.pods.retain(|pod| reference(pod) != *object),
            Action::PatchStatus { .. } | Action::Event { .. } => {}
            Action::Create { .. } | Action::Bind { .. } => panic!("{action:?}"),
        }
    }

    fn writes(placement: &Placement) -> Vec<Action> {
        let writes = placement.plan.actions.iter();
        writes.filter(|action| matches!(action, Action::Patch { .. } | Action::Delete { .. })).cloned().collect()
    }

    fn bind(view: &mut ClusterView, name: &str) {
        let pod = view.gangs.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
        let spec = pod.spec.as_mut().unwrap();
        assert_eq!(spec.scheduling_gates, None, "{name} is not lifted");
        let host = spec.node_selector.as_ref().unwrap()[HOSTNAME].clone();
        spec.node_name = Some(host.trim_start_matches("host-of-").to_owned());
    }

    fn lifted(view: &ClusterView) -> usize {
        view.gangs.pods.iter().filter(|pod| !is_gated(pod)).count()
    }

    #[test]
    fn the_intent_is_written_before_the_first_gate_is_lifted() {
        let view = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
        let writes = writes(&place_on_cluster(&view, NOW));
        let kind = |action: &Action| {
            let Action::Patch { object, .. } = action else { panic!("{action:?}") };
            object.kind.clone()
        };
        let kinds: Vec<String> = writes.iter().map(kind).collect();
        assert_eq!(kinds, ["Job", "Pod", "Pod", "Pod"]);
    }

    #[test]
    fn a_gang_that_does_not_fit_waits_with_every_gate_shut() {
        let view = view(vec![node("a", 1), node("b", 1)], pods("job", 3));
        let placement = place_on_cluster(&view, NOW);
        assert_eq!(writes(&placement), []);
        assert_eq!(placement.waiting.len(), 1);
    }

    /// Wherever it is cut off, the next look completes exactly what was decided, and nobody else is given the room.
    #[test]
    fn a_crash_between_any_two_writes_leaves_no_part_of_a_gang() {
        let mut all = pods("first", 3);
        all.extend(pods("second", 2));
        let start = view(vec![node("a", 2), node("b", 2)], all);
        let first = writes(&place_on_cluster(&start, NOW));
        for cut in 0..=first.len() {
            let mut world = start.clone();
            first[..cut].iter().for_each(|action| carry_out(&mut world, action));
            let promised = world.owners["first"].intent.clone();
            for action in writes(&place_on_cluster(&world, NOW + 1)) {
                carry_out(&mut world, &action);
            }
            assert_eq!(lifted(&world), 3, "after {cut} writes");
            if let Some(promised) = promised {
                let intent = world.owners["first"].intent.as_ref().unwrap();
                assert_eq!(intent.pods, promised.pods, "after {cut} writes");
            }
            assert_eq!(writes(&place_on_cluster(&world, NOW + 2)), [], "nothing is left to do after {cut} writes");
        }
    }

    #[test]
    fn a_gang_that_is_not_bound_in_time_is_taken_back_whole_and_tried_again_later() {
        let mut world = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
        for action in writes(&place_on_cluster(&world, NOW)) {
            carry_out(&mut world, &action);
        }
        bind(&mut world, "job-0");
        bind(&mut world, "job-1");
        let soon = place_on_cluster(&world, NOW + 1);
        assert_eq!((writes(&soon), soon.plan.wake_at_ms), (vec![], Some(NOW + PATIENCE)));
        // Cut off after each write: the mark comes first, and the rest follows from it.
        let late = writes(&place_on_cluster(&world, NOW + PATIENCE));
        assert_eq!(late.len(), 4);
        for cut in 1..=late.len() {
            let mut world = world.clone();
            late[..cut].iter().for_each(|action| carry_out(&mut world, action));
            for action in writes(&place_on_cluster(&world, NOW + PATIENCE + 1)) {
                carry_out(&mut world, &action);
            }
            assert!(world.gangs.pods.is_empty(), "after {cut} writes");
            // Their successors wait until the back-off is over.
            let mut fresh = pods("job", 3);
            fresh.iter_mut().for_each(|pod| pod.metadata.uid = pod.metadata.uid.as_ref().map(|uid| format!("{uid}-2")));
            world.gangs.pods = fresh;
            let waits = place_on_cluster(&world, NOW + PATIENCE + 2);
            let again = NOW + PATIENCE + backoff::FIRST_MS;
            assert_eq!((writes(&waits), waits.plan.wake_at_ms), (vec![], Some(again)));
            for action in writes(&place_on_cluster(&world, again)) {
                carry_out(&mut world, &action);
            }
            assert_eq!((lifted(&world), world.owners["job"].intent.as_ref().unwrap().attempt), (3, 1));
        }
    }

    #[test]
    fn a_successor_of_one_pod_is_placed_without_the_others() {
        let mut world = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
        for action in writes(&place_on_cluster(&world, NOW)) {
            carry_out(&mut world, &action);
        }
        ["job-0", "job-1", "job-2"].iter().for_each(|name| bind(&mut world, name));
        let lost = world.gangs.pods.iter().position(|pod| pod.metadata.name.as_deref() == Some("job-2")).unwrap();
        let mut fresh = pods("job", 3).remove(2);
        fresh.metadata.uid = Some("new".to_owned());
        world.gangs.pods[lost] = fresh;
        for action in writes(&place_on_cluster(&world, NOW + 500_000)) {
            carry_out(&mut world, &action);
        }
        let intent = world.owners["job"].intent.clone().unwrap();
        assert_eq!(intent.pods.keys().collect::<Vec<_>>(), ["new"], "the others are no part of this attempt");
        assert_eq!(lifted(&world), 3);
        // If it is not bound in time, it goes back alone.
        let late = writes(&place_on_cluster(&world, NOW + 500_000 + PATIENCE));
        assert_eq!(late.iter().filter(|action| matches!(action, Action::Delete { .. })).count(), 1);
    }

    #[test]
    fn terms_that_only_the_clusters_scheduler_knows_leave_the_node_to_it() {
        let mut all = pods("job", 2);
        let spread = json!([{"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "DoNotSchedule"}]);
        all[0].spec.as_mut().unwrap().topology_spread_constraints = serde_json::from_value(spread).unwrap();
        let writes = writes(&place_on_cluster(&view(vec![node("a", 2)], all), NOW));
        let selector = |at: usize| {
            let Action::Patch { patch, .. } = &writes[at] else { panic!("{writes:?}") };
            assert!(patch["spec"]["schedulingGates"].is_null());
            patch["spec"].get("nodeSelector").cloned()
        };
        assert_eq!((selector(1), selector(2)), (None, Some(json!({HOSTNAME: "host-of-a"}))));
    }

    #[test]
    fn pods_of_others_only_take_room() {
        let mut alien = pods("alien", 1).remove(0);
        alien.metadata.annotations = None;
        alien.spec.as_mut().unwrap().scheduling_gates = None;
        let mut bound = alien.clone();
        (bound.metadata.name, bound.metadata.uid) = (Some("bound".to_owned()), Some("bound".to_owned()));
        bound.spec.as_mut().unwrap().node_name = Some("a".to_owned());
        let mut all = pods("job", 2);
        all.extend([alien, bound]);
        let mut nodes = vec![node("a", 2)];
        let placement = place_on_cluster(&view(nodes.clone(), all.clone()), NOW);
        assert_eq!(writes(&placement), []);
        nodes.push(node("b", 1));
        assert_eq!(writes(&place_on_cluster(&view(nodes, all), NOW)).len(), 3, "the job and its two pods");
    }
}

//! Which pods belong together, and what of them is where.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::GangView;
use crate::{instant, label};

/// Pods that start together.
#[derive(Clone, Debug, Default)]
pub(super) struct Gang<'view> {
    pub(super) namespace: &'view str,
    pub(super) name: &'view str,
    pub(super) owner: &'view str,
    /// Pods without a node, by index.
    pub(super) waiting: Vec<&'view Pod>,
    /// Pods that have a node, or have ended with success.
    pub(super) placed: usize,
    /// Those that hold room on their node.
    pub(super) held: Vec<&'view Pod>,
    /// Those of them that have no process so far.
    pub(super) idle: Vec<&'view Pod>,
    /// Pods that were told to make room and still hold it: they are deleted, or are about to be. All of a gang that is stopped, and some of
    /// one that shrinks.
    pub(super) leaving: Vec<&'view Pod>,
    /// Pods that are on their way out for another reason, and still hold their room.
    pub(super) going: Vec<&'view Pod>,
    /// How many must be there together.
    pub(super) size: usize,
    pub(super) priority: i64,
    /// When its oldest waiting pod was created.
    pub(super) since_ms: i64,
    /// When its youngest pod was created.
    pub(super) youngest_ms: i64,
}

/// What distinguishes one gang from another: namespace, owner, name.
type Key<'view> = (&'view str, &'view str, &'view str);

/// All gangs, by key.
pub(super) fn gangs(view: &GangView) -> Vec<Gang<'_>> {
    let told: BTreeSet<(Key<'_>, Option<&str>)> = view
        .pods
        .iter()
        .filter(|pod| holds_room(pod) && annotation(pod, label::PREEMPTED).is_some())
        .map(|pod| (key(pod), annotation(pod, label::GENERATION)))
        .collect();
    let mut gangs: BTreeMap<Key<'_>, Gang<'_>> = BTreeMap::new();
    for pod in &view.pods {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let shrinks = annotation(pod, label::SHRUNK).is_some();
        if (deleted || shrinks) && !holds_room(pod) {
            continue;
        }
        let key = key(pod);
        let gang = gangs.entry(key).or_insert_with(|| Gang {
            namespace: key.0,
            name: key.2,
            owner: key.1,
            size: 1,
            priority: i64::MIN,
            since_ms: i64::MAX,
            ..Gang::default()
        });
        let is_told = || !told.is_empty() && told.contains(&(key, annotation(pod, label::GENERATION)));
        if shrinks || (holds_room(pod) && is_told()) {
            gang.leaving.push(pod);
        } else if deleted {
            gang.going.push(pod);
        } else {
            gang.add(pod, &view.priority_classes);
        }
    }
    let mut gangs: Vec<Gang<'_>> = gangs.into_values().collect();
    for gang in &mut gangs {
        for pods in [&mut gang.waiting, &mut gang.held, &mut gang.idle, &mut gang.leaving] {
            pods.sort_by_cached_key(|pod| (index(pod), pod.metadata.name.as_deref(), pod.metadata.uid.as_deref()));
        }
    }
    gangs
}

impl<'view> Gang<'view> {
    fn add(&mut self, pod: &'view Pod, classes: &BTreeMap<String, i32>) {
        self.youngest_ms = self.youngest_ms.max(created_ms(pod));
        if waits(pod) {
            // Pods that run may have been made when the job had another size.
            self.size = self.size.max(size(pod));
            self.priority = self.priority.max(priority(pod, classes));
            self.since_ms = self.since_ms.min(created_ms(pod));
            self.waiting.push(pod);
        } else if phase(pod) != "Failed" {
            self.placed += 1;
            self.idle.extend((!has_started(pod)).then_some(pod));
            self.held.extend(holds_room(pod).then_some(pod));
        }
    }

    /// With how many of those that hold room it goes on, if others need the rest.
    pub(super) fn least(&self) -> usize {
        let told = |pod: &&Pod| annotation(pod, label::GANG_LEAST)?.parse::<usize>().ok();
        let least: Option<Vec<usize>> = self.held.iter().map(told).collect();
        let least = least.and_then(|least| least.into_iter().max()).unwrap_or(usize::MAX);
        least.max(self.size).min(self.held.len())
    }

    /// The priority of those that have places.
    pub(super) fn held_priority(&self, classes: &BTreeMap<String, i32>) -> i64 {
        self.held.iter().map(|pod| priority(pod, classes)).max().unwrap_or(0)
    }
}

pub(super) fn created_ms(pod: &Pod) -> i64 {
    pod.metadata.creation_timestamp.as_ref().map_or(0, instant::ms)
}

pub(super) fn annotation<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub(super) fn pod_label<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod str> {
    pod.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn gang_name(pod: &Pod) -> &str {
    annotation(pod, label::GANG).or(pod.metadata.name.as_deref()).unwrap_or_default()
}

/// A pod without a gang is a gang of its own, told apart by its uid.
fn key(pod: &Pod) -> Key<'_> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str());
    let uid = pod.metadata.uid.as_deref();
    let group = if annotation(pod, label::GANG).is_some() { owner } else { uid };
    (pod.metadata.namespace.as_deref().unwrap_or_default(), group.unwrap_or_default(), gang_name(pod))
}

pub(super) fn size(pod: &Pod) -> usize {
    annotation(pod, label::GANG_SIZE).and_then(|size| size.parse().ok()).unwrap_or(1)
}

fn index(pod: &Pod) -> u64 {
    pod_label(pod, label::REPLICA_INDEX).and_then(|index| index.parse().ok()).unwrap_or(0)
}

fn priority(pod: &Pod, classes: &BTreeMap<String, i32>) -> i64 {
    let spec = pod.spec.as_ref();
    let number = annotation(pod, label::PRIORITY).and_then(|text| text.parse().ok());
    let gang_class = || annotation(pod, label::PRIORITY_CLASS).and_then(|class| classes.get(class)).copied();
    let own = || spec.and_then(|spec| spec.priority);
    let own_class = || classes.get(spec?.priority_class_name.as_ref()?).copied();
    number.or_else(gang_class).or_else(own).or_else(own_class).map_or(0, i64::from)
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn waits(pod: &Pod) -> bool {
    node_name(pod).is_none() && phase(pod) == "Pending"
}

/// A pod holds its resources until it has ended, also while it is being deleted.
fn holds_room(pod: &Pod) -> bool {
    node_name(pod).is_some() && !has_ended(pod)
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a process of the pod runs, or has run.
fn has_started(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let mut states = containers.flat_map(|container| container.state.iter().chain(&container.last_state));
    phase(pod) != "Pending" || states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// When a pod that has a node got it, as far as that is known.
pub(super) fn began_ms(pod: &Pod) -> i64 {
    started_ms(pod).unwrap_or_else(|| created_ms(pod))
}

/// When its node took a pod in, if it has said so.
pub(super) fn started_ms(pod: &Pod) -> Option<i64> {
    pod.status.as_ref()?.start_time.as_ref().map(instant::ms)
}

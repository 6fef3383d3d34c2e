//! Which pods wait together, and what is free.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::GangView;
use super::demand::{self, Amounts};
use crate::{instant, label};

/// A gang of which some pods wait.
#[derive(Clone, Debug)]
pub(super) struct Gang<'view> {
    pub(super) namespace: &'view str,
    pub(super) name: &'view str,
    /// Pods without a node, by index.
    pub(super) waiting: Vec<&'view Pod>,
    /// Pods that have a node, or have ended with success.
    pub(super) placed: usize,
    /// Those of them that have a node and no process so far.
    pub(super) idle: Vec<&'view Pod>,
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

/// The gangs of which some pods wait, in the order of their turn: those of which a part has a place already, then by
/// priority, then by age, then by name.
pub(super) fn gangs(view: &GangView) -> Vec<Gang<'_>> {
    let mut gangs: BTreeMap<Key<'_>, Gang<'_>> = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let gang = gangs.entry(key(pod)).or_insert_with(|| Gang {
            namespace: namespace(pod),
            name: gang_name(pod),
            waiting: Vec::new(),
            placed: 0,
            idle: Vec::new(),
            size: 1,
            priority: i64::MIN,
            since_ms: i64::MAX,
            youngest_ms: 0,
        });
        gang.youngest_ms = gang.youngest_ms.max(created_ms(pod));
        if waits(pod) {
            // Pods that run may have been made when the job had another size.
            gang.size = gang.size.max(size(pod));
            gang.priority = gang.priority.max(priority(pod, &view.priority_classes));
            gang.since_ms = gang.since_ms.min(created_ms(pod));
            gang.waiting.push(pod);
        } else if phase(pod) != "Failed" {
            gang.placed += 1;
            gang.idle.extend((!has_started(pod)).then_some(pod));
        }
    }
    let mut gangs: Vec<Gang<'_>> = gangs.into_values().filter(|gang| !gang.waiting.is_empty()).collect();
    for gang in &mut gangs {
        gang.waiting.sort_by_key(|pod| (index(pod), pod.metadata.name.as_deref(), pod.metadata.uid.as_deref()));
    }
    gangs.sort_by(|left, right| turn(left).cmp(&turn(right)));
    gangs
}

fn turn<'gang>(gang: &'gang Gang<'_>) -> (bool, std::cmp::Reverse<i64>, i64, &'gang str, &'gang str) {
    (gang.placed == 0, std::cmp::Reverse(gang.priority), gang.since_ms, gang.namespace, gang.name)
}

fn created_ms(pod: &Pod) -> i64 {
    pod.metadata.creation_timestamp.as_ref().map_or(0, instant::ms)
}

fn annotation<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
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
    (namespace(pod), group.unwrap_or_default(), gang_name(pod))
}

fn size(pod: &Pod) -> usize {
    annotation(pod, label::GANG_SIZE).and_then(|size| size.parse().ok()).unwrap_or(1)
}

fn index(pod: &Pod) -> u64 {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(label::REPLICA_INDEX));
    label.and_then(|index| index.parse().ok()).unwrap_or(0)
}

fn priority(pod: &Pod, classes: &BTreeMap<String, i32>) -> i64 {
    let spec = pod.spec.as_ref();
    let number = annotation(pod, label::PRIORITY).and_then(|text| text.parse().ok());
    let gang_class = || annotation(pod, label::PRIORITY_CLASS).and_then(|class| classes.get(class)).copied();
    let own = || spec.and_then(|spec| spec.priority);
    let own_class = || classes.get(spec?.priority_class_name.as_ref()?).copied();
    number.or_else(gang_class).or_else(own).or_else(own_class).map_or(0, i64::from)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn waits(pod: &Pod) -> bool {
    pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) && phase(pod) == "Pending"
}

/// Whether a process of the pod runs, or has run.
fn has_started(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let mut states = containers.flat_map(|container| container.state.iter().chain(&container.last_state));
    phase(pod) != "Pending" || states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// A node and what is free on it.
#[derive(Clone, Debug)]
pub(super) struct Site<'view> {
    pub(super) node: &'view Node,
    pub(super) name: &'view str,
    pub(super) allocatable: Amounts,
    pub(super) free: Amounts,
}

/// All nodes by name, less what the pods that are bound to them hold. A pod holds its resources until it has ended, also
/// while it is being deleted.
pub(super) fn sites(view: &GangView) -> Vec<Site<'_>> {
    let mut sites: BTreeMap<&str, Site<'_>> = view
        .nodes
        .iter()
        .map(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let allocatable = demand::of_node(node);
            (name, Site { node, name, free: allocatable.clone(), allocatable })
        })
        .collect();
    for pod in view.pods.iter().filter(|pod| !matches!(phase(pod), "Succeeded" | "Failed")) {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
        if let Some(site) = sites.get_mut(node) {
            demand::subtract(&mut site.free, &demand::of_pod(pod).unwrap_or_default(), 1);
        }
    }
    sites.into_values().collect()
}

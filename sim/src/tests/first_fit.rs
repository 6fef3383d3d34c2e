//! A second opinion on placing: first fit, in the order of names. Slow and simple, and written from the rules alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use trainyard_coordinator_core::gang::{GangView, Placement};
use trainyard_coordinator_core::label;
use trainyard_proto::plan::{Action, Fence, Plan};

use crate::workload::{NODE_CPU, NODE_GPU, object_ref};

/// CPUs and GPUs that are free, by node.
type Room = BTreeMap<String, (i64, i64)>;

fn need(pod: &Pod, what: &str) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let amounts =
        containers.filter_map(|one| one.resources.as_ref()?.requests.as_ref()?.get(what)?.0.parse::<i64>().ok());
    amounts.sum()
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn bound(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

fn ran(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.container_statuses.is_some())
}

fn annotation<'pod>(pod: &'pod Pod, key: &str) -> Option<&'pod String> {
    pod.metadata.annotations.as_ref()?.get(key)
}

fn room(view: &GangView) -> Room {
    let nodes = view.nodes.iter().filter(|node| ready(node));
    let mut free: Room = nodes.map(|node| (node.metadata.name.clone().unwrap(), (NODE_CPU, NODE_GPU))).collect();
    for pod in view.pods.iter().filter(|pod| !ended(pod)) {
        if let Some(room) = bound(pod).and_then(|node| free.get_mut(node)) {
            room.0 -= need(pod, "cpu");
            room.1 -= need(pod, "nvidia.com/gpu");
        }
    }
    free
}

/// The gangs that are complete; one that was placed in part goes first: its room may still be there.
fn gangs(view: &GangView) -> Vec<Vec<&Pod>> {
    let mut gangs: BTreeMap<(&str, &str), Vec<&Pod>> = BTreeMap::new();
    for pod in &view.pods {
        let name = pod.metadata.name.as_ref().unwrap();
        let owner = pod.metadata.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).next();
        gangs.entry((annotation(pod, label::GANG).unwrap_or(name), owner.unwrap_or_default())).or_default().push(pod);
    }
    let size = |pod: &&Pod| annotation(pod, label::GANG_SIZE).and_then(|size| size.parse().ok()).unwrap_or(1);
    let complete = |pods: &Vec<&Pod>| {
        let minimum = pods.iter().filter(|pod| bound(pod).is_none()).map(size).max();
        minimum.is_some_and(|minimum| pods.len() >= minimum)
            && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none())
    };
    let mut gangs: Vec<Vec<&Pod>> = gangs.into_values().filter(complete).collect();
    gangs.sort_by_key(|pods| !pods.iter().any(|pod| bound(pod).is_some()));
    gangs
}

/// A binding for one pod, the room for which is taken.
fn bind(pod: &Pod, free: &mut Room) -> Option<Action> {
    let (cpu, gpu) = (need(pod, "cpu"), need(pod, "nvidia.com/gpu"));
    let (node, room) = free.iter_mut().find(|(_, room)| room.0 >= cpu && room.1 >= gpu)?;
    room.0 -= cpu;
    room.1 -= gpu;
    Some(Action::Bind {
        pod: object_ref("v1", "Pod", "default", pod.metadata.name.as_deref()?),
        fence: Fence { uid: pod.metadata.uid.clone(), resource_version: None },
        node: node.clone(),
    })
}

fn take_back(pod: &Pod) -> Action {
    Action::Delete {
        object: object_ref("v1", "Pod", "default", pod.metadata.name.as_deref().unwrap()),
        fence: Fence { uid: pod.metadata.uid.clone(), resource_version: pod.metadata.resource_version.clone() },
        grace_seconds: None,
        reason: "its gang does not fit any more".to_owned(),
    }
}

pub(super) fn place(view: &GangView, _now_ms: i64) -> Placement {
    let mut free = room(view);
    let mut actions = Vec::new();
    for pods in gangs(view) {
        let mut trial = free.clone();
        let waiting = pods.iter().filter(|pod| bound(pod).is_none());
        let binds: Option<Vec<Action>> = waiting.map(|pod| bind(pod, &mut trial)).collect();
        if let Some(binds) = binds {
            free = trial;
            actions.extend(binds);
        } else if pods.iter().all(|pod| !ran(pod)) {
            // Its room is gone, so its placing is taken back.
            actions.extend(pods.iter().filter(|pod| bound(pod).is_some()).map(|pod| take_back(pod)));
        }
    }
    Placement { plan: Plan { actions, ..Plan::default() }, ..Placement::default() }
}

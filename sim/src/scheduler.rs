//! The scheduler of a cluster: it gives a node to each pod that waits at no gate, and knows nothing of gangs.

use rand::RngExt as _;
use serde_json::Value;
use trainyard_coordinator_core::label;
use trainyard_runtime_core::store::{Key, Object};

use crate::agent::has_ended;
use crate::api::{Api, at};
use crate::invariant::{amount, bound_to};
use crate::workload::{NODE_CPU, NODE_GPU, NODE_PODS};
use crate::world::World;

/// What is left of a node.
struct Room {
    node: String,
    cpu: i64,
    gpu: i64,
    pods: i64,
}

/// CPUs and GPUs.
fn asks(pod: &Object) -> (i64, i64) {
    let containers = at(pod.value(), &["spec", "containers"]).and_then(Value::as_array).into_iter().flatten();
    let requests = containers.map(|container| &container["resources"]["requests"]);
    requests.fold((0, 0), |(cpu, gpu), one| (cpu + amount(&one["cpu"]), gpu + amount(&one["nvidia.com/gpu"])))
}

fn is_ready(node: &Object) -> bool {
    let conditions = at(node.value(), &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn rooms(api: &Api) -> Vec<Room> {
    let nodes = api.of_kind("v1", "Node").filter(|node| is_ready(node));
    let room = |node: &std::sync::Arc<Object>| Room {
        node: node.key().name.to_string(),
        cpu: NODE_CPU,
        gpu: NODE_GPU,
        pods: NODE_PODS,
    };
    let mut rooms: Vec<Room> = nodes.map(room).collect();
    for pod in api.of_kind("v1", "Pod").filter(|pod| !has_ended(pod)) {
        if let Some(room) = rooms.iter_mut().find(|room| bound_to(pod) == Some(&room.node)) {
            let (cpu, gpu) = asks(pod);
            (room.cpu, room.gpu, room.pods) = (room.cpu - cpu, room.gpu - gpu, room.pods - 1);
        }
    }
    rooms
}

fn waits(pod: &Object) -> bool {
    let gates = at(pod.value(), &["spec", "schedulingGates"]).and_then(Value::as_array);
    let scheduler = at(pod.value(), &["spec", "schedulerName"]).and_then(Value::as_str);
    bound_to(pod).is_none()
        && gates.is_none_or(Vec::is_empty)
        && !pod.is_deleting()
        && !has_ended(pod)
        && scheduler != Some(label::SCHEDULER_NAME)
}

/// The nodes that it may get.
fn fitting(pod: &Object, rooms: &[Room]) -> Vec<String> {
    let (cpu, gpu) = asks(pod);
    let wanted = at(pod.value(), &["spec", "nodeSelector", "kubernetes.io/hostname"]).and_then(Value::as_str);
    let fits = |room: &&Room| {
        room.cpu >= cpu && room.gpu >= gpu && room.pods > 0 && wanted.is_none_or(|wanted| wanted == room.node)
    };
    rooms.iter().filter(fits).map(|room| room.node.clone()).collect()
}

impl World {
    /// One pod that waits gets a node; `false` if none can have one.
    pub(crate) fn bind_one(&mut self) -> bool {
        if !self.estate.is_cluster {
            return false;
        }
        let rooms = rooms(&self.api);
        let stuck = &self.estate.stuck;
        let waiting = self.api.of_kind("v1", "Pod").filter(|pod| waits(pod) && stuck.get(&**pod.uid()) != Some(&true));
        let found: Vec<(Key, String, Vec<String>)> = waiting
            .map(|pod| (pod.key().clone(), pod.uid().to_string(), fitting(pod, &rooms)))
            .filter(|(_, _, nodes)| !nodes.is_empty())
            .collect();
        if found.is_empty() {
            return false;
        }
        let (key, uid, nodes) = found[self.estate.rng.random_range(0..found.len())].clone();
        let node = &nodes[self.estate.rng.random_range(0..nodes.len())];
        let bound = self.api.bind(self.now_ms, &key, Some(&uid), node).is_ok();
        self.report.bound += u64::from(bound);
        self.say(|| format!("the scheduler binds {} to {node}: {bound}", key.name));
        // A disk that is full is tried again.
        true
    }

    /// The same in the rough part: it has other things to do, and some pods never get a node.
    pub(crate) fn rough_bind(&mut self) {
        if !self.estate.is_cluster || self.estate.rng.random_range(0..3) > 0 {
            return;
        }
        let new: Vec<String> = self
            .api
            .of_kind("v1", "Pod")
            .filter(|pod| waits(pod) && !self.estate.stuck.contains_key(&**pod.uid()))
            .map(|pod| pod.uid().to_string())
            .collect();
        for uid in new {
            let is_stuck = self.estate.rng.random_range(0..10) == 0;
            self.estate.stuck.insert(uid, is_stuck);
        }
        self.bind_one();
    }
}

//! The gang scheduler's shell: one key for the whole machine, since every gang competes with every other.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use trainyard_coordinator_core::gang::{GangView, place};
use trainyard_proto::plan::{Action, Plan};
use trainyard_runtime::driver::{Controller, Key, Queue};

use crate::cluster::{Cluster, Embedded, traceparent};

fn whole() -> Key {
    Key::new("", "gangs")
}

pub(crate) fn controller(cluster: &Cluster) -> Controller {
    let queue = Queue::default();
    queue.wake(whole());
    let wake = queue.clone();
    cluster.pods.subscribe(move |old, new| {
        if old.map(|pod| placing(pod)) != new.map(|pod| placing(pod)) {
            wake.wake(whole());
        }
    });
    if let Some(embedded) = &cluster.embedded {
        let wake = queue.clone();
        embedded.nodes.subscribe(move |old, new| {
            if old.map(|node| offering(node)) != new.map(|node| offering(node)) {
                wake.wake(whole());
            }
        });
        let wake = queue.clone();
        embedded.priority_classes.subscribe(move |_, _| wake.wake(whole()));
    }
    let (planning, tracing) = (cluster.clone(), cluster.clone());
    Controller {
        name: "gangs",
        plan: Arc::new(move |_, now_ms| planning.embedded.as_ref().map(|embedded| plan(&planning, embedded, now_ms))),
        trace: Arc::new(move |_, action| {
            if let Action::Bind { pod, .. } = action? {
                traceparent(&tracing.pods.get(&Key::from(pod))?.metadata)
            } else {
                None
            }
        }),
        target: cluster.target("gangs"),
        queue,
    }
}

/// What placing looks at in a pod. Progress and container states change often and do not matter here; what the
/// scheduler itself wrote (the condition) does, so that its own write is seen.
fn placing(pod: &Pod) -> impl PartialEq + use<> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let condition = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "PodScheduled"))
        .map(|condition| (condition.status.clone(), condition.message.clone()));
    let spec = pod.spec.as_ref();
    (
        pod.metadata.uid.clone(),
        pod.metadata.deletion_timestamp.clone(),
        spec.and_then(|spec| spec.node_name.clone()),
        spec.and_then(|spec| spec.scheduling_gates.clone()),
        phase,
        condition,
    )
}

/// What placing looks at in a node: not its heartbeat.
fn offering(node: &Node) -> impl PartialEq + use<> {
    let status = node.status.as_ref();
    let conditions: Vec<(String, String)> = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .map(|condition| (condition.type_.clone(), condition.status.clone()))
        .collect();
    (
        node.metadata.uid.clone(),
        node.metadata.labels.clone(),
        node.metadata.deletion_timestamp.clone(),
        node.spec.clone(),
        status.and_then(|status| status.allocatable.clone()),
        conditions,
    )
}

fn plan(cluster: &Cluster, embedded: &Embedded, now_ms: i64) -> Plan {
    let classes = embedded.priority_classes.list();
    let view = GangView {
        nodes: embedded.nodes.list().iter().map(|node| Node::clone(node)).collect(),
        pods: cluster.pods.list().iter().map(|pod| Pod::clone(pod)).collect(),
        priority_classes: classes
            .iter()
            .filter_map(|class| Some((class.metadata.name.clone()?, class.value)))
            .collect(),
    };
    place(&view, now_ms).plan
}

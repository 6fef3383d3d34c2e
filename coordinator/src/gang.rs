//! The gang scheduler's shell: one key for all, since every gang competes with every other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use trainyard_coordinator_core::gang::cluster::{ClusterView, Owner, place_on_cluster};
use trainyard_coordinator_core::gang::{GangView, place};
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::dialects;
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_runtime::driver::{Controller, Key, Queue};

use crate::cluster::{Cluster, Gangs, as_value, traceparent};

fn whole() -> Key {
    Key::new("", "gangs")
}

/// None where pods do not wait for each other.
pub(crate) fn controller(cluster: &Cluster) -> Option<Controller> {
    let gangs = cluster.gangs.clone()?;
    let queue = Queue::default();
    queue.wake(whole());
    let wake = queue.clone();
    cluster.pods.subscribe(move |old, new| {
        if old.map(|pod| placing(pod)) != new.map(|pod| placing(pod)) {
            wake.wake(whole());
        }
    });
    let wake = queue.clone();
    gangs.nodes.subscribe(move |old, new| {
        if old.map(|node| offering(node)) != new.map(|node| offering(node)) {
            wake.wake(whole());
        }
    });
    let wake = queue.clone();
    gangs.priority_classes.subscribe(move |_, _| wake.wake(whole()));
    for (_, queues) in gangs.queues.iter() {
        let wake = queue.clone();
        queues.subscribe(move |_, _| wake.wake(whole()));
    }
    if let Some(namespaces) = &gangs.namespaces {
        let wake = queue.clone();
        namespaces.subscribe(move |old, new| {
            if old.map(|one| labels(one)) != new.map(|one| labels(one)) {
                wake.wake(whole());
            }
        });
    }
    let (planning, tracing) = (cluster.clone(), cluster.clone());
    Some(Controller {
        name: "gangs",
        plan: Arc::new(move |_, now_ms| Some(plan(&planning, &gangs, now_ms))),
        trace: Arc::new(move |_, action| {
            if let Action::Bind { pod, .. } = action? {
                traceparent(&tracing.pods.get(&Key::from(pod))?.metadata)
            } else {
                None
            }
        }),
        target: cluster.target("gangs"),
        queue,
    })
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
        [label::PREEMPTED, label::RESERVATION].map(|name| pod.metadata.annotations.as_ref()?.get(name).cloned()),
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

fn plan(cluster: &Cluster, gangs: &Gangs, now_ms: i64) -> Plan {
    let classes = gangs.priority_classes.list();
    let view = GangView {
        nodes: gangs.nodes.list().iter().map(|node| Node::clone(node)).collect(),
        pods: cluster.pods.list().iter().map(|pod| Pod::clone(pod)).collect(),
        priority_classes: classes
            .iter()
            .filter_map(|class| Some((class.metadata.name.clone()?, class.value)))
            .collect(),
        queues: gangs
            .queues
            .iter()
            .flat_map(|((version, kind), objects)| {
                objects.list().into_iter().map(move |object| as_value(&object, version, kind))
            })
            .collect(),
        namespaces: gangs.namespaces.iter().flat_map(|all| all.list()).filter_map(|one| labels(&one)).collect(),
    };
    match gangs.patience {
        None => place(&view, now_ms).plan,
        Some(patience) => place_on_cluster(&on_cluster(cluster, view, patience), now_ms).plan,
    }
}

fn labels(namespace: &Namespace) -> Option<(String, BTreeMap<String, String>)> {
    Some((namespace.metadata.name.clone()?, namespace.metadata.labels.clone().unwrap_or_default()))
}

/// With what jobs say was decided for them.
fn on_cluster(cluster: &Cluster, gangs: GangView, patience: Duration) -> ClusterView {
    let mut owners = BTreeMap::new();
    for info in dialects().iter().map(|dialect| dialect.info()) {
        let jobs = cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned()));
        for job in jobs.map(|jobs| jobs.list()).unwrap_or_default() {
            let meta = &job.metadata;
            let object = ObjectRef {
                api_version: info.api_version.to_owned(),
                kind: info.kind.to_owned(),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            };
            owners.insert(meta.uid.clone().unwrap_or_default(), Owner::read(object, meta.annotations.as_ref()));
        }
    }
    ClusterView { gangs, owners, patience_ms: i64::try_from(patience.as_millis()).unwrap_or(i64::MAX) }
}

//! The shells of the stand-ins for `apps/v1`.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use trainyard_coordinator_core::standin::{deployment, replicaset};
use trainyard_proto::plan::Plan;
use trainyard_runtime::driver::{Controller, Key};

use crate::cluster::{Cluster, owner, traceparent};

pub(crate) fn controllers(cluster: &Cluster) -> Vec<Controller> {
    let Some(embedded) = &cluster.embedded else { return Vec::new() };
    let (set_queue, deployment_queue) =
        (cluster.queue("apps/v1", "ReplicaSet"), cluster.queue("apps/v1", "Deployment"));
    Cluster::wake_self(&embedded.sets, &set_queue);
    Cluster::wake_self(&embedded.deployments, &deployment_queue);
    cluster.wake_owners(&embedded.sets);
    // `Recreate` waits for pods to vanish, which no set's status shows.
    let (sets, wake) = (embedded.sets.clone(), deployment_queue.clone());
    cluster.pods.subscribe(move |old, new| {
        if let (Some(gone), None) = (old, new)
            && let Some((_, set)) = owner(&gone.metadata)
            && let Some(set) = sets.get(&set)
            && let Some((_, deployment)) = owner(&set.metadata)
        {
            wake.wake(deployment);
        }
    });
    let (for_sets, for_deployments) = (cluster.clone(), cluster.clone());
    let (set_traces, deployment_traces) = (embedded.sets.clone(), embedded.deployments.clone());
    vec![
        Controller {
            name: "replicasets",
            plan: Arc::new(move |key, now_ms| plan_set(&for_sets, key, now_ms)),
            trace: Arc::new(
                move |key, action| {
                    if action.is_some() { None } else { traceparent(&set_traces.get(key)?.metadata) }
                },
            ),
            target: cluster.target("replicasets"),
            queue: set_queue,
        },
        Controller {
            name: "deployments",
            plan: Arc::new(move |key, now_ms| plan_deployment(&for_deployments, key, now_ms)),
            trace: Arc::new(
                move |key, action| {
                    if action.is_some() { None } else { traceparent(&deployment_traces.get(key)?.metadata) }
                },
            ),
            target: cluster.target("deployments"),
            queue: deployment_queue,
        },
    ]
}

fn plan_set(cluster: &Cluster, key: &Key, now_ms: i64) -> Option<Plan> {
    let set = cluster.embedded.as_ref()?.sets.get(key)?;
    let pods = cluster.pods.owned_by(set.metadata.uid.as_deref()?);
    let view = replicaset::View { set: &set, pods: pods.iter().map(Arc::as_ref).collect() };
    Some(replicaset::plan(&view, now_ms))
}

fn plan_deployment(cluster: &Cluster, key: &Key, now_ms: i64) -> Option<Plan> {
    let embedded = cluster.embedded.as_ref()?;
    let deployment = embedded.deployments.get(key)?;
    let sets = embedded.sets.owned_by(deployment.metadata.uid.as_deref()?);
    let uids = sets.iter().filter_map(|set: &Arc<ReplicaSet>| set.metadata.uid.as_deref());
    let pods: Vec<_> = uids.flat_map(|uid| cluster.pods.owned_by(uid)).collect();
    let view = deployment::View {
        deployment: &deployment,
        sets: sets.iter().map(Arc::as_ref).collect(),
        pods: pods.iter().map(Arc::as_ref).collect(),
    };
    Some(deployment::plan(&view, now_ms))
}

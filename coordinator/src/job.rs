//! The job controllers: one for each dialect, all over `coordinator_core::job::plan`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::core::ObjectMeta;
use serde_json::Value;
use trainyard_coordinator_core::job;
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::{Dialect, dialects};
use trainyard_coordinator_core::view::JobView;
use trainyard_proto::plan::{ObjectRef, Plan};
use trainyard_runtime::driver::cache::Cacheable;
use trainyard_runtime::driver::{Cache, Controller, Key, as_value};
use trainyard_runtime::sockets;

use crate::cluster::{Cluster, traceparent};
use crate::gang::{controller_uid, phase};
use crate::pace::Pace;
use crate::rendezvous::Hub;

pub(crate) fn controllers(cluster: &Cluster, hub: Option<&Hub>) -> Vec<Controller> {
    wake_by_nodes(cluster);
    let pace: Arc<Pace> = Arc::default();
    dialects().iter().map(|dialect| controller(cluster, hub, &pace, *dialect)).collect()
}

/// A node that goes out of reach, or is gone, wakes the jobs of its pods.
fn wake_by_nodes(cluster: &Cluster) {
    let Some(nodes) = cluster.reachable_nodes() else { return };
    let cluster = cluster.clone();
    nodes.subscribe(move |old, new| {
        let is_lost = |node: Option<&Arc<Node>>| node.is_none_or(|node| job::is_out_of_reach(node));
        let Some(name) = new.or(old).and_then(|node| node.metadata.name.as_deref()) else { return };
        if is_lost(new) && (old.is_none() || !is_lost(old)) {
            let on_it = |pod: &Arc<Pod>| node_of(pod) == Some(name);
            cluster.pods.list().into_iter().filter(on_it).for_each(|pod| cluster.wake_owner(&pod.metadata));
        }
    });
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Nodes of these pods of which nothing can be asked. On one machine there is no such thing.
fn silent_nodes(cluster: &Cluster, pods: &[Pod]) -> BTreeSet<String> {
    let Some(nodes) = cluster.reachable_nodes() else { return BTreeSet::new() };
    let named: BTreeSet<&str> = pods.iter().filter_map(node_of).collect();
    let is_silent = |name: &&str| nodes.get(&Key::new("", *name)).is_none_or(|node| job::is_out_of_reach(&node));
    named.into_iter().filter(is_silent).map(str::to_owned).collect()
}

fn controller(cluster: &Cluster, hub: Option<&Hub>, pace: &Arc<Pace>, dialect: &'static dyn Dialect) -> Controller {
    let info = dialect.info();
    let queue = cluster.queue(info.api_version, info.kind);
    let jobs = cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned()));
    if let Some(jobs) = jobs {
        Cluster::wake_self(jobs, &queue);
    }
    wake_by_related(cluster, dialect);
    let (planning, tracing, hub, pace) = (cluster.clone(), cluster.clone(), hub.cloned(), Arc::clone(pace));
    Controller {
        name: info.plural,
        plan: Arc::new(move |key, now_ms| plan(&planning, hub.as_ref(), &pace, dialect, key, now_ms)),
        trace: Arc::new(move |key, action| {
            // Actions are children of their plan's span, which is in the job's trace.
            if action.is_some() {
                return None;
            }
            let jobs = tracing.custom.get(&(info.api_version.to_owned(), info.kind.to_owned()))?;
            traceparent(&jobs.get(key)?.metadata)
        }),
        target: cluster.target(info.plural),
        queue,
    }
}

/// Jobs wait for what they refer to (a training runtime, say): its arrival or change wakes them.
fn wake_by_related(cluster: &Cluster, dialect: &'static dyn Dialect) {
    let info = dialect.info();
    let own = (info.api_version.to_owned(), info.kind.to_owned());
    let Some(jobs) = cluster.custom.get(&own) else { return };
    for (of, cache) in cluster.custom.iter().filter(|(of, _)| of.1.ends_with("TrainingRuntime")) {
        let (of, jobs, queue) = (of.clone(), jobs.clone(), cluster.queue(info.api_version, info.kind));
        cache.subscribe(move |old, new| {
            let Some(changed) = new.or(old) else { return };
            for job in jobs.list() {
                let related = dialect.related(&as_value(&job, info.api_version, info.kind));
                let meant = related.iter().any(|object| {
                    object.kind == of.1 && Some(object.name.as_str()) == changed.metadata.name.as_deref()
                });
                if meant {
                    queue.wake(crate::cluster::key(&job.metadata));
                }
            }
        });
    }
}

fn plan(
    cluster: &Cluster,
    hub: Option<&Hub>,
    pace: &Pace,
    dialect: &dyn Dialect,
    key: &Key,
    now_ms: i64,
) -> Option<Plan> {
    let view = view(cluster, hub, dialect, key)?;
    let uid = view.job["metadata"]["uid"].as_str().unwrap_or_default();
    Some(pace.paced(uid, job::plan(&view, now_ms), now_ms))
}

/// What a job is planned from, as the caches show it.
pub(crate) fn view(cluster: &Cluster, hub: Option<&Hub>, dialect: &dyn Dialect, key: &Key) -> Option<JobView> {
    let info = dialect.info();
    let job = cluster.custom_object(&ObjectRef {
        api_version: info.api_version.to_owned(),
        kind: info.kind.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    })?;
    let uid = job["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let pods = of_job(&cluster.pods, &uid, key);
    let own = dialect.extra_kinds().iter().map(|extra| (extra.api_version.to_owned(), extra.kind));
    let peers = cluster.view_config.peers.kinds().into_iter().map(|peer| (peer.api_version, peer.kind));
    let extras = own.chain(peers).flat_map(|(version, kind)| {
        let cache = cluster.custom.get(&(version.clone(), kind.to_owned()));
        let owned = cache.map(|cache| cache.owned_by(&uid)).unwrap_or_default();
        owned.into_iter().map(|object| as_value(&object, &version, kind)).collect::<Vec<_>>()
    });
    let related = dialect.related(&job);
    let related = related.iter().filter_map(|object| cluster.custom_object(object));
    // Only a job that is about to get its pods chooses a port, and only where pods share those of the machine.
    let chooses = pods.is_empty() && cluster.view_config.embedded;
    Some(JobView {
        rendezvous: hub.and_then(|hub| hub.view(&uid)),
        extras: extras.collect(),
        related: related.chain(flavors(cluster)).collect(),
        services: of_job(&cluster.services, &uid, key),
        busy_ports: if chooses { busy_ports(cluster, &uid) } else { BTreeSet::new() },
        silent_nodes: silent_nodes(cluster, &pods),
        pods,
        config: cluster.view_config.clone(),
        job,
    })
}

/// Objects that the job controls, and those that stand where its own would go: all are named `<job>` or `<job>-…`.
fn of_job<K: Cacheable>(cache: &Cache<K>, uid: &str, key: &Key) -> Vec<K> {
    let mut found: BTreeMap<Key, Arc<K>> = BTreeMap::new();
    let near = cache.named(&key.namespace, &format!("{}-", key.name));
    for object in cache.owned_by(uid).into_iter().chain(near).chain(cache.get(key)) {
        found.insert(crate::cluster::key(object.meta()), object);
    }
    found.into_values().map(Arc::unwrap_or_clone).collect()
}

/// Where Kueue sends pods. There are few of them.
fn flavors(cluster: &Cluster) -> Vec<Value> {
    let Some(version) = &cluster.view_config.peers.kueue else { return Vec::new() };
    let cache = cluster.custom.get(&(version.clone(), "ResourceFlavor".to_owned()));
    let all = cache.map(|cache| cache.list()).unwrap_or_default();
    all.iter().map(|flavor| as_value(flavor, version, "ResourceFlavor")).collect()
}

fn is_owned(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

fn busy_ports(cluster: &Cluster, uid: &str) -> BTreeSet<u16> {
    let mut ports = sockets::listening_ports();
    ports.extend(kept_ports(&cluster.pods.list(), &cluster.services.list(), uid));
    ports
}

/// The ports that other jobs have, by their pods and services. One that has succeeded leaves its port to others, also where it is kept: there
/// may be more such jobs than ports.
fn kept_ports(pods: &[Arc<Pod>], services: &[Arc<Service>], uid: &str) -> BTreeSet<u16> {
    let has_succeeded = |pod: &Pod| phase(pod) == Some("Succeeded");
    let owners = |wanted: bool| -> HashSet<&str> {
        let pods = pods.iter().filter(|pod| has_succeeded(pod) == wanted);
        pods.filter_map(|pod| controller_uid(&pod.metadata)).collect()
    };
    let (done, open) = (owners(true), owners(false));
    let is_over = |service: &Service| {
        controller_uid(&service.metadata).is_some_and(|uid| done.contains(uid) && !open.contains(uid))
    };
    let of_others = |meta: &ObjectMeta| -> Option<u16> {
        if is_owned(meta, uid) { None } else { meta.annotations.as_ref()?.get(label::MASTER_PORT)?.parse().ok() }
    };
    let of_pods = pods.iter().filter(|pod| !has_succeeded(pod)).filter_map(|pod| of_others(&pod.metadata));
    let of_services = services.iter().filter(|one| !is_over(one)).filter_map(|one| of_others(&one.metadata));
    of_pods.chain(of_services).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_that_has_succeeded_leaves_its_port_to_others() {
        fn object<T: DeserializeOwned>(job: &str, port: u16, status: &serde_json::Value) -> Arc<T> {
            let owner = json!({"apiVersion": "v1", "kind": "TrainingJob", "name": job, "uid": job, "controller": true});
            let annotations = json!({label::MASTER_PORT: port.to_string()});
            let meta = json!({"name": job, "ownerReferences": [owner], "annotations": annotations});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).expect("an object"))
        }
        let jobs = [("done", 1, "Succeeded"), ("failed", 2, "Failed"), ("runs", 3, "Running"), ("own", 4, "Running")];
        let mut pods: Vec<Arc<Pod>> =
            jobs.iter().map(|(job, port, phase)| object(job, *port, &json!({"phase": phase}))).collect();
        pods.push(object("runs", 3, &json!({"phase": "Succeeded"})));
        let begins = ("begins", 5, "");
        let services: Vec<Arc<Service>> =
            jobs.iter().chain([&begins]).map(|(job, port, _)| object(job, *port, &json!({}))).collect();
        let ports = kept_ports(&pods, &services, "own");
        assert_eq!(ports, BTreeSet::from([2, 3, 5]), "one that failed may be run again, one without pods begins");
    }
}

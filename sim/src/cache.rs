//! What the controllers have seen, decoded once and kept in the shape in which the cores look at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use trainyard_coordinator_core::gang::cluster::{ClusterView, Owner};
use trainyard_coordinator_core::gang::{GangView, QUEUE_API_VERSION, QUEUE_KINDS};
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::{dialect, dialects};
use trainyard_coordinator_core::peer::Peers;
use trainyard_coordinator_core::standin;
use trainyard_coordinator_core::view::{Config, JobView};
use trainyard_proto::plan::Plan;
use trainyard_runtime_core::store::{Key, Object, Resource};

use crate::Cores;
use crate::control::Work;
use crate::workload::object_ref;

/// Objects of one kind by key, decoded.
type Table<T> = BTreeMap<Key, T>;

/// How long the scheduler of a cluster may take to bind a gang.
const PATIENCE_MS: i64 = 60_000;

/// All caches of one coordinator.
#[derive(Default)]
pub(crate) struct Caches {
    is_cluster: bool,
    objects: BTreeMap<Key, Arc<Object>>,
    /// Kept as the gang scheduler wants it, so that it need not be copied together for each plan.
    gangs: GangView,
    node_keys: Vec<Key>,
    pod_keys: Vec<Key>,
    queue_keys: Vec<Key>,
    services: Table<Service>,
    jobs: Table<Job>,
    sets: Table<ReplicaSet>,
    deployments: Table<Deployment>,
}

fn decode<T: DeserializeOwned>(object: &Object) -> Option<T> {
    T::deserialize(object.value()).ok()
}

/// Puts or removes one of some objects that are kept in the order of their keys.
fn file<T>(keys: &mut Vec<Key>, items: &mut Vec<T>, key: &Key, item: Option<T>) {
    match (keys.binary_search(key), item) {
        (Ok(at), Some(item)) => items[at] = item,
        (Ok(at), None) => {
            keys.remove(at);
            items.remove(at);
        }
        (Err(at), Some(item)) => {
            keys.insert(at, key.clone());
            items.insert(at, item);
        }
        (Err(_), None) => {}
    }
}

fn tabulate<T>(table: &mut Table<T>, key: &Key, item: Option<T>) {
    match item {
        Some(item) => drop(table.insert(key.clone(), item)),
        None => drop(table.remove(key)),
    }
}

impl Caches {
    pub(crate) fn new(is_cluster: bool) -> Self {
        Self { is_cluster, ..Self::default() }
    }

    /// The object as it was seen last.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub(crate) fn put(&mut self, object: &Arc<Object>) {
        self.take_over(object.key(), Some(object));
        self.objects.insert(object.key().clone(), Arc::clone(object));
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.take_over(key, None);
        self.objects.remove(key);
    }

    fn take_over(&mut self, key: &Key, object: Option<&Arc<Object>>) {
        match (&*key.resource.group, &*key.resource.plural) {
            ("", "pods") => {
                file(&mut self.pod_keys, &mut self.gangs.pods, key, object.and_then(|object| decode(object)));
            }
            ("", "nodes") => {
                file(&mut self.node_keys, &mut self.gangs.nodes, key, object.and_then(|object| decode(object)));
            }
            ("kueue.x-k8s.io", _) => {
                let value = object.map(|object| object.value().clone());
                file(&mut self.queue_keys, &mut self.gangs.queues, key, value);
            }
            ("scheduling.k8s.io", "priorityclasses") => {
                let name = key.name.to_string();
                let value = object.and_then(|object| object.value()["value"].as_i64());
                match value.and_then(|value| i32::try_from(value).ok()) {
                    Some(value) => drop(self.gangs.priority_classes.insert(name, value)),
                    None => drop(self.gangs.priority_classes.remove(&name)),
                }
            }
            ("", "services") => tabulate(&mut self.services, key, object.and_then(|object| decode(object))),
            ("batch", "jobs") => tabulate(&mut self.jobs, key, object.and_then(|object| decode(object))),
            ("apps", "replicasets") => tabulate(&mut self.sets, key, object.and_then(|object| decode(object))),
            ("apps", "deployments") => tabulate(&mut self.deployments, key, object.and_then(|object| decode(object))),
            _ => {}
        }
    }

    /// All pods.
    pub(crate) fn pods(&self) -> &[Pod] {
        &self.gangs.pods
    }

    /// What the core says about one key.
    pub(crate) fn decide(&self, cores: &Cores, work: &Work, now_ms: i64) -> Option<Plan> {
        let Work::Object { api_version, kind, namespace, name } = work else {
            let placement = if self.is_cluster {
                (cores.cluster)(&self.on_cluster(), now_ms)
            } else {
                (cores.gang)(&self.gangs, now_ms)
            };
            return Some(placement.plan);
        };
        let key = |group: &str, plural: &str| Key::new(Resource::new(group, plural), namespace.as_str(), name.as_str());
        match kind.as_str() {
            "Job" => {
                let job = self.jobs.get(&key("batch", "jobs"));
                let pods: Vec<&Pod> = self.pods().iter().filter(|pod| owned_by_name(pod, kind, name)).collect();
                (job.is_some() || !pods.is_empty()).then(|| (cores.batch)(&standin::job::View { job, pods }, now_ms))
            }
            "ReplicaSet" => {
                let set = self.sets.get(&key("apps", "replicasets"))?;
                let pods = self.pods().iter().filter(|pod| owned_by(&pod.metadata, &set.metadata)).collect();
                Some((cores.set)(&standin::replicaset::View { set, pods }, now_ms))
            }
            "Deployment" => {
                let deployment = self.deployments.get(&key("apps", "deployments"))?;
                let sets: Vec<&ReplicaSet> =
                    self.sets.values().filter(|set| owned_by(&set.metadata, &deployment.metadata)).collect();
                let of_sets = |pod: &&Pod| sets.iter().any(|set| owned_by(&pod.metadata, &set.metadata));
                let pods = self.pods().iter().filter(of_sets).collect();
                Some((cores.deployment)(&standin::deployment::View { deployment, sets: sets.clone(), pods }, now_ms))
            }
            _ => self.job_view(api_version, kind, namespace, name).map(|view| (cores.job)(&view, now_ms)),
        }
    }

    fn config(&self) -> Config {
        if !self.is_cluster {
            return Config::embedded();
        }
        let queues = QUEUE_KINDS.iter().map(|(kind, ..)| ((*kind).to_owned(), QUEUE_API_VERSION.to_owned()));
        Config { gangs: true, peers: Peers { queues: queues.collect(), ..Peers::default() }, ..Config::cluster() }
    }

    /// With what jobs say was decided for them.
    fn on_cluster(&self) -> ClusterView {
        let mut owners = BTreeMap::new();
        for info in dialects().iter().map(|dialect| dialect.info()) {
            let resource = Resource::new(info.group, info.plural);
            for job in self.objects.values().filter(|object| object.key().resource == resource) {
                let object = object_ref(info.api_version, info.kind, &job.key().namespace, &job.key().name);
                let annotation = job.annotation(label::PLACEMENT);
                let annotations =
                    annotation.map(|text| BTreeMap::from([(label::PLACEMENT.to_owned(), text.to_owned())]));
                let version = Some(job.resource_version().to_string());
                owners.insert(job.uid().to_string(), Owner::read(object, version, annotations.as_ref()));
            }
        }
        ClusterView { gangs: self.gangs.clone(), owners, drafts: BTreeMap::new(), patience_ms: PATIENCE_MS }
    }

    fn job_view(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<JobView> {
        let dialect = dialect(api_version, kind)?;
        let info = dialect.info();
        let job = self.objects.get(&Key::new(Resource::new(info.group, info.plural), namespace, name))?;
        let (uid, job_label) = (&**job.uid(), dialect.job_label());
        let ours = |meta: &ObjectMeta| {
            meta.labels.as_ref().and_then(|labels| labels.get(job_label)).is_some_and(|label| label == name)
                || controller_uid(meta) == Some(uid)
        };
        let (pods, other_pods): (Vec<&Pod>, Vec<&Pod>) = self.pods().iter().partition(|pod| ours(&pod.metadata));
        let (services, other_services): (Vec<&Service>, Vec<&Service>) =
            self.services.values().partition(|service| ours(&service.metadata));
        let others = other_pods.iter().map(|pod| &pod.metadata);
        let port = |meta: &ObjectMeta| meta.annotations.as_ref()?.get(label::MASTER_PORT)?.parse().ok();
        let busy_ports: BTreeSet<u16> =
            others.chain(other_services.iter().map(|service| &service.metadata)).filter_map(port).collect();
        Some(JobView {
            rendezvous: None,
            job: job.value().clone(),
            pods: pods.into_iter().cloned().collect(),
            services: services.into_iter().cloned().collect(),
            extras: Vec::new(),
            related: Vec::new(),
            busy_ports,
            silent_nodes: BTreeSet::new(),
            config: self.config(),
        })
    }
}

fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|one| one.controller == Some(true)).map(|one| one.uid.as_str())
}

fn owned_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_uid(meta).is_some_and(|uid| Some(uid) == owner.uid.as_deref())
}

fn owned_by_name(pod: &Pod, kind: &str, name: &str) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|one| one.controller == Some(true) && one.kind == kind && one.name == name)
}

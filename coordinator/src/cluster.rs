//! What the controllers share: the caches, who owns what, and where actions go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, NamespaceResourceScope, ObjectMeta, Resource};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use trainyard_coordinator_core::gang::{QUEUE_API_VERSION, QUEUE_KINDS};
use trainyard_coordinator_core::manifest::dialects;
use trainyard_coordinator_core::operator::access::is_left;
use trainyard_coordinator_core::peer::Peers;
use trainyard_coordinator_core::view::Config as ViewConfig;
use trainyard_proto::plan::ObjectRef;
use trainyard_runtime::driver::apply::Target;
use trainyard_runtime::driver::cache::{Cacheable, Probe};
use trainyard_runtime::driver::{self, Cache, EventSink, Key, Probes, Queue, as_value};

use crate::Config;

/// A kind, as (apiVersion, kind).
pub(crate) type Kind = (String, String);

/// The shared part of all controllers. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) pods: Cache<Pod>,
    pub(crate) services: Cache<Service>,
    pub(crate) embedded: Option<Embedded>,
    /// What is looked at where pods wait for each other.
    pub(crate) gangs: Option<Gangs>,
    /// Jobs of every dialect, runtimes, and the extra kinds of dialects.
    pub(crate) custom: Arc<BTreeMap<Kind, Cache<DynamicObject>>>,
    pub(crate) queues: Arc<HashMap<Kind, Queue>>,
    pub(crate) view_config: ViewConfig,
    client: kube::Client,
    probes: Probes,
    events: EventSink,
}

/// Where gangs may go.
#[derive(Clone)]
pub(crate) struct Gangs {
    pub(crate) nodes: Cache<Node>,
    pub(crate) priority_classes: Cache<PriorityClass>,
    /// Queues, cohorts and topologies, where they are ours to look after.
    pub(crate) queues: Arc<Vec<(Kind, Cache<DynamicObject>)>>,
    /// Which namespaces queues are for, where there may be any.
    pub(crate) namespaces: Option<Cache<Namespace>>,
    /// On a cluster, how long its scheduler may take to bind a whole gang.
    pub(crate) patience: Option<Duration>,
}

/// What only the embedded server's controllers look at.
#[derive(Clone)]
pub(crate) struct Embedded {
    pub(crate) jobs: Cache<Job>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) sets: Cache<ReplicaSet>,
}

fn kind(api_version: &str, kind: &str) -> Kind {
    (api_version.to_owned(), kind.to_owned())
}

struct Starter<'a> {
    client: &'a kube::Client,
    namespace: Option<&'a str>,
    stop: &'a CancellationToken,
    probes: Vec<(String, String, Arc<dyn Probe>)>,
}

impl Starter<'_> {
    fn note<K: Cacheable>(&mut self, of: Kind, cache: Cache<K>) -> Cache<K> {
        self.probes.push((of.0, of.1, Arc::new(cache.clone())));
        cache
    }

    /// Pods, of which many change at once.
    fn pods(&mut self) -> Cache<Pod> {
        let api: Api<Pod> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.note(kind("v1", "Pod"), Cache::start(api, self.stop.clone()))
    }

    /// Nodes, which send heartbeats.
    fn nodes(&mut self) -> Cache<Node> {
        self.note(kind("v1", "Node"), Cache::start(Api::all(self.client.clone()), self.stop.clone()))
    }

    fn namespaced<K>(&mut self) -> Cache<K>
    where
        K: Cacheable + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let api = match self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let of = kind(&resource.api_version, &resource.kind);
        self.note(of, Cache::start_untyped(api, None, self.stop.clone()))
    }

    fn cluster_wide<K: Cacheable + Resource<DynamicType = ()>>(&mut self) -> Cache<K> {
        let resource = ApiResource::erase::<K>(&());
        let api = Api::all_with(self.client.clone(), &resource);
        let of = kind(&resource.api_version, &resource.kind);
        self.note(of, Cache::start_untyped(api, None, self.stop.clone()))
    }

    fn custom(&mut self, api_version: &str, of_kind: &str, namespaced: bool) -> Cache<DynamicObject> {
        let resource = driver::resource(api_version, of_kind);
        let api = match self.namespace {
            Some(namespace) if namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            Some(_) | None => Api::all_with(self.client.clone(), &resource),
        };
        self.note(kind(api_version, of_kind), Cache::start_dynamic(api, None, self.stop.clone()))
    }

    /// On a cluster that has Kueue, its kinds are Kueue's.
    fn queues(&mut self, embedded: bool, peers: &Peers) -> Vec<(Kind, Cache<DynamicObject>)> {
        let mut all = Vec::new();
        for (of_kind, _, namespaced) in QUEUE_KINDS {
            let served = peers.queues.get(of_kind).map(String::as_str);
            let version = if embedded { Some(QUEUE_API_VERSION) } else { served };
            all.extend(version.map(|version| (kind(version, of_kind), self.custom(version, of_kind, namespaced))));
        }
        all
    }

    /// The kinds of other schedulers, as far as the cluster has them.
    fn peers(&mut self, peers: &Peers, custom: &mut BTreeMap<Kind, Cache<DynamicObject>>) {
        for peer in peers.kinds() {
            let of = kind(&peer.api_version, peer.kind);
            custom.entry(of).or_insert_with(|| self.custom(&peer.api_version, peer.kind, peer.namespaced));
        }
    }
}

impl Cluster {
    /// `rendezvous`: where launchers of our own user reach it, and where all others do.
    pub(crate) fn start(
        client: &kube::Client,
        config: &Config,
        (rendezvous, open_rendezvous): (Option<String>, Option<String>),
        peers: &Peers,
        events: EventSink,
        stop: &CancellationToken,
    ) -> Self {
        let mut starter = Starter { client, namespace: config.namespace.as_deref(), stop, probes: Vec::new() };
        let mut custom = BTreeMap::new();
        let mut queues = HashMap::new();
        for dialect in dialects().iter().filter(|dialect| !is_left(**dialect, &config.left)) {
            let info = dialect.info();
            let of = kind(info.api_version, info.kind);
            custom.insert(of.clone(), starter.custom(info.api_version, info.kind, info.namespaced));
            queues.insert(of, Queue::default());
            for extra in dialect.extra_kinds() {
                custom
                    .entry(kind(extra.api_version, extra.kind))
                    .or_insert_with(|| starter.custom(extra.api_version, extra.kind, true));
            }
            for related in dialect.related_kinds() {
                custom
                    .entry(kind(related.api_version, related.kind))
                    .or_insert_with(|| starter.custom(related.api_version, related.kind, related.namespaced));
            }
        }
        starter.peers(peers, &mut custom);
        for (api_version, of_kind) in [("batch/v1", "Job"), ("apps/v1", "ReplicaSet"), ("apps/v1", "Deployment")] {
            queues.insert(kind(api_version, of_kind), Queue::default());
        }
        let gangs = (config.embedded || config.gangs.is_some()).then(|| Gangs {
            nodes: starter.nodes(),
            priority_classes: starter.cluster_wide(),
            queues: Arc::new(starter.queues(config.embedded, peers)),
            namespaces: (config.embedded || !peers.queues.is_empty()).then(|| starter.cluster_wide()),
            patience: config.gangs.filter(|_| !config.embedded),
        });
        let embedded = config.embedded.then(|| Embedded {
            jobs: starter.namespaced(),
            deployments: starter.namespaced(),
            sets: starter.namespaced(),
        });
        let this = Self {
            pods: starter.pods(),
            services: starter.namespaced(),
            embedded,
            gangs,
            custom: Arc::new(custom),
            queues: Arc::new(queues),
            view_config: ViewConfig {
                rendezvous,
                open_rendezvous,
                launcher_image: config.launcher_image.clone(),
                gangs: config.gangs.is_some(),
                binds: config.binds,
                peers: peers.clone(),
                ..if config.embedded { ViewConfig::embedded() } else { ViewConfig::cluster() }
            },
            client: client.clone(),
            probes: Probes::new(starter.probes),
            events,
        };
        this.wake_owners(&this.pods);
        this.wake_owners(&this.services);
        for cache in this.custom.values() {
            this.wake_owners(cache);
        }
        this
    }

    /// A change of an object wakes whoever controls it.
    pub(crate) fn wake_owners<K: Cacheable>(&self, cache: &Cache<K>) {
        let queues = Arc::clone(&self.queues);
        cache.subscribe(move |old, new| {
            let before = old.and_then(|object| owner(object.meta()));
            let after = new.and_then(|object| owner(object.meta()));
            if before != after
                && let Some((of, key)) = before
                && let Some(queue) = queues.get(&of)
            {
                queue.wake(key);
            }
            if let Some((of, key)) = after
                && let Some(queue) = queues.get(&of)
            {
                queue.wake(key);
            }
        });
    }

    /// Wakes whoever controls an object.
    pub(crate) fn wake_owner(&self, meta: &ObjectMeta) {
        if let Some((of, key)) = owner(meta)
            && let Some(queue) = self.queues.get(&of)
        {
            queue.wake(key);
        }
    }

    /// The nodes of a cluster, where they are looked at.
    pub(crate) fn reachable_nodes(&self) -> Option<&Cache<Node>> {
        self.gangs.as_ref().filter(|_| self.embedded.is_none()).map(|gangs| &gangs.nodes)
    }

    /// A change of an object wakes its own controller.
    pub(crate) fn wake_self<K: Cacheable>(cache: &Cache<K>, queue: &Queue) {
        let queue = queue.clone();
        cache.subscribe(move |old, new| {
            if let Some(object) = new.or(old) {
                queue.wake(key(object.meta()));
            }
        });
    }

    pub(crate) fn queue(&self, api_version: &str, of_kind: &str) -> Queue {
        self.queues.get(&kind(api_version, of_kind)).cloned().unwrap_or_default()
    }

    pub(crate) fn target(&self, controller: &'static str) -> Target {
        Target {
            client: self.client.clone(),
            probes: self.probes.clone(),
            events: self.events.clone(),
            controller,
            reads_back: self.embedded.is_some(),
            failed: None,
        }
    }

    /// Objects of a custom kind in a namespace.
    pub(crate) fn api(&self, api_version: &str, of_kind: &str, namespace: &str) -> Api<DynamicObject> {
        let resource = driver::resource(api_version, of_kind);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    pub(crate) fn events(&self) -> EventSink {
        self.events.clone()
    }

    /// One object of a custom kind as stored, with its kind filled in.
    pub(crate) fn custom_object(&self, object: &ObjectRef) -> Option<Value> {
        let cache = self.custom.get(&kind(&object.api_version, &object.kind))?;
        let found = cache.get(&Key::from(object))?;
        Some(as_value(&found, &object.api_version, &object.kind))
    }

    /// Wait until every cache has been filled once.
    pub(crate) async fn ready(&self) {
        self.pods.ready().await;
        self.services.ready().await;
        for cache in self.custom.values() {
            cache.ready().await;
        }
        if let Some(gangs) = &self.gangs {
            gangs.nodes.ready().await;
            gangs.priority_classes.ready().await;
            for (_, queues) in gangs.queues.iter() {
                queues.ready().await;
            }
            if let Some(namespaces) = &gangs.namespaces {
                namespaces.ready().await;
            }
        }
        if let Some(embedded) = &self.embedded {
            embedded.jobs.ready().await;
            embedded.deployments.ready().await;
            embedded.sets.ready().await;
        }
    }
}

pub(crate) fn key(meta: &ObjectMeta) -> Key {
    Key::from(meta)
}

/// Who controls an object: its kind and coordinates.
pub(crate) fn owner(meta: &ObjectMeta) -> Option<(Kind, Key)> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let key = Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone());
    Some((kind(&owner.api_version, &owner.kind), key))
}

/// The trace that an object belongs to.
pub(crate) fn traceparent(meta: &ObjectMeta) -> Option<String> {
    trainyard_runtime::trace::of(meta)
}

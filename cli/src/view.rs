//! What the decision cores are shown, gathered for a command: the same cores, the same answers as in the controllers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::DynamicObject;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trainyard_coordinator::rendezvous::addresses;
use trainyard_coordinator_core::explain::told;
use trainyard_coordinator_core::gang::cluster::{self, ClusterView, Owner};
use trainyard_coordinator_core::gang::{GangView, QUEUE_API_VERSION, QUEUE_KINDS};
use trainyard_coordinator_core::manifest::{dialect_of, dialects};
use trainyard_coordinator_core::outset;
use trainyard_coordinator_core::peer::Peers;
use trainyard_coordinator_core::view::{Config, JobView};
use trainyard_proto::plan::ObjectRef;

use crate::api::{Api, ApiError};
use crate::error::CliError;
use crate::plane;
use crate::resource::Discovery;
use crate::session::{Place, Session};

/// Where jobs of a session run.
pub(crate) fn config(session: &Session) -> Config {
    match session.place {
        Place::Cluster(_) => Config::cluster(),
        Place::Server { ref home } | Place::InProcess { ref home } => {
            let addresses = addresses(&home.join(plane::SOCKET));
            Config { rendezvous: Some(addresses.own), open_rendezvous: Some(addresses.open), ..Config::embedded() }
        }
    }
}

/// Everything observed about one job.
pub(crate) async fn of_job(session: &Session, discovery: &Discovery, job: &Value) -> Result<JobView, CliError> {
    let namespace = job["metadata"]["namespace"].as_str().unwrap_or(&session.namespace);
    let api = &session.api;
    let pods = list::<Pod>(api, &format!("/api/v1/namespaces/{namespace}/pods")).await?;
    Ok(JobView {
        rendezvous: told(job, &pods),
        job: job.clone(),
        pods,
        services: list::<Service>(api, &format!("/api/v1/namespaces/{namespace}/services")).await?,
        extras: Vec::new(),
        related: related(api, discovery, job).await?,
        busy_ports: Default::default(),
        silent_nodes: Default::default(),
        config: config(session),
    })
}

/// A job as if it had just been created, and nothing of it existed.
pub(crate) async fn of_new_job(
    session: &Session,
    discovery: &Discovery,
    job: &Value,
    now_ms: i64,
) -> Result<JobView, CliError> {
    let mut view = of_job(session, discovery, &outset::stored(job, &session.namespace, now_ms)).await?;
    // What an older job of that name left does not matter to the new one.
    view.pods.clear();
    view.services.clear();
    Ok(view)
}

/// Objects that a job refers to, as far as they exist.
pub(crate) async fn related(api: &Api, discovery: &Discovery, job: &Value) -> Result<Vec<Value>, CliError> {
    let mut found = Vec::new();
    for object in dialect_of(job).map(|dialect| dialect.related(job)).unwrap_or_default() {
        if let Some(path) = path(discovery, &object)
            && let Some(object) = api.find(&path).await?
        {
            found.push(object);
        }
    }
    Ok(found)
}

/// Everything that the gang scheduler looks at.
pub(crate) async fn of_gangs(session: &Session) -> Result<GangView, CliError> {
    let classes: Vec<Value> =
        list(&session.api, "/apis/scheduling.k8s.io/v1/priorityclasses").await.unwrap_or_default();
    let class = |class: &Value| {
        let name = class["metadata"]["name"].as_str()?.to_owned();
        Some((name, i32::try_from(class["value"].as_i64()?).ok()?))
    };
    let gangs = GangView {
        nodes: list::<Node>(&session.api, "/api/v1/nodes").await?,
        pods: list::<Pod>(&session.api, "/api/v1/pods").await?,
        priority_classes: classes.iter().filter_map(class).collect(),
        queues: queues(session).await?,
        namespaces: list::<Namespace>(&session.api, "/api/v1/namespaces")
            .await
            .unwrap_or_default()
            .into_iter()
            .filter_map(|one| Some((one.metadata.name?, one.metadata.labels.unwrap_or_default())))
            .collect(),
    };
    if !matches!(session.place, Place::Cluster(_)) {
        return Ok(gangs);
    }
    // Whether an operator would give up by now is its own business.
    let view = ClusterView { gangs, owners: owners(session).await, patience_ms: i64::MAX, ..ClusterView::default() };
    Ok(cluster::shown(&view, now_ms()))
}

/// Queues, cohorts and topologies. On a cluster that has Kueue they are Kueue's business.
async fn queues(session: &Session) -> Result<Vec<Value>, CliError> {
    let mut versions: BTreeMap<String, String> =
        QUEUE_KINDS.iter().map(|(kind, _, _)| ((*kind).to_owned(), QUEUE_API_VERSION.to_owned())).collect();
    if matches!(session.place, Place::Cluster(_)) {
        let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for resource in Discovery::load(&session.api).await?.resources {
            served.entry(resource.api_version()).or_default().insert(resource.plural);
        }
        versions = Peers::of(&served).queues;
    }
    let mut all = Vec::new();
    for (kind, plural, _) in QUEUE_KINDS {
        let Some(version) = versions.get(kind) else { continue };
        let found: Vec<Value> = list(&session.api, &format!("/apis/{version}/{plural}")).await.unwrap_or_default();
        all.extend(found.into_iter().map(|mut object| {
            object["apiVersion"] = Value::from(version.as_str());
            object["kind"] = Value::from(kind);
            object
        }));
    }
    Ok(all)
}

/// The jobs of a cluster by their uid, as far as they may be read, with what was decided for them.
async fn owners(session: &Session) -> BTreeMap<String, Owner> {
    let mut all = BTreeMap::new();
    for info in dialects().iter().map(|dialect| dialect.info()) {
        let jobs: Vec<DynamicObject> =
            list(&session.api, &format!("/apis/{}/{}", info.api_version, info.plural)).await.unwrap_or_default();
        for DynamicObject { metadata, .. } in jobs {
            let object = ObjectRef {
                api_version: info.api_version.to_owned(),
                kind: info.kind.to_owned(),
                namespace: metadata.namespace.unwrap_or_default(),
                name: metadata.name.unwrap_or_default(),
            };
            all.insert(
                metadata.uid.unwrap_or_default(),
                Owner::read(object, metadata.resource_version, metadata.annotations.as_ref()),
            );
        }
    }
    all
}

fn path(discovery: &Discovery, object: &ObjectRef) -> Option<String> {
    let of = |resource: &&crate::resource::Resource| {
        resource.kind == object.kind && resource.api_version() == object.api_version
    };
    discovery.resources.iter().find(of).map(|resource| resource.object(&object.namespace, &object.name))
}

async fn list<T: DeserializeOwned>(api: &Api, path: &str) -> Result<Vec<T>, ApiError> {
    let list = api.get(path).await?;
    Vec::deserialize(&list["items"]).map_err(|error| ApiError::Garbled(Box::new(error)))
}

/// Milliseconds since the epoch, for the cores.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

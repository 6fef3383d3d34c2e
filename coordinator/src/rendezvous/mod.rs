//! The rendezvous of jobs, served: launchers join over gRPC, and the core's machine says who forms which generation.
//!
//! | part | what |
//! |---|---|
//! | `socket` | where launchers of this machine come in |
//! | `tcp` | where launchers in the pods of a cluster come in |
//! | `service` | who may join, and the two halves of a stream |
//! | `room` | one task for each job: it feeds the core, and sends what it orders |
//! | `reserve` | the durable record of generations |
//! | `meeting` | the rendezvous of launchers without a cluster, served by one of them |
//! | this module | which jobs have a room: it watches jobs and pods |

pub mod convert;
pub mod meeting;
mod metrics;
mod reserve;
mod room;
mod service;
mod socket;
mod tcp;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::server::Connected;
use trainyard_coordinator_core::job::{Finish, Ledger};
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::{Dialect, dialects};
use trainyard_coordinator_core::rendezvous::{
    Cause, Config, Failure, Input, Outcome, Place as PodPlace, RendezvousView,
};
use trainyard_proto::plan::ObjectRef;
use trainyard_proto::rendezvous as wire;
use trainyard_runtime::driver::{Key, as_value};

use crate::cluster::{Cluster, key, owner};
pub(crate) use metrics::RendezvousMetrics;
use room::{Job, Message, Room};
pub(crate) use socket::Socket;
pub use tcp::Door;
pub(crate) use tcp::Tcp;

/// A launcher that is stuck answers no ping: its stream breaks after at most twice this, and then its time as a member runs.
const PING: Duration = Duration::from_secs(5);

/// Where launchers reach the rendezvous of this machine, in the form of `TRAINYARD_RENDEZVOUS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Launchers of the same user.
    pub own: String,
    /// Launchers of other users, and in containers that share the machine's network: an abstract socket, which any process of
    /// the machine can open. What keeps it out is the job's token. The coordinator's user is part of the name, so that
    /// launchers do not listen to anybody else who has taken it.
    pub open: String,
}

/// The addresses of a rendezvous whose socket is at `path`.
#[must_use]
pub fn addresses(path: &Path) -> Addresses {
    Addresses { own: format!("unix:{}", path.display()), open: format!("unix:@{}", socket::open_name(path)) }
}

/// Listens at `path`, if that can be. Without it jobs run as they do where there is no rendezvous.
pub(crate) fn listen(path: Option<&PathBuf>) -> Option<Socket> {
    let path = path?;
    match Socket::bind(path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot listen for launchers: ranks are started again by new pods only");
            None
        }
    }
}

/// Where launchers come in.
pub(crate) enum Entrance {
    /// On this machine.
    Socket(Socket),
    /// From anywhere in the cluster.
    Tcp(Tcp),
}

/// All rooms. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    /// By the job's uid.
    rooms: Mutex<HashMap<String, Entry>>,
    metrics: RendezvousMetrics,
    stop: CancellationToken,
}

/// The room of one incarnation of a job. The next one (a restart of all pods, a change of size, a resumption) gets another:
/// what becomes of the old pods is no failure of the new ones.
#[derive(Clone)]
struct Entry {
    room: Room,
    /// [`Ledger::generation`].
    incarnation: u64,
    /// `metadata.generation` of the job whose terms hold.
    spec: Option<i64>,
}

/// What a launcher finds.
enum Place {
    /// Its job's rendezvous.
    Room(Room),
    /// Its job is over: this is what it is told.
    Over(wire::ToLauncher),
}

/// Something to look at.
enum Changed {
    /// A job.
    Job(&'static dyn Dialect, Key, String),
    /// A pod of a job: its uid, and whether it has ended.
    Pod { of: (String, String), key: Key, owner: String, pod: String, incarnation: u64, ended: Option<End> },
    /// A pod of a job, by its uid, that has to make room while the others go on.
    Leaves { owner: String, pod: String },
}

/// How a pod ended.
#[derive(Clone, Copy)]
enum End {
    /// All in it ended well.
    Done,
    /// Some other way, or nobody knows.
    Gone,
}

impl Hub {
    /// Watches jobs and pods from now on. Nobody can join before [`Self::serve`].
    pub(crate) fn start(cluster: &Cluster, metrics: RendezvousMetrics, stop: &CancellationToken) -> Self {
        let inner = Inner { cluster: cluster.clone(), rooms: Mutex::new(HashMap::new()), metrics, stop: stop.clone() };
        let hub = Self { inner: Arc::new(inner) };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        hub.subscribe(&sender);
        let (watching, stop) = (hub.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! { () = watching.inner.cluster.ready() => {}, () = stop.cancelled() => return }
            loop {
                let changed = tokio::select! { changed = receiver.recv() => changed, () = stop.cancelled() => None };
                let Some(changed) = changed else { break };
                watching.look(changed);
            }
            watching.rooms().clear();
        });
        hub
    }

    /// Serves launchers until `stop`.
    pub(crate) async fn serve(self, entrance: Entrance, stop: CancellationToken) {
        match entrance {
            Entrance::Socket(socket) => self.serve_incoming(socket.incoming(), stop).await,
            Entrance::Tcp(tcp) => self.serve_incoming(tcp.incoming(), stop).await,
        }
    }

    async fn serve_incoming<S>(self, incoming: impl Stream<Item = io::Result<S>>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        tokio::select! { () = self.inner.cluster.ready() => {}, () = stop.cancelled() => return }
        let service = wire::rendezvous_server::RendezvousServer::new(service::Service::new(self));
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::select! {
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the rendezvous is served no more; training goes on");
                }
            }
            () = stop.cancelled() => {}
        }
    }

    /// How a job's rendezvous stands, if it has one.
    pub(crate) fn view(&self, uid: &str) -> Option<RendezvousView> {
        let entry = self.rooms().get(uid).cloned();
        entry.map(|entry| entry.room.view())
    }

    fn stop(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.inner.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, sender: &mpsc::UnboundedSender<Changed>) {
        for dialect in dialects() {
            let info = dialect.info();
            let cache = self.inner.cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned()));
            let (Some(cache), sender, dialect) = (cache, sender.clone(), *dialect) else { continue };
            cache.subscribe(move |old, new| {
                let Some(job) = new.or(old) else { return };
                let uid = job.metadata.uid.clone().unwrap_or_default();
                // The receiver is gone only when everything stops.
                let _ = sender.send(Changed::Job(dialect, key(&job.metadata), uid));
            });
        }
        let sender = sender.clone();
        self.inner.cluster.pods.subscribe(move |old, new| {
            // An object that was replaced under its name is gone, too.
            let replaced = old.filter(|old| new.is_none_or(|new| new.metadata.uid != old.metadata.uid));
            for (pod, gone) in replaced.map(|pod| (pod, true)).into_iter().chain(new.map(|pod| (pod, false))) {
                let Some(changed) = of_pod(pod, gone) else { continue };
                let _ = sender.send(changed);
            }
        });
    }

    fn look(&self, changed: Changed) {
        match changed {
            Changed::Job(dialect, key, uid) => self.look_at_job(dialect, &key, &uid),
            Changed::Pod { owner, pod, incarnation, ended: Some(end), .. } => {
                let entry = self.rooms().get(&owner).cloned();
                if let Some(entry) = entry {
                    let input = match end {
                        End::Done if incarnation == entry.incarnation => Input::PodDone { pod },
                        End::Done | End::Gone => Input::PodGone { pod },
                    };
                    entry.room.tell(Message::Known(input));
                }
            }
            Changed::Leaves { owner, pod } => {
                if let Some(entry) = self.rooms().get(&owner).cloned() {
                    entry.room.tell(Message::Known(Input::Leaves { pod }));
                }
            }
            Changed::Pod { of, key, owner, incarnation, ended: None, .. } => {
                // A job whose pods are there will have launchers: its first generations are reserved by then.
                if let Some(found) = self.find(&of, &key).filter(|found| found.uid == owner) {
                    let _ = self.room(&found, incarnation);
                }
            }
        }
    }

    fn look_at_job(&self, dialect: &'static dyn Dialect, key: &Key, uid: &str) {
        let Some(entry) = self.rooms().get(uid).cloned() else { return };
        let info = dialect.info();
        let found = self.find(&(info.api_version.to_owned(), info.kind.to_owned()), key);
        match found.filter(|found| found.uid == uid) {
            Some(found) if found.over().is_none() => {
                let ledger = Ledger::read(&found.value);
                if ledger.generation > entry.incarnation {
                    // Its pods are not there yet: their launchers find a new room when they come.
                    let _ = self.room(&found, ledger.generation);
                    return;
                }
                entry.room.tell(Message::Known(Input::Elsewhere { restarts: ledger.restarts }));
                if entry.spec != found.object.metadata.generation {
                    self.spec_changed(&found, &entry);
                }
            }
            Some(_) | None => {
                self.rooms().remove(uid);
                entry.room.tell(Message::Known(Input::Stop));
            }
        }
    }

    fn spec_changed(&self, job: &FoundJob, entry: &Entry) {
        if let Some(known) = self.rooms().get_mut(&job.uid) {
            known.spec = job.object.metadata.generation;
        }
        if let Some(config) = self.terms(job) {
            entry.room.tell(Message::Known(Input::Changed { config }));
        }
    }

    /// What a job allows its launchers; none if it has no rendezvous.
    fn terms(&self, job: &FoundJob) -> Option<Config> {
        let cluster = &self.inner.cluster;
        let related: Vec<Value> =
            job.dialect.related(&job.value).iter().filter_map(|object| cluster.custom_object(object)).collect();
        job.dialect.lower(&job.value, &related, &cluster.view_config).ok()?.rendezvous
    }

    /// Where a launcher of this job belongs.
    fn place(&self, key: &Key, token: &str) -> Result<Place, Status> {
        let kinds = dialects().iter().map(|dialect| dialect.info());
        let mut found =
            kinds.filter_map(|info| self.find(&(info.api_version.to_owned(), info.kind.to_owned()), key)).peekable();
        if found.peek().is_none() {
            return Err(Status::not_found(format!("there is no job {key}")));
        }
        let Some(job) = found.find(|job| job.uid == token) else {
            return Err(Status::unauthenticated(format!("that is not the token of job {key}")));
        };
        if let Some(outcome) = job.over() {
            return Ok(Place::Over(convert::release(&outcome)));
        }
        let incarnation = Ledger::read(&job.value).generation;
        self.room(&job, incarnation)
            .map(Place::Room)
            .ok_or_else(|| Status::failed_precondition(format!("{key} has no rendezvous")))
    }

    /// What is known of a pod that may take part in its job's rendezvous.
    fn admit(&self, job: &str, pod: &str) -> Result<PodPlace, Status> {
        let owned = self.inner.cluster.pods.owned_by(job);
        let Some(found) = owned.iter().find(|found| found.metadata.uid.as_deref() == Some(pod)) else {
            // It may have been made just now.
            return Err(Status::unavailable(format!("pod {pod} is not known")));
        };
        let entry = self.rooms().get(job).cloned();
        let is_old = entry.is_some_and(|entry| incarnation(found) < entry.incarnation);
        if is_old || makes_room(found) || found.metadata.deletion_timestamp.is_some() || has_ended(found) {
            return Err(Status::failed_precondition(format!("pod {pod} is ending")));
        }
        let node = found.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Ok(PodPlace { pod: found.metadata.name.clone(), node })
    }

    fn find(&self, of: &(String, String), key: &Key) -> Option<FoundJob> {
        let dialect = dialects().iter().find(|d| d.info().api_version == of.0 && d.info().kind == of.1)?;
        let object = self.inner.cluster.custom.get(of)?.get(key)?;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let value = as_value(&object, &of.0, &of.1);
        Some(FoundJob { dialect: *dialect, key: key.clone(), uid, object: DynamicObject::clone(&object), value })
    }

    /// The room of a job's incarnation, or of a later one, opened if need be; none if the job has no rendezvous.
    fn room(&self, job: &FoundJob, incarnation: u64) -> Option<Room> {
        let before = self.rooms().get(&job.uid).cloned();
        if let Some(entry) = before.as_ref().filter(|entry| entry.incarnation >= incarnation) {
            return Some(entry.room.clone());
        }
        if job.over().is_some() {
            return None;
        }
        let config = self.terms(job)?;
        let cluster = &self.inner.cluster;
        let info = job.dialect.info();
        let object = ObjectRef {
            api_version: info.api_version.to_owned(),
            kind: info.kind.to_owned(),
            namespace: job.key.namespace.clone(),
            name: job.key.name.clone(),
        };
        let api = cluster.api(info.api_version, info.kind, &job.key.namespace);
        let queue = cluster.queue(info.api_version, info.kind);
        let (events, metrics) = (cluster.events(), self.inner.metrics.clone());
        let whose = Job { object, uid: job.uid.clone(), key: job.key.clone(), api, queue, events, metrics };
        let failure = before.as_ref().and_then(|entry| entry.room.view().last_failure);
        let spent = Ledger::read(&job.value).spent();
        let mut rooms = self.rooms();
        if let Some(entry) = rooms.get(&job.uid).filter(|entry| entry.incarnation >= incarnation) {
            // Somebody else has opened it meanwhile.
            return Some(entry.room.clone());
        }
        let room = Room::open(whose, config, reserve::recorded(&job.object), (spent, failure), self.stop());
        let spec = job.object.metadata.generation;
        rooms.insert(job.uid.clone(), Entry { room: room.clone(), incarnation, spec });
        drop(rooms);
        // Pods that had ended before there was a room to tell.
        let of_this = |pod: &&Arc<Pod>| self::incarnation(pod) == incarnation && is_done(pod);
        for pod in cluster.pods.owned_by(&job.uid).iter().filter(of_this) {
            let pod = pod.metadata.uid.clone().unwrap_or_default();
            room.tell(Message::Known(Input::PodDone { pod }));
        }
        if let Some(entry) = before {
            entry.room.tell(Message::Known(Input::Stop));
        }
        Some(room)
    }
}

/// A job, as the cache has it.
struct FoundJob {
    dialect: &'static dyn Dialect,
    key: Key,
    uid: String,
    object: DynamicObject,
    value: Value,
}

impl FoundJob {
    /// What its launchers are told if it is over, or is to stop.
    fn over(&self) -> Option<Outcome> {
        let suspended = ["/spec/suspend", "/spec/runPolicy/suspend"];
        let is_true = |path: &&str| self.value.pointer(path).and_then(Value::as_bool) == Some(true);
        if self.object.metadata.deletion_timestamp.is_some() || suspended.iter().any(is_true) {
            return Some(Outcome::Stopped);
        }
        let lifecycle = self.dialect.read_status(&self.value);
        Some(match lifecycle.finished? {
            Finish::Succeeded => Outcome::Succeeded,
            Finish::Failed => {
                let message = lifecycle.message.unwrap_or_else(|| "the job has failed".to_owned());
                Outcome::Failed(Failure { rank: None, cause: Cause::ExitCode, code: 1, message, secondary: false })
            }
        })
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether it has to go while the others of its job go on.
fn makes_room(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(label::SHRUNK))
}

/// Whether it has ended well, and nobody wanted that.
fn is_done(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded")
}

fn of_pod(pod: &Pod, gone: bool) -> Option<Changed> {
    let (of, key) = owner(&pod.metadata)?;
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?.uid.clone();
    let ended = match gone {
        true => Some(End::Gone),
        false if is_done(pod) => Some(End::Done),
        false => has_ended(pod).then_some(End::Gone),
    };
    if ended.is_none() && makes_room(pod) {
        return Some(Changed::Leaves { owner, pod: pod.metadata.uid.clone()? });
    }
    Some(Changed::Pod { of, key, owner, pod: pod.metadata.uid.clone()?, incarnation: incarnation(pod), ended })
}

/// Which incarnation of its job a pod belongs to.
fn incarnation(pod: &Pod) -> u64 {
    let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(label::GENERATION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

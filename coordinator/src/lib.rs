//! Jobs in motion: the controllers that turn objects into running pods.
//!
//! [`Coordinator::start`] wires every controller (jobs, gang scheduler, stand-ins for `batch/v1` and `apps/v1`) to a
//! `kube::Client` and returns at once with a [`Handle`]. All decisions are in `trainyard_coordinator_core`; this
//! crate observes and carries out.

mod apps;
mod batch;
mod cluster;
mod gang;
mod install;
mod job;
mod metrics;
pub mod operator;
mod pace;
mod peer;
pub mod rendezvous;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use trainyard_coordinator_core::peer::Peers;
use trainyard_runtime::driver::EventSink;

use cluster::Cluster;

/// What the coordinator is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names this process in events and logs.
    pub identity: String,
    /// The API server is our own embedded one: default runtimes are installed, stand-in controllers run, and each job
    /// without an explicit master port gets one of its own. `false` on a cluster, which has its own Job and
    /// Deployment controllers.
    pub embedded: bool,
    /// Objects planned at the same time, for each controller.
    pub workers: usize,
    /// Only this namespace; `None` for all.
    pub namespace: Option<String>,
    /// Where to listen for the launchers of jobs, if they can reach this machine's sockets; `None`: they are on their own.
    pub rendezvous: Option<PathBuf>,
    /// Pods are containers, which share the machine's network but not its files.
    pub containers: bool,
    /// Where to listen for the launchers in the pods of a cluster.
    pub door: Option<rendezvous::Door>,
    /// Image from which pods of a cluster get our program; `None`: their own images have it.
    pub launcher_image: Option<String>,
    /// Kinds that are left to others: `pytorchjobs.kubeflow.org`.
    pub left: BTreeSet<String>,
    /// On a cluster: let the pods of a job go together, and take them back if the cluster's scheduler has not bound all of them after
    /// so long.
    pub gangs: Option<Duration>,
    /// On a cluster: bind them as well, as far as all that decides on their node is looked at.
    pub binds: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: "trainyard".to_owned(),
            embedded: true,
            workers: 2,
            namespace: None,
            rendezvous: None,
            containers: false,
            door: None,
            launcher_image: None,
            left: BTreeSet::new(),
            gangs: None,
            binds: false,
        }
    }
}

/// Why the coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server does not answer.
    #[error("API server does not answer; is it running, and does the kubeconfig point to it?")]
    Unreachable(#[source] Box<kube::Error>),
    /// The address for launchers cannot be listened on.
    #[error("cannot listen for launchers on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// Starts controllers. See [`Coordinator::start`].
#[derive(Debug)]
pub struct Coordinator;

impl Coordinator {
    /// Start every controller against `client`. Returns as soon as they are spawned; they become active when their
    /// caches have been filled (see [`Handle::ready`]).
    ///
    /// # Errors
    /// When the API server cannot be reached at all.
    pub async fn start(client: kube::Client, config: Config) -> Result<Handle, Error> {
        let mut peers = Peers::default();
        if !config.embedded {
            // In process there is nothing that could be out of reach.
            client.apiserver_version().await.map_err(|error| Error::Unreachable(Box::new(error)))?;
            peers = peer::discover(&client).await.map_err(|error| Error::Unreachable(Box::new(error)))?;
            if config.gangs.is_none() {
                // Whose pods do not wait have no use for a queue.
                peers.queues.clear();
            }
        }
        let stop = CancellationToken::new();
        let events = EventSink::start(client.clone(), "trainyard-coordinator");
        let (entrance, doors) = entrance(&config).await?;
        let cluster = Cluster::start(&client, &config, doors, &peers, events.clone(), &stop);
        let metrics = metrics::JobMetrics::watch(&cluster);
        let meetings = rendezvous::RendezvousMetrics::default();
        let hub = entrance.is_some().then(|| rendezvous::Hub::start(&cluster, meetings.clone(), &stop));
        let mut controllers = job::controllers(&cluster, hub.as_ref());
        controllers.extend(gang::controller(&cluster));
        if config.embedded {
            controllers.push(batch::controller(&cluster));
            controllers.extend(apps::controllers(&cluster));
        }
        let installed = config.embedded.then(|| tokio::spawn(install::run(client, stop.clone())));
        let mut tasks = JoinSet::new();
        if let (Some(hub), Some(entrance)) = (hub, entrance) {
            tasks.spawn(hub.serve(entrance, stop.clone()));
        }
        for controller in controllers {
            let (cluster, stop, workers) = (cluster.clone(), stop.clone(), config.workers);
            tasks.spawn(async move {
                tokio::select! { () = cluster.ready() => {}, () = stop.cancelled() => return }
                controller.run(workers, stop).await;
            });
        }
        Ok(Handle { stop, cluster, events, tasks, metrics, meetings, installed: tokio::sync::Mutex::new(installed) })
    }
}

/// Where launchers come in, and what those of our own user and all others are told of it.
type Doors = (Option<String>, Option<String>);

async fn entrance(config: &Config) -> Result<(Option<rendezvous::Entrance>, Doors), Error> {
    if let Some(door) = &config.door {
        let failed = |source| Error::Listen { address: door.listen, source };
        let tcp = rendezvous::Tcp::bind(door.listen).await.map_err(failed)?;
        let address = Some(door.address.clone());
        return Ok((Some(rendezvous::Entrance::Tcp(tcp)), (address.clone(), address)));
    }
    let socket = rendezvous::listen(config.rendezvous.as_ref());
    let addresses = config.rendezvous.as_deref().filter(|_| socket.is_some()).map(rendezvous::addresses);
    let (own, open) = addresses.map(|addresses| (addresses.own, addresses.open)).unzip();
    let doors =
        (own.filter(|_| !config.containers), open.filter(|_| socket.as_ref().is_some_and(rendezvous::Socket::is_open)));
    Ok((socket.map(rendezvous::Entrance::Socket), doors))
}

/// A running coordinator. Dropping it stops the controllers without waiting for them.
pub struct Handle {
    stop: CancellationToken,
    cluster: Cluster,
    events: EventSink,
    tasks: JoinSet<()>,
    metrics: metrics::JobMetrics,
    meetings: rendezvous::RendezvousMetrics,
    installed: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Wait until every cache is filled and the shipped runtimes are installed, so that what is created from now on
    /// is acted upon at once.
    pub async fn ready(&self) {
        self.cluster.ready().await;
        if let Some(installed) = self.installed.lock().await.take() {
            // It logs its own troubles; a panic in it must not stop jobs that need no runtime.
            let _ = installed.await;
        }
    }

    /// Show what became of jobs and pods on the page of `page`.
    pub fn register_metrics(&self, page: &trainyard_runtime::metrics::Metrics) {
        self.metrics.register(page);
        self.meetings.register(page);
    }

    /// Stop: actions in flight are finished, nothing new is begun. Running jobs go on.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "controller ended badly");
            }
        }
        self.events.flush().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

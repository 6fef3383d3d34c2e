//! The coordinator as an operator on a cluster: several processes, of which one leads and acts.
//!
//! A process that does not lead only looks at the Lease. The one that leads runs the same controllers as on one machine,
//! through a client that (a) refuses what is not on `access`'s list, and (b) sends no write once the time is over for which the
//! last answered renewal speaks, and waits for no answer beyond it. A process that loses the lead never takes it again: it ends,
//! and whoever runs it starts another.

mod campaign;
mod fence;
mod guard;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainyard_coordinator_core::operator::access;
use trainyard_coordinator_core::operator::election::{BadTerms, Election, Terms};
use trainyard_coordinator_core::operator::install::{RENDEZVOUS, leader_slice};
use trainyard_runtime::metrics::Metrics;

use crate::{Coordinator, Handle};
use campaign::{Campaign, Standing};
use fence::Fence;
use guard::Guard;

/// How long actions that are under way may take when this process is told to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Before another try to say where the leader is.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

/// What the operator is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Over which Lease, and under which name.
    pub terms: Terms,
    /// What it does when it leads.
    pub coordinator: crate::Config,
    /// Its address, to be written into the EndpointSlice of the rendezvous when it leads; `None`: launchers find it by themselves.
    pub pod_ip: Option<String>,
    /// Its pod.
    pub pod_name: Option<String>,
    /// Whether it may do what experiments take.
    pub experiments: bool,
}

/// Controllers that act beside the coordinator's own while this process leads.
pub trait Companion: Send + Sync {
    /// Waits until what is created from now on is acted upon at once.
    fn ready(&self) -> impl Future<Output = ()> + Send;
    /// Finishes what is under way, and begins nothing new.
    fn shutdown(self) -> impl Future<Output = ()> + Send;
}

/// Why an operator ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The times make no sense.
    #[error(transparent)]
    Terms(#[from] BadTerms),
    /// The lead was lost. Whatever was under way is planned anew by whoever leads now.
    #[error("lost the lead: the lease could not be renewed in time, or somebody else has it")]
    Lost,
    /// The controllers could not be started.
    #[error(transparent)]
    Start(#[from] crate::Error),
}

/// How an operator stands, for those who ask whether it is well. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Whether it leads with full caches, or knows who leads.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

/// Takes part in the election, and leads once it has won, until `stop`. What it counts is on `page`. Who leads starts a companion,
/// if there is one, whose client has the same rights and writes nothing either once the lead is lost.
///
/// # Errors
/// When the lead is lost or leading cannot begin. The process is to end then.
pub async fn run<C: Companion>(
    client: kube::Client,
    config: Config,
    companion: impl FnOnce(&kube::Client) -> Option<C>,
    (page, health): (&Metrics, &Health),
    stop: CancellationToken,
) -> Result<(), Error> {
    config.terms.check()?;
    let own = config.terms.namespace.clone();
    let gangs = access::Gangs::of(config.coordinator.gangs.is_some(), config.coordinator.binds);
    let guard = Guard::new(access::rights(&config.coordinator.left, gangs, config.experiments), &own);
    guard.register(page);
    let leading: Gauge = Gauge::default();
    let shown = leading.clone();
    page.register(|registry| registry.register("trainyard_operator_leads", "1 while this process leads", shown));
    let fence = Fence::default();
    let (sender, mut standing) = watch::channel(Standing::Unknown);
    let campaign = Campaign {
        leases: Api::namespaced(guard.client(client.clone(), None), &own),
        election: Election::new(config.terms.clone()),
        fence: fence.clone(),
        standing: sender,
    };
    let given_up = CancellationToken::new();
    let campaigning = tokio::spawn(campaign.run(given_up.clone()));
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        won = wait(&mut standing, health) => match won {
            Err(lost) => Err(lost),
            Ok(()) => {
                leading.set(1);
                let client = guard.client(client, Some(fence));
                lead(client, &config, companion, (page, health), &mut standing, &stop).await
            }
        },
    };
    leading.set(0);
    health.set(false);
    given_up.cancel();
    // It has its last word, or gives the lease back now.
    if campaigning.await.is_err() {
        tracing::error!("the election panicked; please report this");
    }
    outcome
}

/// Waits until this process leads.
async fn wait(standing: &mut watch::Receiver<Standing>, health: &Health) -> Result<(), Error> {
    loop {
        match standing.borrow_and_update().clone() {
            Standing::Unknown => {}
            Standing::Waits(holder) => {
                tracing::info!(holder = holder.as_deref().unwrap_or("nobody"), "somebody else leads; waiting");
                health.set(true);
            }
            Standing::Leads => return Ok(()),
            Standing::Over => return Err(Error::Lost),
        }
        // Its sender is the election, which ends only with its last word.
        if standing.changed().await.is_err() {
            return Err(Error::Lost);
        }
    }
}

async fn lead<C: Companion>(
    client: kube::Client,
    config: &Config,
    companion: impl FnOnce(&kube::Client) -> Option<C>,
    (page, health): (&Metrics, &Health),
    standing: &mut watch::Receiver<Standing>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    tracing::info!(identity = config.terms.identity, "leads from now on");
    health.set(false);
    let lost = async {
        // An error means that the election is gone, and the lead with it.
        let _ = standing.wait_for(|standing| *standing == Standing::Over).await;
    };
    tokio::pin!(lost);
    let handle = tokio::select! {
        started = Coordinator::start(client.clone(), config.coordinator.clone()) => started?,
        () = &mut lost => return Err(Error::Lost),
    };
    handle.register_metrics(page);
    let companion = companion(&client);
    let began = async {
        announce(&client, config).await;
        handle.ready().await;
        if let Some(companion) = &companion {
            companion.ready().await;
        }
        health.set(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = &mut lost => return Err(Error::Lost),
        () = stop.cancelled() => {}
        () = began => {}
    }
    tokio::select! { () = finish(handle, companion) => Ok(()), () = &mut lost => Err(Error::Lost) }
}

/// Ends what is under way, still as the leader.
async fn finish<C: Companion>(handle: Handle, companion: Option<C>) {
    let end = async {
        if let Some(companion) = companion {
            companion.shutdown().await;
        }
        handle.shutdown().await;
    };
    if tokio::time::timeout(DRAIN, end).await.is_err() {
        tracing::warn!(limit = ?DRAIN, "actions are still under way; whoever leads next plans them anew");
    }
}

/// Says where launchers find the leader.
async fn announce(client: &kube::Client, config: &Config) {
    let (Some(address), Some(door)) = (&config.pod_ip, &config.coordinator.door) else { return };
    let namespace = &config.terms.namespace;
    let wanted = leader_slice(namespace, address, door.listen.port(), config.pod_name.as_deref());
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    loop {
        let Err(error) = write(&slices, &wanted).await else { return };
        tracing::warn!(%error, "launchers cannot be told where the leader is; trying again");
        tokio::time::sleep(ANNOUNCE_AGAIN).await;
    }
}

/// Writes into the version that was read: a former leader that comes late writes nothing.
async fn write(slices: &Api<EndpointSlice>, wanted: &serde_json::Value) -> Result<(), kube::Error> {
    let mut wanted = EndpointSlice::deserialize(wanted).map_err(kube::Error::SerdeError)?;
    match slices.get_opt(RENDEZVOUS).await? {
        None => slices.create(&PostParams::default(), &wanted).await?,
        Some(there) => {
            wanted.metadata.resource_version = there.metadata.resource_version;
            slices.replace(RENDEZVOUS, &PostParams::default(), &wanted).await?
        }
    };
    Ok(())
}

//! `trainyard operator`: the controllers, on a Kubernetes cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use trainyard_coordinator::operator::{self, Companion, Health};
use trainyard_coordinator::rendezvous::Door;
use trainyard_coordinator_core::operator::election::Terms;
use trainyard_coordinator_core::operator::install::{HEALTH_PORT, NAME, RENDEZVOUS_PORT, rendezvous_address};
use trainyard_runtime::metrics::Metrics;
use trainyard_tuner::Tuner;

use crate::arg::Global;
use crate::cluster;
use crate::command::install;
use crate::error::CliError;
use crate::exit_code;
use crate::session::{internal, wants_cluster};

/// Jobs of a kind that are planned and written at the same time. An API server over a network takes milliseconds for each write, and
/// many jobs have only a few at a time.
const WORKERS: usize = 8;

/// Run the job controllers on a Kubernetes cluster.
///
/// Looks after TrainingJobs, and after PyTorchJobs and TrainJobs where the cluster has those kinds, and runs experiments. Of several operators one leads and acts, the others wait for its lease to
/// be given back or to run out. In a pod it reaches the cluster by the pod's service account; elsewhere by --context or --kubeconfig. SIGTERM ends it: what is under way is
/// finished, and the lease given back. An operator that loses the lead exits with 1, to be started again. `trainyard install` prints all that a cluster needs for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard install --image registry.example.com/trainyard:1 | kubectl apply --server-side -f -
  trainyard operator --context kind-test --rendezvous-address http://192.0.2.7:6391    outside of the cluster")]
pub(crate) struct Args {
    /// Namespace of the lease; in a pod, the pod's own
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", hide_env_values = true, default_value = install::NAMESPACE)]
    own_namespace: String,
    /// Name of this pod
    #[arg(long, value_name = "NAME", env = "POD_NAME", hide_env_values = true)]
    pod_name: Option<String>,
    /// Address of this pod, to which the leader directs launchers
    #[arg(long, value_name = "ADDRESS", env = "POD_IP", hide_env_values = true)]
    pod_ip: Option<String>,
    /// Image of this program, from which pods of jobs get it; without one their own images must have `trainyard` on the PATH
    #[arg(long, value_name = "IMAGE", env = "TRAINYARD_IMAGE", hide_env_values = true)]
    image: Option<String>,
    /// Leave this kind to another operator, as PLURAL.GROUP (repeatable)
    #[arg(long, value_name = "KIND", value_parser = install::kind)]
    leave: Vec<String>,
    /// Leave the pods of a job to the cluster's scheduler one by one, instead of letting them go when there is room for all
    #[arg(long)]
    no_gangs: bool,
    /// Bind the pods of jobs by itself, instead of letting the cluster's scheduler do it: faster, for nodes on which nothing else
    /// is scheduled
    #[arg(long, conflicts_with = "no_gangs")]
    binds: bool,
    /// Leave experiments alone
    #[arg(long)]
    no_experiments: bool,
    /// How long the cluster's scheduler may take to bind the pods of a job before all of them are taken back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    gang_seconds: u16,
    /// Where the leader listens for launchers
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], RENDEZVOUS_PORT)))]
    rendezvous_listen: SocketAddr,
    /// What launchers are told to call (by default the Service that `trainyard install` makes)
    #[arg(long, value_name = "URL")]
    rendezvous_address: Option<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], HEALTH_PORT)))]
    health_listen: SocketAddr,
    /// How long others wait for a leader that is silent, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    lease_seconds: u16,
    /// How long a leader acts after its last renewal that was answered, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    renew_seconds: u16,
    /// How often the lease is looked at, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    retry_seconds: u16,
}

impl Args {
    fn terms(&self) -> Terms {
        let ms = |seconds: u16| i64::from(seconds) * 1000;
        Terms {
            namespace: self.own_namespace.clone(),
            name: NAME.to_owned(),
            identity: identity(self.pod_name.as_deref()),
            lease_ms: ms(self.lease_seconds),
            renew_ms: ms(self.renew_seconds),
            retry_ms: ms(self.retry_seconds),
        }
    }

    fn config(&self) -> operator::Config {
        let address = self.rendezvous_address.clone().unwrap_or_else(|| rendezvous_address(&self.own_namespace));
        let terms = self.terms();
        operator::Config {
            coordinator: trainyard_coordinator::Config {
                identity: terms.identity.clone(),
                embedded: false,
                workers: WORKERS,
                door: Some(Door { listen: self.rendezvous_listen, address }),
                launcher_image: self.image.clone(),
                gangs: (!self.no_gangs).then(|| Duration::from_secs(self.gang_seconds.into())),
                binds: self.binds,
                left: self.leave.iter().cloned().collect::<BTreeSet<_>>(),
                ..trainyard_coordinator::Config::default()
            },
            terms,
            pod_ip: self.pod_ip.clone(),
            pod_name: self.pod_name.clone(),
            experiments: !self.no_experiments,
        }
    }
}

/// The controllers of experiments.
struct Experiments(trainyard_tuner::Handle);

impl Companion for Experiments {
    async fn ready(&self) {
        self.0.ready().await;
    }

    async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

/// A name that no other process has, nor a later one of the same pod: a container that starts again has the pod's name.
fn identity(pod: Option<&str>) -> String {
    let host = trainyard_worker::host::name();
    let began = jiff::Timestamp::now().as_microsecond();
    format!("{}_{}-{began:x}", pod.unwrap_or(&host), std::process::id())
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<u8, CliError> {
    args.terms().check().map_err(|error| CliError::Usage {
        message: error.to_string(),
        hint: "choose --lease-seconds longer than --renew-seconds, and that longer than --retry-seconds".to_owned(),
    })?;
    crate::session::serve(global, serve(global, args))
}

async fn serve(global: &Global, args: &Args) -> Result<u8, CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal("cannot listen for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(internal("cannot listen for signals"))?;
    let client = client(global).await?;
    let listener = TcpListener::bind(args.health_listen).await.map_err(|source| CliError::Unreachable {
        message: format!("cannot listen on {}: {source}", args.health_listen),
        hint: "choose another address with --health-listen, or port 0 for a free one".to_owned(),
    })?;
    let (metrics, health, stop) = (Metrics::new(), Health::default(), CancellationToken::new());
    trainyard_runtime::driver::metrics().register(&metrics);
    let asked = health.clone();
    let answering = tokio::spawn(trainyard_runtime::health::serve(
        listener,
        metrics.clone(),
        move || asked.is_ready(),
        CancellationToken::new(),
    ));
    let told = async {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("told to end; running jobs go on");
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let experiments =
        |client: &kube::Client| (!args.no_experiments).then(|| Experiments(Tuner::start_on_cluster(client, WORKERS)));
    let running = operator::run(client, args.config(), experiments, (&metrics, &health), stop.clone());
    let outcome = tokio::select! { outcome = running => outcome, () = told => Ok(()) };
    answering.abort();
    outcome.map(|()| exit_code::SUCCESS).map_err(internal("the operator ends"))
}

/// A client of the cluster that was asked for, or of the one whose pod this is.
async fn client(global: &Global) -> Result<kube::Client, CliError> {
    if wants_cluster(global) {
        return Ok(cluster::connect(global).await?.api.client().clone());
    }
    let config = kube::Config::incluster().map_err(|error| CliError::Usage {
        message: format!("this process is in no pod of a cluster: {error}"),
        hint: "name a cluster with --context or --kubeconfig".to_owned(),
    })?;
    kube::Client::try_from(config).map_err(internal("cannot make a connection to the cluster"))
}

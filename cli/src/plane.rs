//! The embedded control plane, wired: API server, coordinator and node agent in one process.

use std::net::SocketAddr;
use std::time::Duration;

use trainyard_coordinator::{Config, Coordinator};
use trainyard_runtime::embedded::{Embedded, Options, ServeError, ServerInfo};
use trainyard_tuner::Tuner;
use trainyard_worker::agent::{Agent, AgentConfig, ContainerMode, Containers};

use crate::arg::{ContainerArgs, Engine};
use crate::error::CliError;
use crate::session::{self, Owner, internal};

/// How long the parts of a failed control plane may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Experiments, and trials, that are planned at the same time.
const TUNER_WORKERS: usize = 2;

/// Where metrics are kept, in the state folder.
const RECORDS: &str = "records.db";

/// Where launchers of this machine's jobs meet, in the state folder.
pub(crate) const SOCKET: &str = "rendezvous.sock";

/// All parts, running.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) info: ServerInfo,
    embedded: Embedded,
    /// Absent where only the API is served.
    workers: Option<Workers>,
}

/// What acts on the objects of the API.
#[derive(Debug)]
struct Workers {
    coordinator: trainyard_coordinator::Handle,
    tuner: trainyard_tuner::Handle,
    agent: trainyard_worker::agent::Handle,
}

/// What starting came to.
pub(crate) enum Started {
    /// Ours now.
    Here(Box<Plane>),
    /// One runs already.
    Elsewhere(ServerInfo),
}

impl Plane {
    /// Opens the store, serves the API, and starts the controllers and the node agent.
    pub(crate) async fn start(
        options: Options,
        listen: SocketAddr,
        containers: ContainerMode,
    ) -> Result<Started, CliError> {
        Self::start_parts(options, listen, Some(containers)).await
    }

    /// The same; without a way to run containers there are neither controllers nor a node agent.
    pub(crate) async fn start_parts(
        options: Options,
        listen: SocketAddr,
        containers: Option<ContainerMode>,
    ) -> Result<Started, CliError> {
        let embedded = match session::own_with(options).await? {
            Owner::Another(info) => return Ok(Started::Elsewhere(info)),
            Owner::Us(embedded) => embedded,
        };
        let info = embedded.serve(listen).await.map_err(refused)?;
        trainyard_runtime::driver::metrics().register(embedded.metrics());
        trainyard_runtime::store::register_metrics(embedded.metrics());
        let workers = match containers {
            Some(mode) => Some(workers(&embedded, mode).await?),
            None => None,
        };
        Ok(Started::Here(Box::new(Self { info, embedded, workers })))
    }

    /// A client in process.
    pub(crate) fn client(&self) -> kube::Client {
        self.embedded.client()
    }

    /// Waits until what is created from now on is acted upon at once.
    pub(crate) async fn ready(&self) {
        if let Some(workers) = &self.workers {
            workers.coordinator.ready().await;
            workers.tuner.ready().await;
        }
    }

    /// Waits until nothing can be written any more, and says so. Ends by a bug only: short of that the store ends after
    /// everything else.
    pub(crate) fn failed(&self) -> impl Future<Output = CliError> + use<> {
        let store = self.embedded.store().clone();
        async move {
            store.ended().await;
            CliError::Internal {
                doing: "the control plane cannot go on".to_owned(),
                source: "the writer of the object store has ended, the log says why; everything that was acknowledged is on \
                         disk, and pods that run go on: start `trainyard up` to take them over, and please report this"
                    .into(),
            }
        }
    }

    /// Stops every part, after a failure: what that waits for may never come.
    pub(crate) async fn give_up(self) {
        let _ = tokio::time::timeout(STOP_PATIENCE, self.stop()).await;
    }

    /// Stops every part. Pods that still run go on under their shims.
    pub(crate) async fn stop(self) {
        if let Some(Workers { coordinator, tuner, agent }) = self.workers {
            tuner.shutdown().await;
            coordinator.shutdown().await;
            agent.shutdown().await;
        }
        self.embedded.shutdown().await;
    }
}

/// Finds the engine that the user asked for.
pub(crate) fn container_mode(args: ContainerArgs) -> Result<ContainerMode, CliError> {
    let asked = match args.engine {
        Engine::None => Containers::None,
        Engine::Podman => Containers::Podman,
        Engine::Docker => Containers::Docker,
        Engine::Auto => Containers::Auto,
    };
    ContainerMode::choose(asked).map_err(|error| CliError::Usage {
        message: error.to_string(),
        hint:
            "--containers auto takes podman or docker where one works, --containers none runs processes of this machine"
                .to_owned(),
    })
}

async fn workers(embedded: &Embedded, mode: ContainerMode) -> Result<Workers, CliError> {
    let client = embedded.client();
    let (rendezvous, containers) = (Some(embedded.home().join(SOCKET)), mode != ContainerMode::Process);
    let config = AgentConfig { mode, ..AgentConfig::for_home(embedded.home()) };
    let agent = Agent::start(client.clone(), config).await.map_err(internal("cannot start the node agent"))?;
    let tuner = Tuner::start(&client, TUNER_WORKERS, Some(embedded.home().join(RECORDS)));
    tuner.guests().into_iter().for_each(|guest| embedded.admit(guest));
    let coordinator = Coordinator::start(client, Config { rendezvous, containers, ..Config::default() })
        .await
        .map_err(internal("cannot start the controllers"))?;
    coordinator.register_metrics(embedded.metrics());
    Ok(Workers { coordinator, tuner, agent })
}

fn refused(error: ServeError) -> CliError {
    match error {
        ServeError::Bind { address, source } => CliError::Unreachable {
            message: format!("cannot listen on {address}: {source}"),
            hint: "choose another port with --listen, or port 0 for a free one".to_owned(),
        },
        error @ ServeError::Unprotected { .. } => CliError::Usage {
            message: error.to_string(),
            hint: "give --tls-cert, --tls-key and --token-file, or listen on 127.0.0.1".to_owned(),
        },
        error @ ServeError::Announce { .. } => internal("cannot tell others where the server is")(error),
    }
}

#[cfg(test)]
impl Plane {
    /// Ends the store behind everybody's back.
    pub(crate) async fn fail(&self) {
        self.embedded.store().close().await;
    }
}

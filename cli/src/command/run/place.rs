//! Where a run takes place: a cluster, a server that runs, or a control plane for the time of the run.

use std::net::{Ipv4Addr, SocketAddr};

use trainyard_runtime::embedded::{self, Options};

use super::others::{self, Other};
use crate::api::Api;
use crate::arg::{ContainerArgs, Engine, Global};
use crate::error::CliError;
use crate::home;
use crate::plane::{self, Plane, Started};
use crate::session::{self, Place, Session, internal};

/// A session, and the control plane behind it if it is ours.
pub(crate) struct Opened {
    pub(crate) session: Session,
    plane: Option<Box<Plane>>,
    /// What was asked for, should the control plane have to be brought up again.
    pub(crate) containers: ContainerArgs,
    /// Jobs that went on while no control plane ran, and that ours has taken over.
    pub(crate) adopted: Vec<Other>,
}

impl Opened {
    /// Whether pods run as processes of this machine: then a program works in a folder of this machine, else in one of
    /// its image.
    pub(crate) async fn runs_processes(&self) -> bool {
        if matches!(self.session.place, Place::Cluster(_)) {
            return false;
        }
        let Ok(nodes) = self.session.api.get("/api/v1/nodes").await else { return true };
        let version = nodes["items"][0]["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
        version.is_none_or(|version| version.starts_with("process://"))
    }

    /// Waits until our control plane fails; for ever where there is none of ours.
    pub(crate) fn failed(&self) -> impl Future<Output = CliError> + use<> {
        let failed = self.plane.as_ref().map(|plane| plane.failed());
        async move {
            match failed {
                Some(failed) => failed.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Takes our control plane down after it failed.
    pub(crate) async fn give_up(self) {
        if let Some(plane) = self.plane {
            plane.give_up().await;
        }
    }

    /// Takes our control plane down.
    pub(crate) async fn close(self) {
        if let Some(plane) = self.plane {
            plane.stop().await;
        }
        self.session.close().await;
    }
}

/// Runs a command that ends something. If pods run that nobody looks after, there must be somebody to end them: the control plane is
/// brought up for the time of the command. `trainyard run` that was killed leaves such pods.
pub(crate) fn with_hands<F>(global: &Global, command: F) -> Result<u8, CliError>
where
    F: AsyncFnOnce(&Session) -> Result<u8, CliError>,
{
    let hands = !session::wants_cluster(global) && {
        let home = home::folder(global.home.as_ref())?;
        embedded::running(&home).is_none() && super::process::any(&home)
    };
    if !hands {
        return session::with(global, command);
    }
    crate::telemetry::init(global);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(internal("cannot start the asynchronous runtime"))?;
    let code = session::complete(&runtime, async {
        let place = Box::pin(open(global, false, ContainerArgs::default())).await?;
        let result = command(&place.session).await;
        Box::pin(place.close()).await;
        result
    });
    runtime.shutdown_background();
    code
}

/// Finds or brings up a control plane.
pub(crate) async fn open(global: &Global, detach: bool, containers: ContainerArgs) -> Result<Opened, CliError> {
    if session::wants_cluster(global) {
        return Ok(Opened { session: Session::open(global).await?, plane: None, containers, adopted: Vec::new() });
    }
    let home = home::folder(global.home.as_ref())?;
    if detach && embedded::running(&home).is_none() {
        return Err(CliError::Unreachable {
            message: "--detach needs a control plane that stays: none runs, so nobody would see the job through"
                .to_owned(),
            hint: "start one with `trainyard up`, or run without --detach".to_owned(),
        });
    }
    let namespace = global.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let ran = super::process::any(&home);
    // Port 0: other terminals find it through server.json.
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match Plane::start(Options::new(&home), listen, plane::container_mode(containers)?).await? {
        Started::Elsewhere(info) => {
            let client = embedded::connect(&info).map_err(internal("cannot connect to the running server"))?;
            let session = Session { api: Api::new(client), namespace, place: Place::Server { home }, embedded: None };
            let opened = Opened { session, plane: None, containers, adopted: Vec::new() };
            if containers.engine != Engine::None && containers.engine != Engine::Auto && opened.runs_processes().await {
                return Err(CliError::Usage {
                    message: format!(
                        "the control plane that runs (pid {}) runs containers as processes; --containers has no effect on it",
                        info.pid
                    ),
                    hint: "stop it and start it again with `trainyard up --containers …`".to_owned(),
                });
            }
            Ok(opened)
        }
        Started::Here(plane) => {
            plane.ready().await;
            let session =
                Session { api: Api::new(plane.client()), namespace, place: Place::InProcess { home }, embedded: None };
            let adopted = if ran { others::living(&session.api).await? } else { Vec::new() };
            let adopted = adopted.into_iter().filter(Other::runs).collect();
            Ok(Opened { session, plane: Some(plane), containers, adopted })
        }
    }
}

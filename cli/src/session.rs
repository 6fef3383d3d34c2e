//! Which API server a command talks to, and how.
//!
//! 1. `--context` or `--kubeconfig`: that cluster.
//! 2. A server that runs on the state folder: that one, over HTTP.
//! 3. Else the store of the state folder is opened in process for the time of the command.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Runtime;
use trainyard_runtime::embedded::{self, Embedded, OpenError, Options, ServerInfo};

use crate::api::Api;
use crate::arg::Global;
use crate::cluster;
use crate::error::CliError;
use crate::home;
use crate::manifest::Runner;
use crate::telemetry::{self, Quiet};

/// How long a command waits for another short command to give the state folder back.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile. A short command holds the lock for a few milliseconds.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Where the API is.
#[derive(Debug)]
pub(crate) enum Place {
    /// A Kubernetes cluster.
    Cluster(Box<cluster::Facts>),
    /// `trainyard up` or `trainyard run` in another process.
    Server { home: PathBuf },
    /// In this process; only the store and the API, no controllers.
    InProcess { home: PathBuf },
}

/// A connection with its namespace.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) api: Api,
    pub(crate) namespace: String,
    pub(crate) place: Place,
    pub(crate) embedded: Option<Embedded>,
}

impl Session {
    /// Connects as the global options say.
    pub(crate) async fn open(global: &Global) -> Result<Self, CliError> {
        if wants_cluster(global) {
            return cluster::connect(global).await;
        }
        let home = home::folder(global.home.as_ref())?;
        let namespace = global.namespace.clone().unwrap_or_else(|| "default".to_owned());
        match own(&home).await? {
            Owner::Another(info) => {
                let client = embedded::connect(&info).map_err(internal("connect to the running server"))?;
                Ok(Self { api: Api::new(client), namespace, place: Place::Server { home }, embedded: None })
            }
            Owner::Us(embedded) => {
                let api = Api::new(embedded.client());
                Ok(Self { api, namespace, place: Place::InProcess { home }, embedded: Some(embedded) })
            }
        }
    }

    /// Gives the store back, if this process opened it.
    pub(crate) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.shutdown().await;
        }
    }
}

/// Whether the user asked for a cluster.
pub(crate) fn wants_cluster(global: &Global) -> bool {
    global.context.is_some() || global.kubeconfig.is_some()
}

/// Who runs the manifests of this command.
pub(crate) fn runner(global: &Global) -> Runner {
    if wants_cluster(global) { Runner::Cluster } else { Runner::Machine }
}

/// Who has the state folder.
pub(crate) enum Owner {
    /// A server in another process.
    Another(ServerInfo),
    /// This process, from now on.
    Us(Embedded),
}

/// Takes the state folder, or finds the server that has it. Waits for short commands, and for what a killed server left, that
/// hold it for a moment.
pub(crate) async fn own(home: &std::path::Path) -> Result<Owner, CliError> {
    own_with(Options::new(home)).await
}

/// As [`own`], with options for the server that is opened.
pub(crate) async fn own_with(options: Options) -> Result<Owner, CliError> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        let is_late = tokio::time::Instant::now() >= deadline;
        if let Some(info) = embedded::running(&options.home).filter(|info| is_late || !info.has_ended()) {
            return Ok(Owner::Another(info));
        }
        match Embedded::open(options.clone()).await {
            Ok(embedded) => return Ok(Owner::Us(embedded)),
            Err(OpenError::InUse { .. }) if !is_late => tokio::time::sleep(LOCK_POLL).await,
            Err(error @ OpenError::InUse { .. }) => {
                return Err(CliError::Unreachable {
                    message: error.to_string(),
                    hint: "wait for that process or end it; or use another state folder with --home".to_owned(),
                });
            }
            Err(error @ OpenError::Home { .. }) => {
                let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
                return Err(CliError::Unreachable {
                    message: format!("{error}{source}"),
                    hint: "choose a folder that you can write, with --home or TRAINYARD_HOME".to_owned(),
                });
            }
            Err(error) => return Err(internal("cannot open the state folder")(error)),
        }
    }
}

/// Wraps an error of another part with what we were doing.
pub(crate) fn internal<E>(doing: &str) -> impl FnOnce(E) -> CliError + use<'_, E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| CliError::Internal { doing: doing.to_owned(), source: error.into() }
}

/// Runs a service until it ends. Whatever is still under way then ends with the process.
pub(crate) fn serve<F>(global: &Global, service: F) -> Result<u8, CliError>
where
    F: Future<Output = Result<u8, CliError>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(internal("cannot start the asynchronous runtime"))?;
    let code = complete(&runtime, async {
        let traces = telemetry::init_with_traces(global, Quiet::Service);
        let code = service.await;
        traces.finish().await;
        code
    });
    runtime.shutdown_background();
    code
}

/// Runs a short command: connects, does it, gives the store back whatever came out.
pub(crate) fn with<F>(global: &Global, command: F) -> Result<u8, CliError>
where
    F: AsyncFnOnce(&Session) -> Result<u8, CliError>,
{
    telemetry::init(global);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(internal("cannot start the asynchronous runtime"))?;
    complete(&runtime, async {
        let session = Box::pin(Session::open(global)).await?;
        let result = command(&session).await.map_err(|error| cluster::located(error, &session.place));
        Box::pin(session.close()).await;
        result
    })
}

/// Runs a command to its end. The program has the runtime's loop once, and not once for each command.
pub(crate) fn complete<'command>(
    runtime: &Runtime,
    command: impl Future<Output = Result<u8, CliError>> + 'command,
) -> Result<u8, CliError> {
    let command: Pin<Box<dyn Future<Output = Result<u8, CliError>> + 'command>> = Box::pin(command);
    runtime.block_on(command)
}

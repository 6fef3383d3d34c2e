//! The node agent: registers the node, runs the pods bound to it under shims, reports their status.

mod config;

pub use config::{AgentConfig, AgentError, ContainerMode, host_name};

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Starts node agents.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it leaves the agent running; [`Handle::shutdown`] stops it.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Registers the node and starts to run its pods. Returns once the node is registered and ready.
    ///
    /// # Errors
    /// When the state folder cannot be used or the API does not answer.
    #[expect(clippy::unused_async, reason = "registration comes with the node part")]
    pub async fn start(_client: kube::Client, _config: AgentConfig) -> Result<Handle, AgentError> {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let _ = stopped.changed().await;
        });
        Ok(Handle { stop, task })
    }
}

impl Handle {
    /// Stops the agent. Pods go on under their shims and are adopted by the next agent on the same home.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

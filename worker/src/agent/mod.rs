//! The node agent: registers the node, runs the pods bound to it under shims, reports their status.
//!
//! A [`Manager`](manager::Manager) hands what the API says to one [`Task`](task::Task) per pod. A task observes (the
//! object, its shims' notes, its probes), asks [`trainyard_worker_core::pod::plan`] and carries the answer out. Nothing
//! is kept in memory that a later agent could not find out: containers outlive the agent and are adopted.

mod archive;
mod begin;
mod claim;
mod config;
mod disk;
mod engine;
mod folder;
mod gpu;
mod health;
mod image;
mod keeper;
mod manager;
mod memory;
mod metric;
mod names;
mod node;
mod observe;
mod ownership;
mod pidfd;
mod probe;
mod report;
mod setup;
mod shared;
mod stray;
mod task;
mod trace;

pub use archive::{KeptPod, kept_pods, tidy};
pub use config::{AgentConfig, AgentError, ContainerMode, Containers, EngineError, host_name};
pub use node::would_register;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use trainyard_runtime::driver::EventSink;

use self::keeper::keep_going;
use self::manager::Manager;
use self::shared::Shared;

/// The reason of the node's event when a part of the agent had to be begun again.
const RESTARTED: &str = "AgentTaskRestarted";

/// Starts node agents.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it leaves the agent running; [`Handle::shutdown`] stops it.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    events: EventSink,
    task: JoinHandle<()>,
}

impl Agent {
    /// Registers the node and starts to run its pods. Returns once the node is registered and ready.
    ///
    /// # Errors
    /// When the state folder cannot be used or the API does not answer.
    pub async fn start(client: kube::Client, config: AgentConfig) -> Result<Handle, AgentError> {
        let home = |source| AgentError::Home { path: config.home.clone(), source };
        prepare(&config.home, &config.shim_program).map_err(home)?;
        let disk = disk::DiskWatch::new().map_err(home)?;
        let shared = Arc::new(Shared::new(client.clone(), config.clone(), disk.clone()));
        node::register(&shared).await?;
        let events = shared.events.clone();
        let (stop, stopped) = watch::channel(false);
        // Found out now, so that the first pod does not wait for it.
        let probing = shared.clone();
        tokio::spawn(async move {
            // Where that fails the first pod tries again, and tells why.
            let _ = probing.allowed().await;
        });
        let sweeping = shared.clone();
        tokio::task::spawn_blocking(move || engine::sweep(&sweeping));
        let task = tokio::spawn(work(shared, client, disk, stopped));
        Ok(Handle { stop, events, task })
    }
}

/// Everything that goes on until the agent is stopped.
async fn work(shared: Arc<Shared>, client: kube::Client, disk: disk::DiskWatch, stopped: watch::Receiver<bool>) {
    let teller = || {
        let shared = shared.clone();
        move |message| shared.node_event(RESTARTED, message)
    };
    let (api, home) = (client.clone(), shared.config.home.clone());
    let sweep = move || archive::keep_swept(api.clone(), home.clone());
    let sweeping = keep_going("the sweep of old logs", sweep, teller());
    let node = shared.config.node_name.clone();
    let beat = move || node::heartbeat(client.clone(), node.clone());
    let heartbeat = keep_going("the node's heartbeat", beat, teller());
    let watching = keep_going("the watch on the pods' folders", move || watch_folders(disk.clone()), teller());
    manage(&shared, &stopped).await;
    heartbeat.abort();
    watching.abort();
    sweeping.abort();
}

/// Runs the manager until the agent is stopped. One that panicked is followed by another, which finds everything again.
async fn manage(shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) {
    while let Err(error) = tokio::spawn(Manager::new(shared.clone()).run(stopped.clone())).await {
        tracing::error!(%error, "the node agent's manager ended badly and is begun again; please report this");
        shared.node_event(RESTARTED, format!("the node agent's manager ended badly ({error}); it is begun again"));
        tokio::time::sleep(keeper::PAUSE).await;
    }
}

async fn watch_folders(disk: disk::DiskWatch) {
    if let Err(error) = disk.run().await {
        tracing::error!(%error, "the pods' folders cannot be watched");
    }
}

/// The folders, and a folder with nothing but our own binary under its own name, for the `PATH` of pods.
fn prepare(home: &Path, program: &Path) -> std::io::Result<()> {
    let make = |name: &str| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(name));
    make("pods")?;
    make("bin")?;
    let link = home.join("bin/trainyard");
    if std::fs::read_link(&link).ok().as_deref() != Some(program) {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(program, &link)?;
    }
    Ok(())
}

impl Handle {
    /// Stops the agent; its last events are written. Pods go on under their shims and are adopted by the next agent on the same home.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
        self.events.flush().await;
    }
}

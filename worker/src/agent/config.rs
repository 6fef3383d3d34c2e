//! What the agent is told at its start, and how starting can fail.

use std::path::PathBuf;

use thiserror::Error;
use trainyard_runtime::records::Records;

use crate::host;

/// How containers are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerMode {
    /// As processes of this machine: images are ignored.
    Process,
    /// By a container engine that honours images.
    Engine {
        /// `podman`, `docker`, or the path of either.
        program: PathBuf,
    },
}

/// What the user asks for containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Containers {
    /// Processes of this machine.
    #[default]
    None,
    /// podman.
    Podman,
    /// docker.
    Docker,
    /// podman or docker, where one works; else processes.
    Auto,
}

/// Why the engine that was asked for cannot be had.
#[derive(Debug, Error)]
pub enum EngineError {
    /// It is not installed.
    #[error(
        "{name} was asked for to run containers, but is in no folder of PATH; install it, or use --containers none"
    )]
    Missing {
        /// `podman` or `docker`.
        name: &'static str,
    },
    /// It is there and does not work.
    #[error("{name} was asked for to run containers, but `{name} ps` fails: {said}")]
    Unusable {
        /// `podman` or `docker`.
        name: &'static str,
        /// Its own words.
        said: String,
    },
}

impl ContainerMode {
    /// Finds out how containers are to be run.
    ///
    /// # Errors
    /// When an engine was asked for by name and is missing, or does not answer.
    pub fn choose(asked: Containers) -> Result<Self, EngineError> {
        super::engine::choose(asked)
    }
}

/// What the agent is told at its start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The state folder; pods live under `home/pods`.
    pub home: PathBuf,
    /// The node's name; the sanitized host name by default.
    pub node_name: String,
    /// Processes or a container engine.
    pub mode: ContainerMode,
    /// The binary that has the hidden `shim` subcommand; its folder is prepended to the `PATH` of pods.
    pub shim_program: PathBuf,
    /// The environment that process-mode containers start from, before the pod's own.
    pub base_env: Vec<(String, String)>,
    /// Where containers without `workingDir` start.
    pub default_dir: PathBuf,
    /// The wait before the second restart of a container; it doubles from there. The first restart is immediate.
    pub backoff_base_ms: i64,
    /// The longest wait between restarts.
    pub backoff_max_ms: i64,
    /// Pods that may run at once.
    pub max_pods: u32,
    /// The numbers of this machine's GPUs; `/dev/nvidia<N>` are looked for where none are given.
    pub gpus: Option<Vec<u32>>,
    /// Where metric points go; `home/records.db`, opened at the first point, where none is given.
    pub records: Option<Records>,
}

impl AgentConfig {
    /// The configuration of this machine for the state folder `home`: everything as found in this process.
    #[must_use]
    pub fn for_home(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            node_name: host_name(),
            mode: ContainerMode::Process,
            shim_program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("trainyard")),
            base_env: std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            default_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            backoff_base_ms: 10_000,
            backoff_max_ms: 300_000,
            max_pods: 512,
            gpus: None,
            records: None,
        }
    }
}

/// Why an agent could not start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The state folder cannot be used.
    #[error("cannot use the state folder {path}; check that it exists and belongs to you")]
    Home {
        /// The folder or file in question.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The API refused the node or did not answer.
    #[error("cannot register node {node} with the API")]
    Register {
        /// The node's name.
        node: String,
        /// What the API said.
        #[source]
        source: Box<kube::Error>,
    },
}

/// This machine's host name as a valid object name.
#[must_use]
pub fn host_name() -> String {
    node_name_from(&host::name())
}

/// Lower-cases, replaces what object names may not contain, and never answers an empty name.
fn node_name_from(raw: &str) -> String {
    let mapped: String = raw
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' })
        .take(253)
        .collect();
    let trimmed = mapped.trim_matches(|c| c == '.' || c == '-');
    if trimmed.is_empty() { "localhost".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::node_name_from;

    #[test]
    fn node_names_are_valid_object_names() {
        assert_eq!(node_name_from("My_Laptop.local"), "my-laptop.local");
        assert_eq!(node_name_from("--"), "localhost");
    }
}

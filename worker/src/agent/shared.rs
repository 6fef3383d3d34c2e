//! What all pod tasks of an agent share.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::OnceCell;
use trainyard_proto::plan::{EventSeverity, ObjectRef};
use trainyard_runtime::burst::Burst;
use trainyard_runtime::driver::EventSink;
use trainyard_runtime::records::{Records, RecordsError};
use trainyard_worker_core::pod::BackOff;

use super::config::{AgentConfig, ContainerMode};
use super::disk::DiskWatch;
use super::gpu::Gpus;
use super::image::Images;
use super::names::Names;
use super::node::Capacity;
use crate::sandbox::Allowed;
use crate::sandbox::cgroup::Cgroups;

/// A run this long forgives the failures before it (Kubernetes' ten minutes).
const FORGIVE_AFTER_MS: i64 = 600_000;

pub(super) struct Shared {
    pub(super) client: kube::Client,
    pub(super) config: AgentConfig,
    pub(super) capacity: Capacity,
    pub(super) gpus: Gpus,
    pub(super) names: Mutex<Names>,
    pub(super) disk: DiskWatch,
    pub(super) starts: Burst,
    pub(super) events: EventSink,
    pub(super) cgroups: Cgroups,
    pub(super) images: Images,
    pub(super) base_env: Vec<(String, String)>,
    allowed: OnceCell<Allowed>,
    limits_event_sent: AtomicBool,
    size_event_sent: AtomicBool,
    records: OnceCell<Records>,
}

/// The GPUs that an agent of this machine has.
pub(super) fn gpus(config: &AgentConfig) -> Gpus {
    let visible = config.base_env.iter().find(|(key, _)| key == "CUDA_VISIBLE_DEVICES");
    let visible = visible.map(|(_, value)| value.as_str());
    config.gpus.clone().map_or_else(|| Gpus::detect(visible), |given| Gpus::new(given, None))
}

impl Shared {
    pub(super) fn new(client: kube::Client, config: AgentConfig, disk: DiskWatch) -> Self {
        let gpus = gpus(&config);
        Self {
            events: EventSink::start(client.clone(), "trainyard-agent"),
            capacity: Capacity::detect(&config.home),
            base_env: inherited(&config.base_env),
            names: Mutex::default(),
            cgroups: Cgroups::detect(),
            images: Images::default(),
            starts: Burst::default(),
            allowed: OnceCell::new(),
            limits_event_sent: AtomicBool::new(false),
            size_event_sent: AtomicBool::new(false),
            records: OnceCell::new_with(config.records.clone()),
            client,
            config,
            gpus,
            disk,
        }
    }

    /// Which namespaces containers may have; found out once, in a process of its own. Where that process could not be
    /// run nothing is known, and the next to ask tries again.
    pub(super) async fn allowed(&self) -> io::Result<&Allowed> {
        self.allowed
            .get_or_try_init(|| async {
                let output = tokio::process::Command::new(&self.config.shim_program)
                    .args(["shim", "check-namespaces"])
                    .stdin(std::process::Stdio::null())
                    .output()
                    .await;
                output.and_then(|output| answer(&output)).map_err(|error| {
                    let message = format!("which namespaces this machine allows could not be found out: {error}");
                    io::Error::new(error.kind(), message)
                })
            })
            .await
    }

    /// The records, opened when they are first needed: an idle node does without.
    pub(super) async fn records(&self) -> Result<&Records, RecordsError> {
        self.records.get_or_try_init(|| async { Records::open(&self.config.home.join("records.db")).await }).await
    }

    pub(super) fn back_off(&self) -> BackOff {
        let AgentConfig { backoff_base_ms: base_ms, backoff_max_ms: max_ms, .. } = self.config;
        BackOff { base_ms, max_ms, reset_after_ms: FORGIVE_AFTER_MS }
    }

    /// The address by which this machine's pods reach it.
    #[expect(clippy::unused_self, reason = "asks the agent, wherever the answer comes from")]
    pub(super) fn host_ip(&self) -> &'static str {
        "127.0.0.1"
    }

    pub(super) fn runtime_version(&self) -> String {
        match &self.config.mode {
            ContainerMode::Process => concat!("process://", env!("CARGO_PKG_VERSION")).to_owned(),
            ContainerMode::Engine { program } => {
                format!("{}://", program.file_name().unwrap_or_default().to_string_lossy())
            }
        }
    }

    pub(super) fn pod_event(&self, pod: &Pod, severity: EventSeverity, reason: &str, message: String) {
        let meta = &pod.metadata;
        let regarding = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        self.events.send(regarding, meta.uid.clone().unwrap_or_default(), severity, reason.to_owned(), message);
    }

    /// Says once per agent, on the node, that limits are only numbers here.
    pub(super) fn limits_not_enforced(&self, why: &str) {
        if !self.limits_event_sent.swap(true, Ordering::Relaxed) {
            let message = format!("cpu and memory limits of containers are not enforced on this node: {why}");
            self.node_event("LimitsNotEnforced", message);
        }
    }

    /// The same of the size of volumes.
    pub(super) fn size_limit_not_enforced(&self) {
        if !self.size_event_sent.swap(true, Ordering::Relaxed) {
            let message = "sizeLimit of emptyDir volumes is not enforced on this node, but for medium Memory where trainyard runs as root: they share the disk of the state folder, or the machine's /dev/shm";
            self.node_event("SizeLimitNotEnforced", message.to_owned());
        }
    }

    pub(super) fn node_event(&self, reason: &str, message: String) {
        let node = &self.config.node_name;
        let regarding = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            namespace: String::new(),
            name: node.clone(),
        };
        self.events.send(regarding, node.clone(), EventSeverity::Warning, reason.to_owned(), message);
    }

    pub(super) fn hosts_file(&self, namespace: &str) -> std::io::Result<PathBuf> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).hosts_file(&self.config.home, namespace)
    }

    pub(super) fn name_table(&self, namespace: &str) -> BTreeMap<String, std::collections::BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).table(namespace)
    }
}

/// What the process that tried has found. One that was killed has found nothing.
fn answer(output: &Output) -> io::Result<Allowed> {
    match String::from_utf8_lossy(&output.stdout).trim() {
        _ if !output.status.success() => Err(io::Error::other(output.status.to_string())),
        "" => Err(io::Error::other("no answer")),
        "root" => Ok(Allowed::Root),
        "user" => Ok(Allowed::User),
        why => Ok(Allowed::None(why.to_owned())),
    }
}

/// The environment that containers inherit: the user's own, without what would make a program believe that it is
/// already a rank of some other job, and without what speaks to this server's own supervisor.
fn inherited(env: &[(String, String)]) -> Vec<(String, String)> {
    const NAMES: &[&str] = &[
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "ROLE_NAME",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TF_CONFIG",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "JOURNAL_STREAM",
        "INVOCATION_ID",
        "TRACEPARENT",
        "TRACESTATE",
        "HOSTNAME",
    ];
    const PREFIXES: &[&str] = &["PET_", "TORCHELASTIC_", "TRAINYARD_", "CARGO_", "OMPI_", "PMI_", "SLURM_"];
    env.iter()
        .filter(|(key, _)| !NAMES.contains(&key.as_str()) && !PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn nothing_is_known_of_namespaces_where_nobody_could_look() {
        let output = |status, said: &str| Output {
            status: ExitStatus::from_raw(status),
            stdout: said.as_bytes().to_vec(),
            stderr: Vec::new(),
        };
        assert_eq!(answer(&output(0, "user\n")).ok(), Some(Allowed::User));
        assert_eq!(answer(&output(0, "refused\n")).ok(), Some(Allowed::None("refused".to_owned())));
        // Killed, and unable to say anything.
        assert!(answer(&output(9, "")).is_err() && answer(&output(0, "")).is_err());
    }

    #[test]
    fn a_surrounding_job_does_not_leak_into_pods() {
        let env =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let kept =
            inherited(&env(&[("PATH", "/venv/bin"), ("RANK", "3"), ("PET_NNODES", "2"), ("VIRTUAL_ENV", "/venv")]));
        assert_eq!(kept, env(&[("PATH", "/venv/bin"), ("VIRTUAL_ENV", "/venv")]));
    }
}

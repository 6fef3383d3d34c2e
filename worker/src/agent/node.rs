//! The Node object: what this machine is and has, and that its agent lives.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::config::{AgentConfig, AgentError};
use super::shared::{self, Shared};

/// The kubelet's period; the lease is what heartbeats cost.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// One short of the lease's end.
const MISSED_TO_WARN: u32 = 3;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) cpu_milli: i64,
    pub(super) memory_bytes: i64,
    pub(super) disk_bytes: i64,
}

impl Capacity {
    pub(super) fn detect(home: &std::path::Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<i64>().ok())
            .unwrap_or(0);
        let disk_bytes = nix::sys::statvfs::statvfs(home)
            .map_or(0, |stat| i64::try_from(stat.blocks() * stat.fragment_size()).unwrap_or(i64::MAX));
        Self { cpu_milli: cpus * 1_000, memory_bytes: kib * 1_024, disk_bytes }
    }
}

/// Makes the Node object be there and be right.
pub(super) async fn register(shared: &Shared) -> Result<(), AgentError> {
    let fail = |source| AgentError::Register { node: shared.config.node_name.clone(), source: Box::new(source) };
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let name = &shared.config.node_name;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels(name)}});
    let body = Node::deserialize(&node).map_err(kube::Error::SerdeError).map_err(fail)?;
    match nodes.create(&PostParams::default(), &body).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let labels = json!({"metadata": {"labels": labels(name)}});
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await.map_err(fail)?;
        }
        Err(error) => return Err(fail(error)),
    }
    let status = json!({"status": status(shared)});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.map_err(fail)?;
    Ok(())
}

/// The node that an agent would register, as far as its pods are placed by it: for whoever asks what would be if one ran.
#[must_use]
pub fn would_register(config: &AgentConfig) -> Node {
    let amounts = amounts(&Capacity::detect(&config.home), shared::gpus(config).count(), config.max_pods);
    let node = json!({
        "metadata": {"name": config.node_name, "labels": labels(&config.node_name)},
        "status": {
            "capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    Node::deserialize(&node).unwrap_or_default()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(name: &str) -> Value {
    json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": std::env::consts::OS, "kubernetes.io/arch": architecture(),
        "node.trainyard.dev/embedded": "true",
    })
}

fn amounts(capacity: &Capacity, gpus: usize, max_pods: u32) -> Value {
    let mut amounts = json!({
        "cpu": format!("{}", capacity.cpu_milli / 1_000),
        "memory": format!("{}Ki", capacity.memory_bytes / 1_024),
        "ephemeral-storage": format!("{}Ki", capacity.disk_bytes / 1_024),
        "pods": max_pods.to_string(),
    });
    if gpus > 0 {
        amounts["nvidia.com/gpu"] = json!(gpus.to_string());
    }
    amounts
}

fn status(shared: &Shared) -> Value {
    let amounts = amounts(&shared.capacity, shared.gpus.count(), shared.config.max_pods);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |type_: &str, holds: bool, reason: &str, message: &str| {
        json!({"type": type_, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let uname = nix::sys::utsname::uname();
    let kernel = uname.as_ref().map_or(String::new(), |name| name.release().to_string_lossy().into_owned());
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image =
        os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    json!({
        "capacity": amounts, "allocatable": amounts,
        "conditions": [
            condition("MemoryPressure", false, "AgentHasSufficientMemory", "the node agent sees enough memory"),
            condition("DiskPressure", false, "AgentHasNoDiskPressure", "the node agent sees enough disk"),
            condition("PIDPressure", false, "AgentHasSufficientPID", "the node agent sees enough process ids"),
            condition("Ready", true, "AgentReady", "the node agent runs pods"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": shared.host_ip()},
            {"type": "Hostname", "address": shared.config.node_name},
        ],
        "nodeInfo": {
            "architecture": architecture(), "bootID": crate::shim::boot_id(),
            "containerRuntimeVersion": shared.runtime_version(), "kernelVersion": kernel,
            "kubeProxyVersion": "", "kubeletVersion": version, "machineID": read("/etc/machine-id"),
            "operatingSystem": std::env::consts::OS, "osImage": image, "systemUUID": read("/etc/machine-id"),
        },
    })
}

/// Renews the node's lease until the task is aborted.
pub(super) async fn heartbeat(client: kube::Client, node: String) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missed = 0_u32;
    loop {
        ticks.tick().await;
        match renew(&client, &leases, &node).await {
            Ok(()) if missed > 0 => {
                tracing::info!(missed, "the node's lease is renewed again");
                missed = 0;
            }
            Ok(()) => {}
            Err(error) => {
                missed = missed.saturating_add(1);
                // Once, when others are about to take the node for dead.
                if missed == MISSED_TO_WARN {
                    tracing::warn!(%error, "the node's lease could not be renewed {missed} times: the node will count as lost");
                } else {
                    tracing::debug!(%error, "the node's lease was not renewed");
                }
            }
        }
    }
}

async fn renew(client: &kube::Client, leases: &Api<Lease>, node: &str) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    let patched = leases.patch(node, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
    match patched {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                       "metadata": {"name": node, "namespace": LEASE_NAMESPACE}, "spec": spec});
    let lease = Lease::deserialize(&lease).map_err(kube::Error::SerdeError)?;
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}});
    let namespace = Namespace::deserialize(&namespace).map_err(kube::Error::SerdeError)?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

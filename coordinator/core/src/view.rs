//! What the job planner is shown.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::peer::Peers;
use crate::rendezvous::RendezvousView;

/// Where the job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Whether pods are processes of one machine under the embedded server: names resolve at once, ports are the host's,
    /// and gangs are placed by our scheduler.
    pub embedded: bool,
    /// Domain of the cluster's service names, where a dialect writes it out.
    pub cluster_domain: Option<String>,
    /// Image of the init container that waits for the master's name.
    pub init_container_image: String,
    /// Where launchers reach the rendezvous (`unix:/path`), if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendezvous: Option<String>,
    /// Where launchers of other users and in containers reach it: they cannot open that socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_rendezvous: Option<String>,
    /// Image from which pods get our program, on a cluster whose images do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher_image: Option<String>,
    /// Whether on a cluster, too, the pods of a job wait until all of them have places.
    #[serde(default)]
    pub gangs: bool,
    /// Whether on a cluster the pods that wait are bound by the operator itself, as far as it knows all that decides on their node.
    #[serde(default)]
    pub binds: bool,
    /// Other schedulers that the cluster has.
    #[serde(default)]
    pub peers: Peers,
}

impl Config {
    /// The settings of the embedded server.
    #[must_use]
    pub fn embedded() -> Self {
        Self { embedded: true, ..Self::cluster() }
    }

    /// The settings of a cluster.
    #[must_use]
    pub fn cluster() -> Self {
        Self {
            embedded: false,
            cluster_domain: None,
            init_container_image: "alpine:3.10".to_owned(),
            rendezvous: None,
            open_rendezvous: None,
            launcher_image: None,
            gangs: false,
            binds: false,
            peers: Peers::default(),
        }
    }
}

/// Everything observed about one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// The job, of any dialect, as stored.
    pub job: Value,
    /// Pods in the job's namespace that it owns, or that stand where its own would go. Others may be among them; they are
    /// told apart by their owner.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// Services, likewise.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Other objects owned by the job, of the kinds that [`crate::manifest::Dialect::extra_kinds`] names.
    #[serde(default)]
    pub extras: Vec<Value>,
    /// Objects that the job refers to, as [`crate::manifest::Dialect::related`] asked: training runtimes, for example.
    #[serde(default)]
    pub related: Vec<Value>,
    /// Ports of this machine that are taken: by listeners, and by other jobs (their pods' and services'
    /// [`crate::label::MASTER_PORT`] annotations).
    #[serde(default)]
    pub busy_ports: BTreeSet<u16>,
    /// Nodes of its pods that are out of the cluster's reach, or gone ([`crate::job::is_out_of_reach`]).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub silent_nodes: BTreeSet<String>,
    /// What the job's launchers do, if it has a rendezvous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendezvous: Option<RendezvousView>,
    /// Where the job runs.
    pub config: Config,
}

//! Other schedulers that a cluster has, as its discovery tells.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::gang::QUEUE_KINDS;

/// What of other schedulers the API server has: each as the `apiVersion` in which its objects are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// Kubernetes' own PodGroup (alpha in 1.36, behind the gates `GenericWorkload` and `GangScheduling`; beta in 1.37).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<String>,
    /// Kueue's Workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kueue: Option<String>,
    /// Volcano's PodGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volcano: Option<String>,
    /// Kueue's kinds of queues, each with its version, where nobody but us looks after them: the server has them and no Workload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub queues: BTreeMap<String, String>,
}

/// A kind of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerKind {
    /// In which version.
    pub api_version: String,
    /// What.
    pub kind: &'static str,
    /// Whether it is in a namespace.
    pub namespaced: bool,
}

/// What is asked for, in the order in which it is taken. 1.35 has gangs of another form (`Workload` of v1alpha1, named by
/// `spec.workloadRef` of the pods), which is not used.
const NATIVE: [&str; 2] = ["scheduling.k8s.io/v1beta1", "scheduling.k8s.io/v1alpha2"];
const KUEUE: [&str; 2] = ["kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1"];
const VOLCANO: [&str; 1] = ["scheduling.volcano.sh/v1beta1"];
/// Cohorts and topologies were there before they had a version as good as that of the others.
const QUEUES: [&str; 3] = [KUEUE[0], KUEUE[1], "kueue.x-k8s.io/v1alpha1"];
/// Without these there is no queue.
const NEEDED: [&str; 2] = ["ClusterQueue", "LocalQueue"];

impl Peers {
    /// The versions of groups whose resources decide.
    #[must_use]
    pub fn versions() -> Vec<&'static str> {
        NATIVE.into_iter().chain(QUEUES).chain(VOLCANO).collect()
    }

    /// From the resources that the server has, by `GROUP/VERSION`.
    #[must_use]
    pub fn of(served: &BTreeMap<String, BTreeSet<String>>) -> Self {
        let first = |versions: &[&str], plural: &str| {
            let has = |version: &&&str| served.get(**version).is_some_and(|resources| resources.contains(plural));
            versions.iter().find(has).map(|version| (*version).to_owned())
        };
        let kueue = first(&KUEUE, "workloads");
        let mut queues = BTreeMap::new();
        for (kind, plural, _) in QUEUE_KINDS.iter().filter(|_| kueue.is_none()) {
            queues.extend(first(&QUEUES, plural).map(|version| ((*kind).to_owned(), version)));
        }
        if !NEEDED.iter().all(|kind| queues.contains_key(*kind)) {
            queues.clear();
        }
        Self { native: first(&NATIVE, "podgroups"), kueue, volcano: first(&VOLCANO, "podgroups"), queues }
    }

    /// The kinds that are to be followed.
    #[must_use]
    pub fn kinds(&self) -> Vec<PeerKind> {
        let kind = |version: &Option<String>, kind, namespaced| {
            version.clone().map(|api_version| PeerKind { api_version, kind, namespaced })
        };
        let all = [
            kind(&self.native, "PodGroup", true),
            kind(&self.kueue, "Workload", true),
            kind(&self.kueue, "ResourceFlavor", false),
            kind(&self.volcano, "PodGroup", true),
        ];
        all.into_iter().flatten().collect()
    }
}

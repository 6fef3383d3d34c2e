//! Other schedulers that a cluster has, as its discovery tells.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

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

impl Peers {
    /// The versions of groups whose resources decide.
    #[must_use]
    pub fn versions() -> Vec<&'static str> {
        NATIVE.into_iter().chain(KUEUE).chain(VOLCANO).collect()
    }

    /// From the resources that the server has, by `GROUP/VERSION`.
    #[must_use]
    pub fn of(served: &BTreeMap<String, BTreeSet<String>>) -> Self {
        let first = |versions: &[&str], plural: &str| {
            let has = |version: &&&str| served.get(**version).is_some_and(|resources| resources.contains(plural));
            versions.iter().find(has).map(|version| (*version).to_owned())
        };
        Self {
            native: first(&NATIVE, "podgroups"),
            kueue: first(&KUEUE, "workloads"),
            volcano: first(&VOLCANO, "podgroups"),
        }
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

//! What the Rust types of Kubernetes do not carry: how patches and server-side apply see lists and maps.
//!
//! Taken from the tags of `k8s.io/api` (`listType`, `listMapKey`, `mapType`, `structType`, `patchStrategy`, `patchMergeKey`) for the
//! types that are served here. Lists that are not named are atomic and replaced.

use serde_json::Value;
use trainyard_runtime_core::schema::{Annotation, ListType, Strategy};

/// How a list is seen by server-side apply.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Items {
    /// One piece.
    Atomic,
    /// Scalars.
    Set,
    /// Objects with keys.
    Map(&'static [&'static str]),
}

/// How a list is seen by strategic merge.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Merge {
    /// Not at all.
    Replace,
    /// As a set of scalars.
    Union,
    /// As objects with a key.
    Key(&'static str),
}

/// What is known of a field, or of a type (its field name is empty).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    /// A list.
    List(Items, Merge),
    /// An object that is owned as one piece.
    AtomicMap,
    /// A type whose required fields may be absent: status written by agents, and events of old clients.
    Lenient,
    /// A protocol; part of a list key, so its default counts.
    Tcp,
}

use Items::{Atomic, Map, Set};
use Merge::{Key, Replace, Union};
use Note::{AtomicMap, Lenient, List, Tcp};

/// Type, field, note; sorted by type and field.
#[rustfmt::skip]
static NOTES: &[(&str, &str, Note)] = &[
    ("TrainJobStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("TrainJobStatus", "jobsStatus", List(Map(&["name"]), Key("name"))),
    ("TrainingJobSpec", "volumeMounts", List(Map(&["mountPath"]), Key("mountPath"))),
    ("TrainingJobSpec", "volumes", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.apps.v1.DeploymentStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "", Lenient),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.batch.v1.JobSpec", "", Lenient),
    ("io.k8s.api.batch.v1.JobStatus", "conditions", List(Atomic, Key("type"))),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", List(Set, Replace)),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", "failed", List(Set, Replace)),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", "succeeded", List(Set, Replace)),
    ("io.k8s.api.core.v1.ConfigMapKeySelector", "", AtomicMap),
    ("io.k8s.api.core.v1.Container", "env", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.Container", "ports", List(Map(&["containerPort", "protocol"]), Key("containerPort"))),
    ("io.k8s.api.core.v1.Container", "volumeDevices", List(Map(&["devicePath"]), Key("devicePath"))),
    ("io.k8s.api.core.v1.Container", "volumeMounts", List(Map(&["mountPath"]), Key("mountPath"))),
    ("io.k8s.api.core.v1.ContainerPort", "protocol", Tcp),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", "values", List(Set, Replace)),
    ("io.k8s.api.core.v1.ContainerStateTerminated", "", Lenient),
    ("io.k8s.api.core.v1.ContainerStatus", "", Lenient),
    ("io.k8s.api.core.v1.ContainerStatus", "allocatedResourcesStatus", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.ContainerStatus", "volumeMounts", List(Map(&["mountPath"]), Key("mountPath"))),
    ("io.k8s.api.core.v1.EndpointAddress", "", AtomicMap),
    ("io.k8s.api.core.v1.EndpointPort", "", AtomicMap),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", List(Map(&["containerPort", "protocol"]), Key("containerPort"))),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", List(Map(&["devicePath"]), Key("devicePath"))),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", List(Map(&["mountPath"]), Key("mountPath"))),
    ("io.k8s.api.core.v1.Event", "", Lenient),
    ("io.k8s.api.core.v1.FileKeySelector", "", AtomicMap),
    ("io.k8s.api.core.v1.LocalObjectReference", "", AtomicMap),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.NodeSelector", "", AtomicMap),
    ("io.k8s.api.core.v1.NodeSelectorTerm", "", AtomicMap),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", List(Set, Union)),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.NodeSystemInfo", "", Lenient),
    ("io.k8s.api.core.v1.ObjectFieldSelector", "", AtomicMap),
    ("io.k8s.api.core.v1.ObjectReference", "", AtomicMap),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.PodSpec", "containers", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", List(Map(&["ip"]), Key("ip"))),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector", AtomicMap),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", List(Map(&["topologyKey", "whenUnsatisfiable"]), Key("topologyKey"))),
    ("io.k8s.api.core.v1.PodSpec", "volumes", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.PodStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", List(Atomic, Key("ip"))),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", List(Map(&["ip"]), Key("ip"))),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.ResourceFieldSelector", "", AtomicMap),
    ("io.k8s.api.core.v1.ResourceRequirements", "claims", List(Map(&["name"]), Replace)),
    ("io.k8s.api.core.v1.ResourceStatus", "resources", List(Map(&["resourceID"]), Replace)),
    ("io.k8s.api.core.v1.ScopeSelector", "", AtomicMap),
    ("io.k8s.api.core.v1.SecretKeySelector", "", AtomicMap),
    ("io.k8s.api.core.v1.SecretReference", "", AtomicMap),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", List(Map(&["name"]), Key("name"))),
    ("io.k8s.api.core.v1.ServicePort", "protocol", Tcp),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", List(Map(&["port", "protocol"]), Key("port"))),
    ("io.k8s.api.core.v1.ServiceSpec", "selector", AtomicMap),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", List(Map(&["type"]), Key("type"))),
    ("io.k8s.api.core.v1.TopologySelectorTerm", "", AtomicMap),
    ("io.k8s.api.core.v1.TypedLocalObjectReference", "", AtomicMap),
    ("io.k8s.api.events.v1.Event", "", Lenient),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers", List(Map(&["name"]), Key("name"))),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector", "", AtomicMap),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", List(Set, Union)),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", List(Map(&["uid"]), Key("uid"))),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference", "", AtomicMap),
];

/// The note on a field of a type.
pub(crate) fn note(owner: &str, field: &str) -> Option<Note> {
    NOTES.binary_search_by(|(known, name, _)| (*known, *name).cmp(&(owner, field))).ok().map(|index| NOTES[index].2)
}

/// The same for the schema builder.
pub(crate) fn annotation(owner: &str, field: &str) -> Option<Annotation> {
    let mut annotation = Annotation::default();
    match note(owner, field)? {
        List(items, merge) => {
            annotation.list_type = Some(match items {
                Atomic => ListType::Atomic,
                Set => ListType::Set,
                Map(keys) => ListType::Map(keys.iter().map(|key| (*key).into()).collect()),
            });
            annotation.strategy = Some(match merge {
                Replace => Strategy::Replace,
                Union => Strategy::Union,
                Key(key) => Strategy::MergeKey(key.into()),
            });
        }
        AtomicMap => annotation.atomic = true,
        Lenient => annotation.lenient = true,
        Tcp => annotation.default = Some(Value::from("TCP")),
    }
    Some(annotation)
}

#[cfg(test)]
mod tests {
    use super::NOTES;

    #[test]
    fn notes_are_sorted_so_that_they_are_found() {
        assert!(NOTES.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}

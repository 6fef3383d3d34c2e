//! The kinds themselves.

use trainyard_proto::katib;
use trainyard_proto::kind::CustomKind;
use trainyard_proto::kubeflow::{JAXJob, MPIJob, PaddleJob, PyTorchJob, TFJob, XGBoostJob};
use trainyard_proto::trainer::{ClusterTrainingRuntime, TrainJob, TrainingRuntime};
use trainyard_proto::trainyard::TrainingJob;
use trainyard_proto::tuning::{Experiment, Trial};

use super::column;
use super::{Kind, Scale};

/// The short names of Kubernetes' own scale paths.
const REPLICAS: Scale =
    Scale { spec_replicas: ".spec.replicas", status_replicas: ".status.replicas", selector: ".spec.selector" };

/// The categories of Katib's kinds.
const KATIB: &[&str] = &["all", "kubeflow", "katib"];

/// Kueue's group.
const KUEUE: &str = "kueue.x-k8s.io";

/// A kind of Kubernetes itself.
fn native(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind::new(group, version, kind, plural, true)
}

/// A kind that came as a CustomResourceDefinition.
fn custom<T: CustomKind>() -> Kind {
    let info = T::INFO;
    let mut kind = Kind::new(info.group, info.version, info.kind, info.plural, false).short(info.short_names);
    kind.singular = info.singular;
    kind.namespaced = info.namespaced;
    kind.status = info.status;
    kind.scale = info.scale.map(|scale| Scale {
        spec_replicas: scale.spec_path,
        status_replicas: scale.status_path,
        selector: scale.selector_path,
    });
    kind
}

pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = core_kinds();
    kinds.extend(workload_kinds());
    kinds.extend(custom_kinds());
    kinds.extend(queue_kinds());
    kinds
}

fn core_kinds() -> Vec<Kind> {
    vec![
        native("", "v1", "Namespace", "namespaces").short(&["ns"]).cluster().with_status().columns(column::NAMESPACE),
        native("", "v1", "Pod", "pods")
            .short(&["po"])
            .all()
            .with_status()
            .subresources(&["log", "binding", "eviction", "ephemeralcontainers", "resize"])
            .columns(column::POD),
        native("", "v1", "Service", "services").short(&["svc"]).all().with_status().columns(column::SERVICE),
        native("", "v1", "ConfigMap", "configmaps").short(&["cm"]).columns(column::CONFIG_MAP),
        native("", "v1", "Secret", "secrets").columns(column::SECRET),
        native("", "v1", "Node", "nodes").short(&["no"]).cluster().with_status().columns(column::NODE),
        native("", "v1", "Event", "events").short(&["ev"]).columns(column::EVENT),
        native("", "v1", "ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .subresources(&["token"])
            .columns(column::SERVICE_ACCOUNT),
        native("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .with_status()
            .columns(column::PVC),
        native("", "v1", "PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .cluster()
            .with_status()
            .columns(column::PV),
        native("", "v1", "ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .with_status()
            .columns(column::RESOURCE_QUOTA),
        native("", "v1", "LimitRange", "limitranges").short(&["limits"]).columns(column::CREATED_AT),
    ]
}

fn workload_kinds() -> Vec<Kind> {
    vec![
        native("apps", "v1", "Deployment", "deployments")
            .short(&["deploy"])
            .all()
            .with_status()
            .scale(REPLICAS)
            .columns(column::DEPLOYMENT),
        native("apps", "v1", "ReplicaSet", "replicasets")
            .short(&["rs"])
            .all()
            .with_status()
            .scale(REPLICAS)
            .columns(column::REPLICA_SET),
        native("batch", "v1", "Job", "jobs").all().with_status().columns(column::JOB),
        native("events.k8s.io", "v1", "Event", "events").short(&["ev"]).columns(column::EVENT).stored_as("", "v1"),
        native("coordination.k8s.io", "v1", "Lease", "leases").columns(column::LEASE),
        native("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .short(&["pc"])
            .cluster()
            .columns(column::PRIORITY_CLASS),
        native("storage.k8s.io", "v1", "StorageClass", "storageclasses")
            .short(&["sc"])
            .cluster()
            .columns(column::STORAGE_CLASS),
        native("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .cluster()
            .with_status()
            .read_only()
            .columns(column::CREATED_AT),
    ]
}

fn custom_kinds() -> Vec<Kind> {
    vec![
        custom::<PyTorchJob>().columns(column::STATE_AGE),
        custom::<TFJob>().columns(column::STATE_AGE),
        custom::<MPIJob>().columns(column::AGE_STATE),
        custom::<XGBoostJob>().columns(column::STATE_AGE),
        custom::<PaddleJob>().columns(column::STATE_AGE),
        custom::<JAXJob>().columns(column::STATE_AGE),
        // What kubectl means by `experiments`: a cluster names groups in the order of the alphabet, too.
        custom::<katib::Experiment>().categories(KATIB).columns(column::TYPE_STATUS),
        custom::<katib::Trial>().categories(KATIB).columns(column::TYPE_STATUS),
        custom::<katib::Suggestion>().categories(KATIB).columns(column::SUGGESTION),
        custom::<TrainingJob>().all().columns(column::TRAINING_JOB),
        custom::<Experiment>().all().columns(column::EXPERIMENT),
        custom::<Trial>().columns(column::TRIAL),
        custom::<TrainJob>().columns(column::STATE_AGE),
        custom::<ClusterTrainingRuntime>(),
        custom::<TrainingRuntime>(),
        Kind::new("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets", false).with_status().columns(column::JOB_SET),
    ]
}

/// Kueue's, of which what is read here is used, and all is kept: in both of its versions, the one that clients prefer first.
fn queue_kinds() -> Vec<Kind> {
    let of = |version: &'static str, columns: &'static [super::Column]| {
        let kind =
            |kind: &'static str, plural: &'static str| Kind::new(KUEUE, version, kind, plural, false).with_status();
        vec![
            kind("ClusterQueue", "clusterqueues").short(&["cq"]).cluster().columns(columns),
            kind("LocalQueue", "localqueues").short(&["queue", "queues", "lq"]).columns(column::LOCAL_QUEUE),
            kind("Cohort", "cohorts").cluster(),
            kind("Topology", "topologies").cluster(),
            kind("ResourceFlavor", "resourceflavors").short(&["flavor", "flavors", "rf"]).cluster(),
        ]
    };
    let newer = of("v1beta2", column::CLUSTER_QUEUE_V1BETA2).into_iter().map(|kind| kind.stored_as(KUEUE, "v1beta1"));
    newer.chain(of("v1beta1", column::CLUSTER_QUEUE)).collect()
}

//! The kinds themselves.

use k8s_openapi::api::{apps, batch, coordination, core, events, scheduling, storage};
use schemars::JsonSchema;

use super::column::{self, Column};
use super::{Kind, Part, Scale, Source};

/// The short names of Kubernetes' own scale paths.
const REPLICAS: Scale = Scale { spec_replicas: ".spec.replicas", status_replicas: ".status.replicas", selector: ".spec.selector" };
/// Scale paths of PyTorchJob.
const WORKERS: Scale = Scale {
    spec_replicas: ".spec.pytorchReplicaSpecs.Worker.replicas",
    status_replicas: ".status.replicaStatuses.Worker.active",
    selector: ".status.replicaStatuses.Worker.selector",
};

/// A kind of Kubernetes itself.
fn native<T: JsonSchema>(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind::new(group, version, kind, plural, Source::Whole(part::<T>()), true)
}

/// A kind that came as a CustomResourceDefinition.
fn custom(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str, source: Source) -> Kind {
    Kind::new(group, version, kind, plural, source, false).with_status()
}

/// The function that writes the schema of `T`.
fn part<T: JsonSchema>() -> Part {
    |generator| generator.subschema_for::<T>()
}

pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = core_kinds();
    kinds.extend(workload_kinds());
    kinds.extend(custom_kinds());
    kinds
}

fn core_kinds() -> Vec<Kind> {
    vec![
        native::<core::v1::Namespace>("", "v1", "Namespace", "namespaces").short(&["ns"]).cluster().with_status().columns(column::NAMESPACE),
        native::<core::v1::Pod>("", "v1", "Pod", "pods")
            .short(&["po"])
            .all()
            .with_status()
            .subresources(&["log", "binding", "eviction", "ephemeralcontainers", "resize"])
            .columns(column::POD),
        native::<core::v1::Service>("", "v1", "Service", "services").short(&["svc"]).all().with_status().columns(column::SERVICE),
        native::<core::v1::ConfigMap>("", "v1", "ConfigMap", "configmaps").short(&["cm"]).columns(column::CONFIG_MAP),
        native::<core::v1::Secret>("", "v1", "Secret", "secrets").columns(column::SECRET),
        native::<core::v1::Node>("", "v1", "Node", "nodes").short(&["no"]).cluster().with_status().columns(column::NODE),
        native::<core::v1::Event>("", "v1", "Event", "events").short(&["ev"]).columns(column::EVENT),
        native::<core::v1::ServiceAccount>("", "v1", "ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .subresources(&["token"])
            .columns(column::SERVICE_ACCOUNT),
        native::<core::v1::PersistentVolumeClaim>("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .with_status()
            .columns(column::PVC),
        native::<core::v1::PersistentVolume>("", "v1", "PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .cluster()
            .with_status()
            .columns(column::PV),
        native::<core::v1::ResourceQuota>("", "v1", "ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .with_status()
            .columns(column::RESOURCE_QUOTA),
        native::<core::v1::LimitRange>("", "v1", "LimitRange", "limitranges").short(&["limits"]).columns(column::CREATED_AT),
    ]
}

fn workload_kinds() -> Vec<Kind> {
    vec![
        native::<apps::v1::Deployment>("apps", "v1", "Deployment", "deployments")
            .short(&["deploy"])
            .all()
            .with_status()
            .scale(REPLICAS)
            .columns(column::DEPLOYMENT),
        native::<apps::v1::ReplicaSet>("apps", "v1", "ReplicaSet", "replicasets")
            .short(&["rs"])
            .all()
            .with_status()
            .scale(REPLICAS)
            .columns(column::REPLICA_SET),
        native::<batch::v1::Job>("batch", "v1", "Job", "jobs").all().with_status().columns(column::JOB),
        native::<events::v1::Event>("events.k8s.io", "v1", "Event", "events")
            .short(&["ev"])
            .columns(column::EVENT)
            .stored_as("", "v1"),
        native::<coordination::v1::Lease>("coordination.k8s.io", "v1", "Lease", "leases").columns(column::LEASE),
        native::<scheduling::v1::PriorityClass>("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .short(&["pc"])
            .cluster()
            .columns(column::PRIORITY_CLASS),
        native::<storage::v1::StorageClass>("storage.k8s.io", "v1", "StorageClass", "storageclasses")
            .short(&["sc"])
            .cluster()
            .columns(column::STORAGE_CLASS),
        Kind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", Source::Open, true)
            .short(&["crd", "crds"])
            .cluster()
            .with_status()
            .read_only()
            .columns(column::CREATED_AT),
    ]
}

fn custom_kinds() -> Vec<Kind> {
    let kubeflow = |kind, plural, columns: &'static [Column]| custom("kubeflow.org", "v1", kind, plural, Source::Open).columns(columns);
    let trainer = |kind, plural| custom("trainer.kubeflow.org", "v1alpha1", kind, plural, Source::Open);
    vec![
        custom("trainyard.dev", "v1alpha1", "TrainingJob", "trainingjobs", Source::Open).short(&["tj"]).all().columns(column::TRAINING_JOB),
        kubeflow("PyTorchJob", "pytorchjobs", column::STATE_AGE).scale(WORKERS),
        kubeflow("TFJob", "tfjobs", column::STATE_AGE),
        kubeflow("MPIJob", "mpijobs", column::AGE_STATE),
        kubeflow("XGBoostJob", "xgboostjobs", column::STATE_AGE),
        kubeflow("PaddleJob", "paddlejobs", column::STATE_AGE),
        kubeflow("JAXJob", "jaxjobs", column::STATE_AGE),
        trainer("TrainJob", "trainjobs").columns(column::STATE_AGE),
        trainer("ClusterTrainingRuntime", "clustertrainingruntimes").cluster().without_status(),
        trainer("TrainingRuntime", "trainingruntimes").without_status(),
        custom("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets", Source::Open).columns(column::JOB_SET),
    ]
}

//! What became of jobs and pods, under the names that the Kubeflow training operator gives its counters.

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use trainyard_coordinator_core::manifest::dialects;
use trainyard_runtime::metrics::Metrics;

use crate::cluster::Cluster;

/// As the training operator has it. Namespaces are bounded by what users create.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JobLabel {
    job_namespace: String,
    framework: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

type Jobs = Family<JobLabel, Counter>;

/// Counters of all jobs, gauges of all pods. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobMetrics {
    created: Jobs,
    deleted: Jobs,
    successful: Jobs,
    failed: Jobs,
    restarted: Jobs,
    pods: Family<PhaseLabel, Gauge>,
    pods_created: Counter,
    pods_deleted: Counter,
    pods_failed: Counter,
}

impl JobMetrics {
    /// Counts from now on what the caches show. What happened before this process is not counted again.
    pub(crate) fn watch(cluster: &Cluster) -> Self {
        let this = Self::default();
        let since_ms = trainyard_runtime::driver::now_ms();
        for dialect in dialects() {
            let info = dialect.info();
            let framework = framework(info.kind);
            if let Some(jobs) = cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned())) {
                let metrics = this.clone();
                jobs.subscribe(move |old, new| {
                    metrics.job(framework, old.map(AsRef::as_ref), new.map(AsRef::as_ref), since_ms);
                });
            }
        }
        let metrics = this.clone();
        cluster.pods.subscribe(move |old, new| metrics.pod(old.map(AsRef::as_ref), new.map(AsRef::as_ref), since_ms));
        this
    }

    fn job(&self, framework: &'static str, old: Option<&DynamicObject>, new: Option<&DynamicObject>, since_ms: i64) {
        let Some(meta) = new.or(old).map(|job| &job.metadata) else { return };
        let label = JobLabel { job_namespace: meta.namespace.clone().unwrap_or_default(), framework };
        let count = |family: &Jobs| {
            family.get_or_create(&label).inc();
        };
        let is_new = old.is_none() && created_since(meta, since_ms);
        if is_new {
            count(&self.created);
        }
        if new.is_none() {
            count(&self.deleted);
        }
        // Of an old job that is seen for the first time nobody knows when it came to its conditions.
        if old.is_none() && !is_new {
            return;
        }
        let became =
            |types: &[&str]| new.is_some_and(|job| holds(job, types)) && !old.is_some_and(|job| holds(job, types));
        if became(&["Succeeded", "Complete"]) {
            count(&self.successful);
        }
        if became(&["Failed"]) {
            count(&self.failed);
        }
        if became(&["Restarting"]) {
            count(&self.restarted);
        }
    }

    fn pod(&self, old: Option<&Pod>, new: Option<&Pod>, since_ms: i64) {
        let phase = |pod: Option<&Pod>| {
            pod.map(|pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or("Pending".to_owned()))
        };
        let (before, after) = (phase(old), phase(new));
        if old.is_none() && new.is_some_and(|pod| created_since(&pod.metadata, since_ms)) {
            self.pods_created.inc();
        }
        if new.is_none() {
            self.pods_deleted.inc();
        }
        if before != after {
            if old.is_some() && after.as_deref() == Some("Failed") {
                self.pods_failed.inc();
            }
            if let Some(phase) = before {
                self.pods.get_or_create(&PhaseLabel { phase }).dec();
            }
            if let Some(phase) = after {
                self.pods.get_or_create(&PhaseLabel { phase }).inc();
            }
        }
    }

    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let jobs = registry.sub_registry_with_prefix("training_operator_jobs");
            jobs.register("created", "Jobs created", self.created.clone());
            jobs.register("deleted", "Jobs deleted", self.deleted.clone());
            jobs.register("successful", "Jobs that succeeded", self.successful.clone());
            jobs.register("failed", "Jobs that failed", self.failed.clone());
            jobs.register("restarted", "Restarts of jobs", self.restarted.clone());
            registry.register("trainyard_pods", "Pods by phase", self.pods.clone());
            registry.register("created_pods", "Pods created", self.pods_created.clone());
            registry.register("deleted_pods", "Pods deleted", self.pods_deleted.clone());
            registry.register("failed_pods", "Pods that failed", self.pods_failed.clone());
        });
    }
}

/// The name that the training operator gives a kind; ours for what it does not have.
fn framework(kind: &'static str) -> &'static str {
    match kind {
        "PyTorchJob" => "pytorch",
        "TFJob" => "tensorflow",
        "MPIJob" => "mpi",
        "XGBoostJob" => "xgboost",
        "PaddleJob" => "paddle",
        "JAXJob" => "jax",
        "TrainingJob" => "trainyard",
        "TrainJob" => "trainer",
        other => other,
    }
}

/// Creation times have whole seconds.
fn created_since(meta: &kube::core::ObjectMeta, since_ms: i64) -> bool {
    meta.creation_timestamp.as_ref().is_some_and(|time| time.0.as_millisecond() + 1_000 > since_ms)
}

/// Whether one of these conditions is true.
fn holds(job: &DynamicObject, types: &[&str]) -> bool {
    let conditions = job.data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition["status"] == "True" && condition["type"].as_str().is_some_and(|of| types.contains(&of))
    })
}

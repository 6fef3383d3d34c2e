//! What users ask for.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_proto::plan::ObjectRef;

/// Most jobs of one world: enough that they compete, few enough that a seed takes milliseconds.
pub(crate) const MOST_JOBS: u64 = 6;

/// What every node offers. Each job below fits onto an empty cluster of one such node, so that each must end.
pub(crate) const NODE_CPU: i64 = 8;
pub(crate) const NODE_GPU: i64 = 4;
pub(crate) const NODE_MEMORY: &str = "16Gi";
pub(crate) const NODE_PODS: i64 = 40;

pub(crate) fn object_ref(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn node(name: &str, ready: bool) -> Value {
    let amounts = json!({
        "cpu": NODE_CPU.to_string(), "memory": NODE_MEMORY, "pods": NODE_PODS.to_string(),
        "nvidia.com/gpu": NODE_GPU.to_string(),
    });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": amounts, "capacity": amounts,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

pub(crate) fn pick<'a, T: ?Sized>(rng: &mut ChaCha8Rng, from: &[&'a T]) -> &'a T {
    from[rng.random_range(0..from.len())]
}

fn template(container: &str, cpu: i64, gpu: i64) -> Value {
    let mut requests = json!({"cpu": cpu.to_string(), "memory": "1Gi"});
    if gpu > 0 {
        requests["nvidia.com/gpu"] = json!(gpu.to_string());
    }
    json!({"spec": {"containers": [{
        "name": container, "image": "trainer", "command": ["train"],
        "resources": {"requests": requests, "limits": requests},
    }]}})
}

/// A job as a user might write it; `serial` makes its name. No `Always` for jobs: under it a job that ends well is
/// started again, so it would never end.
pub(crate) fn job(rng: &mut ChaCha8Rng, serial: u64) -> (ObjectRef, Value) {
    let (api_version, kind, spec) = match rng.random_range(0..10) {
        0..4 => training_job(rng),
        4..7 => pytorch_job(rng),
        7..9 => batch_job(rng),
        _ => deployment(rng),
    };
    // Pods are named after their job, so two jobs of one name would quarrel over them, as on a cluster.
    let name = format!("{}-{serial}", kind.to_lowercase());
    let body = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    (object_ref(api_version, kind, "default", &name), body)
}

/// Makes it ask for a volume that no node has, so that nodes refuse its pods. Of a PyTorchJob, only the workers do if it has any.
pub(crate) fn spoil(body: &mut Value) {
    let volumes = json!([{"name": "far", "nfs": {"server": "elsewhere", "path": "/"}}]);
    let spec = &mut body["spec"];
    let roles = spec.get("pytorchReplicaSpecs");
    let role = roles.map(|roles| if roles.get("Worker").is_some() { "Worker" } else { "Master" });
    match role {
        Some(role) => spec["pytorchReplicaSpecs"][role]["template"]["spec"]["volumes"] = volumes,
        None if spec.get("template").is_some() => spec["template"]["spec"]["volumes"] = volumes,
        None => spec["volumes"] = volumes,
    }
}

fn maybe(rng: &mut ChaCha8Rng, one_in: u32) -> bool {
    rng.random_range(0..one_in) == 0
}

fn training_job(rng: &mut ChaCha8Rng) -> (&'static str, &'static str, Value) {
    let mut spec = json!({
        "replicas": rng.random_range(1..=4),
        "command": ["train"],
        "restartPolicy": pick(rng, &["Never", "OnFailure", "ExitCode"]),
        "backoffLimit": rng.random_range(0..4),
        "resources": {"cpu": rng.random_range(1..=2), "memory": "1Gi", "gpu": rng.random_range(0..=1)},
        "cleanPodPolicy": pick(rng, &["None", "Running", "All"]),
    });
    policies(rng, &mut spec);
    ("trainyard.dev/v1alpha1", "TrainingJob", spec)
}

fn policies(rng: &mut ChaCha8Rng, target: &mut Value) {
    if maybe(rng, 5) {
        target["activeDeadlineSeconds"] = json!(rng.random_range(20..200));
    }
    if maybe(rng, 6) {
        target["ttlSecondsAfterFinished"] = json!(rng.random_range(0..60));
    }
    if maybe(rng, 8) {
        target["suspend"] = json!(true);
    }
}

fn pytorch_job(rng: &mut ChaCha8Rng) -> (&'static str, &'static str, Value) {
    let (cpu, gpu) = (rng.random_range(1..=2), rng.random_range(0..=1));
    let mut run_policy = json!({"cleanPodPolicy": pick(rng, &["None", "Running", "All"])});
    policies(rng, &mut run_policy);
    if maybe(rng, 2) {
        run_policy["backoffLimit"] = json!(rng.random_range(0..4));
    }
    let mut role = |replicas: i64| {
        json!({
            "replicas": replicas,
            "restartPolicy": pick(rng, &["Never", "OnFailure", "ExitCode"]),
            "template": template("pytorch", cpu, gpu),
        })
    };
    let mut specs = json!({"Master": role(1)});
    let workers = 3;
    specs["Worker"] = role(workers);
    let workers = rng.random_range(0..=workers);
    if workers == 0 {
        specs = json!({"Master": specs["Master"]});
    } else {
        specs["Worker"]["replicas"] = json!(workers);
    }
    ("kubeflow.org/v1", "PyTorchJob", json!({"runPolicy": run_policy, "pytorchReplicaSpecs": specs}))
}

fn batch_job(rng: &mut ChaCha8Rng) -> (&'static str, &'static str, Value) {
    let mut pod = template("main", 1, 0);
    pod["spec"]["restartPolicy"] = json!(pick(rng, &["Never", "OnFailure"]));
    let mut spec = json!({
        "parallelism": rng.random_range(1..=3),
        "backoffLimit": rng.random_range(0..4),
        "template": pod,
    });
    if !maybe(rng, 4) {
        spec["completions"] = json!(rng.random_range(1..=4));
        if maybe(rng, 2) {
            spec["completionMode"] = json!("Indexed");
        }
    }
    policies(rng, &mut spec);
    if let Some(map) = spec.as_object_mut() {
        map.shift_remove("cleanPodPolicy");
    }
    ("batch/v1", "Job", spec)
}

/// Never ends, so it asks for next to nothing: the jobs must still fit.
fn deployment(rng: &mut ChaCha8Rng) -> (&'static str, &'static str, Value) {
    let mut pod = json!({"metadata": {"labels": {"app": "web"}}});
    pod["spec"] = json!({"restartPolicy": "Always", "containers": [{"name": "main", "image": "v1"}]});
    let mut spec = json!({
        "replicas": rng.random_range(1..=2), "selector": {"matchLabels": {"app": "web"}}, "template": pod,
    });
    if maybe(rng, 3) {
        spec["strategy"] = json!({"type": "Recreate"});
    }
    ("apps/v1", "Deployment", spec)
}

//! Objects that a fresh embedded server brings along: the training runtimes that manifests and SDKs refer to by name.

use std::time::Duration;

use kube::api::{Api, DynamicObject, PostParams};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trainyard_runtime::driver::resource;

/// Namespace that Kubeflow's clients look for the trainer's version in.
const SYSTEM_NAMESPACE: &str = "kubeflow-system";
/// The trainer's API that the runtimes below are written against.
const TRAINER_VERSION: &str = "v2.3.0";

fn runtime(name: &str, framework: &str, policy: &Value, image: &str) -> Value {
    json!({
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": framework}},
        "spec": {
            "mlPolicy": policy,
            "template": {"spec": {"replicatedJobs": [{
                "name": "node",
                "template": {
                    "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                    "spec": {"template": {"spec": {"containers": [{"name": "node", "image": image}]}}},
                },
            }]}},
        },
    })
}

/// In process mode images are ignored, so they only say what the runtime is for.
fn objects() -> Vec<Value> {
    let torch = "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime";
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kubeflow-trainer-public", "namespace": SYSTEM_NAMESPACE},
            "data": {"kubeflow_trainer_version": TRAINER_VERSION},
        }),
        runtime("torch-distributed", "torch", &json!({"numNodes": 1, "torch": {}}), torch),
        runtime("jax-distributed", "jax", &json!({"numNodes": 1, "jax": {}}), "nvcr.io/nvidia/jax:25.10-py3"),
        runtime(
            "xgboost-distributed",
            "xgboost",
            &json!({"numNodes": 1, "xgboost": {}}),
            "ghcr.io/kubeflow/trainer/xgboost-runtime",
        ),
        runtime(
            "deepspeed-distributed",
            "deepspeed",
            &json!({"numNodes": 1, "mpi": {"numProcPerNode": 1, "mpiImplementation": "OpenMPI", "runLauncherAsNode": true}}),
            "ghcr.io/kubeflow/trainer/deepspeed-runtime",
        ),
        runtime(
            "mlx-distributed",
            "mlx",
            &json!({"numNodes": 1, "mpi": {"numProcPerNode": 1, "mpiImplementation": "OpenMPI", "runLauncherAsNode": true}}),
            "ghcr.io/kubeflow/trainer/mlx-runtime",
        ),
    ]
}

/// Create what is missing. What a user has changed stays as it is.
pub(crate) async fn run(client: kube::Client, stop: CancellationToken) {
    for object in objects() {
        let mut delay = Duration::from_millis(50);
        while let Err(error) = create(&client, &object).await {
            tracing::warn!(name = %object["metadata"]["name"], %error, ?delay, "shipped object not installed, trying again");
            tokio::select! { () = tokio::time::sleep(delay) => {}, () = stop.cancelled() => return }
            // A kind that the server does not know will not appear either: half a minute is often enough to ask.
            delay = (delay * 2).min(Duration::from_secs(30));
        }
    }
}

async fn create(client: &kube::Client, object: &Value) -> Result<(), kube::Error> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let resource = resource(text("/apiVersion"), text("/kind"));
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    if api.get_opt(text("/metadata/name")).await?.is_some() {
        return Ok(());
    }
    let wanted = DynamicObject::deserialize(object).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &wanted).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

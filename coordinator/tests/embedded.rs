//! The controllers against the embedded API server, in process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lab;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use lab::{DEADLINE, Lab, has, play_node, report};
use serde_json::{Value, json};

fn training_job(name: &str, replicas: u32, last_word: &str) -> Value {
    json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
        "spec": {"replicas": replicas, "command": ["train", last_word]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_job_runs_to_its_end_and_is_left_alone_afterwards() {
    let lab = Lab::open().await;
    lab.create(training_job("good", 3, "0")).await;
    let job = lab.until("trainyard.dev/v1alpha1", "TrainingJob", "good", |job| has(job, "Succeeded")).await;
    assert_eq!(job["status"]["phase"], "Succeeded");
    let pods = lab.pods().list(&ListParams::default()).await.unwrap();
    assert_eq!(pods.items.len(), 3);
    assert!(pods.items.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("here")));
    let services: Api<Service> = Api::namespaced(lab.client.clone(), "default");
    assert!(services.get_opt("good-worker-0").await.unwrap().is_some());
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_rank_fails_the_job_with_its_exit_code() {
    let lab = Lab::open().await;
    lab.create(training_job("bad", 2, "3")).await;
    let job = lab.until("trainyard.dev/v1alpha1", "TrainingJob", "bad", |job| has(job, "Failed")).await;
    assert_eq!(job["status"]["exitCode"], 3);
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_under_the_next_coordinator() {
    let mut lab = Lab::open().await;
    lab.create(training_job("long", 2, "forever")).await;
    lab.until("trainyard.dev/v1alpha1", "TrainingJob", "long", |job| has(job, "Running")).await;
    let before: Vec<_> = lab.pods().list(&ListParams::default()).await.unwrap().items;
    lab.stop().await;
    // It ends while nobody looks.
    for pod in &before {
        report(&lab.pods(), pod, "Succeeded", Some(0)).await;
    }
    lab.start().await;
    lab.until("trainyard.dev/v1alpha1", "TrainingJob", "long", |job| has(job, "Succeeded")).await;
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pytorch_job_runs_and_deleting_it_takes_everything_along() {
    let lab = Lab::open().await;
    let template =
        json!({"spec": {"containers": [{"name": "pytorch", "image": "x", "command": ["train", "forever"]}]}});
    lab.create(json!({
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "torch"},
        "spec": {"pytorchReplicaSpecs": {
            "Master": {"replicas": 1, "template": template}, "Worker": {"replicas": 2, "template": template},
        }},
    }))
    .await;
    lab.until("kubeflow.org/v1", "PyTorchJob", "torch", |job| has(job, "Running")).await;
    assert_eq!(lab.pods().list(&ListParams::default()).await.unwrap().items.len(), 3);
    let jobs = lab.api("kubeflow.org/v1", "PyTorchJob");
    jobs.delete("torch", &DeleteParams::background()).await.unwrap();
    for pod in ["torch-master-0", "torch-worker-0", "torch-worker-1"] {
        lab.until_gone("v1", "Pod", pod).await;
    }
    lab.until_gone("v1", "Service", "torch-master-0").await;
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_that_does_not_fit_waits_whole_and_starts_when_there_is_room() {
    let lab = Lab::open().await;
    let mut job = training_job("wide", 3, "0");
    job["spec"]["resources"] = json!({"cpu": 2});
    lab.create(job).await;
    let pod = lab
        .until("v1", "Pod", "wide-worker-0", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|one| one["reason"] == "Unschedulable"))
        })
        .await;
    assert!(pod["spec"]["nodeName"].is_null());
    let pods = lab.pods().list(&ListParams::default()).await.unwrap();
    assert!(pods.items.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.is_none()), "all or nothing");
    let second = tokio::spawn(play_node(lab.client.clone(), "there"));
    lab.add_node("there", 4).await;
    lab.until("trainyard.dev/v1alpha1", "TrainingJob", "wide", |job| has(job, "Succeeded")).await;
    second.abort();
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_job_completes_and_goes_with_its_pods() {
    let lab = Lab::open().await;
    lab.create(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"completions": 4, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "main", "image": "x", "command": ["exit", "0"]}],
        }}},
    }))
    .await;
    let job = lab.until("batch/v1", "Job", "sum", |job| has(job, "Complete")).await;
    assert_eq!((&job["status"]["succeeded"], &job["status"]["completedIndexes"]), (&json!(4), &json!("0-3")));
    lab.api("batch/v1", "Job").delete("sum", &DeleteParams::background()).await.unwrap();
    let all_gone = async {
        while !lab.pods().list(&ListParams::default()).await.unwrap().items.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all_gone).await.expect("finalizers are taken off");
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_starts_scales_and_rolls() {
    let lab = Lab::open().await;
    lab.create(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "v1", "command": ["serve"]}]},
        }},
    }))
    .await;
    let ready = |count: i64| {
        move |web: &Value| {
            web["status"]["availableReplicas"] == count
                && web["status"]["updatedReplicas"] == count
                && web["status"]["replicas"] == count
                && web["status"]["observedGeneration"] == web["metadata"]["generation"]
        }
    };
    lab.until("apps/v1", "Deployment", "web", ready(2)).await;
    let deployments = lab.api("apps/v1", "Deployment");
    let patch = json!({"spec": {"replicas": 3}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    lab.until("apps/v1", "Deployment", "web", ready(3)).await;
    let patch =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    lab.until("apps/v1", "Deployment", "web", |web| {
        web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2" && ready(3)(web)
    })
    .await;
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_runtimes_are_there_and_a_users_change_to_one_stays() {
    let mut lab = Lab::open().await;
    let resource =
        ApiResource::from_gvk(&GroupVersionKind::gvk("trainer.kubeflow.org", "v1alpha1", "ClusterTrainingRuntime"));
    let runtimes: Api<DynamicObject> = Api::all_with(lab.client.clone(), &resource);
    let torch = runtimes.get("torch-distributed").await.unwrap();
    assert_eq!(torch.metadata.labels.unwrap()["trainer.kubeflow.org/framework"], "torch");
    let patch = json!({"metadata": {"labels": {"mine": "yes"}}});
    runtimes.patch("torch-distributed", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    lab.stop().await;
    lab.start().await;
    let torch = runtimes.get("torch-distributed").await.unwrap();
    assert_eq!(torch.metadata.labels.unwrap()["mine"], "yes");
    lab.close().await;
}

//! The controllers against the embedded API server, in process. The node is played here: pods that are bound run, and
//! end as their command says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use trainyard_coordinator::{Config, Coordinator, Handle};
use trainyard_runtime::embedded::{Embedded, Options};

/// Longest that a condition may take on an overloaded machine.
const DEADLINE: Duration = Duration::from_secs(30);

struct Lab {
    _home: tempfile::TempDir,
    server: Embedded,
    client: kube::Client,
    coordinator: Option<Handle>,
    node: tokio::task::JoinHandle<()>,
}

impl Lab {
    async fn open() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Embedded::open(Options::new(home.path())).await.unwrap();
        let client = server.client();
        let node = tokio::spawn(play_node(client.clone(), "here"));
        let mut lab = Self { _home: home, server, client, coordinator: None, node };
        lab.add_node("here", 4).await;
        lab.start().await;
        lab
    }

    async fn start(&mut self) {
        let coordinator = Coordinator::start(self.client.clone(), Config::default()).await.unwrap();
        coordinator.ready().await;
        self.coordinator = Some(coordinator);
    }

    async fn stop(&mut self) {
        self.coordinator.take().unwrap().shutdown().await;
    }

    async fn close(mut self) {
        self.stop().await;
        self.node.abort();
        self.server.shutdown().await;
    }

    async fn add_node(&self, name: &str, cpu: u32) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let amounts = json!({"cpu": cpu.to_string(), "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {
            "allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}],
        }});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create(&self, object: Value) -> DynamicObject {
        let text = |field: &str| object[field].as_str().unwrap().to_owned();
        let api = self.api(&text("apiVersion"), &text("kind"));
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Wait until the object is as `holds` says.
    async fn until(&self, api_version: &str, kind: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let api = self.api(api_version, kind);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(api, config).default_backoff();
        futures::pin_mut!(stream);
        let mut last = Value::Null;
        let wait = async {
            while let Some(event) = stream.next().await {
                if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = event.unwrap() {
                    last = serde_json::to_value(&object).unwrap();
                    if holds(&last) {
                        return;
                    }
                }
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.client.clone(), "default");
            for event in events.list(&ListParams::default()).await.unwrap() {
                eprintln!("event {:?} {:?} {:?}", event.involved_object.name, event.reason, event.message);
            }
            panic!("{kind} {name} never got there: {last:#}");
        }
        last
    }

    async fn until_gone(&self, api_version: &str, kind: &str, name: &str) {
        let api = self.api(api_version, kind);
        let gone = async {
            while api.get_opt(name).await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.unwrap_or_else(|_| panic!("{kind} {name} never goes"));
    }
}

fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}

/// A node agent in forty lines: bound pods run at once; `exit N` ends with N, `sleep` runs until it is deleted.
async fn play_node(client: kube::Client, name: &str) {
    let pods: Api<Pod> = Api::all(client.clone());
    let stream = watcher(pods, watcher::Config::default()).default_backoff();
    futures::pin_mut!(stream);
    let mut known: BTreeMap<String, ()> = BTreeMap::new();
    while let Some(event) = stream.next().await {
        let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
        let pod_name = pod.metadata.name.clone().unwrap();
        let spec = pod.spec.as_ref().unwrap();
        if spec.node_name.as_deref() != Some(name) {
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&pod_name, &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        if known.insert(pod.metadata.uid.clone().unwrap(), ()).is_some() {
            continue;
        }
        let command = spec.containers[0].command.clone().unwrap_or_default();
        // A training job's command stands behind our launcher's; the last word says how it ends.
        let end = command.last().or(spec.containers[0].args.iter().flatten().last()).cloned().unwrap_or_default();
        report(&api, &pod, "Running", None).await;
        if let Ok(code) = end.parse::<i32>() {
            report(&api, &pod, if code == 0 { "Succeeded" } else { "Failed" }, Some(code)).await;
        }
    }
}

async fn report(api: &Api<Pod>, pod: &Pod, phase: &str, exit_code: Option<i32>) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let running = phase == "Running";
    let state = match exit_code {
        None => json!({"running": {"startedAt": now}}),
        Some(code) => json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}}),
    };
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let status = json!({"status": {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": if running { "True" } else { "False" }, "lastTransitionTime": now}],
        "containerStatuses": [{
            "name": container.name, "image": "", "imageID": "", "ready": running, "restartCount": 0, "state": state,
        }],
    }});
    let name = pod.metadata.name.as_deref().unwrap();
    let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
}

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

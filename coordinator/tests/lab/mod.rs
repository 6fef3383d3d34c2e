//! A control plane without a node agent: the node is played here. Pods that are bound run, and end as their command says.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use trainyard_coordinator::{Config, Coordinator, Handle};
use trainyard_runtime::embedded::{Embedded, Options};

/// Longest that a condition may take on an overloaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    home: tempfile::TempDir,
    pub(crate) server: Embedded,
    pub(crate) client: kube::Client,
    pub(crate) coordinator: Option<Handle>,
    node: tokio::task::JoinHandle<()>,
}

impl Lab {
    pub(crate) async fn open() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Embedded::open(Options::new(home.path())).await.unwrap();
        let client = server.client();
        let node = tokio::spawn(play_node(client.clone(), "here"));
        let mut lab = Self { home, server, client, coordinator: None, node };
        lab.add_node("here", 4).await;
        lab.start().await;
        lab
    }

    pub(crate) async fn start(&mut self) {
        let rendezvous = Some(self.socket());
        let config = Config { rendezvous, ..Config::default() };
        let coordinator = Coordinator::start(self.client.clone(), config).await.unwrap();
        coordinator.ready().await;
        self.coordinator = Some(coordinator);
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.home.path().join("rendezvous.sock")
    }

    pub(crate) async fn stop(&mut self) {
        self.coordinator.take().unwrap().shutdown().await;
    }

    pub(crate) async fn close(mut self) {
        self.stop().await;
        self.node.abort();
        self.server.shutdown().await;
    }

    pub(crate) async fn add_node(&self, name: &str, cpu: u32) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let amounts = json!({"cpu": cpu.to_string(), "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {
            "allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}],
        }});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    pub(crate) fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create(&self, object: Value) -> DynamicObject {
        let text = |field: &str| object[field].as_str().unwrap().to_owned();
        let api = self.api(&text("apiVersion"), &text("kind"));
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Wait until the object is as `holds` says.
    pub(crate) async fn until(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
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

    pub(crate) async fn until_gone(&self, api_version: &str, kind: &str, name: &str) {
        let api = self.api(api_version, kind);
        let gone = async {
            while api.get_opt(name).await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.unwrap_or_else(|_| panic!("{kind} {name} never goes"));
    }
}

pub(crate) fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}

/// A node agent in forty lines: bound pods run at once; `exit N` ends with N, `sleep` runs until it is deleted.
pub(crate) async fn play_node(client: kube::Client, name: &str) {
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

pub(crate) async fn report(api: &Api<Pod>, pod: &Pod, phase: &str, exit_code: Option<i32>) {
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

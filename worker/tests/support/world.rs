//! A server and a node agent, for a test.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use trainyard_runtime::embedded::{Embedded, Options};
use trainyard_worker::agent::{Agent, AgentConfig, ContainerMode, Handle};

use crate::support::{eventually, until};

const SHIM: &str = env!("CARGO_BIN_EXE_trainyard-shim");

pub(crate) struct World {
    pub(crate) home: tempfile::TempDir,
    pub(crate) server: Embedded,
    pub(crate) agent: Option<Handle>,
    pub(crate) gpus: Vec<u32>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_gpus(Vec::new()).await
    }

    pub(crate) async fn with_gpus(gpus: Vec<u32>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Embedded::open(Options::new(home.path())).await.unwrap();
        let mut world = Self { home, server, agent: None, gpus };
        world.start_agent().await;
        world
    }

    pub(crate) async fn start_agent(&mut self) {
        self.start_agent_with(ContainerMode::Process).await;
    }

    pub(crate) async fn start_agent_with(&mut self, mode: ContainerMode) {
        let mut config = AgentConfig::for_home(self.home.path());
        config.shim_program = PathBuf::from(SHIM);
        config.node_name = "node".into();
        config.mode = mode;
        config.backoff_base_ms = 50;
        config.gpus = Some(self.gpus.clone());
        self.agent = Some(Agent::start(self.server.client(), config).await.unwrap());
    }

    pub(crate) async fn stop_agent(&mut self) {
        self.agent.take().unwrap().shutdown().await;
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.server.client(), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.server.client(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Creates a pod that is bound already.
    pub(crate) async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        self.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await
    }

    pub(crate) async fn sh(&self, name: &str, policy: &str, script: &str) -> Pod {
        let container = json!({"name": "main", "image": "x", "command": ["sh", "-c", script]});
        self.pod(name, json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 5, "containers": [container]}))
            .await
    }

    pub(crate) async fn until<T>(&self, name: &str, what: &str, check: impl Fn(&Pod) -> Option<T>) -> T {
        let look = async || {
            let pod = self.pods().get_opt(name).await.unwrap().ok_or_else(Box::default)?;
            check(&pod).map_or_else(|| Err(Box::new(pod.status.clone())), |found| Ok(Some(found)))
        };
        eventually(&format!("{name}: {what}"), look).await
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Pod {
        self.until(name, phase, |pod| (pod.status.as_ref()?.phase.as_deref() == Some(phase)).then(|| pod.clone())).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        eventually(&format!("{name} goes"), async || gone(self.pods().get_opt(name).await.unwrap().is_none())).await;
    }

    pub(crate) fn log(&self, pod: &Pod, attempt: u32) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap();
        let path = self.home.path().join(format!("pods/{uid}/containers/main/{attempt}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    pub(crate) fn claim_folder(&self, claim: &PersistentVolumeClaim) -> PathBuf {
        let (name, uid) = (claim.metadata.name.as_deref().unwrap(), claim.metadata.uid.as_deref().unwrap());
        self.home.path().join(format!("volumes/default/{name}.{uid}"))
    }

    pub(crate) async fn event(&self, reason: &str) -> Event {
        let events: Api<Event> = Api::all(self.server.client());
        let look = async || {
            let found = events.list(&ListParams::default()).await.unwrap();
            Ok::<_, ()>(found.items.into_iter().find(|event| event.reason.as_deref() == Some(reason)))
        };
        eventually(&format!("event {reason}"), look).await
    }
}

impl Drop for World {
    /// Containers outlive their agent: a test must end those that it leaves.
    fn drop(&mut self) {
        let pods = self.home.path().join("pods");
        let states = std::fs::read_dir(&pods).into_iter().flatten().flatten();
        let runs: Vec<_> = states
            .flat_map(|pod| std::fs::read_dir(pod.path().join("state")))
            .flatten()
            .flatten()
            .filter_map(|entry| trainyard_worker::shim::RunState::read(&entry.path()).ok())
            .collect();
        // Without their folders nothing can be started again.
        let _ = std::fs::remove_dir_all(&pods);
        for run in runs {
            let _ = trainyard_worker::shim::order_stop(&run, 0);
            until("a shim ends", || (!run.shim.is_alive()).then_some(()));
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `eventually` wants of a look")]
pub(crate) fn gone(holds: bool) -> Result<Option<()>, &'static str> {
    Ok(holds.then_some(()))
}

pub(crate) fn main_status(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    statuses.into_iter().next().unwrap_or_default()
}

pub(crate) fn exit_code(pod: &Pod) -> Option<i32> {
    Some(main_status(pod).state?.terminated?.exit_code)
}

pub(crate) fn condition(pod: &Pod, type_: &str) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.into_iter().find(|condition| condition.type_ == type_).map(|found| found.status).unwrap_or_default()
}

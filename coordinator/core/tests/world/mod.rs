//! A world for tests: it carries plans out as an API server would, and lets pods live as a node would.
#![allow(dead_code, reason = "each test file uses its own part of the world")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use trainyard_coordinator_core::gang::{self, GangView, Placement};
use trainyard_coordinator_core::instant;
use trainyard_coordinator_core::job;
use trainyard_coordinator_core::rendezvous::RendezvousView;
use trainyard_coordinator_core::view::{Config, JobView};
use trainyard_proto::plan::{Action, Plan};

/// 2026-01-01T00:00:00Z.
pub const START_MS: i64 = 1_767_225_600_000;

/// What a pod has to end by itself.
pub const GRACE_MS: i64 = 30_000;

pub const PYTORCH: &str = "
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: mnist}
spec:
  runPolicy: {}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template: {spec: {containers: [{name: pytorch, image: x, command: [python, train.py]}]}}
    Worker:
      replicas: 2
      restartPolicy: OnFailure
      template: {spec: {containers: [{name: pytorch, image: x, command: [python, train.py]}]}}
";

pub const TRAINING: &str = "
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {name: wine}
spec: {replicas: 3, command: [train], restartPolicy: OnFailure, backoffLimit: 2}
";

pub fn pytorch(policy: Value) -> World {
    let mut world = World::new(PYTORCH);
    world.edit("/spec/runPolicy", policy);
    world
}

pub fn pytorch_with(restart: &str, policy: Value) -> World {
    let mut world = pytorch(policy);
    for role in ["Master", "Worker"] {
        world.edit(&format!("/spec/pytorchReplicaSpecs/{role}/restartPolicy"), json!(restart));
    }
    world
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("the test's YAML reads")
}

#[derive(Clone)]
pub struct World {
    pub job: Option<Value>,
    pub pods: BTreeMap<String, Pod>,
    pub services: BTreeMap<String, Service>,
    pub related: Vec<Value>,
    /// Objects by which other schedulers know of the job.
    pub deputies: BTreeMap<String, Value>,
    pub nodes: Vec<Node>,
    pub config: Config,
    /// Nodes that are out of reach.
    pub silent_nodes: BTreeSet<String>,
    /// What the launchers do.
    pub meeting: Option<RendezvousView>,
    pub now_ms: i64,
    pub wake_at_ms: Option<i64>,
    pub events: Vec<String>,
    pub codes: Vec<String>,
    next: u64,
}

impl World {
    pub fn new(manifest: &str) -> Self {
        let mut job = yaml(manifest);
        job["metadata"]["uid"] = json!("job-uid");
        job["metadata"]["resourceVersion"] = json!("1");
        job["metadata"]["creationTimestamp"] = json!(instant::text(START_MS));
        if job["metadata"].get("namespace").is_none() {
            job["metadata"]["namespace"] = json!("default");
        }
        Self {
            job: Some(job),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            related: Vec::new(),
            deputies: BTreeMap::new(),
            nodes: vec![node("laptop", "64", "256Gi")],
            config: Config::embedded(),
            silent_nodes: BTreeSet::new(),
            meeting: None,
            now_ms: START_MS,
            wake_at_ms: None,
            events: Vec::new(),
            codes: Vec::new(),
            next: 0,
        }
    }

    pub fn view(&self) -> JobView {
        JobView {
            job: self.job.clone().unwrap_or(Value::Null),
            pods: self.pods.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            extras: self.deputies.values().cloned().collect(),
            related: self.related.clone(),
            busy_ports: BTreeSet::new(),
            silent_nodes: self.silent_nodes.clone(),
            rendezvous: self.meeting.clone(),
            config: self.config.clone(),
        }
    }

    /// Plans and carries out, and asserts that planning again changes nothing.
    pub fn plan(&mut self) -> Plan {
        let plan = job::plan(&self.view(), self.now_ms);
        self.apply(&plan);
        self.codes = plan.reasons.iter().map(|reason| reason.code.clone()).collect();
        self.wake_at_ms = plan.wake_at_ms;
        // What is removed at once leaves its name to its successor: there is more to do.
        let is_removal = |action: &Action| matches!(action, Action::Delete { grace_seconds: Some(0), .. });
        if self.job.is_some() && !plan.actions.iter().any(is_removal) {
            let again = job::plan(&self.view(), self.now_ms);
            assert_eq!(again.actions, [], "planning again after {:#?}", plan.actions);
            let later = job::plan(&self.view(), self.now_ms + 1);
            let due = plan.wake_at_ms.is_some_and(|at| at <= self.now_ms + 1);
            assert!(due || later.actions.is_empty(), "planning later without a wake: {:#?}", later.actions);
        }
        plan
    }

    pub fn gangs(&self) -> GangView {
        GangView { nodes: self.nodes.clone(), pods: self.pods.values().cloned().collect(), ..GangView::default() }
    }

    /// Places and carries out, and asserts that placing again changes nothing.
    pub fn place(&mut self) -> Placement {
        let placement = gang::place(&self.gangs(), self.now_ms);
        self.apply(&placement.plan);
        assert_eq!(gang::place(&self.gangs(), self.now_ms + 5).plan.actions, [], "placing again");
        placement
    }

    /// Plans, places, and starts all pods that have a place.
    pub fn run(&mut self) {
        self.plan();
        self.place();
        self.start_all();
        self.plan();
    }

    pub fn start_all(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            let pod = &self.pods[&name];
            let bound = pod.spec.as_ref().unwrap().node_name.is_some();
            let pending = phase(pod) == "Pending";
            if bound && pending && pod.metadata.deletion_timestamp.is_none() {
                self.set(&name, json!({ "phase": "Running" }));
            }
        }
    }

    /// Writes a pod's status over its present one.
    pub fn set(&mut self, name: &str, status: Value) {
        let pod = self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"));
        let mut value = serde_json::to_value(&*pod).unwrap();
        json_merge(&mut value, &json!({ "status": status }));
        *pod = serde_json::from_value(value).unwrap();
    }

    pub fn succeed(&mut self, name: &str) {
        self.set(name, json!({ "phase": "Succeeded" }));
    }

    /// Ends a pod with an exit code in its first container.
    pub fn fail(&mut self, name: &str, code: i32) {
        let container = self.pods[name].spec.as_ref().unwrap().containers[0].name.clone();
        let terminated = json!({ "exitCode": code, "reason": "Error", "finishedAt": instant::text(self.now_ms) });
        let status = json!({ "name": container, "restartCount": 0, "ready": false, "image": "", "imageID": "", "state": { "terminated": terminated } });
        self.set(name, json!({ "phase": "Failed", "containerStatuses": [status] }));
    }

    /// Lets the node restart a container in place: it ended `restarts` times and, if `down`, has just ended again.
    pub fn crash_in_place(&mut self, name: &str, restarts: i32, down: bool) {
        let container = self.pods[name].spec.as_ref().unwrap().containers[0].name.clone();
        let ended = json!({ "terminated": { "exitCode": 1, "finishedAt": instant::text(self.now_ms) } });
        let state = if down { ended.clone() } else { json!({ "running": {} }) };
        let status = json!({ "name": container, "restartCount": restarts, "ready": !down, "image": "", "imageID": "", "state": state, "lastState": ended });
        self.set(name, json!({ "phase": "Running", "containerStatuses": [status] }));
    }

    /// Lets the node finish all deletions that are under way.
    pub fn reap(&mut self) {
        self.pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        self.deputies.retain(|_, there| there.pointer("/metadata/deletionTimestamp").is_none());
    }

    /// Lets the old pods go and the time pass until what failed starts again.
    pub fn run_again(&mut self) {
        self.reap();
        self.plan();
        self.now_ms = self.wake_at_ms.map_or(self.now_ms, |at| at.max(self.now_ms));
        self.run();
    }

    pub fn edit(&mut self, pointer: &str, value: Value) {
        *self.job.as_mut().unwrap().pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    }

    /// The conditions as `Type` or `!Type`, in the order of the list.
    pub fn conditions(&self) -> Vec<String> {
        let list = self
            .job
            .as_ref()
            .unwrap()
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        list.iter()
            .map(|c| format!("{}{}", if c["status"] == "True" { "" } else { "!" }, c["type"].as_str().unwrap()))
            .collect()
    }

    pub fn status(&self, pointer: &str) -> Value {
        self.job.as_ref().unwrap().pointer(&format!("/status{pointer}")).cloned().unwrap_or(Value::Null)
    }

    pub fn names(&self) -> Vec<&str> {
        self.pods.keys().map(String::as_str).collect()
    }

    /// Pods that are not on their way out.
    pub fn live(&self) -> Vec<&str> {
        let staying = self.pods.iter().filter(|(_, pod)| pod.metadata.deletion_timestamp.is_none());
        staying.map(|(name, _)| name.as_str()).collect()
    }

    pub fn env(&self, pod: &str) -> BTreeMap<String, String> {
        let containers = &self.pods[pod].spec.as_ref().unwrap().containers;
        let env = containers[0].env.iter().flatten();
        env.map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default())).collect()
    }

    pub fn apply(&mut self, plan: &Plan) {
        for action in &plan.actions {
            self.apply_one(action);
        }
    }

    pub fn apply_one(&mut self, action: &Action) {
        match action {
            Action::Create { object, body } => self.create(&object.kind, &object.name, body),
            Action::Delete { object, fence, grace_seconds, .. } => match object.kind.as_str() {
                "Pod" if *grace_seconds == Some(0) => {
                    let pod = self.pods.remove(&object.name).expect("only existing pods are removed");
                    assert_eq!(pod.metadata.uid, fence.uid);
                }
                "Pod" => {
                    let pod = self.pods.get_mut(&object.name).expect("only existing pods are deleted");
                    assert_eq!(pod.metadata.uid, fence.uid);
                    assert!(pod.metadata.deletion_timestamp.is_none(), "deleted once");
                    pod.metadata.deletion_timestamp = Some(instant::time(self.now_ms + GRACE_MS));
                }
                "Service" => {
                    self.services.remove(&object.name).expect("only existing services are deleted");
                }
                "Workload" | "PodGroup" => {
                    let there = self.deputies.get_mut(&object.name).expect("only existing objects are deleted");
                    assert_eq!(there["metadata"]["uid"], json!(fence.uid));
                    there["metadata"]["deletionTimestamp"] = json!(instant::text(self.now_ms));
                }
                _ => self.job = None,
            },
            Action::Patch { patch, fence, .. } | Action::PatchStatus { patch, fence, object: _ }
                if fence.uid.as_deref() == Some("job-uid") =>
            {
                let job = self.job.as_mut().unwrap();
                if let Some(version) = &fence.resource_version {
                    assert_eq!(job["metadata"]["resourceVersion"], json!(version), "fenced");
                }
                json_merge(job, patch);
                self.next += 1;
                job["metadata"]["resourceVersion"] = json!(format!("v{}", self.next));
            }
            Action::Patch { object, patch, .. } if self.deputies.contains_key(&object.name) && object.kind != "Pod" => {
                json_merge(self.deputies.get_mut(&object.name).unwrap(), patch);
            }
            Action::Patch { object, patch, .. } | Action::PatchStatus { object, patch, .. } => {
                let pod = self.pods.get_mut(&object.name).unwrap();
                let mut value = serde_json::to_value(&*pod).unwrap();
                json_merge(&mut value, patch);
                *pod = serde_json::from_value(value).unwrap();
            }
            Action::Bind { pod, fence, node } => {
                let pod = self.pods.get_mut(&pod.name).unwrap();
                assert_eq!(pod.metadata.uid, fence.uid);
                let spec = pod.spec.as_mut().unwrap();
                assert_eq!(spec.node_name, None, "bound once");
                spec.node_name = Some(node.clone());
                spec.scheduling_gates = None;
            }
            Action::Event { reason, .. } => self.events.push(reason.clone()),
        }
    }

    fn create(&mut self, kind: &str, name: &str, body: &Value) {
        self.next += 1;
        let mut body = body.clone();
        body["metadata"]["uid"] = json!(format!("uid-{}", self.next));
        body["metadata"]["creationTimestamp"] = json!(instant::text(self.now_ms));
        match kind {
            "Pod" => {
                body["status"] = json!({ "phase": "Pending" });
                let pod = serde_json::from_value(body).unwrap();
                assert!(self.pods.insert(name.to_owned(), pod).is_none(), "pod {name} exists already");
            }
            "Service" => {
                let service = serde_json::from_value(body).unwrap();
                assert!(self.services.insert(name.to_owned(), service).is_none(), "service {name} exists already");
            }
            "ConfigMap" => self.related.push(body),
            "Workload" | "PodGroup" => {
                assert!(self.deputies.insert(name.to_owned(), body).is_none(), "{kind} {name} exists already");
            }
            other => panic!("unexpected kind {other}"),
        }
    }
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub fn node(name: &str, cpu: &str, memory: &str) -> Node {
    let allocatable = json!({ "cpu": cpu, "memory": memory, "pods": "110" });
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": { "allocatable": allocatable, "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
    .unwrap()
}

/// RFC 7396.
fn json_merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.shift_remove(name);
        } else {
            json_merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

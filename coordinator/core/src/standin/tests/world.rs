//! Objects as JSON, actions applied as the API server would.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, Fence, ObjectRef, Plan};

use super::super::object::time;
use super::super::{deployment, job, replicaset};

#[derive(Default)]
pub(super) struct World {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    pub(super) now_ms: i64,
    pub(super) events: Vec<String>,
    pub(super) writes: usize,
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target.as_object_mut().unwrap().shift_remove(key);
        } else {
            merge(&mut target[key], change);
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self { now_ms: 1_700_000_000_000, ..Self::default() }
    }

    pub(super) fn put(&mut self, mut object: Value) {
        self.version += 1;
        let key =
            (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        assert!(!self.objects.contains_key(&key), "{key:?} exists");
        object["metadata"]["namespace"] = json!("default");
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(time(self.now_ms));
        self.objects.insert(key, object);
    }

    pub(super) fn change(&mut self, kind: &str, name: &str, patch: &Value) {
        self.version += 1;
        let version = self.version;
        let key = (kind.to_owned(), name.to_owned());
        let object = self.objects.get_mut(&key).unwrap_or_else(|| panic!("no {kind} {name}"));
        let before = object["spec"].clone();
        merge(object, patch);
        if object["spec"] != before {
            let generation = object["metadata"]["generation"].as_i64().unwrap();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let finalizers = object["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
        if finalizers == 0 && object["metadata"]["gone"] == true {
            self.objects.remove(&key);
        }
    }

    /// The node (or nobody) lets an object that is on its way out go.
    pub(super) fn vanish(&mut self, kind: &str, name: &str) {
        self.change(kind, name, &json!({"metadata": {"gone": true, "deletionTimestamp": time(self.now_ms)}}));
    }

    pub(super) fn get(&self, kind: &str, name: &str) -> &Value {
        &self.objects[&(kind.to_owned(), name.to_owned())]
    }

    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        self.objects.contains_key(&(kind.to_owned(), name.to_owned()))
    }

    pub(super) fn all<T: DeserializeOwned>(&self, kind: &str) -> Vec<T> {
        let of_kind = self.objects.iter().filter(|((one, _), _)| one == kind);
        of_kind.map(|(_, object)| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    pub(super) fn pods(&self) -> Vec<Pod> {
        self.all("Pod")
    }

    fn check(&self, object: &ObjectRef, fence: &Fence) -> bool {
        let Some(known) = self.objects.get(&(object.kind.clone(), object.name.clone())) else { return false };
        fence.uid.as_ref().is_none_or(|uid| known["metadata"]["uid"] == *uid)
            && fence.resource_version.as_ref().is_none_or(|version| known["metadata"]["resourceVersion"] == *version)
    }

    pub(super) fn act(&mut self, action: Action) {
        if !matches!(action, Action::Event { .. }) {
            self.writes += 1;
        }
        match action {
            Action::Create { object, body } => {
                assert_eq!(body["metadata"]["name"], object.name);
                assert_eq!(body["kind"], object.kind);
                self.put(body);
            }
            Action::Delete { object, fence, .. } => {
                assert!(self.check(&object, &fence));
                let patch = json!({"metadata": {"deletionTimestamp": time(self.now_ms)}});
                self.change(&object.kind, &object.name, &patch);
                let bound = !self.get(&object.kind, &object.name)["spec"]["nodeName"].is_null();
                if object.kind != "Pod" || !bound {
                    self.vanish(&object.kind, &object.name);
                }
            }
            Action::Patch { object, fence, patch } | Action::PatchStatus { object, fence, patch } => {
                assert!(self.check(&object, &fence), "a plan never writes to what it did not see");
                self.change(&object.kind, &object.name, &patch);
            }
            Action::Bind { .. } => unreachable!("stand-ins place nothing"),
            Action::Event { reason, message, .. } => self.events.push(format!("{reason}: {message}")),
        }
    }

    fn plan_once(&self) -> Vec<Plan> {
        let pods = self.pods();
        let sets: Vec<ReplicaSet> = self.all("ReplicaSet");
        let owned = |pod: &Pod, uid: &Option<String>| {
            pod.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == uid.as_ref())
        };
        let mut plans = Vec::new();
        let jobs: Vec<Job> = self.all("Job");
        for one in &jobs {
            let pods = pods.iter().filter(|pod| {
                let mut owners = pod.metadata.owner_references.iter().flatten();
                owners.any(|owner| owner.kind == "Job" && Some(&owner.name) == one.metadata.name.as_ref())
            });
            plans.push(job::plan(&job::View { job: Some(one), pods: pods.collect() }, self.now_ms));
        }
        for set in &sets {
            let pods = pods.iter().filter(|pod| owned(pod, &set.metadata.uid)).collect();
            plans.push(replicaset::plan(&replicaset::View { set, pods }, self.now_ms));
        }
        let deployments: Vec<Deployment> = self.all("Deployment");
        for one in &deployments {
            let view = deployment::View { deployment: one, sets: sets.iter().collect(), pods: pods.iter().collect() };
            plans.push(deployment::plan(&view, self.now_ms));
        }
        plans
    }

    /// Plan and act, one plan at a time from a fresh view, until nothing changes. `crash_after` stops each plan after
    /// that many actions, as a killed controller would.
    pub(super) fn settle_crashing(&mut self, crash_after: usize) {
        for _ in 0..200 {
            let Some(plan) = self.plan_once().into_iter().find(|plan| !plan.actions.is_empty()) else { return };
            for action in plan.actions.into_iter().take(crash_after) {
                self.act(action);
            }
        }
        panic!("planning never comes to rest");
    }

    pub(super) fn settle(&mut self) {
        self.settle_crashing(usize::MAX);
    }

    /// When the planners want to be woken.
    pub(super) fn wake_at(&self) -> Option<i64> {
        self.plan_once().into_iter().filter_map(|plan| plan.wake_at_ms).min()
    }

    /// Play the node for one pod.
    pub(super) fn set_phase(&mut self, pod: &str, phase: &str) {
        let now = time(self.now_ms);
        let ready = if phase == "Running" { "True" } else { "False" };
        let state = match phase {
            "Succeeded" | "Failed" => json!({"terminated": {"exitCode": 0, "finishedAt": now}}),
            _ => json!({"running": {"startedAt": now}}),
        };
        self.change("Pod", pod, &json!({
            "spec": {"nodeName": "here"},
            "status": {
                "phase": phase,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
                "containerStatuses": [{
                    "name": "main", "ready": ready == "True", "restartCount": 0, "image": "", "imageID": "", "state": state,
                }],
            },
        }));
    }

    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        self.objects.keys().filter(|(one, _)| one == kind).map(|(_, name)| name.clone()).collect()
    }

    pub(super) fn pods_in(&self, phase: &str) -> Vec<String> {
        let pods = self.pods();
        let in_phase = pods.iter().filter(|pod| {
            let known = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
            known == phase && pod.metadata.deletion_timestamp.is_none()
        });
        in_phase.filter_map(|pod| pod.metadata.name.clone()).collect()
    }
}

//! The pods with which a job begins: what its controllers make of it before anything of it exists. For a dry run, and to ask what would
//! be if it were submitted.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize as _;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, Plan};

use crate::manifest::dialect_of;
use crate::standin::{deployment, job, replicaset};
use crate::view::JobView;
use crate::{fnv, instant};

/// How a job begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outset {
    /// What its controllers do first.
    pub plan: Plan,
    /// Its pods as they are stored then. They wait.
    pub pods: Vec<Pod>,
}

/// An object as it is stored when it has just been created. Its uid is made of its name, so that two objects have two.
#[must_use]
pub fn stored(object: &Value, namespace: &str, now_ms: i64) -> Value {
    let mut object = object.clone();
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = text("/metadata/namespace");
    let namespace = if own.is_empty() { namespace.to_owned() } else { own };
    let name = match text("/metadata/name") {
        name if name.is_empty() => format!("{}new", text("/metadata/generateName")),
        name => name,
    };
    let hash = fnv::texts(&[&text("/apiVersion"), &text("/kind"), &namespace, &name]);
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(format!("00000000-0000-0000-0000-{:012x}", hash & 0xffff_ffff_ffff));
    metadata["namespace"] = json!(namespace);
    metadata["name"] = json!(name);
    metadata["generation"] = json!(1);
    metadata["creationTimestamp"] = json!(instant::text(now_ms));
    object
}

/// What the controllers make first of the job of a view in which nothing of it exists yet. `None` for a kind of which nobody here makes
/// pods.
#[must_use]
pub fn outset(view: &JobView, now_ms: i64) -> Option<Outset> {
    let plan =
        if dialect_of(&view.job).is_some() { crate::job::plan(view, now_ms) } else { stand_in(&view.job, now_ms)? };
    let bodies = plan.actions.iter().filter_map(|action| created(action, "Pod"));
    let pods = bodies.enumerate().filter_map(|(at, body)| pod(&view.job, at, body, now_ms)).collect();
    Some(Outset { plan, pods })
}

/// What an action creates, if it is of this kind.
#[must_use]
pub fn created<'plan>(action: &'plan Action, kind: &str) -> Option<&'plan Value> {
    match action {
        Action::Create { object, body } => (object.kind == kind).then_some(body),
        Action::Delete { .. }
        | Action::Patch { .. }
        | Action::PatchStatus { .. }
        | Action::Bind { .. }
        | Action::Event { .. } => None,
    }
}

fn pod(job: &Value, at: usize, body: &Value, now_ms: i64) -> Option<Pod> {
    let mut pod = Pod::deserialize(body).ok()?;
    let owner = job.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    pod.metadata.uid = Some(format!("{owner}-{at}"));
    pod.metadata.creation_timestamp = Some(end_of_second(now_ms));
    pod.status.get_or_insert_default().phase = Some("Pending".to_owned());
    Some(pod)
}

/// The last moment of this second. What is there already tells its age in whole seconds, so that a pod of now would else be as old as one that
/// has waited for half a second, and could come before it by its name.
fn end_of_second(now_ms: i64) -> Time {
    let end = now_ms.div_euclid(1_000) * 1_000 + 999;
    Timestamp::from_millisecond(end).map_or_else(|_| instant::time(now_ms), Time)
}

/// What the stand-ins for a cluster's own controllers make of it.
fn stand_in(object: &Value, now_ms: i64) -> Option<Plan> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("batch/v1", "Job") => {
            let found = Job::deserialize(object).ok()?;
            Some(job::plan(&job::View { job: Some(&found), pods: Vec::new() }, now_ms))
        }
        ("apps/v1", "Deployment") => {
            let found = Deployment::deserialize(object).ok()?;
            let view = deployment::View { deployment: &found, sets: Vec::new(), pods: Vec::new() };
            let mut plan = deployment::plan(&view, now_ms);
            let set = plan.actions.iter().find_map(|action| created(action, "ReplicaSet"))?;
            let set = ReplicaSet::deserialize(&stored(set, "default", now_ms)).ok()?;
            plan.actions.extend(replicaset::plan(&replicaset::View { set: &set, pods: Vec::new() }, now_ms).actions);
            Some(plan)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Config;

    const NOW: i64 = 1_767_225_600_000;

    fn begun(object: &Value) -> Option<Outset> {
        let view = JobView {
            job: stored(object, "team", NOW),
            pods: Vec::new(),
            services: Vec::new(),
            extras: Vec::new(),
            related: Vec::new(),
            busy_ports: std::collections::BTreeSet::new(),
            silent_nodes: std::collections::BTreeSet::new(),
            rendezvous: None,
            config: Config::embedded(),
        };
        outset(&view, NOW)
    }

    #[test]
    fn every_kind_that_runs_here_begins_with_its_pods() {
        let template = json!({"metadata": {"labels": {"app": "x"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "command": ["true"]}]}});
        let objects = [
            json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "x"},
                "spec": {"replicas": 3, "command": ["true"]}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "x-"},
                "spec": {"parallelism": 3, "completions": 5, "template": template}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}, "template": template}}),
        ];
        for object in objects {
            let pods = begun(&object).unwrap().pods;
            let uids: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod.metadata.uid.as_deref()).collect();
            assert_eq!(uids.len(), 3, "{object}");
            for pod in &pods {
                assert_eq!(pod.metadata.namespace.as_deref(), Some("team"), "{object}");
                let since = pod.metadata.creation_timestamp.as_ref().map(instant::ms);
                assert_eq!(since, Some(NOW + 999), "it stands behind all that came in this second");
            }
        }
    }

    #[test]
    fn of_other_kinds_nobody_makes_pods() {
        assert_eq!(begun(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})), None);
    }
}

//! The pod of a Job. Building cannot fail.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use serde_json::{Map, Value, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::super::object::{fresh_name, json_of, owner, uid};
use super::FINALIZER;
use super::index::INDEX;
use super::retry::{FAILURES, Failures, IGNORED};

/// The place of a pod in an Indexed Job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) index: i32,
    /// Failures of the index so far, where the Job counts them by index.
    pub(super) failures: Option<Failures>,
}

fn entry<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let map = value.as_object_mut().expect("made an object just above");
    let slot = map.entry(field.to_owned()).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made an object just above")
}

/// A pod for `slot`; its name is put into `taken`. `era` is the Job's start, so that a resumed Job's pods have new
/// names.
pub(super) fn pod(
    job: &Job,
    spec: &JobSpec,
    object: &ObjectRef,
    slot: Option<Slot>,
    era: i64,
    taken: &mut Vec<String>,
) -> Action {
    let job_uid = uid(&job.metadata);
    let prefix = slot.map_or_else(|| object.name.clone(), |slot| format!("{}-{}", object.name, slot.index));
    let (era, attempt) = (era.to_string(), taken.len().to_string());
    let name = fresh_name(&prefix, &[job_uid, &era, &attempt], &|name| taken.iter().any(|one| one == name));
    taken.push(name.clone());
    let mut body = json_of(&spec.template);
    let metadata = entry(&mut body, "metadata");
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(object.namespace));
    metadata.insert("finalizers".to_owned(), json!([FINALIZER]));
    metadata.insert("ownerReferences".to_owned(), owner(object, &job.metadata));
    let labels = entry(&mut body["metadata"], "labels");
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", job_uid),
        ("batch.kubernetes.io/job-name", object.name.as_str()),
        ("controller-uid", job_uid),
        ("job-name", object.name.as_str()),
    ] {
        labels.insert(label.to_owned(), json!(value));
    }
    if let Some(slot) = slot {
        labels.insert(INDEX.to_owned(), json!(slot.index.to_string()));
        index_pod(&mut body, slot, &prefix);
    }
    let spec = entry(&mut body, "spec");
    spec.retain(|_, value| !value.is_null());
    spec.entry("restartPolicy").or_insert_with(|| json!("Never"));
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("Pod");
    Action::Create {
        object: ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: object.namespace.clone(),
            name,
        },
        body,
    }
}

fn index_pod(body: &mut Value, slot: Slot, hostname: &str) {
    let annotations = entry(&mut body["metadata"], "annotations");
    annotations.insert(INDEX.to_owned(), json!(slot.index.to_string()));
    if let Some(failures) = slot.failures {
        annotations.insert(FAILURES.to_owned(), json!(failures.counted.to_string()));
        if failures.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), json!(failures.ignored.to_string()));
        }
    }
    entry(body, "spec").entry("hostname").or_insert_with(|| json!(hostname));
    for list in ["containers", "initContainers"] {
        inject_index(&mut body["spec"][list], slot.index);
    }
}

fn inject_index(containers: &mut Value, index: i32) {
    for container in containers.as_array_mut().into_iter().flatten() {
        let env = &mut container["env"];
        if !env.is_array() {
            *env = json!([]);
        }
        let known = env.as_array_mut().expect("made an array just above");
        if !known.iter().any(|one| one["name"] == "JOB_COMPLETION_INDEX") {
            known.push(json!({"name": "JOB_COMPLETION_INDEX", "value": index.to_string()}));
        }
    }
}

//! The ReplicaSets of a Deployment.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::super::object::{fence, json_of, object_ref, owner, suffix};
use super::{DESIRED, HASH, MOST, REVISION};
use crate::fnv;

pub(super) fn set_ref(set: &ReplicaSet) -> ObjectRef {
    object_ref("apps/v1", "ReplicaSet", &set.metadata)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let all = set.metadata.annotations.as_ref();
    all.and_then(|all| all.get(REVISION)?.parse().ok()).unwrap_or(0)
}

/// The template without the label that we add.
fn bare_template(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH);
    }
    template
}

/// The set of the current template, and the others, oldest first.
pub(super) fn split<'a>(
    spec: &DeploymentSpec,
    sets: &[&'a ReplicaSet],
) -> (Option<&'a ReplicaSet>, Vec<&'a ReplicaSet>) {
    let mut ordered = sets.to_vec();
    ordered.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
    let wanted = bare_template(&json_of(&spec.template));
    let matches = |set: &&ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(json_of).unwrap_or_default();
        set.metadata.deletion_timestamp.is_none() && bare_template(&template) == wanted
    };
    let new = ordered.iter().copied().find(matches);
    ordered.retain(|set| !new.is_some_and(|new| std::ptr::eq(*set, new)));
    (new, ordered)
}

/// Annotations that are about the Deployment alone.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MOST,
    REVISION,
];

/// Annotations that a Deployment's newest set carries as well, such as the cause that `kubectl rollout history` shows.
fn passed_on(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN.contains(&name.as_str()));
    annotations
}

/// What the newest set lacks of what its Deployment says, beside the template.
pub(super) fn update(deployment: &Deployment, spec: &DeploymentSpec, set: &ReplicaSet) -> Option<Action> {
    let known = set.metadata.annotations.as_ref();
    let mut wanted = passed_on(deployment);
    wanted.retain(|name, value| known.and_then(|known| known.get(name)) != Some(value));
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    let same = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) == seconds;
    let mut patch = json!({});
    if !wanted.is_empty() {
        patch["metadata"] = json!({ "annotations": wanted });
    }
    if !same {
        patch["spec"] = json!({ "minReadySeconds": seconds });
    }
    (patch != json!({})).then(|| Action::Patch { object: set_ref(set), fence: fence(&set.metadata), patch })
}

/// The set for the current template. Building cannot fail.
pub(super) fn create(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    object: &ObjectRef,
    replicas: i64,
    revision: i64,
    size: &Value,
) -> Action {
    let mut template = json_of(&spec.template);
    // The types are structs and ordered maps, so the same template always has the same text. A set of this name
    // could only be in the way while an earlier one is being deleted: then creating is tried again.
    let hash = suffix(fnv::texts(&[&template.to_string()]), 10);
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    template["metadata"]["labels"][HASH] = json!(hash);
    let labels = template["metadata"]["labels"].clone();
    let mut selector = json_of(&spec.selector);
    if !selector["matchLabels"].is_object() {
        selector["matchLabels"] = json!({});
    }
    selector["matchLabels"][HASH] = json!(hash);
    let cut = object.name.char_indices().nth(52).map_or(object.name.len(), |(at, _)| at);
    let name = format!("{}-{hash}", &object.name[..cut]);
    let mut annotations = json!(passed_on(deployment));
    annotations[REVISION] = json!(revision.to_string());
    for (name, number) in size.as_object().into_iter().flatten() {
        annotations[name] = number.clone();
    }
    let mut set_spec = json!({"replicas": replicas, "selector": selector, "template": template});
    if let Some(seconds) = spec.min_ready_seconds {
        set_spec["minReadySeconds"] = json!(seconds);
    }
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": object.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": owner(object, &deployment.metadata),
        },
        "spec": set_spec,
    });
    Action::Create {
        object: ObjectRef {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            namespace: object.namespace.clone(),
            name,
        },
        body,
    }
}

//! What the agent tells the API about a pod: status, progress, the end of the object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::shared::Shared;

/// How a write went.
#[derive(Debug)]
pub(super) enum Written {
    Done,
    /// The object is gone, or another one has its name: nothing is left to be told.
    Gone,
    /// To be tried again.
    Failed(kube::Error),
}

impl Written {
    fn from<T>(result: Result<T, kube::Error>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(kube::Error::Api(status)) if status.code == 404 => Self::Gone,
            Err(kube::Error::Api(status)) if status.code == 409 && status.message.to_lowercase().contains("uid") => {
                Self::Gone
            }
            Err(error) => Self::Failed(error),
        }
    }
}

fn api(shared: &Shared, pod: &Pod) -> Api<Pod> {
    Api::namespaced(shared.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// Patches the status, and annotations with it. The uid in the patch makes the server refuse it for a successor of the same name.
pub(super) async fn status(
    shared: &Shared,
    pod: &Pod,
    old: Option<&PodStatus>,
    new: &PodStatus,
    annotations: &Annotations<'_>,
) -> Written {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut status = serde_json::to_value(new).unwrap_or_default();
    // A merge patch only removes what it names: reason and message of an earlier status must not stay.
    for key in ["reason", "message"] {
        if status.get(key).is_none() && old.is_some() {
            status[key] = Value::Null;
        }
    }
    let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    if !annotations.is_empty() {
        patch["metadata"]["annotations"] = json!(annotations);
    }
    Written::from(api(shared, pod).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// Annotation with the progress, which the CLI and the coordinator read.
pub(super) const PROGRESS: &str = "trainyard.dev/progress";
/// Annotation with the newest checkpoint, which the coordinator reads.
pub(super) const CHECKPOINT: &str = "trainyard.dev/checkpoint";

/// Names and texts.
pub(super) type Annotations<'a> = BTreeMap<&'static str, &'a str>;

/// Writes annotations.
pub(super) async fn annotate(shared: &Shared, pod: &Pod, annotations: &Annotations<'_>) -> Written {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "annotations": annotations}});
    Written::from(api(shared, pod).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// Takes the object out of the API: the last thing that happens to a deleted pod.
pub(super) async fn remove(shared: &Shared, pod: &Pod) -> Written {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
    Written::from(api(shared, pod).delete(name, &params).await)
}

//! Asking for a job's end.

use serde_json::{Value, json};

use crate::api::{ApiError, query};
use crate::error::CliError;
use crate::job;
use crate::session::Session;
use crate::target::Found;

/// Asks for the job's end, such that it can be resumed where its kind can.
pub(crate) async fn suspend(session: &Session, found: &Found) -> Result<(), CliError> {
    present(match job::suspend_patch(&found.resource, true) {
        Some(patch) => session.api.merge(&found.path(), &patch).await,
        None => session.api.delete(&found.path(), &delete_options(None)).await,
    })
}

/// Deletes the job's pods, without any grace.
pub(super) async fn kill_pods(session: &Session, found: &Found) -> Result<(), CliError> {
    let root = format!("/api/v1/namespaces/{}/pods", found.namespace());
    // Asked for, not remembered: a job that is stopped from its first moment on was not seen yet.
    let pods = session.api.get(&pods_path(found)).await?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let path = format!("{root}/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
        present(session.api.delete(&path, &delete_options(Some(0))).await)?;
    }
    Ok(())
}

/// The collection of a job's pods.
pub(crate) fn pods_path(found: &Found) -> String {
    let selector = query(&job::pod_selector(found));
    format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace())
}

/// What is gone already needs no end.
fn present(answer: Result<Value, ApiError>) -> Result<(), CliError> {
    answer.map(|_| ()).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error.into()) })
}

/// Options of a delete request.
pub(crate) fn delete_options(grace: Option<i64>) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    options
}

//! `pods/log`: a container's output from the files that its shim writes.
//!
//! `home/pods/<uid>/containers/<name>/<restart>.log`, in CRI lines: `<RFC 3339 time> stdout|stderr F|P <text>`.

mod files;
mod line;
mod tail;

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;
use trainyard_runtime_core::store::{Key, Object};

use crate::server::answer;
use crate::server::call::Call;
use crate::server::limit::WRITE_STALL;
use crate::server::query::LogParams;
use crate::server::stall::while_read;
use crate::server::status::ApiError;
use crate::server::{now_ms, watch};
use crate::store::Store;

use tail::Tail;

/// Answers `GET pods/log`.
pub(crate) async fn answer(call: &Call) -> Result<Response, ApiError> {
    let params = &call.params.log;
    let pod = call.api.store.get(&call.key()).map_err(|error| call.store_error(error))?;
    let container = container(&pod, params)?;
    let folder = folder(&call.api.home, &pod, &container);
    let restarts = restarts(&folder);
    let restart = match (params.previous, restarts.as_slice()) {
        (false, [.., last]) => *last,
        (true, [.., previous, _]) => *previous,
        (true, _) => {
            let message = format!("previous terminated container \"{container}\" in pod \"{}\" not found", call.name);
            return Err(ApiError::bad_request(message));
        }
        (false, []) => return Err(not_started(&pod, &container)),
    };
    let permit = if params.follow { watch::permit(call)? } else { None };
    let life = Life { store: call.api.store.clone(), key: call.key(), uid: pod.uid().to_string(), container, restart };
    let path = folder.join(format!("{restart}.log"));
    let since_ms = since(params)?;
    let tail = Tail::open(&path, params, since_ms, life, call.api.stopping.clone(), permit)
        .await
        .map_err(|error| ApiError::internal(format!("the log cannot be read: {error}")))?;
    let lines = tail.into_stream();
    let body = if params.follow && call.remote {
        Body::from_stream(while_read(lines, WRITE_STALL))
    } else {
        Body::from_stream(lines)
    };
    Ok(answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", body))
}

/// The container to read: the one that is named, or the only one.
fn container(pod: &Object, params: &LogParams) -> Result<String, ApiError> {
    let name = &pod.key().name;
    let spec = &pod.value()["spec"];
    let names = |field: &str| -> Vec<&str> {
        spec[field].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    match (&params.container, main.as_slice()) {
        (Some(asked), _) if main.contains(&asked.as_str()) || init.contains(&asked.as_str()) => Ok(asked.clone()),
        (Some(asked), _) => Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}; it has: {}",
            main.join(" ")
        ))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            main.join(" ")
        ))),
    }
}

fn folder(home: &Path, pod: &Object, container: &str) -> PathBuf {
    home.join("pods").join(&**pod.uid()).join("containers").join(container)
}

/// The runs of the container that have a log, in order.
fn restarts(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // Also by the rotated ones: there is a moment without a newest file.
    let mut found: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.split_once(".log")?.0.parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn not_started(pod: &Object, container: &str) -> ApiError {
    let name = &pod.key().name;
    let value = pod.value();
    if value["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return ApiError::bad_request(format!("pod {name} does not have a host assigned"));
    }
    let state = status_of(value, container);
    let reason = state.and_then(|s| s["state"]["waiting"]["reason"].as_str()).unwrap_or("ContainerCreating");
    ApiError::bad_request(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"))
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .filter_map(|field| pod["status"][field].as_array())
        .flatten()
        .find(|status| status["name"] == container)
}

fn since(params: &LogParams) -> Result<Option<i64>, ApiError> {
    match (params.since_seconds, &params.since_time) {
        (Some(_), Some(_)) => Err(ApiError::bad_request("at most one of sinceTime or sinceSeconds may be specified")),
        (Some(seconds), None) if seconds < 1 => Err(ApiError::bad_request("sinceSeconds must be greater than 0")),
        (Some(seconds), None) => Ok(Some(now_ms() - seconds.saturating_mul(1_000))),
        (None, Some(time)) => {
            let parsed = time.parse::<jiff::Timestamp>();
            let parsed =
                parsed.map_err(|_| ApiError::bad_request(format!("sinceTime: \"{time}\" is not an RFC 3339 time")))?;
            Ok(Some(parsed.as_millisecond()))
        }
        (None, None) => Ok(None),
    }
}

/// One run of a container, as far as its end matters to whoever follows its log.
#[derive(Debug)]
struct Life {
    store: Store,
    key: Key,
    uid: String,
    container: String,
    restart: u32,
}

impl Life {
    /// Whether nothing will be written any more. The shim writes the last line before the exit code, and the agent
    /// reads the exit code before it says so: what is in the file after this is true is all there will be.
    fn is_over(&self) -> bool {
        let Ok(pod) = self.store.get(&self.key) else { return true };
        if **pod.uid() != *self.uid {
            return true;
        }
        let value = pod.value();
        if matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return true;
        }
        let Some(status) = status_of(value, &self.container) else { return false };
        let newer = status["restartCount"].as_u64().is_some_and(|count| count > u64::from(self.restart));
        newer
            || status["state"]["terminated"].is_object()
            || status["lastState"]["terminated"].is_object() && status["state"]["waiting"].is_object()
    }
}

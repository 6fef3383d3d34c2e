//! Simulated nodes: their objects, and a kubelet for all of them, which only says that bound pods run. What it sees on its watch
//! is also the measurement: when each pod got its node.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::spread;
use crate::Error;
use crate::http::{Connection, Endpoint};
use crate::samples::Samples;

/// By this label of a pod it is known which gang it is of.
pub const GANG: &str = "bench/gang";
/// Statuses that are written at the same time.
const KUBELETS: usize = 8;

/// Makes node objects with room for 32 pods of a CPU each.
///
/// # Errors
/// When the server refuses one.
pub async fn create(endpoint: &Endpoint, count: usize) -> Result<(), Error> {
    spread(endpoint, 16, 0..count, async |connection, at| {
        let name = format!("node-{at:04}");
        let amounts = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
        let body = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": amounts, "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        });
        connection.call(Method::POST, "/api/v1/nodes", body.to_string().into()).await.map(drop)
    })
    .await
}

/// What was seen of the pods.
#[derive(Debug, Default)]
struct Seen {
    bound: HashSet<String>,
    /// By gang: pods that are bound, and when the last was.
    gangs: BTreeMap<String, (usize, Instant)>,
    running: HashSet<String>,
    /// Pods that were told to go: nobody does that here for good reason.
    removed: usize,
    broken: Option<String>,
}

/// What became of the pods so far.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Pods with a node.
    pub bound: usize,
    /// Pods that run.
    pub running: usize,
    /// Pods that were taken back.
    pub removed: usize,
    /// When the last pod got its node.
    pub last: Option<Instant>,
}

/// The watch and the kubelets. They end when it is dropped.
#[derive(Debug)]
pub struct Kubelets {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

/// What is to be told of a pod.
enum Task {
    Runs(String),
    Gone(String),
}

impl Kubelets {
    /// Follows the pods of the namespace `default`, of which there is none yet.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn start(endpoint: &Endpoint) -> Result<Self, Error> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (sender, receiver) = unbounded_channel();
        let mut connection = Connection::open(endpoint).await?;
        let page = connection.call(Method::GET, "/api/v1/namespaces/default/pods?limit=1", Bytes::new()).await?;
        let page: Value = serde_json::from_slice(&page).map_err(|error| Error::Request(error.to_string()))?;
        let version = page["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let mut tasks = JoinSet::new();
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        for _ in 0..KUBELETS {
            let connection = Connection::open(endpoint).await?;
            tasks.spawn(report(connection, Arc::clone(&receiver)));
        }
        let noted = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut version = version;
            // A server ends a watch that does not keep up with a burst; it goes on from where it ended.
            let why = loop {
                if let Err(error) = follow(&mut connection, &mut version, &noted, &sender).await {
                    break error;
                }
            };
            noted.lock().unwrap_or_else(PoisonError::into_inner).broken = Some(why.to_string());
        });
        Ok(Self { seen, _tasks: tasks })
    }

    /// Waits until `pods` have a node, at most for `limit` from `start` on.
    ///
    /// # Errors
    /// When the watch broke: then nothing was measured.
    pub async fn bound(&self, pods: usize, start: Instant, limit: Duration) -> Result<Progress, Error> {
        loop {
            let progress = self.progress()?;
            if progress.bound >= pods || start.elapsed() >= limit {
                return Ok(progress);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn progress(&self) -> Result<Progress, Error> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &seen.broken {
            return Err(Error::Request(format!("the watch on pods broke: {why}")));
        }
        let last = seen.gangs.values().map(|(_, at)| *at).max();
        Ok(Progress { bound: seen.bound.len(), running: seen.running.len(), removed: seen.removed, last })
    }

    /// From `start` until each gang of `pods` was bound whole.
    #[must_use]
    pub fn complete(&self, pods: usize, start: Instant) -> Samples {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut samples = Samples::default();
        let whole = seen.gangs.values().filter(|(count, _)| *count >= pods);
        whole.for_each(|(_, at)| samples.push(at.saturating_duration_since(start)));
        samples
    }
}

async fn follow(
    connection: &mut Connection,
    version: &mut String,
    seen: &Mutex<Seen>,
    tasks: &UnboundedSender<Task>,
) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/default/pods?watch=1&resourceVersion={version}&timeoutSeconds=3600");
    let answer = connection.send(Method::GET, &path, Bytes::new()).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Request(error.to_string()))?;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        let arrived = Instant::now();
        let mut from = 0;
        while let Some(length) = pending[from..].iter().position(|byte| *byte == b'\n') {
            let line = &pending[from..from + length];
            from += length + 1;
            let event: Event = serde_json::from_slice(line).map_err(|error| Error::Request(error.to_string()))?;
            if event.r#type == "ERROR" {
                return Err(Error::Request(String::from_utf8_lossy(line).into_owned()));
            }
            version.clone_from(&event.object.metadata.resource_version);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = seen.note(event, arrived) {
                // They end only together with this.
                let _ = tasks.send(task);
            }
        }
        pending.drain(..from);
    }
    if status.is_success() {
        return Ok(());
    }
    // What refuses a watch is one object without an end of line.
    Err(Error::Request(format!("{status} {}", String::from_utf8_lossy(&pending))))
}

impl Seen {
    fn note(&mut self, event: Event, at: Instant) -> Option<Task> {
        let Pod { metadata, spec, status } = event.object;
        if event.r#type == "DELETED" {
            self.removed += 1;
            return None;
        }
        spec.node_name?;
        if metadata.deletion_timestamp.is_some() {
            return Some(Task::Gone(metadata.name));
        }
        if status.phase == "Running" {
            self.running.insert(metadata.name);
            return None;
        }
        if !self.bound.insert(metadata.name.clone()) {
            return None;
        }
        let gang = metadata.labels.get(GANG).cloned().unwrap_or_default();
        let entry = self.gangs.entry(gang).or_insert((0, at));
        *entry = (entry.0 + 1, at);
        Some(Task::Runs(metadata.name))
    }
}

/// Says of one pod after the other that it runs. One that is gone meanwhile is none of its business any more.
async fn report(mut connection: Connection, tasks: Arc<tokio::sync::Mutex<UnboundedReceiver<Task>>>) {
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        "containerStatuses": [{
            "name": "trainer", "image": "any", "imageID": "any", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2024-01-01T00:00:00Z"}},
        }],
    }});
    let status = Bytes::from(status.to_string());
    loop {
        let Some(task) = tasks.lock().await.recv().await else { return };
        let path = |name: &str| format!("/api/v1/namespaces/default/pods/{name}");
        // What the server refuses shows in how many run at the end.
        let _ = match task {
            Task::Runs(name) => {
                connection.call(Method::PATCH, &format!("{}/status", path(&name)), status.clone()).await
            }
            Task::Gone(name) => {
                let now = Bytes::from_static(br#"{"gracePeriodSeconds":0}"#);
                connection.call(Method::DELETE, &path(&name), now).await
            }
        };
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn event(kind: &str, name: &str, node: Option<&str>, phase: &str) -> Event {
        let text = json!({"type": kind, "object": {
            "metadata": {"name": name, "labels": {GANG: "g"}}, "spec": {"nodeName": node}, "status": {"phase": phase},
        }});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_pod_counts_once_and_its_gang_is_complete_with_the_last() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(seen.note(event("ADDED", "a", None, "Pending"), at(1)).is_none());
        assert!(matches!(seen.note(event("MODIFIED", "a", Some("n"), "Pending"), at(2)), Some(Task::Runs(_))));
        assert!(seen.note(event("MODIFIED", "a", Some("n"), "Pending"), at(3)).is_none());
        assert!(seen.note(event("MODIFIED", "a", Some("n"), "Running"), at(4)).is_none());
        assert_eq!((seen.bound.len(), seen.running.len(), seen.gangs["g"]), (1, 1, (1, at(2))));
        seen.note(event("ADDED", "b", Some("n"), "Pending"), at(9));
        assert_eq!(seen.gangs["g"], (2, at(9)));
    }
}

//! A scenario as objects: `trainyard up` with its store and its controllers, a simulated node whose kubelet is here, and each workload a pod
//! with its queue's label.
//!
//! A pod of its own is the least that a workload can be there: it is created, bound, and told to have ended. A Job is an object more, and a status.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::{BORROWING, QUOTA, Scenario};
use crate::Error;
use crate::http::{Connection, Endpoint};
use crate::samples::Samples;
use crate::scale::plane::processor_time;
use crate::scale::spread;
use crate::server::{Server, resident_bytes};

/// Connections by which workloads are created, and by which their ends are told.
const WIDE: usize = 32;
const PODS: &str = "/api/v1/namespaces/default/pods";
const KUEUE: &str = "/apis/kueue.x-k8s.io/v1beta1";

/// What a run took.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Until the last workload had ended, or the limit.
    pub took: Duration,
    /// Until the last one was created.
    pub created: Duration,
    /// How many ended.
    pub ended: usize,
    /// Writes that the server made, from the first workload's on.
    pub writes: u64,
    /// Processor time of the server.
    pub processor: Duration,
    /// Memory of the server, at the end.
    pub resident_bytes: u64,
    /// From when a workload was due to when it had a node, by class.
    pub waits: Vec<Samples>,
}

/// Runs a scenario in a server of its own, for as long as `limit` at most.
///
/// # Errors
/// When the server cannot be started, refuses something, or stops a workload.
pub async fn run(binary: &Path, home: &Path, scenario: &Scenario, limit: Duration) -> Result<Outcome, Error> {
    let server = Server::trainyard(binary, home).await?;
    let endpoint = &server.endpoint;
    prepare(endpoint, scenario).await?;
    let before = version(endpoint).await?;
    let arrivals = scenario.arrivals();
    let start = Instant::now();
    let seen = Arc::new(Mutex::new(Seen::new(scenario, &arrivals, start)));
    let _kubelet = kubelet(endpoint, &seen, before).await?;
    let last = arrivals.len();
    let created = Mutex::new(Duration::ZERO);
    let create =
        spread(endpoint, WIDE, arrivals.iter().enumerate(), async |connection, (number, (at_ms, queue, kind))| {
            let due = start + Duration::from_millis(u64::try_from(*at_ms).unwrap_or(0));
            tokio::time::sleep_until(due.into()).await;
            connection.call(Method::POST, PODS, workload(scenario, number, *queue, *kind)).await?;
            let mut created = created.lock().unwrap_or_else(PoisonError::into_inner);
            *created = (*created).max(start.elapsed());
            Ok(())
        });
    let end = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(why) = &seen.broken {
                return Err(Error::Request(why.clone()));
            }
            if seen.ended == last || start.elapsed() > limit {
                return Ok(());
            }
        }
    };
    // Creating ends before the last workload does; at the limit it is given up.
    let mut create = std::pin::pin!(create);
    let mut end = std::pin::pin!(end);
    tokio::select! {
        done = &mut create => { done?; end.await?; }
        done = &mut end => done?,
    }
    let took = start.elapsed();
    let pid = server.pids().last().copied().unwrap_or_default();
    let (ended, waits) = {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.ended, seen.waits.clone())
    };
    let created = *created.lock().unwrap_or_else(PoisonError::into_inner);
    let writes = version(endpoint).await?.saturating_sub(before);
    Ok(Outcome {
        took,
        created,
        ended,
        writes,
        processor: processor_time(pid)?,
        resident_bytes: resident_bytes(pid)?,
        waits,
    })
}

/// Queues, and one node that has room for everything.
async fn prepare(endpoint: &Endpoint, scenario: &Scenario) -> Result<(), Error> {
    let amounts = json!({"cpu": "1000000", "memory": "1Pi", "pods": "1000000"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "simulated", "labels": {"bench/simulated": "true"}},
        "status": {
            "capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    });
    let mut connection = Connection::open(endpoint).await?;
    connection.call(Method::POST, "/api/v1/nodes", node.to_string().into()).await?;
    let queues = 0..scenario.cohorts * scenario.queues;
    spread(endpoint, WIDE, queues, async |connection, at| {
        let name = format!("queue-{at}");
        let quota = json!({"name": "cpu", "nominalQuota": QUOTA, "borrowingLimit": BORROWING});
        let cluster = json!({
            "apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ClusterQueue", "metadata": {"name": name},
            "spec": {
                "cohort": format!("cohort-{}", at / scenario.queues),
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"},
                "resourceGroups": [{
                    "coveredResources": ["cpu"], "flavors": [{"name": "default", "resources": [quota]}],
                }],
            },
        });
        let local = json!({
            "apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": {"name": name},
            "spec": {"clusterQueue": name},
        });
        connection.call(Method::POST, &format!("{KUEUE}/clusterqueues"), cluster.to_string().into()).await?;
        let path = format!("{KUEUE}/namespaces/default/localqueues");
        connection.call(Method::POST, &path, local.to_string().into()).await.map(drop)
    })
    .await
}

/// The pod that a workload is.
fn workload(scenario: &Scenario, number: usize, queue: usize, kind: usize) -> Bytes {
    let class = &scenario.classes[kind];
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("w-{number}"),
            "labels": {"kueue.x-k8s.io/queue-name": format!("queue-{queue}")},
            "annotations": {"trainyard.dev/priority": class.priority.to_string()},
        },
        "spec": {
            "restartPolicy": "Never", "nodeSelector": {"bench/simulated": "true"},
            "containers": [{
                "name": "main", "image": "any", "resources": {"requests": {"cpu": class.request.to_string()}},
            }],
        },
    });
    body.to_string().into()
}

/// The server's version: it counts writes.
async fn version(endpoint: &Endpoint) -> Result<u64, Error> {
    let mut connection = Connection::open(endpoint).await?;
    let page = connection.call(Method::GET, &format!("{PODS}?limit=1"), Bytes::new()).await?;
    let page: Value = serde_json::from_slice(&page).map_err(|error| Error::Request(error.to_string()))?;
    let version = page["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    version.ok_or_else(|| Error::Request("a list without a version".to_owned()))
}

/// What was seen of the workloads.
struct Seen {
    start: Instant,
    /// When each is due, and of which class.
    due: Vec<(Duration, usize)>,
    run: Vec<Duration>,
    bound: Vec<bool>,
    waits: Vec<Samples>,
    ended: usize,
    broken: Option<String>,
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

impl Seen {
    fn new(scenario: &Scenario, arrivals: &[(i64, usize, usize)], start: Instant) -> Self {
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Self {
            start,
            due: arrivals.iter().map(|(at_ms, _, kind)| (ms(*at_ms), *kind)).collect(),
            run: scenario.classes.iter().map(|class| ms(class.run_ms)).collect(),
            bound: vec![false; arrivals.len()],
            waits: scenario.classes.iter().map(|_| Samples::default()).collect(),
            ended: 0,
            broken: None,
        }
    }

    /// For how long a pod runs that has a node since now.
    fn note(&mut self, event: &Event) -> Option<Duration> {
        let Pod { metadata, spec } = &event.object;
        let number: usize = metadata.name.strip_prefix("w-").and_then(|number| number.parse().ok())?;
        if event.r#type == "DELETED" || metadata.deletion_timestamp.is_some() {
            // What runs for at most a second is stopped for nobody.
            self.broken = Some(format!("{} was stopped", metadata.name));
            return None;
        }
        spec.node_name.as_ref()?;
        if std::mem::replace(self.bound.get_mut(number)?, true) {
            return None;
        }
        let (due, kind) = self.due[number];
        self.waits[kind].push(self.start.elapsed().saturating_sub(due));
        Some(self.run[kind])
    }
}

/// The kubelet of the simulated node: whoever is bound has ended after its time. It stops when it is dropped.
async fn kubelet(endpoint: &Endpoint, seen: &Arc<Mutex<Seen>>, version: u64) -> Result<JoinSet<()>, Error> {
    let mut tasks = JoinSet::new();
    let (sender, receiver) = unbounded_channel();
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    for _ in 0..WIDE {
        let connection = Connection::open(endpoint).await?;
        tasks.spawn(report(connection, endpoint.clone(), Arc::clone(&receiver), Arc::clone(seen)));
    }
    let (mut connection, seen) = (Connection::open(endpoint).await?, Arc::clone(seen));
    tasks.spawn(async move {
        let mut version = version.to_string();
        // A server ends a watch that does not keep up with a burst; it goes on from where it ended.
        while let Ok(()) = follow(&mut connection, &mut version, &seen, &sender).await {}
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.broken.get_or_insert("the watch on pods broke".to_owned());
    });
    Ok(tasks)
}

async fn follow(
    connection: &mut Connection,
    version: &mut String,
    seen: &Mutex<Seen>,
    ends: &UnboundedSender<String>,
) -> Result<(), Error> {
    let path = format!("{PODS}?watch=1&resourceVersion={version}&timeoutSeconds=3600");
    let mut body = connection.send(Method::GET, &path, Bytes::new()).await?.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Request(error.to_string()))?;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        let mut from = 0;
        while let Some(length) = pending[from..].iter().position(|byte| *byte == b'\n') {
            let line = &pending[from..from + length];
            from += length + 1;
            let event: Event = serde_json::from_slice(line).map_err(|error| Error::Request(error.to_string()))?;
            version.clone_from(&event.object.metadata.resource_version);
            let run = seen.lock().unwrap_or_else(PoisonError::into_inner).note(&event);
            if let Some(run) = run {
                let (ends, name) = (ends.clone(), event.object.metadata.name);
                tokio::spawn(async move {
                    tokio::time::sleep(run).await;
                    // It ends only together with the run.
                    let _ = ends.send(name);
                });
            }
        }
        pending.drain(..from);
    }
    Ok(())
}

/// Says of one pod after the other that it has ended.
async fn report(
    mut connection: Connection,
    endpoint: Endpoint,
    ends: Arc<tokio::sync::Mutex<UnboundedReceiver<String>>>,
    seen: Arc<Mutex<Seen>>,
) {
    loop {
        let Some(name) = ends.lock().await.recv().await else { return };
        let path = format!("{PODS}/{name}/status");
        let status = Bytes::from_static(br#"{"status":{"phase":"Succeeded"}}"#);
        let mut told = connection.call(Method::PATCH, &path, status.clone()).await;
        // A server closes connections on which nothing was said for long.
        if told.is_err()
            && let Ok(another) = Connection::open(&endpoint).await
        {
            connection = another;
            told = connection.call(Method::PATCH, &path, status).await;
        }
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Ok(_) => seen.ended += 1,
            Err(error) => seen.broken = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::super::Which;
    use super::*;

    fn event(kind: &str, name: &str, node: Option<&str>) -> Event {
        let text = json!({"type": kind, "object": {"metadata": {"name": name}, "spec": {"nodeName": node}}});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_workload_runs_from_when_it_has_a_node_and_once() {
        let scenario = Which::LargeScale.scenario();
        let arrivals = scenario.arrivals();
        let mut seen = Seen::new(&scenario, &arrivals, Instant::now());
        let first = arrivals.iter().position(|(_, _, kind)| *kind == 1).unwrap();
        let name = format!("w-{first}");
        assert_eq!(seen.note(&event("ADDED", &name, None)), None);
        assert_eq!(seen.note(&event("MODIFIED", &name, Some("n"))), Some(Duration::from_millis(350)));
        assert_eq!(seen.note(&event("MODIFIED", &name, Some("n"))), None);
        assert_eq!(seen.waits.iter().map(Samples::len).collect::<Vec<usize>>(), [0, 1, 0]);
        assert_eq!(seen.note(&event("MODIFIED", "another", Some("n"))), None);
        seen.note(&event("DELETED", &name, Some("n")));
        assert!(seen.broken.is_some());
    }
}

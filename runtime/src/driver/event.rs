//! Events, off the hot path: a plan never waits for one, and repeated ones are counted up instead of repeated.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use trainyard_proto::plan::{EventSeverity, ObjectRef};

use super::metrics;
use crate::task;

/// Events waiting to be written. At one durable write per 0.3 ms this is about a second of them; a burst beyond that
/// says the same thing many times.
const QUEUED: usize = 4096;
/// Events remembered for counting up. An entry is about 300 bytes.
const REMEMBERED: usize = 4096;
/// Longest time for one event. A server that takes longer has other troubles, and the next events wait.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// Longest time that [`EventSink::flush`] waits: events are worth a short delay of a shutdown, no more.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

enum Message {
    Record(Box<Record>),
    Flush(oneshot::Sender<()>),
}

struct Record {
    regarding: ObjectRef,
    uid: String,
    severity: EventSeverity,
    reason: String,
    message: String,
}

impl Record {
    /// Deterministic, so that the same event after a restart is counted up too.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.uid, &self.reason, &self.message, self.severity == EventSeverity::Warning).hash(&mut hasher);
        format!("{}.{:016x}", self.regarding.name, hasher.finish())
    }

    fn namespace(&self) -> &str {
        if self.regarding.namespace.is_empty() { "default" } else { &self.regarding.namespace }
    }

    fn body(&self, name: &str, component: &str, now: Timestamp) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": self.namespace()},
            "involvedObject": {
                "apiVersion": self.regarding.api_version, "kind": self.regarding.kind,
                "namespace": self.regarding.namespace, "name": self.regarding.name, "uid": self.uid,
            },
            "reason": self.reason,
            "message": self.message,
            "type": match self.severity { EventSeverity::Normal => "Normal", EventSeverity::Warning => "Warning" },
            "count": 1,
            "firstTimestamp": second(now),
            "lastTimestamp": second(now),
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": component,
        })
    }
}

/// Kubernetes' `Time` has whole seconds.
fn second(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Takes events and writes them in the background.
#[derive(Clone, Debug)]
pub struct EventSink {
    sender: mpsc::Sender<Message>,
}

impl EventSink {
    /// Start a recorder that writes as `component`. It ends when the last sink is dropped.
    pub fn start(client: kube::Client, component: &'static str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUED);
        tokio::spawn(Recorder { client, component, counts: HashMap::new() }.run(receiver));
        Self { sender }
    }

    /// Record an event soon. Dropped, and counted, when the recorder is far behind.
    pub fn send(&self, regarding: ObjectRef, uid: String, severity: EventSeverity, reason: String, message: String) {
        let record = Box::new(Record { regarding, uid, severity, reason, message });
        if self.sender.try_send(Message::Record(record)).is_err() {
            metrics().events_dropped.inc();
        }
    }

    /// Wait until every event sent so far has been written, but not for long.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        let flushed = async {
            if self.sender.send(Message::Flush(done)).await.is_ok() {
                // The recorder being gone means that there is nothing left to wait for.
                let _ = wait.await;
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_err() {
            tracing::warn!(limit = ?FLUSH_LIMIT, "the API server takes no events; the last ones are lost");
        }
    }
}

struct Recorder {
    client: kube::Client,
    component: &'static str,
    counts: HashMap<String, i64>,
}

impl Recorder {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(message) = receiver.recv().await {
            match message {
                Message::Record(record) => self.try_record(&record).await,
                Message::Flush(done) => {
                    // Nobody waits any more: fine.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Whatever becomes of one event, the next one is tried.
    async fn try_record(&mut self, record: &Record) {
        let recorded = AssertUnwindSafe(tokio::time::timeout(RECORD_LIMIT, self.record(record))).catch_unwind().await;
        let (reason, name) = (&record.reason, &record.regarding.name);
        match recorded {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(reason, name, %error, "event not recorded"),
            Ok(Err(_)) => tracing::warn!(reason, name, limit = ?RECORD_LIMIT, "event not recorded in time"),
            Err(panic) => {
                tracing::error!(
                    reason,
                    name,
                    panic = task::said(&*panic),
                    "recording an event panicked; please report this"
                );
            }
        }
    }

    async fn record(&mut self, record: &Record) -> Result<(), kube::Error> {
        let name = record.name();
        let now = Timestamp::now();
        let api: Api<Event> = Api::namespaced(self.client.clone(), record.namespace());
        if self.counts.len() >= REMEMBERED {
            self.counts.clear();
        }
        let count = match self.counts.get(&name) {
            Some(count) => count + 1,
            None => {
                let body = record.body(&name, self.component, now);
                let event = Event::deserialize(&body).map_err(kube::Error::SerdeError)?;
                match api.create(&PostParams::default(), &event).await {
                    Ok(_) => {
                        self.counts.insert(name, 1);
                        return Ok(());
                    }
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                        i64::from(api.get_opt(&name).await?.and_then(|event| event.count).unwrap_or(1)) + 1
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let patch = json!({"count": count, "lastTimestamp": second(now)});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                self.counts.insert(name, count);
                Ok(())
            }
            // Its hour was over and the server forgot it: the next one starts afresh.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.counts.remove(&name);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_holds_up_no_shutdown() {
        let answer = |_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>();
        let sink = EventSink::start(kube::Client::new(tower::service_fn(answer), "default"), "test");
        let regarding =
            ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: "default".into(), name: "p".into() };
        sink.send(regarding, "uid".into(), EventSeverity::Normal, "Reason".into(), "message".into());
        let began = tokio::time::Instant::now();
        sink.flush().await;
        assert!(began.elapsed() <= FLUSH_LIMIT + Duration::from_secs(1));
    }
}

//! Events, off the hot path: a plan never waits for one, and repeated ones are counted up instead of repeated.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use trainyard_proto::plan::{EventSeverity, ObjectRef};

use super::metrics;

/// Events waiting to be written. At one durable write per 0.3 ms this is about a second of them; a burst beyond that
/// says the same thing many times.
const QUEUED: usize = 4096;
/// Events remembered for counting up. An entry is about 300 bytes.
const REMEMBERED: usize = 4096;

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

    /// Wait until every event sent so far has been written.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            // The recorder being gone means that there is nothing left to wait for.
            let _ = wait.await;
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
                Message::Record(record) => {
                    if let Err(error) = self.record(&record).await {
                        tracing::warn!(reason = record.reason, name = record.regarding.name, %error, "event not recorded");
                    }
                }
                Message::Flush(done) => {
                    // Nobody waits any more: fine.
                    let _ = done.send(());
                }
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
                let event: Event =
                    serde_json::from_value(record.body(&name, self.component, now)).map_err(kube::Error::SerdeError)?;
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

//! Events, off the hot path: a plan never waits for one, and repeated ones are counted up instead of repeated. Where so many come that not all can
//! be kept, an event says how many were not.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use trainyard_proto::plan::{EventSeverity, ObjectRef};

use super::apply::send;
use super::metrics;
use crate::task;

/// Events waiting to be written. At some thousand durable writes in a second this is about a second of them.
const QUEUED: usize = 4096;
/// Events that are taken from the queue at once. What is the same among them is written once.
const AT_ONCE: usize = 64;
/// Events that are written at the same time: their writes are made durable together.
const PARALLEL: usize = 16;
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

/// The last event that could not be kept, and how many could not. Told of once there is room again.
type Lost = Arc<Mutex<Option<(Box<Record>, u64)>>>;

/// Takes events and writes them in the background.
#[derive(Clone)]
pub struct EventSink {
    sender: mpsc::Sender<Message>,
    lost: Lost,
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink").finish_non_exhaustive()
    }
}

impl EventSink {
    /// Start a recorder that writes as `component`. It ends when the last sink is dropped.
    pub fn start(client: kube::Client, component: &'static str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUED);
        let lost = Lost::default();
        let recorder = Recorder { client, component, counts: HashMap::new(), lost: Arc::clone(&lost) };
        tokio::spawn(recorder.run(receiver));
        Self { sender, lost }
    }

    /// Record an event soon. When the recorder is far behind it is not kept, and another event says so.
    pub fn send(&self, regarding: ObjectRef, uid: String, severity: EventSeverity, reason: String, message: String) {
        let record = Box::new(Record { regarding, uid, severity, reason, message });
        if let Err(TrySendError::Full(Message::Record(record))) = self.sender.try_send(Message::Record(record)) {
            metrics().events_dropped.inc();
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            let before = lost.as_ref().map_or(0, |(_, count)| *count);
            *lost = Some((record, before + 1));
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
    /// How often events that were written lately have been seen, by name.
    counts: HashMap<String, i64>,
    lost: Lost,
}

impl Recorder {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(AT_ONCE);
        while receiver.recv_many(&mut messages, AT_ONCE).await > 0 {
            let mut burst: BTreeMap<String, (Box<Record>, i64)> = BTreeMap::new();
            for message in messages.drain(..) {
                match message {
                    Message::Record(record) => burst.entry(record.name()).or_insert((record, 0)).1 += 1,
                    Message::Flush(done) => {
                        self.write(std::mem::take(&mut burst)).await;
                        self.tell_of_lost().await;
                        // Nobody waits any more: fine.
                        let _ = done.send(());
                    }
                }
            }
            self.write(burst).await;
            self.tell_of_lost().await;
        }
    }

    /// Says that some could not be kept. There is room for this one: it is not queued.
    async fn tell_of_lost(&mut self) {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((last, count)) = lost else { return };
        tracing::warn!(count, "events came faster than they could be written, and some were not kept");
        let message = format!(
            "{count} events, of this object and others, came faster than they could be written and were not kept"
        );
        let record = Record { severity: EventSeverity::Warning, reason: "EventsLost".to_owned(), message, ..*last };
        self.write(BTreeMap::from([(record.name(), (Box::new(record), 1))])).await;
    }

    /// Writes events, each with how often it came.
    async fn write(&mut self, burst: BTreeMap<String, (Box<Record>, i64)>) {
        if self.counts.len() + burst.len() > REMEMBERED {
            self.counts.clear();
        }
        let this = &*self;
        let writes = stream::iter(burst).map(|(name, (record, times))| async move {
            let count = this.try_record(&record, &name, times).await;
            (name, count)
        });
        let written: Vec<(String, Option<i64>)> = writes.buffer_unordered(PARALLEL).collect().await;
        for (name, count) in written {
            match count {
                Some(count) => self.counts.insert(name, count),
                None => self.counts.remove(&name),
            };
        }
    }

    /// Whatever becomes of one event, the others are tried. How often it has been seen, if that is known.
    async fn try_record(&self, record: &Record, event: &str, times: i64) -> Option<i64> {
        let recording = tokio::time::timeout(RECORD_LIMIT, self.record(record, event, times));
        let recorded = AssertUnwindSafe(recording).catch_unwind().await;
        let (reason, name) = (&record.reason, &record.regarding.name);
        match recorded {
            Ok(Ok(Ok(count))) => return count,
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
        None
    }

    async fn record(&self, record: &Record, name: &str, times: i64) -> Result<Option<i64>, kube::Error> {
        let now = Timestamp::now();
        let api: Api<Event> = Api::namespaced(self.client.clone(), record.namespace());
        let place = Request::new(api.resource_url());
        let count = match self.counts.get(name) {
            Some(count) => count + times,
            None => {
                let mut body = record.body(name, self.component, now);
                body["count"] = json!(times);
                let text = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
                match send(&self.client, place.create(&PostParams::default(), text)).await {
                    Ok(_) => return Ok(Some(times)),
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                        i64::from(api.get_opt(name).await?.and_then(|event| event.count).unwrap_or(1)) + times
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let patch = Patch::Merge(json!({"count": count, "lastTimestamp": second(now)}));
        match send(&self.client, place.patch(name, &PatchParams::default(), &patch)).await {
            Ok(_) => Ok(Some(count)),
            // Its hour was over and the server forgot it: the next one starts afresh.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
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

    /// A server that answers nothing before all have been sent.
    #[tokio::test(start_paused = true)]
    async fn of_a_burst_nothing_is_lost_silently() {
        let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (gate, heard) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::clone(&bodies));
        let opened = Arc::clone(&gate);
        let answer = move |request: Request<Body>| {
            let (gate, bodies) = (Arc::clone(&opened), Arc::clone(&heard));
            async move {
                gate.acquire().await.expect("it is never closed").forget();
                let bytes = request.into_body().collect_bytes().await.expect("a body");
                bodies.lock().expect("a list").push(serde_json::from_slice(&bytes).expect("JSON"));
                let made =
                    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "resourceVersion": "1"}});
                Ok::<_, Infallible>(
                    Response::builder().status(201).body(Body::from(made.to_string().into_bytes())).expect("an answer"),
                )
            }
        };
        let sink = EventSink::start(kube::Client::new(tower::service_fn(answer), "default"), "test");
        let send = |at: usize| {
            let name = format!("p-{at}");
            let regarding =
                ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: "default".into(), name };
            sink.send(regarding, format!("uid-{at}"), EventSeverity::Normal, "Reason".into(), "message".into());
        };
        (0..3).for_each(|_| send(0));
        // Nobody takes any from the queue meanwhile: this is one thread, and nothing is awaited.
        (1..QUEUED + 98).for_each(send);
        gate.add_permits(2 * QUEUED);
        sink.flush().await;
        let bodies = bodies.lock().expect("a list");
        let count = |body: &Value| body["count"].as_i64().unwrap_or(0);
        let lost: Vec<&Value> = bodies.iter().filter(|body| body["reason"] == "EventsLost").collect();
        assert_eq!(lost.len(), 1);
        let message = "100 events, of this object and others, came faster than they could be written and were not kept";
        assert_eq!((&lost[0]["message"], &lost[0]["type"]), (&json!(message), &json!("Warning")));
        let kept: i64 = bodies.iter().filter(|body| body["reason"] == "Reason").map(count).sum();
        assert_eq!(kept, 4096, "all that fit into the queue");
        let first: Vec<i64> = bodies.iter().filter(|body| body["involvedObject"]["name"] == "p-0").map(count).collect();
        assert_eq!(first, [3], "what is the same is written once");
    }
}

//! The logs of a job's containers, each followed from its first line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use super::label::{Label, Speaker};
use super::observe::Seen;
use crate::api::{Api, ApiError, query};

/// A container that was reported as running may not have its log yet: so often we ask again…
const ATTEMPTS: u32 = 20;
/// …and so long we wait between. Two seconds in all.
const PAUSE: Duration = Duration::from_millis(100);

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) pod_uid: String,
    pub(crate) container: String,
    pub(crate) restart: i64,
}

impl Key {
    /// The run that a container's status is about.
    pub(crate) fn of(pod: &Value, status: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            pod_uid: text(&pod["metadata"]["uid"]),
            container: text(&status["name"]),
            restart: status["restartCount"].as_i64().unwrap_or(0),
        }
    }
}

/// A line with its speaker.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: Label,
    pub(crate) text: String,
}

/// Which log streams to follow: what `logs` and `run` leave out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Only this container.
    pub(crate) container: Option<String>,
}

/// How many lines of each log were handed on. A log that is taken up again goes on behind them.
pub(crate) type Delivered = BTreeMap<Key, Arc<AtomicUsize>>;

/// All streams of a job.
#[derive(Debug)]
pub(crate) struct Streams {
    api: Api,
    job: String,
    to: Sender<Seen>,
    choice: Choice,
    started: BTreeSet<Key>,
    open: BTreeSet<Key>,
    delivered: Delivered,
    tasks: JoinSet<()>,
}

impl Streams {
    pub(crate) fn new(api: Api, job: String, choice: Choice, to: Sender<Seen>) -> Self {
        let (started, open) = (BTreeSet::new(), BTreeSet::new());
        Self { api, job, to, choice, started, open, delivered: Delivered::new(), tasks: JoinSet::new() }
    }

    /// Leaves out what was handed on before.
    pub(crate) fn after(self, delivered: Delivered) -> Self {
        Self { delivered, ..self }
    }

    /// What was handed on so far.
    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered.clone()
    }

    /// Whether a log is still being read.
    pub(crate) fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// A log came to its end.
    pub(crate) fn ended(&mut self, key: &Key) {
        self.open.remove(key);
    }

    /// Begins to follow the containers of a pod that have started since. `alone`: the job has one pod.
    pub(crate) fn look_at(&mut self, pod: &Value, alone: bool) {
        let metadata = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for status in statuses(pod) {
            let begun = status["state"]["running"].is_object() || status["state"]["terminated"].is_object();
            let key = Key::of(pod, status);
            let wanted = self.choice.container.as_ref().is_none_or(|only| *only == key.container);
            if !begun || !wanted || self.started.contains(&key) {
                continue;
            }
            self.started.insert(key.clone());
            self.open.insert(key.clone());
            let pod_path =
                format!("/api/v1/namespaces/{}/pods/{}", text(&metadata["namespace"]), text(&metadata["name"]));
            let log_path = format!("{pod_path}/log?follow=true&container={}", query(&key.container));
            let reader = Reader {
                api: self.api.clone(),
                speaker: Speaker::new(pod, &self.job, &key.container, alone),
                delivered: Arc::clone(self.delivered.entry(key.clone()).or_default()),
                pod_path,
                log_path,
                key,
                to: self.to.clone(),
            };
            self.tasks.spawn(reader.run());
        }
    }
}

/// Statuses of init containers, then of containers.
pub(crate) fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

/// Reads one log to its end, also when the server goes away meanwhile and comes back.
struct Reader {
    api: Api,
    pod_path: String,
    log_path: String,
    speaker: Speaker,
    key: Key,
    delivered: Arc<AtomicUsize>,
    to: Sender<Seen>,
}

impl Reader {
    async fn run(self) {
        let mut refused = 0;
        while refused < ATTEMPTS {
            match self.once().await {
                Ok(()) if self.is_over().await => break,
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, path = self.log_path, "log cannot be read yet");
                    // A server that does not answer is waited for: whoever follows decides for how long.
                    refused += u32::from(error.code().is_some());
                }
            }
            if self.to.is_closed() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        // Nobody listens any more: fine.
        let _ = self.to.send(Seen::LogEnded(self.key)).await;
    }

    /// One request: hands on what was not handed on before. `Ok` when the stream ended, for whatever reason.
    async fn once(&self) -> Result<(), ApiError> {
        let mut lines = self.api.lines(&self.log_path).await?;
        let mut old = self.delivered.load(Ordering::Relaxed);
        while let Some(Ok(line)) = lines.next().await {
            if old > 0 {
                old -= 1;
                continue;
            }
            let (label, text) = self.speaker.attribute(&line);
            if self.to.send(Seen::Line(Line { label, text: text.to_owned() })).await.is_err() {
                return Ok(());
            }
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether this run of the container has ended, so that its log cannot grow.
    async fn is_over(&self) -> bool {
        let pod = match self.api.find(&self.pod_path).await {
            Ok(Some(pod)) if pod["metadata"]["uid"].as_str() == Some(&self.key.pod_uid) => pod,
            Ok(_) => return true,
            Err(error) => return error.code().is_some(),
        };
        let mut own = statuses(&pod).filter(|status| status["name"].as_str() == Some(&self.key.container));
        own.next().is_none_or(|status| {
            !status["state"]["running"].is_object() || status["restartCount"].as_i64().unwrap_or(0) != self.key.restart
        })
    }
}

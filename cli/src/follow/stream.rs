//! The logs of a job's containers, each followed from its first line.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use super::label::{Label, Speaker};
use super::observe::Seen;
use crate::api::{Api, query};

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
    /// Only the last lines of what there is at the start.
    pub(crate) tail: Option<usize>,
}

/// All streams of a job.
#[derive(Debug)]
pub(crate) struct Streams {
    api: Api,
    job: String,
    to: Sender<Seen>,
    choice: Choice,
    started: BTreeSet<Key>,
    open: BTreeSet<Key>,
    tasks: JoinSet<()>,
}

impl Streams {
    pub(crate) fn new(api: Api, job: String, choice: Choice, to: Sender<Seen>) -> Self {
        Self { api, job, to, choice, started: BTreeSet::new(), open: BTreeSet::new(), tasks: JoinSet::new() }
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
            let name = text(&status["name"]);
            let begun = status["state"]["running"].is_object() || status["state"]["terminated"].is_object();
            let wanted = self.choice.container.as_ref().is_none_or(|only| *only == name);
            let key = Key {
                pod_uid: text(&metadata["uid"]),
                container: name,
                restart: status["restartCount"].as_i64().unwrap_or(0),
            };
            if !begun || !wanted || self.started.contains(&key) {
                continue;
            }
            self.started.insert(key.clone());
            self.open.insert(key.clone());
            let path = format!(
                "/api/v1/namespaces/{}/pods/{}/log?follow=true&container={}{}",
                text(&metadata["namespace"]),
                text(&metadata["name"]),
                query(&key.container),
                self.choice.tail.map_or_else(String::new, |lines| format!("&tailLines={lines}")),
            );
            let speaker = Speaker::new(pod, &self.job, &key.container, alone);
            self.tasks.spawn(read(self.api.clone(), path, speaker, key, self.to.clone()));
        }
    }
}

/// Statuses of init containers, then of containers.
pub(crate) fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

async fn read(api: Api, path: String, speaker: Speaker, key: Key, to: Sender<Seen>) {
    for _ in 0..ATTEMPTS {
        match api.lines(&path).await {
            Ok(mut lines) => {
                while let Some(Ok(line)) = lines.next().await {
                    let (label, text) = speaker.attribute(&line);
                    if to.send(Seen::Line(Line { label, text: text.to_owned() })).await.is_err() {
                        return;
                    }
                }
                break;
            }
            Err(error) => {
                tracing::debug!(%error, path, "log cannot be read yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // Nobody listens any more: fine.
    let _ = to.send(Seen::LogEnded(key)).await;
}

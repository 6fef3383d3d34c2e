//! What the ranks and their launcher have written down, handed on: progress, metric points, the newest checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::Task;
use crate::agent::metric::{self, IngestError};
use crate::agent::report;

/// What the API has not been told yet.
#[derive(Debug, Default)]
pub(super) struct News {
    progress: Option<String>,
    checkpoint: Option<String>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.progress.is_none() && self.checkpoint.is_none()
    }

    /// As annotations of the pod.
    pub(super) fn annotations(&self) -> BTreeMap<&'static str, &str> {
        let all = [(report::PROGRESS, &self.progress), (report::CHECKPOINT, &self.checkpoint)];
        all.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect()
    }
}

impl Task {
    /// Hands metric points to the records, and says what is new for the API.
    pub(super) async fn news(&mut self) -> News {
        let news = News { progress: self.new_progress().await, checkpoint: self.new_checkpoint() };
        // What the pod says already needs no write.
        let (known, left) = (self.known(report::PROGRESS), self.known(report::CHECKPOINT));
        let is_new = |text: &String, known: Option<&str>| !self.gone && known != Some(text.as_str());
        let open = News {
            progress: news.progress.clone().filter(|text| is_new(text, known)),
            checkpoint: news.checkpoint.clone().filter(|text| is_new(text, left)),
        };
        self.note(News {
            progress: news.progress.filter(|_| open.progress.is_none()),
            checkpoint: news.checkpoint.filter(|_| open.checkpoint.is_none()),
        });
        open
    }

    /// The API has been told.
    pub(super) fn note(&mut self, news: News) {
        if let Some(progress) = news.progress {
            self.progress_told = progress;
        }
        if let Some(checkpoint) = news.checkpoint {
            self.checkpoint_told = checkpoint;
        }
    }

    fn known(&self, annotation: &str) -> Option<&str> {
        self.record.pod.metadata.annotations.as_ref()?.get(annotation).map(String::as_str)
    }

    async fn new_progress(&mut self) -> Option<String> {
        let spec = self.record.pod.spec.as_ref()?;
        let newest = spec.containers.iter().find_map(|container| {
            let progress = std::fs::read_to_string(self.folder.progress_file(&container.name)).ok()?;
            Some((container, progress))
        });
        let (container, progress) = newest.filter(|(_, progress)| *progress != self.progress_told)?;
        let file = self.folder.metrics_file(&container.name);
        if file.exists()
            && let Err(error) = self.ingest(container, &file).await
        {
            tracing::warn!(pod = self.record.pod.metadata.name, %error, "metric points could not be stored yet");
        }
        if self.record.pod.metadata.deletion_timestamp.is_some() {
            // Nobody follows the progress of a pod on its way out.
            self.progress_told = progress;
            return None;
        }
        Some(progress)
    }

    /// The newest checkpoint; also of a pod on its way out, which may have written it last.
    fn new_checkpoint(&self) -> Option<String> {
        let spec = self.record.pod.spec.as_ref()?;
        let read = |container: &Container| std::fs::read_to_string(self.folder.checkpoint_file(&container.name)).ok();
        spec.containers.iter().find_map(read).filter(|newest| *newest != self.checkpoint_told)
    }

    async fn ingest(&self, container: &Container, file: &Path) -> Result<(), IngestError> {
        let records = self.shared.records().await?;
        metric::ingest(records, &self.record.pod, container, file).await
    }
}

//! What the ranks and their launcher have written down, handed on: progress, metric points, the newest checkpoint.

use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::Task;
use crate::agent::metric::{self, IngestError};
use crate::agent::report::{self, Written};

impl Task {
    /// Hands progress to the API and metric points to the records.
    pub(super) async fn tell_progress(&mut self) {
        let Some(spec) = &self.record.pod.spec else { return };
        let newest = spec.containers.iter().find_map(|container| {
            let progress = std::fs::read_to_string(self.folder.progress_file(&container.name)).ok()?;
            Some((container, progress))
        });
        let Some((container, progress)) = newest.filter(|(_, progress)| *progress != self.progress_told) else {
            return;
        };
        let file = self.folder.metrics_file(&container.name);
        if file.exists()
            && let Err(error) = self.ingest(container, &file).await
        {
            tracing::warn!(pod = self.record.pod.metadata.name, %error, "metric points could not be stored yet");
        }
        if self.record.pod.metadata.deletion_timestamp.is_some() || self.annotate(report::PROGRESS, &progress).await {
            self.progress_told = progress;
        }
    }

    /// Hands the newest checkpoint to the API; also of a pod on its way out, which may have written it last.
    pub(super) async fn tell_checkpoint(&mut self) {
        let Some(spec) = &self.record.pod.spec else { return };
        let mut told = spec
            .containers
            .iter()
            .map(|container| std::fs::read_to_string(self.folder.checkpoint_file(&container.name)));
        if let Some(Ok(newest)) = told.find(Result::is_ok)
            && newest != self.checkpoint_told
            && self.annotate(report::CHECKPOINT, &newest).await
        {
            self.checkpoint_told = newest;
        }
    }

    /// False where it has to be tried again.
    async fn annotate(&self, annotation: &str, text: &str) -> bool {
        let meta = &self.record.pod.metadata;
        let annotated = meta.annotations.as_ref().and_then(|all| all.get(annotation));
        if self.gone || annotated.is_some_and(|present| present == text) {
            return true;
        }
        match report::annotate(&self.shared, &self.record.pod, annotation, text).await {
            Written::Done | Written::Gone => true,
            Written::Failed(error) => {
                tracing::debug!(%error, annotation, "a pod could not be annotated");
                false
            }
        }
    }

    async fn ingest(&self, container: &Container, file: &Path) -> Result<(), IngestError> {
        let records = self.shared.records().await?;
        metric::ingest(records, &self.record.pod, container, file).await
    }
}

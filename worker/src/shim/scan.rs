//! Progress and metrics out of the container's output, written where the agent finds them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use trainyard_worker_core::progress::{Tracker, parse};

use super::aside;
use super::spec::{now_ms, write_lightly};

/// How often the progress file is rewritten at most; the API is told no oftener.
const EVERY_MS: i64 = 500;
/// Metric points kept on disk per run before the agent has read them: an hour of a chatty program.
const MAX_METRICS_BYTES: u64 = 64 << 20;

/// Scans one container's lines.
pub(super) struct Scan {
    progress_file: PathBuf,
    metrics_file: PathBuf,
    tracker: Tracker,
    metrics: Vec<u8>,
    metrics_written: u64,
    changed: bool,
    last_written_ms: i64,
}

impl Scan {
    pub(super) fn new(progress_file: PathBuf, metrics_file: PathBuf) -> Self {
        Self {
            progress_file,
            metrics_file,
            tracker: Tracker::default(),
            metrics: Vec::new(),
            metrics_written: 0,
            changed: false,
            last_written_ms: 0,
        }
    }

    pub(super) fn line(&mut self, line: &[u8]) {
        // Most output says nothing about progress: find that out cheaply.
        let line = aside::text(line).map_or(line, str::as_bytes);
        if !(line.contains(&b'=') || line.first() == Some(&b'{') || line.starts_with(b"[rank ")) {
            return;
        }
        let Ok(text) = std::str::from_utf8(line) else { return };
        // A progress bar redraws its line; the last drawing counts.
        let text = text.trim_end_matches('\r');
        let text = text.rsplit_once('\r').map_or(text, |(_, last)| last);
        let Some(sample) = parse(text) else { return };
        let now_ms = now_ms();
        self.tracker.observe(&sample, now_ms);
        self.changed = true;
        if !sample.metrics.is_empty() {
            let progress = self.tracker.progress();
            let point = serde_json::json!({
                "atMs": now_ms, "step": progress.step, "epoch": progress.epoch, "metrics": sample.metrics,
            });
            self.metrics.extend_from_slice(point.to_string().as_bytes());
            self.metrics.push(b'\n');
        }
    }

    /// When [`Self::flush`] has something to do.
    pub(super) fn due_ms(&self) -> Option<i64> {
        self.changed.then_some(self.last_written_ms + EVERY_MS)
    }

    /// Writes what is new. Failing loses a picture of the progress, never the training.
    pub(super) fn flush(&mut self) {
        if !self.changed {
            return;
        }
        self.changed = false;
        self.last_written_ms = now_ms();
        if !self.metrics.is_empty() {
            let fits = self.metrics_written + self.metrics.len() as u64 <= MAX_METRICS_BYTES;
            let open = || File::options().append(true).create(true).mode(0o640).open(&self.metrics_file);
            if fits && open().and_then(|mut file| file.write_all(&self.metrics)).is_ok() {
                self.metrics_written += self.metrics.len() as u64;
            }
            self.metrics.clear();
        }
        // Last: the agent looks at the metrics when it sees this file change.
        if let Ok(bytes) = serde_json::to_vec(self.tracker.progress()) {
            let _ = write_lightly(&self.progress_file, &bytes);
        }
    }
}

//! The numbers that a job prints: the newest progress, and which metrics are results.

use std::collections::BTreeMap;

use trainyard_worker_core::progress::Tracker;

use super::label::Label;
use super::progress::Progress;

#[derive(Default)]
pub(super) struct Figures {
    progress: Option<Progress>,
    trackers: BTreeMap<Label, Tracker>,
    /// Metrics of the last line that had any.
    latest: Vec<String>,
    /// How often each metric was printed.
    seen: BTreeMap<String, u32>,
}

impl Figures {
    /// Reads progress from a line as it comes; `true` if there was some.
    pub(super) fn read(&mut self, label: &Label, line: &str, now_ms: i64) -> bool {
        let Some(sample) = trainyard_worker_core::progress::parse(line) else { return false };
        self.trackers.entry(label.clone()).or_default().observe(&sample, now_ms);
        self.latest = sample.metrics.keys().cloned().collect();
        for name in &self.latest {
            *self.seen.entry(name.clone()).or_default() += 1;
        }
        // Many ranks may print; the lowest one stands for the job.
        let first = self.trackers.values().next().and_then(|tracker| serde_json::to_value(tracker.progress()).ok());
        self.take(first.as_ref().and_then(Progress::of));
        true
    }

    /// Takes what somebody else has read, unless it is older.
    pub(super) fn take(&mut self, new: Option<Progress>) {
        let Some(mut new) = new else { return };
        if self.progress.as_ref().is_some_and(|old| old.at_ms > new.at_ms) {
            return;
        }
        // A reader that began later knows fewer metrics; none is forgotten.
        for (name, value) in self.progress.iter().flat_map(|old| &old.metrics) {
            if !new.metrics.iter().any(|(known, _)| known == name) {
                new.metrics.push((name.clone(), *value));
            }
        }
        self.progress = Some(new);
    }

    /// What moves, while the job runs.
    pub(super) fn moving(&self) -> Option<Progress> {
        let mut progress = self.progress.clone()?;
        progress.share().or(progress.rate)?;
        progress.metrics.retain(|(name, _)| self.seen.get(name).is_none_or(|count| *count > 1));
        Some(progress)
    }

    /// What came out. What was printed once and long ago is a setting (`batch=32`), not a result.
    pub(super) fn result(self) -> Option<Progress> {
        let mut progress = self.progress?;
        if !self.seen.is_empty() {
            progress
                .metrics
                .retain(|(name, _)| self.latest.contains(name) || self.seen.get(name).is_none_or(|count| *count > 1));
        }
        Some(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_no_results() {
        let mut figures = Figures::default();
        let label = Label::Rank(0);
        assert!(!figures.read(&label, "hello", 0));
        for (at, line) in [(1, "batch=32"), (2, "step=1/3 loss=2"), (3, "step=3/3 loss=1"), (4, "accuracy=0.9")] {
            assert!(figures.read(&label, line, at), "{line}");
        }
        let names = |progress: Option<Progress>| -> Vec<String> {
            progress.into_iter().flat_map(|progress| progress.metrics).map(|(name, _)| name).collect()
        };
        assert_eq!(names(figures.moving()), ["loss"]);
        assert_eq!(names(figures.result()), ["accuracy", "loss"]);
    }
}

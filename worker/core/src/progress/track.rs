//! Samples → the progress that is shown.

use super::{Progress, Sample};

/// Weight of the past after one time constant: rates of the last ten seconds or so count.
const RATE_TIME_CONSTANT_MS: f64 = 10_000.0;
/// Metrics kept per container: bounds the annotation.
const MAX_METRICS: usize = 64;

/// Folds samples of one container's run.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    progress: Progress,
    /// Where the rate was last measured: step and time.
    anchor: Option<(u64, i64)>,
    /// What counts as a step for the rate where the program prints only epochs.
    by_epoch: bool,
}

impl Tracker {
    /// Takes in a sample seen at `now_ms`.
    pub fn observe(&mut self, sample: &Sample, now_ms: i64) {
        let progress = &mut self.progress;
        progress.at_ms = now_ms;
        progress.step = sample.step.or(progress.step);
        progress.total_steps = sample.total_steps.or(progress.total_steps);
        progress.epoch = sample.epoch.or(progress.epoch);
        progress.total_epochs = sample.total_epochs.or(progress.total_epochs);
        for (name, value) in &sample.metrics {
            if progress.metrics.len() < MAX_METRICS || progress.metrics.contains_key(name) {
                progress.metrics.insert(name.clone(), *value);
            }
        }
        if let Some(step) = sample.step {
            if self.by_epoch {
                self.by_epoch = false;
                self.anchor = None;
                self.progress.steps_per_second = None;
            }
            self.measure(step, now_ms);
        } else if self.progress.step.is_none()
            && let Some(epoch) = sample.epoch
        {
            self.by_epoch = true;
            self.measure(epoch, now_ms);
        }
        self.progress.remaining_seconds = self.remaining();
    }

    /// What is known now.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Smooths the rate over time, not over samples, so that it does not depend on how often a program prints.
    fn measure(&mut self, step: u64, now_ms: i64) {
        let Some((last_step, last_ms)) = self.anchor else {
            self.anchor = Some((step, now_ms));
            return;
        };
        if step < last_step {
            // The program started over (a restart in place, or steps counted per epoch): measure from here.
            self.anchor = Some((step, now_ms));
            return;
        }
        let elapsed_ms = now_ms - last_ms;
        if elapsed_ms <= 0 || step == last_step {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let (steps, elapsed) = ((step - last_step) as f64, elapsed_ms as f64);
        let rate = steps * 1_000.0 / elapsed;
        let past = (-elapsed / RATE_TIME_CONSTANT_MS).exp();
        let smoothed = self.progress.steps_per_second.map_or(rate, |old| past * old + (1.0 - past) * rate);
        self.progress.steps_per_second = Some(smoothed);
        self.anchor = Some((step, now_ms));
    }

    fn remaining(&self) -> Option<f64> {
        let (done, total) = if self.by_epoch {
            (self.progress.epoch?, self.progress.total_epochs?)
        } else {
            (self.progress.step?, self.progress.total_steps?)
        };
        let rate = self.progress.steps_per_second.filter(|rate| *rate > 0.0)?;
        #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more than 52 bits")]
        let left = total.saturating_sub(done) as f64;
        Some(left / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::Tracker;

    fn feed(tracker: &mut Tracker, line: &str, now_ms: i64) {
        tracker.observe(&parse(line).expect("a sample"), now_ms);
    }

    #[test]
    fn a_steady_program_has_a_steady_rate() {
        let mut tracker = Tracker::default();
        for second in 0..20_i64 {
            feed(&mut tracker, &format!("step={}/400 loss=0.5", second * 10), second * 1_000);
        }
        let progress = tracker.progress();
        assert!((progress.steps_per_second.expect("a rate") - 10.0).abs() < 1e-9);
        assert!((progress.remaining_seconds.expect("time left") - 21.0).abs() < 1e-6);
    }

    #[test]
    fn the_rate_follows_a_change_of_speed() {
        let mut tracker = Tracker::default();
        let mut step = 0;
        for second in 0..60_i64 {
            step += if second < 20 { 10 } else { 1 };
            feed(&mut tracker, &format!("step={step}"), second * 1_000);
        }
        let rate = tracker.progress().steps_per_second.expect("a rate");
        assert!((0.9..1.5).contains(&rate), "{rate}");
    }

    #[test]
    fn starting_over_does_not_make_a_negative_rate() {
        let mut tracker = Tracker::default();
        for (step, ms) in [(100, 0), (110, 1_000), (0, 2_000), (10, 3_000)] {
            feed(&mut tracker, &format!("step={step}/200"), ms);
        }
        assert!(tracker.progress().steps_per_second.expect("a rate") > 0.0);
        assert_eq!(tracker.progress().step, Some(10));
    }

    #[test]
    fn epochs_serve_where_there_are_no_steps() {
        let mut tracker = Tracker::default();
        feed(&mut tracker, "epoch=1/10", 0);
        feed(&mut tracker, "epoch=2/10", 2_000);
        assert_eq!(tracker.progress().remaining_seconds, Some(16.0));
    }
}

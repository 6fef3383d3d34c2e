//! How far the training is, as one line.

use std::fmt::Write as _;

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::output::duration::clock;

/// More metrics do not fit on a line.
const MAX_METRICS: usize = 4;

/// Parts up to this rank stay on the narrowest terminal, with shorter words.
const ESSENTIAL: u8 = 2;

/// A part of the line. The higher its rank, the sooner it is left out.
struct Part {
    rank: u8,
    long: String,
    brief: String,
}

/// What is known of the progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) step: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) epochs: Option<u64>,
    pub(crate) rate: Option<f64>,
    pub(crate) remaining: Option<f64>,
    pub(crate) metrics: Vec<(String, f64)>,
    pub(crate) at_ms: i64,
}

impl Progress {
    /// From the annotation of a pod, or from a job's `status.progress`.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        let metrics = value["metrics"].as_object().into_iter().flatten();
        let progress = Self {
            step: value["step"].as_u64(),
            total: value["totalSteps"].as_u64(),
            epoch: value["epoch"].as_u64(),
            epochs: value["totalEpochs"].as_u64(),
            rate: value["stepsPerSecond"].as_f64(),
            remaining: value["remainingSeconds"].as_f64(),
            metrics: metrics.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect(),
            at_ms: value["atMs"].as_i64().unwrap_or(0),
        };
        let nothing = progress.step.is_none() && progress.epoch.is_none() && progress.metrics.is_empty();
        (!nothing).then_some(progress)
    }

    /// From the annotation of a pod.
    pub(crate) fn of_pod(pod: &Value) -> Option<Self> {
        let text = pod["metadata"]["annotations"]["trainyard.dev/progress"].as_str()?;
        Self::of(&serde_json::from_str(text).ok()?)
    }

    /// Share done, 0 to 1.
    pub(crate) fn share(&self) -> Option<f64> {
        let (done, all) = match (self.step, self.total, self.epoch, self.epochs) {
            (Some(step), Some(total), ..) => (step, total),
            (_, _, Some(epoch), Some(epochs)) => (epoch, epochs),
            _ => return None,
        };
        #[expect(clippy::cast_precision_loss, reason = "a share on the screen")]
        let share = done as f64 / all.max(1) as f64;
        Some(share.clamp(0.0, 1.0))
    }

    /// `step 120/400  30 %  25.1 steps/s  0:11 left  loss 0.53`.
    pub(crate) fn line(&self) -> String {
        self.line_within(usize::MAX)
    }

    /// The same in so many columns: metrics go first, then the share and the epoch, then the units. What stays longest is
    /// how far the training is, how long it takes, and how fast it goes.
    pub(crate) fn line_within(&self, width: usize) -> String {
        let mut parts = self.parts();
        let join = |parts: &[Part], long: bool| {
            let texts = parts.iter().map(|part| if long { part.long.as_str() } else { part.brief.as_str() });
            texts.collect::<Vec<_>>().join("  ")
        };
        let mut long = true;
        loop {
            let line = join(&parts, long);
            if line.width() <= width || parts.len() == 1 && !long {
                return line;
            }
            let (least, part) = match parts.iter().enumerate().rev().max_by_key(|(_, part)| part.rank) {
                Some((at, part)) => (at, part.rank),
                None => return line,
            };
            if long && part <= ESSENTIAL {
                long = false;
            } else {
                parts.remove(least);
            }
        }
    }

    /// In the order in which they are shown.
    fn parts(&self) -> Vec<Part> {
        let of = |done: u64, all: Option<u64>| all.map_or_else(|| done.to_string(), |all| format!("{done}/{all}"));
        // Where no steps are told, epochs are what there is.
        let epoch = if self.step.is_some() { ESSENTIAL + 1 } else { 0 };
        let mut parts = Vec::new();
        let mut part = |rank: u8, long: String, brief: String| parts.push(Part { rank, long, brief });
        if let Some(done) = self.epoch {
            part(epoch, format!("epoch {}", of(done, self.epochs)), of(done, self.epochs));
        }
        if let Some(done) = self.step {
            part(0, format!("step {}", of(done, self.total)), of(done, self.total));
        }
        if let Some(share) = self.share() {
            part(ESSENTIAL + 2, format!("{:.0} %", share * 100.0), String::new());
        }
        if let Some(rate) = self.rate {
            part(ESSENTIAL, format!("{} steps/s", short(rate)), format!("{}/s", short(rate)));
        }
        if let Some(seconds) = self.remaining {
            part(1, format!("{} left", clock(seconds)), format!("{} left", clock(seconds)));
        }
        for (rank, (name, value)) in (ESSENTIAL + 3..).zip(self.metrics.iter().take(MAX_METRICS)) {
            part(rank, format!("{name} {}", short(*value)), String::new());
        }
        parts
    }

    /// `test_accuracy=0.7312 loss=0.61`, every metric.
    pub(crate) fn metrics_line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.metrics {
            let gap = if line.is_empty() { "" } else { "  " };
            // Writing to a String cannot fail.
            let _ = write!(line, "{gap}{name}={}", short(*value));
        }
        line
    }
}

/// Four significant digits, no zeros at the end.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7")]
    let decimals = (3.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_line_tells_step_share_rate_time_left_and_metrics() {
        let value = json!({"step": 120, "totalSteps": 400, "stepsPerSecond": 25.13, "remainingSeconds": 11.1,
            "metrics": {"loss": 0.531_23}});
        let progress = Progress::of(&value).unwrap();
        assert_eq!(progress.line(), "step 120/400  30 %  25.13 steps/s  0:11 left  loss 0.5312");
        assert_eq!(Progress::of(&json!({})), None);
    }

    #[test]
    fn a_narrow_terminal_keeps_step_rate_and_time_left() {
        let value = json!({"step": 120, "totalSteps": 400, "epoch": 1, "totalEpochs": 3, "stepsPerSecond": 25.13,
            "remainingSeconds": 11.1, "metrics": {"loss": 0.531_23, "accuracy": 0.7}});
        let progress = Progress::of(&value).unwrap();
        for (width, line) in [
            (80, "epoch 1/3  step 120/400  30 %  25.13 steps/s  0:11 left  loss 0.5312"),
            (60, "epoch 1/3  step 120/400  30 %  25.13 steps/s  0:11 left"),
            (52, "epoch 1/3  step 120/400  25.13 steps/s  0:11 left"),
            (40, "step 120/400  25.13 steps/s  0:11 left"),
            (30, "120/400  25.13/s  0:11 left"),
            (20, "120/400  0:11 left"),
            (10, "120/400"),
        ] {
            assert_eq!(progress.line_within(width), line, "{width}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.5, "0.5"), (1234.567, "1235"), (0.00002, "2.000e-5"), (0.731_25, "0.7312"), (12.0, "12")]
        {
            assert_eq!(short(value), text);
        }
    }
}

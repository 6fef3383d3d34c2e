//! How far the training is, as one line.

use std::fmt::Write as _;

use serde_json::Value;

use crate::output::duration::clock;

/// More metrics do not fit on a line.
const MAX_METRICS: usize = 4;

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
        let mut parts = Vec::new();
        let of = |done: u64, all: Option<u64>| all.map_or_else(|| done.to_string(), |all| format!("{done}/{all}"));
        parts.extend(self.epoch.map(|epoch| format!("epoch {}", of(epoch, self.epochs))));
        parts.extend(self.step.map(|step| format!("step {}", of(step, self.total))));
        parts.extend(self.share().map(|share| format!("{:.0} %", share * 100.0)));
        parts.extend(self.rate.map(|rate| format!("{} steps/s", short(rate))));
        parts.extend(self.remaining.map(|seconds| format!("{} left", clock(seconds))));
        parts.extend(self.metrics.iter().take(MAX_METRICS).map(|(name, value)| format!("{name} {}", short(*value))));
        parts.join("  ")
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
    fn numbers_are_short() {
        for (value, text) in
            [(0.5, "0.5"), (1234.567, "1235"), (0.00002, "2.000e-5"), (0.731_25, "0.7312"), (12.0, "12")]
        {
            assert_eq!(short(value), text);
        }
    }
}

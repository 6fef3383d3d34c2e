//! Latency samples and their percentiles.

use std::time::Duration;

/// Durations of one kind of thing, in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one duration.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds all durations of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sample at `quantile` (0 to 1) by nearest rank; zero when there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = ((sorted.len() as f64 * quantile).ceil() as usize).max(1) - 1;
        sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// `p50 / p99 / max` in milliseconds.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{:.2} / {:.2} / {:.2}", ms(self.quantile(0.5)), ms(self.quantile(0.99)), ms(self.quantile(1.0)))
    }
}

/// A duration in milliseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut samples = Samples::default();
        (1..=100).rev().for_each(|n| samples.push(Duration::from_millis(n)));
        assert_eq!(samples.quantile(0.5), Duration::from_millis(50));
        assert_eq!(samples.quantile(0.99), Duration::from_millis(99));
        assert_eq!(samples.quantile(1.0), Duration::from_millis(100));
        assert_eq!(Samples::default().quantile(0.5), Duration::ZERO);
    }
}

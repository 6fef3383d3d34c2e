//! How sure a mean is, and a difference of means.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// The part of intervals that hold what they are about.
pub const LEVEL: f64 = 0.95;

/// A mean, and where the true one is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean of what was measured.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The interval of Student's t distribution about the mean of independent measurements. `among` is how many candidates the one was
/// chosen from by these very measurements: the interval is so wide that all of theirs hold at once (Bonferroni), and thus also that of
/// whichever looks best. `None` of fewer than two measurements.
#[must_use]
pub fn interval(values: &[f64], among: usize) -> Option<Interval> {
    let (mean, squared_error, freedom) = moments(values)?;
    let quantile = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(1.0 - (1.0 - LEVEL) / 2.0 / among.max(1) as f64);
    let reach = quantile * squared_error.sqrt();
    Some(Interval { mean, low: mean - reach, high: mean + reach })
}

/// How far apart the true means of two series of independent measurements are, and how likely a difference as great would be if they were
/// the same (Welch's test). `among` is how many pairs the two were chosen from by these very measurements, as for [`interval`]. `None`
/// where one has fewer than two measurements, or neither varies.
#[must_use]
pub fn difference(one: &[f64], other: &[f64], among: usize) -> Option<(Interval, f64)> {
    let ((mean, error, freedom), (other_mean, other_error, other_freedom)) = (moments(one)?, moments(other)?);
    let sum = error + other_error;
    if !(sum > 0.0 && sum.is_finite()) {
        return None;
    }
    let freedom = sum * sum / (error * error / freedom + other_error * other_error / other_freedom);
    let distribution = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let (far, among) = (mean - other_mean, among.max(1) as f64);
    let reach = distribution.inverse_cdf(1.0 - (1.0 - LEVEL) / 2.0 / among) * sum.sqrt();
    let chance = (2.0 * distribution.cdf(-(far / sum.sqrt()).abs()) * among).min(1.0);
    Some((Interval { mean: far, low: far - reach, high: far + reach }, chance))
}

/// The mean, the square of its standard error, and how many degrees of freedom that has.
fn moments(values: &[f64]) -> Option<(f64, f64, f64)> {
    let count = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().map(|value| value / count).sum::<f64>();
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some((mean, variance / count, count - 1.0))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;
    use crate::stream::{Purpose, Stream};

    fn near(found: f64, known: f64) -> bool {
        (found - known).abs() < 1e-3 * known.abs().max(1e-9)
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Means 2 and 3, deviations 1 and sqrt(2.5); t(0.975) with 2 and 4 degrees of freedom is 4.3027 and 2.7764.
        let three = interval(&[1.0, 2.0, 3.0], 1).unwrap();
        assert!(near(three.mean, 2.0) && near(three.high - 2.0, 4.3027 / 3_f64.sqrt()), "{three:?}");
        let five = interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 1).unwrap();
        assert!(near(3.0 - five.low, 2.7764 * (2.5_f64 / 5.0).sqrt()), "{five:?}");
        // t(1 - 0.025 / 5) with 4 degrees of freedom is 4.6041.
        let chosen = interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 5).unwrap();
        assert!(near(3.0 - chosen.low, 4.6041 * (2.5_f64 / 5.0).sqrt()), "{chosen:?}");
        assert_eq!(interval(&[1.0], 1), None);
        let same = interval(&[0.5; 4], 3).unwrap();
        assert_eq!((same.low, same.mean, same.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn differences_are_those_of_welchs_test() {
        // By numeric integration of the density with 6.6899 degrees of freedom, where t is -3.3903.
        let (one, other) = ([3.0, 4.0, 1.0, 2.1, 2.9], [5.0, 4.6, 4.9, 5.1, 3.4]);
        let (interval, chance) = difference(&one, &other, 1).unwrap();
        assert!(near(interval.mean, -2.0) && near(chance, 0.012_419), "{interval:?} {chance}");
        assert!(near(interval.low, -3.408_143) && near(interval.high, -0.591_857), "{interval:?}");
        let (wider, larger) = difference(&one, &other, 3).unwrap();
        assert!(near(larger, 3.0 * chance) && wider.low < interval.low, "{wider:?} {larger}");
        assert_eq!(difference(&[1.0, 1.0], &[2.0, 2.0], 1), None);
        assert_eq!(difference(&[1.0], &one, 1), None);
    }

    /// The winner of some candidates by the mean of a few measurements is lucky, and its interval has to hold nevertheless.
    #[test]
    fn the_interval_of_the_winner_holds() {
        let mut stream = Stream::new(4, 0, Purpose::Prior, 0);
        let (worlds, mut plain, mut wide) = (2_000, 0, 0);
        for _ in 0..worlds {
            let mut candidates: Vec<Vec<f64>> = (0..5).map(|_| (0..4).map(|_| stream.normal()).collect()).collect();
            let mean = |values: &Vec<f64>| values.iter().sum::<f64>();
            candidates.sort_by(|one, other| mean(one).total_cmp(&mean(other)));
            // All of them have the true mean 0.
            let holds = |among| interval(&candidates[0], among).is_some_and(|it| it.low <= 0.0 && it.high >= 0.0);
            plain += usize::from(holds(1));
            wide += usize::from(holds(5));
        }
        assert!(plain < worlds * 92 / 100, "{plain}: chosen by luck, the plain interval misses more than it says");
        assert!(wide >= worlds * 95 / 100, "{wide}");
    }
}

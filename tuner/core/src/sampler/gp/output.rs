//! Losses as a Gaussian process likes them: symmetric around 0, of size 1, without outliers.
//!
//! They are measured from their median in spreads of their middle half, what lies absurdly far off is cut, and the power of Yeo and
//! Johnson (Biometrika 87, 2000) that makes them most normal bends them. All of it keeps their order.

/// What lies farther from the median, in spreads, is no better or worse than that.
const FARTHEST: f64 = 1e3;
/// From how many losses at most the bend is found. Of more, as many quantiles are looked at.
const LOOKED_AT: usize = 256;
/// How far the bend may go, where 1 is none.
const BENDS: (f64, f64) = (-2.0, 4.0);

/// What becomes of losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Output {
    /// The greatest loss by size, by which they are divided so that their squares have room.
    most: f64,
    median: f64,
    spread: f64,
    bend: f64,
    mean: f64,
    deviation: f64,
}

impl Output {
    /// The one for these losses, of which there is at least one, in ascending order.
    pub(super) fn of(sorted: &[f64]) -> Self {
        let count = sorted.len();
        let looked_at: Vec<f64> = if count <= LOOKED_AT {
            sorted.to_vec()
        } else {
            (0..LOOKED_AT).map(|at| sorted[at * (count - 1) / (LOOKED_AT - 1)]).collect()
        };
        let most = looked_at.iter().fold(0.0_f64, |most, loss| most.max(loss.abs()));
        let most = if most > 0.0 { most } else { 1.0 };
        let shares: Vec<f64> = looked_at.iter().map(|loss| loss / most).collect();
        let quantile = |part: f64| shares[((shares.len() - 1) as f64 * part).round() as usize];
        let plain = Self { most, median: quantile(0.5), spread: 1.0, bend: 1.0, mean: 0.0, deviation: 1.0 };
        let middle = quantile(0.75) - quantile(0.25);
        let spread = if middle > 0.0 { middle / 1.349 } else { moments(&shares).1 };
        if !(spread > 0.0 && spread.is_finite()) {
            return plain;
        }
        let flat = Self { spread, ..plain };
        let far: Vec<f64> = looked_at.iter().map(|loss| flat.far(*loss)).collect();
        let bend = least(BENDS, |bend| unlikelihood(&far, bend));
        let (mean, deviation) = moments(&far.iter().map(|far| bent(*far, bend)).collect::<Vec<f64>>());
        let deviation = if deviation > 0.0 { deviation } else { 1.0 };
        Self { bend, mean, deviation, ..flat }
    }

    /// What becomes of a loss.
    pub(super) fn value(&self, loss: f64) -> f64 {
        (bent(self.far(loss), self.bend) - self.mean) / self.deviation
    }

    fn far(&self, loss: f64) -> f64 {
        ((loss / self.most - self.median) / self.spread).clamp(-FARTHEST, FARTHEST)
    }
}

fn bent(far: f64, bend: f64) -> f64 {
    let (size, power) = if far >= 0.0 { (far, bend) } else { (-far, 2.0 - bend) };
    let bent = if power.abs() < 1e-9 { size.ln_1p() } else { (power * size.ln_1p()).exp_m1() / power };
    if far >= 0.0 { bent } else { -bent }
}

/// How unlike a normal distribution the bent numbers are. Few numbers are not to be bent far.
fn unlikelihood(far: &[f64], bend: f64) -> f64 {
    let values: Vec<f64> = far.iter().map(|far| bent(*far, bend)).collect();
    let (_, deviation) = moments(&values);
    let stretched: f64 = far.iter().map(|far| far.signum() * far.abs().ln_1p()).sum();
    let log = far.len() as f64 * deviation.max(1e-150).ln() - (bend - 1.0) * stretched + 0.5 * (bend - 1.0).powi(2);
    if log.is_nan() { f64::INFINITY } else { log }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// Where a function with one valley is least, by the golden section.
fn least((mut low, mut high): (f64, f64), function: impl Fn(f64) -> f64) -> f64 {
    const SECTION: f64 = 0.618_033_988_749_894_9;
    let inner = |low: f64, high: f64| (high - SECTION * (high - low), low + SECTION * (high - low));
    let (mut one, mut other) = inner(low, high);
    let (mut of_one, mut of_other) = (function(one), function(other));
    for _ in 0..14 {
        if of_one <= of_other {
            (high, other, of_other) = (other, one, of_one);
            one = inner(low, high).0;
            of_one = function(one);
        } else {
            (low, one, of_one) = (one, other, of_other);
            other = inner(low, high).1;
            of_other = function(other);
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, Stream};

    fn values(mut losses: Vec<f64>) -> Vec<f64> {
        losses.sort_by(f64::total_cmp);
        let output = Output::of(&losses);
        losses.iter().map(|loss| output.value(*loss)).collect()
    }

    #[test]
    fn losses_become_about_normal() {
        let mut stream = Stream::new(1, 0, Purpose::Prior, 0);
        let normals: Vec<f64> = (0..400).map(|_| stream.normal()).collect();
        for skewed in [
            normals.clone(),
            normals.iter().map(|x| (3.0 * x).exp()).collect(),
            normals.iter().map(|x| -1e9 - 1e6 * x.exp()).collect(),
        ] {
            let values = values(skewed);
            let (mean, deviation) = moments(&values);
            let skewness = values.iter().map(|x| ((x - mean) / deviation).powi(3)).sum::<f64>() / 400.0;
            assert!(mean.abs() < 0.1 && (deviation - 1.0).abs() < 0.1 && skewness.abs() < 0.8, "{mean} {skewness}");
            assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
        }
    }

    #[test]
    fn nothing_is_too_large_or_too_equal() {
        for losses in [
            vec![5.0],
            vec![0.0; 4],
            vec![1e300; 3],
            vec![-1e300, 1e300],
            vec![f64::MAX, f64::MIN, 0.0, 1.0],
            vec![1.0, 1.0, 1.0, 1.0, 1.0, 7.0],
            vec![1.0, 2.0, 3.0, 4.0, 1e300],
            vec![-1e300, 2.0, 3.0, 4.0, 5.0],
            vec![5e-324, 1e-323, 0.0],
        ] {
            let values = values(losses.clone());
            assert!(values.iter().all(|value| value.is_finite()), "{losses:?}: {values:?}");
            assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "{losses:?}: {values:?}");
        }
        let values = values(vec![1.0, 2.0, 3.0, 4.0, 1e300]);
        assert!(values[4] < 10.0, "an outlier does not make the rest the same: {values:?}");
    }
}

//! Where a curve is going: an average over ways in which curves flatten out, each weighed by how well it fits (in the spirit of Domhan et
//! al., "Speeding up automatic hyperparameter optimization of deep neural networks by extrapolation of learning curves", 2015).
//!
//! Each way is a + b f(t) with a given shape f that falls to 0: powers t^-c, and exponentials over the horizon. Given the shape, a and b are
//! a line through the points, and what is to come has the distribution of a line's prediction.

use statrs::function::erf::erfc;

use super::curve::Point;

/// Shapes of each kind: the rate of one is that of the one before by the root of two.
const SHAPES: u32 = 12;
/// The least rates of powers, and of exponentials over the horizon.
const LEAST: (f64, f64) = (0.125, 0.5);

/// What is to be expected of a curve.
pub(super) struct Outlook {
    /// The loss to be expected.
    pub(super) loss: f64,
    /// How likely it is to be lower than the limit.
    pub(super) chance: f64,
}

/// A line through shape and loss, at the horizon.
struct Fit {
    /// The logarithm of how well it fits, up to what all have in common.
    log_weight: f64,
    loss: f64,
    deviation: f64,
}

/// What a curve comes to at a step, and whether that is below a limit.
pub(super) fn outlook(points: &[Point], horizon: u64, limit: f64) -> Option<Outlook> {
    let horizon = horizon as f64;
    let rates = (0..SHAPES).map(|at| std::f64::consts::SQRT_2.powf(f64::from(at)));
    let powers = rates.clone().map(|rate| fit(points, &|step| step.max(1.0).powf(-LEAST.0 * rate), horizon));
    let exponentials = rates.map(|rate| fit(points, &|step| (-LEAST.1 * rate * step / horizon).exp(), horizon));
    let fits: Vec<Fit> = powers.chain(exponentials).flatten().collect();
    let most = fits.iter().map(|fit| fit.log_weight).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = fits.iter().map(|fit| (fit.log_weight - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mean =
        |of: &dyn Fn(&Fit) -> f64| fits.iter().zip(&weights).map(|(fit, weight)| weight * of(fit)).sum::<f64>() / total;
    let below = |fit: &Fit| 0.5 * erfc((fit.loss - limit) / (fit.deviation * std::f64::consts::SQRT_2));
    (total > 0.0).then(|| Outlook { loss: mean(&|fit| fit.loss), chance: mean(&below) })
}

fn fit(points: &[Point], shape: &dyn Fn(f64) -> f64, horizon: f64) -> Option<Fit> {
    let count = points.len() as f64;
    let xs: Vec<f64> = points.iter().map(|point| shape(point.step as f64)).collect();
    let (x_mean, y_mean) = (xs.iter().sum::<f64>() / count, points.iter().map(|point| point.loss).sum::<f64>() / count);
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        xs.iter().zip(points).map(|(x, point)| of(x - x_mean, point.loss - y_mean)).sum::<f64>()
    };
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if points.len() < 3 || xx <= 1e-12 * xs[0] * xs[0] {
        return None;
    }
    // A curve that rises is taken to stay about where it is: nothing says that it goes on rising.
    let slope = (xy / xx).max(0.0);
    // Never surer than a hundredth of what the curve has moved.
    let floor = 1e-4 * yy / count + f64::MIN_POSITIVE;
    let variance = (yy - 2.0 * slope * xy + slope * slope * xx).max(0.0) / (count - 2.0) + floor;
    let ahead = shape(horizon) - x_mean;
    Some(Fit {
        log_weight: -0.5 * count * variance.ln(),
        loss: y_mean + slope * ahead,
        deviation: (variance * (1.0 + 1.0 / count + ahead * ahead / xx)).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(steps: u64, loss: impl Fn(f64) -> f64) -> Vec<Point> {
        let point = |step: u64| {
            let loss = loss(step as f64);
            Point { step, loss, mean: loss, best: loss }
        };
        (1..=steps).map(point).collect()
    }

    #[test]
    fn curves_go_where_they_are_going() {
        for (name, loss) in [
            ("root", (|step: f64| 0.2 + 0.8 / step.sqrt()) as fn(f64) -> f64),
            ("hyperbola", |step| 0.3 + 0.6 / step),
            ("exponential", |step| 0.1 + 0.9 * (-step / 20.0).exp()),
            ("flat", |_| 0.4),
        ] {
            let last = loss(100.0);
            let found = outlook(&points(25, loss), 100, last - 0.1);
            let found = found.unwrap_or_else(|| panic!("{name} has an outlook"));
            assert!((found.loss - last).abs() < 0.06, "{name}: {} and not {last}", found.loss);
            assert!(found.chance < 0.25, "{name}: {}", found.chance);
            let above = outlook(&points(25, loss), 100, last + 0.1).map_or(0.0, |found| found.chance);
            assert!(above > 0.75, "{name}: {above}");
        }
    }

    #[test]
    fn little_that_is_known_leaves_all_open() {
        let noisy = |step: f64| 0.5 + 0.3 / step + 0.1 * (step * 7.3).sin();
        let chance = |steps: u64| outlook(&points(steps, noisy), 100, 0.4).map_or(1.0, |found| found.chance);
        assert!(chance(4) > 0.05 && chance(2) == 1.0, "{}", chance(4));
        assert!(chance(60) < 0.3, "{}", chance(60));
    }
}

//! The logarithm of the expected improvement, also where the improvement itself is too small for a number.
//!
//! With u the distance of the mean below the best value in standard deviations, the improvement is the deviation times
//! h(u) = φ(u) + u Φ(u) (Ament et al., arXiv 2310.20708). Far below 0 the two terms nearly cancel. There h(u) = φ(u) c / (t + c) with
//! t = -u and the continued fraction c = 1/(t + 2/(t + 3/(t + ...))), in which nothing cancels, at any distance.

/// ln sqrt(2π).
const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;
/// Nearer to 0 a series is used, farther off the fraction.
const NEAR: f64 = 1.5;

/// ln h(u), with Φ(u)/h(u) and φ(u)/h(u), of which its slopes are made.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LogH {
    log: f64,
    below: f64,
    density: f64,
}

fn log_h(u: f64) -> LogH {
    if u > -NEAR {
        let (density, below) = (density(u), below(u));
        let h = density + u * below;
        return LogH { log: h.ln(), below: below / h, density: density / h };
    }
    // Squares of more have no room.
    let t = (-u).min(1e150);
    let c = fraction(t);
    LogH { log: -0.5 * t * t - LN_SQRT_TAU + c.ln() - (t + c).ln(), below: 1.0 / c, density: (t + c) / c }
}

/// φ.
fn density(x: f64) -> f64 {
    (-0.5 * x * x - LN_SQRT_TAU).exp()
}

/// Φ, to the last digits: that of statrs is exact to ten.
fn below(x: f64) -> f64 {
    if x.abs() < NEAR {
        // 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + ...)
        let terms = std::iter::successors(Some((x, 3.0)), |(term, odd)| Some((term * x * x / odd, odd + 2.0)));
        return 0.5 + density(x) * terms.take(30).map(|(term, _)| term).sum::<f64>();
    }
    let t = x.abs();
    let beyond = density(t) / (t + fraction(t));
    if x < 0.0 { beyond } else { 1.0 - beyond }
}

/// 1/(t + 2/(t + 3/(t + ...))) for t from [`NEAR`].
fn fraction(t: f64) -> f64 {
    // Enough for all digits: 203 at 1.5, 59 at 3, 16 at 10.
    let terms = 12 + (430.0 / (t * t)) as u32;
    (1..=terms).rev().fold(0.0, |rest, term| f64::from(term) / (t + rest))
}

/// The logarithm of the share of the standard normal distribution below a value, and its slope.
pub(super) fn log_below(value: f64) -> (f64, f64) {
    if value > -NEAR {
        let below = below(value);
        return (below.ln(), density(value) / below);
    }
    let t = (-value).min(1e150);
    let c = fraction(t);
    (-0.5 * t * t - LN_SQRT_TAU - (t + c).ln(), t + c)
}

/// The logarithm of how much lower than the best a value is expected to be, where it counts as 0 if it is higher, and its slopes by the
/// mean and by the deviation of the value.
pub(super) fn log_improvement(mean: f64, deviation: f64, best: f64) -> (f64, f64, f64) {
    let LogH { log, below, density } = log_h((best - mean) / deviation);
    (deviation.ln() + log, -below / deviation, density / deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with 60 digits by mpmath: u, ln h(u), Φ(u)/h(u).
    const KNOWN: [(f64, f64, f64); 14] = [
        (8.0, 2.0794415416798357, 0.12499999999999992),
        (2.0, 0.6973835457882284, 0.48655931878528386),
        (0.5, -0.3598276837450638, 0.9909227180041099),
        (0.0, -0.9189385332046728, 1.2533141373155003),
        (-0.5, -1.6205162643873199, 1.5598731483480797),
        (-1.0, -2.4851210257126413, 1.9042712333296918),
        (-2.0, -4.768783523917114, 2.679416883955586),
        (-2.999, -7.866154162275597, 3.5314571449360526),
        (-3.0, -7.869686059603029, 3.5323375176251606),
        (-3.5, -9.746810037765387, 3.9778629562409455),
        (-5.0, -16.74430116266099, 5.361816241288088),
        (-10.0, -55.55312203612235, 10.194383033412553),
        (-25.0, -319.86146358149597, 25.07962023426653),
        (-1000.0, -500014.73445209116, 1000.001999994),
    ];

    #[test]
    fn it_is_exact_at_any_distance() {
        for (u, log, below) in KNOWN {
            let found = log_h(u);
            assert!((found.log - log).abs() <= 2e-14 * log.abs().max(1.0), "{u}: {} {log}", found.log);
            assert!((found.below / below - 1.0).abs() < 1e-12, "{u}: {} {below}", found.below);
            // h = φ + u Φ.
            assert!((found.density + u * found.below - 1.0).abs() < 1e-9 * found.density.max(1.0), "{u}: {found:?}");
        }
        for u in [-1e200, f64::NEG_INFINITY, -1e160] {
            assert!(log_h(u).log < -1e290 && !log_h(u).log.is_nan() && log_h(u).below > 0.0);
        }
    }

    /// Made with 60 digits by mpmath: x, ln Φ(x).
    const SHARES: [(f64, f64); 7] = [
        (2.0, -0.02301290932896349),
        (0.0, -std::f64::consts::LN_2),
        (-1.0, -1.8410216450092636),
        (-2.9, -6.284058234947419),
        (-3.0, -6.607726221510349),
        (-12.5, -81.57596787074388),
        (-40.0, -804.6084420137538),
    ];

    #[test]
    fn shares_are_exact_too() {
        for (value, wanted) in SHARES {
            let (log, slope) = log_below(value);
            assert!((log - wanted).abs() <= 2e-14 * wanted.abs().max(1.0), "{value}: {log} {wanted}");
            let step = 1e-5 * value.abs().max(1.0);
            let around = (log_below(value + step).0 - log_below(value - step).0) / (2.0 * step);
            assert!((around - slope).abs() < 1e-5 * slope.max(1e-3), "{value}: {around} {slope}");
        }
    }

    #[test]
    fn the_slopes_are_those_of_the_value() {
        for (mean, deviation, best) in [(0.3, 0.5, 0.1), (2.0, 0.4, 0.1), (5.0, 0.1, 0.0), (-3.0, 1.0, 1.0)] {
            let (_, by_mean, by_deviation) = log_improvement(mean, deviation, best);
            let at = |mean, deviation| log_improvement(mean, deviation, best).0;
            let step = 1e-6;
            let around = (at(mean + step, deviation) - at(mean - step, deviation)) / (2.0 * step);
            assert!((around / by_mean - 1.0).abs() < 1e-5, "{around} {by_mean}");
            let around = (at(mean, deviation + step) - at(mean, deviation - step)) / (2.0 * step);
            assert!((around / by_deviation - 1.0).abs() < 1e-5, "{around} {by_deviation}");
        }
    }
}

//! The geometry of a numeric parameter: its values as numbers from 0 to 1, uniform as the parameter's scale has them.

use std::f64::consts::SQRT_2;

use statrs::function::erf::{erfc, erfc_inv};

use super::Scale;

/// A numeric parameter as an axis of the unit cube.
///
/// A coordinate is the share of the scale's distribution below the value, so that uniform coordinates are values drawn as the scale says.
/// Where values have a step each of them has a cell of the axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    min: f64,
    max: f64,
    /// The ends of the axis, warped.
    low: f64,
    high: f64,
    /// The distance of neighbouring values, and how many there are.
    levels: Option<(f64, u64)>,
}

impl Axis {
    /// An axis over the values from `min` to `max`, both included, in this step.
    pub(super) fn new(scale: Scale, min: f64, max: f64, step: Option<f64>) -> Self {
        let levels = step.map(|step| (step, levels(min, max, step)));
        let (low, high) = match levels {
            Some((step, count)) => {
                let top = min + step * (count - 1) as f64;
                (edge(scale, min - step / 2.0, min), edge(scale, top + step / 2.0, top))
            }
            None => (min, max),
        };
        Self { scale, min, max, low: warp(scale, low), high: warp(scale, high), levels }
    }

    /// A number, or the bound that it is beyond.
    pub(super) fn bounded(&self, number: f64) -> f64 {
        number.clamp(self.min, self.max)
    }

    pub(super) fn levels(&self) -> Option<u64> {
        if self.min == self.max { Some(1) } else { self.levels.map(|(_, count)| count) }
    }

    /// The value at this place of the order of values.
    pub(super) fn level(&self, at: u64) -> f64 {
        match self.levels {
            Some((step, count)) => (self.min + step * at.min(count - 1) as f64).min(self.max),
            None => self.min,
        }
    }

    /// The coordinate of a value, from 0 to 1.
    pub(super) fn coordinate(&self, value: f64) -> f64 {
        let width = self.high - self.low;
        if width > 0.0 { ((warp(self.scale, value) - self.low) / width).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// The value nearest to a coordinate.
    pub(super) fn value(&self, coordinate: f64) -> f64 {
        let inside = coordinate.clamp(0.0, 1.0);
        let plain = unwarp(self.scale, self.low + inside * (self.high - self.low));
        match self.levels {
            // What is not a number, such as the end of a normal scale, is nearest to an end.
            Some((step, count)) => self.level((((plain - self.min) / step).round().max(0.0) as u64).min(count - 1)),
            None => plain.clamp(self.min, self.max),
        }
    }
}

/// How many values there are from `min` to `max` in this step. A last step that is short by rounding alone counts.
pub(super) fn levels(min: f64, max: f64, step: f64) -> u64 {
    (((max - min) / step) + 1e-9).floor() as u64 + 1
}

/// Half a step beyond the outermost value, if the scale goes that far.
fn edge(scale: Scale, beyond: f64, value: f64) -> f64 {
    match scale {
        Scale::Linear | Scale::Normal { .. } => beyond,
        Scale::Log | Scale::LogNormal { .. } => {
            if beyond > 0.0 {
                beyond
            } else {
                value
            }
        }
        Scale::Logit => {
            if beyond > 0.0 && beyond < 1.0 {
                beyond
            } else {
                value
            }
        }
    }
}

fn warp(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.ln(),
        Scale::Logit => (value / (1.0 - value)).ln(),
        Scale::Normal { mean, sd } => below((value - mean) / sd),
        Scale::LogNormal { mean, sd } => below((value.ln() - mean) / sd),
    }
}

fn unwarp(scale: Scale, warped: f64) -> f64 {
    match scale {
        Scale::Linear => warped,
        Scale::Log => warped.exp(),
        Scale::Logit => 1.0 / (1.0 + (-warped).exp()),
        Scale::Normal { mean, sd } => mean + sd * quantile(warped),
        Scale::LogNormal { mean, sd } => (mean + sd * quantile(warped)).exp(),
    }
}

/// The share of the standard normal distribution below a value.
fn below(value: f64) -> f64 {
    erfc(-value / SQRT_2) / 2.0
}

/// The value below which there is this share of the standard normal distribution. The outermost 2^-53 are cut off, so that it is finite.
fn quantile(share: f64) -> f64 {
    -SQRT_2 * erfc_inv(2.0 * share.clamp(f64::EPSILON / 2.0, 1.0 - f64::EPSILON / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_and_values_are_inverse() {
        let axes = [
            Axis::new(Scale::Linear, -3.0, 5.0, None),
            Axis::new(Scale::Log, 1e-6, 1e3, None),
            Axis::new(Scale::Logit, 0.001, 0.999, None),
            Axis::new(Scale::Normal { mean: 2.0, sd: 3.0 }, -5.0, 6.0, None),
            Axis::new(Scale::Normal { mean: 2.0, sd: 3.0 }, f64::NEG_INFINITY, f64::INFINITY, None),
            Axis::new(Scale::LogNormal { mean: 0.0, sd: 1.0 }, 0.0, f64::INFINITY, None),
        ];
        for axis in axes {
            for at in 0..=100 {
                let coordinate = f64::from(at) / 100.0;
                let value = axis.value(coordinate);
                assert!(value.is_finite() && value >= axis.min && value <= axis.max, "{axis:?}: {value}");
                assert!((axis.coordinate(value) - coordinate).abs() < 1e-9, "{axis:?} at {coordinate}: {value}");
            }
        }
    }

    #[test]
    fn each_value_with_a_step_has_a_cell() {
        let axis = Axis::new(Scale::Linear, 0.0, 1.0, Some(0.1));
        assert_eq!(axis.levels(), Some(11), "0.1 is no binary number");
        let mut counts = [0; 11];
        for at in 0..1_100 {
            let value = axis.value((f64::from(at) + 0.5) / 1_100.0);
            counts[(value * 10.0).round() as usize] += 1;
            assert!((axis.value(axis.coordinate(value)) - value).abs() < 1e-12);
        }
        assert_eq!(counts, [100; 11], "cells of the same size, at both ends, too");

        let uneven = Axis::new(Scale::Linear, 0.0, 1.0, Some(0.4));
        assert_eq!((uneven.levels(), uneven.value(1.0), uneven.level(9)), (Some(3), 0.8, 0.8));
        let log = Axis::new(Scale::Log, 1.0, 1_000.0, Some(1.0));
        assert_eq!((log.value(0.0), log.value(1.0)), (1.0, 1_000.0));
        assert!((log.coordinate(1.5) - (1.5_f64 / 0.5).ln() / (1_000.5_f64 / 0.5).ln()).abs() < 1e-12);
        let half = Axis::new(Scale::Log, 0.5, 2.0, Some(1.0));
        assert_eq!((half.value(0.0), half.levels()), (0.5, Some(2)), "no cell goes below zero");
        let point = Axis::new(Scale::Log, 3.0, 3.0, None);
        assert_eq!((point.value(0.7), point.coordinate(3.0), point.levels()), (3.0, 0.5, Some(1)));
    }
}

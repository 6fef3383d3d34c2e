//! The lengths, the size and the noise of a Gaussian process, as likely as its data and what is known beforehand make them.

use std::f64::consts::SQRT_2;

use super::kernel::{Rows, covariances, slopes};
use super::linear::Factor;
use super::minimise::{Problem, minimise};

/// What a process has besides its data, all as natural logarithms: a length for each column, then its variance, then the noise's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameters(Vec<f64>);

/// The variance that values have beforehand, and the noise; as normal distributions of their logarithms.
const SIGNAL: (f64, f64) = (0.0, 1.0);
const NOISE: (f64, f64) = (-8.0, 3.0);
/// Shorter and longer lengths, other variances and other noise are not looked at.
const LENGTHS: (f64, f64) = (0.02, 1e3);
const SIGNALS: (f64, f64) = (0.02, 50.0);
const NOISES: (f64, f64) = (1e-7, 1.0);
/// How far the mean of the values may be from 0, as a deviation.
const MEAN: f64 = 1.0;

/// The normal distribution of a length's logarithm: lengths grow with the diagonal of the space, so that distances of points mean as
/// much in many dimensions as in few (Hvarfner et al., arXiv 2402.02229). The most likely length under their log-normal distribution is
/// its variance below the median.
fn length(columns: usize) -> (f64, f64) {
    let variance = 3.0_f64;
    (SQRT_2 - variance + 0.5 * (columns.max(1) as f64).ln(), variance.sqrt())
}

impl Parameters {
    /// What they are before anything is known.
    pub(super) fn prior(columns: usize) -> Self {
        Self::uniform(length(columns).0, columns)
    }

    /// All lengths a third of the space's side: another valley often begins there.
    pub(super) fn short(columns: usize) -> Self {
        Self::uniform((1.0_f64 / 3.0).ln(), columns)
    }

    fn uniform(length: f64, columns: usize) -> Self {
        let mut logs = vec![length.clamp(LENGTHS.0.ln(), LENGTHS.1.ln()); columns];
        logs.extend([SIGNAL.0, NOISE.0]);
        Self(logs)
    }

    fn columns(&self) -> usize {
        self.0.len() - 2
    }

    pub(super) fn length(&self, column: usize) -> f64 {
        self.0[column].exp()
    }

    /// What squared differences are multiplied by, for each column.
    pub(super) fn weights(&self) -> Vec<f64> {
        self.0[..self.columns()].iter().map(|log| (-2.0 * log).exp()).collect()
    }

    pub(super) fn signal(&self) -> f64 {
        self.0[self.columns()].exp()
    }

    pub(super) fn noise(&self) -> f64 {
        self.0[self.columns() + 1].exp()
    }
}

/// The most likely parameters that are found from these beginnings, of which none has to be a good one.
pub(super) fn fit(rows: &Rows, values: &[f64], starts: &[Parameters], looks: usize) -> Option<Parameters> {
    let columns = starts.first()?.columns();
    let bounds = |of: fn((f64, f64)) -> f64| {
        let mut bounds = vec![of(LENGTHS).ln(); columns];
        bounds.extend([of(SIGNALS).ln(), of(NOISES).ln()]);
        bounds
    };
    let (lower, upper) = (bounds(|bounds| bounds.0), bounds(|bounds| bounds.1));
    let mut best: Option<(Vec<f64>, f64)> = None;
    for start in starts {
        let problem = Problem { start: &start.0, lower: &lower, upper: &upper, looks, tolerance: 1e-3 };
        let found = minimise(problem, &mut |logs, gradient| unlikelihood(rows, values, logs, gradient));
        if let Some(found) = found
            && best.as_ref().is_none_or(|best| found.1 < best.1)
        {
            best = Some(found);
        }
    }
    best.map(|(logs, _)| Parameters(logs))
}

/// The mean that is most likely: K⁻¹ times values and times ones are given.
pub(super) fn mean(solved: &[f64], ones: &[f64]) -> f64 {
    solved.iter().sum::<f64>() / (ones.iter().sum::<f64>() + 1.0 / (MEAN * MEAN))
}

/// How unlikely the values are with these parameters and how unlikely the parameters are, as a logarithm, and the gradient of that.
/// NaN where the covariances have no factor.
fn unlikelihood(rows: &Rows, values: &[f64], logs: &[f64], gradient: &mut [f64]) -> f64 {
    let parameters = Parameters(logs.to_vec());
    let (weights, signal, noise) = (parameters.weights(), parameters.signal(), parameters.noise());
    let squares: Vec<Vec<f64>> = (0..rows.count()).map(|at| rows.squares(&rows.row(at), &weights, 0..at + 1)).collect();
    let mut factor = Factor::default();
    let row = |at: usize| {
        let mut row = squares[at].clone();
        covariances(&mut row, signal);
        row[at] += noise;
        row
    };
    if factor.extend(rows.count(), &row).is_err() {
        return f64::NAN;
    }
    let (mut solved, mut ones) = (values.to_vec(), vec![1.0; values.len()]);
    factor.solve(&mut solved);
    factor.solve(&mut ones);
    let mean = mean(&solved, &ones);
    solved.iter_mut().zip(&ones).for_each(|(solved, one)| *solved -= mean * one);
    let fit: f64 = solved.iter().zip(values).map(|(solved, value)| solved * (value - mean)).sum();
    let (penalty, columns) = (penalty(logs, gradient), parameters.columns());
    let inverse = factor.inverse();
    let mut start = 0;
    let (mut trace, mut of_signal) = (0.0, 0.0);
    for (at, mut slope) in squares.into_iter().enumerate() {
        // Half of the derivative by each covariance; those beside the diagonal stand for two.
        let inverse = &inverse[start..=start + at];
        let weighs = |other: usize| solved[at] * solved[other] - inverse[other];
        let mut covariance = slope.clone();
        covariances(&mut covariance, signal);
        of_signal += (0..at).map(|other| weighs(other) * covariance[other]).sum::<f64>() + 0.5 * weighs(at) * signal;
        trace += weighs(at);
        slopes(&mut slope, signal);
        slope.iter_mut().enumerate().for_each(|(other, slope)| *slope *= weighs(other));
        let own = rows.row(at);
        for column in 0..columns {
            let squares = rows.weighed_squares(column, own[column], &slope[..at]);
            gradient[column] += 2.0 * weights[column] * squares;
        }
        start += at + 1;
    }
    gradient[columns] -= of_signal;
    gradient[columns + 1] -= 0.5 * noise * trace;
    0.5 * fit + factor.half_log_determinant() + 0.5 * (mean / MEAN).powi(2) + penalty
}

/// How unlikely the parameters are beforehand, as a logarithm, and its gradient, which is written.
fn penalty(logs: &[f64], gradient: &mut [f64]) -> f64 {
    let columns = logs.len() - 2;
    let mut sum = 0.0;
    for (at, (log, slope)) in logs.iter().zip(gradient).enumerate() {
        let (middle, deviation) = match at {
            _ if at < columns => length(columns),
            _ if at == columns => SIGNAL,
            _ => NOISE,
        };
        let far = (log - middle) / deviation;
        sum += 0.5 * far * far;
        *slope = far / deviation;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::gp::kernel::Encoding;
    use crate::space::{Domain, Parameter, Scale, Space, Value};
    use crate::stream::{Purpose, Stream};

    /// Two numbers and a category; the value depends on the first number and the category.
    fn data(count: usize) -> (Rows, Vec<f64>) {
        let float = || Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
        let kinds = Domain::Categorical((0..3).map(Value::Int).collect());
        let parameter = |name: &str, domain| Parameter { name: name.to_owned(), domain, when: None };
        let parameters = vec![parameter("x", float()), parameter("y", float()), parameter("kind", kinds)];
        let encoding = Encoding::new(&Space::new(parameters, vec![]).expect("a space"));
        let (mut rows, mut values) = (Rows::new(&encoding), Vec::new());
        let mut stream = Stream::new(3, 0, Purpose::Prior, 0);
        for _ in 0..count {
            let (x, y, kind) = (stream.uniform(), stream.uniform(), stream.below(3) as f64);
            rows.push(&encoding.row(&[x, y, kind]));
            values.push((6.0 * x).sin() + if kind == 1.0 { 0.7 } else { 0.0 } + 0.03 * stream.normal());
        }
        (rows, values)
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let (rows, values) = data(19);
        for logs in [[0.1, 1.0, -0.5, 0.2, -3.0], [-1.5, 0.3, 2.0, -1.0, -7.0]] {
            let mut gradient = [0.0; 5];
            let value = unlikelihood(&rows, &values, &logs, &mut gradient);
            assert!(value.is_finite());
            for at in 0..5 {
                let near = |step: f64| {
                    let mut near = logs;
                    near[at] += step;
                    unlikelihood(&rows, &values, &near, &mut [0.0; 5])
                };
                let around = (near(1e-5) - near(-1e-5)) / 2e-5;
                assert!((around - gradient[at]).abs() < 1e-5 * around.abs().max(1.0), "{at}: {around} {gradient:?}");
            }
        }
    }

    #[test]
    fn it_learns_what_matters_and_how_much_noise_there_is() {
        let (rows, values) = data(80);
        let found = fit(&rows, &values, &[Parameters::prior(3)], 100).expect("a fit");
        assert!(found.length(0) < 2.0 && found.length(1) > 3.0 * found.length(0), "{found:?}");
        assert!((0.01..0.09).contains(&found.noise().sqrt()), "{found:?}");
    }

    #[test]
    fn values_that_are_all_the_same_can_be_fitted() {
        let (rows, _) = data(12);
        assert!(fit(&rows, &[0.0; 12], &[Parameters::prior(3)], 50).is_some());
        assert!(fit(&rows, &[f64::NAN; 12], &[Parameters::prior(3)], 50).is_none());
    }
}

//! What a Gaussian process expects of a configuration.

use super::fit::{self, Parameters};
use super::kernel::{Rows, covariances, slopes};
use super::linear::Factor;

/// Noise that is added where covariances have no factor, in parts of the variance, until they have one.
const RUNGS: [f64; 6] = [0.0, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1];
/// The least share of the variance that is left anywhere.
const LEAST: f64 = 1e-12;

/// Rows with the factor of their covariances. It grows with the rows.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) parameters: Parameters,
    weights: Vec<f64>,
    rows: Rows,
    factor: Factor,
    rung: usize,
}

impl Base {
    /// One of no rows, which `empty` is.
    pub(super) fn new(empty: Rows, parameters: Parameters) -> Self {
        Self { weights: parameters.weights(), parameters, rows: empty, factor: Factor::default(), rung: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.count()
    }

    fn noise(&self) -> f64 {
        self.parameters.noise() + self.parameters.signal() * RUNGS[self.rung]
    }

    /// Adds rows. What comes of it does not depend on how many are added at once. False where nothing gives the covariances a factor.
    #[must_use]
    pub(super) fn extend<'rows>(&mut self, rows: impl IntoIterator<Item = &'rows [f64]>) -> bool {
        rows.into_iter().for_each(|row| self.rows.push(row));
        loop {
            let (signal, noise) = (self.parameters.signal(), self.noise());
            let mut factor = std::mem::take(&mut self.factor);
            let row = |at: usize| {
                let mut row = self.rows.squares(&self.rows.row(at), &self.weights, 0..at + 1);
                covariances(&mut row, signal);
                row[at] += noise;
                row
            };
            if factor.extend(self.rows.count() - factor.size(), &row).is_ok() {
                self.factor = factor;
                return true;
            }
            if self.rung + 1 == RUNGS.len() {
                return false;
            }
            self.rung += 1;
        }
    }

    /// What the process expects when the rows have had these values. The rows in `open` have values that are not known yet: they are taken
    /// to be what is expected of them, which changes no mean, but leaves less to find out there.
    pub(super) fn model(mut self, values: &[f64], open: &[Vec<f64>]) -> Model {
        let (mut solved, mut ones) = (values.to_vec(), vec![1.0; values.len()]);
        self.factor.solve(&mut solved);
        self.factor.solve(&mut ones);
        let mean = fit::mean(&solved, &ones);
        solved.iter_mut().zip(&ones).for_each(|(solved, one)| *solved -= mean * one);
        let (signal, noise) = (self.parameters.signal(), self.noise());
        // (K + noise) solved = values - mean, so that what is expected at a row is its value without the noise's part.
        let expected: Vec<f64> = values.iter().zip(&solved).map(|(value, solved)| value - noise * solved).collect();
        let mut expected_open = Vec::with_capacity(open.len());
        for row in open {
            let mut covariance = self.rows.squares(row, &self.weights, 0..self.rows.count());
            covariances(&mut covariance, signal);
            expected_open.push(mean + product(&covariance, &solved));
            covariance.push(signal + noise);
            // One that is as another one says nothing.
            if self.factor.push(covariance).is_ok() {
                self.rows.push(row);
            }
        }
        let Self { weights, rows, factor, parameters, .. } = self;
        Model { parameters, weights, rows, factor, solved, expected, expected_open, mean, signal }
    }
}

/// What is expected anywhere, given some values.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) parameters: Parameters,
    weights: Vec<f64>,
    /// Those with values, then those without.
    rows: Rows,
    factor: Factor,
    /// K⁻¹ (values - mean).
    solved: Vec<f64>,
    expected: Vec<f64>,
    expected_open: Vec<f64>,
    mean: f64,
    signal: f64,
}

/// What is expected at a row: the mean and the deviation of the value without noise, and how both change with each column.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) mean_slopes: Vec<f64>,
    pub(super) deviation_slopes: Vec<f64>,
}

impl Model {
    /// What is expected at the rows that have values, in their order.
    pub(super) fn expected(&self) -> &[f64] {
        &self.expected
    }

    /// What is expected at the rows that have none yet, in their order.
    pub(super) fn expected_open(&self) -> &[f64] {
        &self.expected_open
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows.count()
    }

    fn deviation(&self, explained: f64) -> f64 {
        (self.signal - explained).max(LEAST * self.signal).sqrt()
    }

    fn mean_of(&self, covariances: &[f64]) -> f64 {
        self.mean + product(covariances, &self.solved)
    }

    /// The mean and the deviation at four rows, each as if it were alone.
    pub(super) fn predict(&self, rows: [&[f64]; 4]) -> [(f64, f64); 4] {
        let mut columns = rows.map(|row| {
            let mut column = self.rows.squares(row, &self.weights, 0..self.rows.count());
            covariances(&mut column, self.signal);
            column
        });
        let means = columns.each_ref().map(|column| self.mean_of(column));
        self.factor.forward(columns.each_mut().map(Vec::as_mut_slice));
        let explained = columns.map(|column| column.iter().map(|part| part * part).sum::<f64>());
        std::array::from_fn(|at| (means[at], self.deviation(explained[at])))
    }

    /// The same at one row, with slopes.
    pub(super) fn expect(&self, row: &[f64]) -> Expected {
        let squares = self.rows.squares(row, &self.weights, 0..self.rows.count());
        let mut covariance = squares.clone();
        covariances(&mut covariance, self.signal);
        let mean = self.mean_of(&covariance);
        let mut column = covariance;
        self.factor.forward([&mut column]);
        let explained = column.iter().map(|part| part * part).sum::<f64>();
        self.factor.backward(&mut column);
        let deviation = self.deviation(explained);
        let is_least = self.signal - explained <= LEAST * self.signal;
        let mut slope = squares;
        slopes(&mut slope, self.signal);
        let by_mean: Vec<f64> = slope.iter().zip(&self.solved).map(|(slope, solved)| slope * solved).collect();
        let by_explained: Vec<f64> = slope.iter().zip(&column).map(|(slope, solved)| slope * solved).collect();
        let slopes = |weights: &[f64], factor: f64| -> Vec<f64> {
            let one = |(at, value): (usize, &f64)| {
                2.0 * factor * self.weights[at] * self.rows.weighed_differences(at, *value, weights)
            };
            row.iter().enumerate().map(one).collect()
        };
        let mean_slopes = slopes(&by_mean, 1.0);
        let deviation_slopes = slopes(&by_explained, if is_least { 0.0 } else { -1.0 / deviation });
        Expected { mean, deviation, mean_slopes, deviation_slopes }
    }
}

/// The product of as many as there are of both.
fn product(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::gp::kernel::Encoding;
    use crate::space::{Domain, Parameter, Scale, Space, Value};
    use crate::stream::{Purpose, Stream};

    /// Two numbers and a category.
    fn encoding() -> Encoding {
        let float = || Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
        let kinds = Domain::Categorical((0..3).map(Value::Int).collect());
        let parameter = |name: &str, domain| Parameter { name: name.to_owned(), domain, when: None };
        let parameters = vec![parameter("x", float()), parameter("y", float()), parameter("kind", kinds)];
        Encoding::new(&Space::new(parameters, vec![]).expect("a space"))
    }

    fn rows(count: usize) -> Vec<Vec<f64>> {
        let mut stream = Stream::new(6, 0, Purpose::Prior, 0);
        (0..count).map(|_| vec![stream.uniform(), stream.uniform(), stream.below(3) as f64]).collect()
    }

    fn base(rows: &[Vec<f64>]) -> Base {
        let mut base = Base::new(Rows::new(&encoding()), Parameters::short(3));
        assert!(base.extend(rows.iter().map(Vec::as_slice)));
        base
    }

    #[test]
    fn the_slopes_are_those_of_what_is_expected() {
        let rows = rows(15);
        let values: Vec<f64> = rows.iter().map(|row| (5.0 * row[0]).sin() + row[1] + 0.3 * row[2]).collect();
        let model = base(&rows[..13]).model(&values[..13], &rows[13..]);
        for row in [[0.31, 0.62, 1.0], [0.9, 0.05, 2.0]] {
            let expected = model.expect(&row);
            let predict = |row: &[f64]| model.predict([row, &rows[0], row, &rows[1]])[2];
            assert_eq!((expected.mean, expected.deviation), predict(&row), "the same at four rows and at one");
            for column in 0..2 {
                let near = |step: f64| {
                    let mut near = row;
                    near[column] += step;
                    predict(&near)
                };
                let (above, below) = (near(1e-6), near(-1e-6));
                let (mean, deviation) = ((above.0 - below.0) / 2e-6, (above.1 - below.1) / 2e-6);
                assert!((mean - expected.mean_slopes[column]).abs() < 1e-5, "{mean} {expected:?}");
                assert!((deviation - expected.deviation_slopes[column]).abs() < 1e-5, "{deviation} {expected:?}");
            }
        }
    }

    #[test]
    fn it_is_sure_where_something_is_known() {
        let rows = rows(12);
        let values: Vec<f64> = rows.iter().map(|row| row[0] - row[1]).collect();
        let model = base(&rows).model(&values, &[]);
        for (row, value) in rows.iter().zip(&values) {
            let (mean, deviation) = model.predict([row; 4])[0];
            assert!((mean - value).abs() < 0.02 && deviation < 0.02, "{mean} {deviation} {value}");
        }
        assert!(model.expected().iter().zip(&values).all(|(expected, value)| (expected - value).abs() < 0.02));
        // What runs changes no mean, and leaves less to find out there.
        let there = [0.5, 0.5, 0.0];
        let open = base(&rows).model(&values, &[there.to_vec(), there.to_vec()]);
        let (alone, beside) = (model.predict([&there; 4])[0], open.predict([&there; 4])[0]);
        assert!((alone.0 - beside.0).abs() < 1e-12 && beside.1 < 0.1 * alone.1, "{alone:?} {beside:?}");
        assert!((open.expected_open()[0] - alone.0).abs() < 1e-12);
    }

    #[test]
    fn rows_that_are_all_the_same_get_a_factor() {
        let mut base = Base::new(Rows::new(&encoding()), Parameters::short(3));
        assert!(base.extend(std::iter::repeat_n([0.5, 0.5, 0.0].as_slice(), 60)));
        let model = base.model(&[1.0; 60], &vec![vec![0.5, 0.5, 0.0]; 3]);
        let (mean, deviation) = model.predict([&[0.5, 0.5, 0.0]; 4])[0];
        assert!((mean - 1.0).abs() < 0.01 && deviation < 0.05 && deviation > 0.0);
        assert!(!Base::new(Rows::new(&encoding()), Parameters::short(3)).extend([[f64::NAN; 3].as_slice()]));
    }
}

//! How alike two configurations are: the Matérn kernel of smoothness 5/2 with a length for each column.
//!
//! A point becomes a row of numbers. A coordinate is one as it is, where it is used, and the middle elsewhere; of categories only counts
//! whether they are the same; and a condition on which parameters depend is 0 or 1.

use std::f64::consts::LOG2_E;
use std::ops::Range;

use crate::space::{Dimension, Space};

/// What a column is made of: a parameter, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Number(usize),
    Category(usize),
    /// Whether it is used. Parameters with the same condition have one such column.
    Used(usize),
}

/// What stands for the category of a parameter that is not used.
const NO_CATEGORY: f64 = -1.0;

/// How points become rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoding {
    sources: Vec<Source>,
}

impl Encoding {
    pub(super) fn new(space: &Space) -> Self {
        let mut sources = Vec::new();
        for (at, dimension) in space.dimensions().enumerate() {
            match dimension {
                // What has one value tells nothing.
                Dimension::Cells(0 | 1) | Dimension::Categories(0 | 1) => {}
                Dimension::Continuous | Dimension::Cells(_) => sources.push(Source::Number(at)),
                Dimension::Categories(_) => sources.push(Source::Category(at)),
            }
        }
        let parameters = space.parameters();
        for (at, parameter) in parameters.iter().enumerate() {
            if parameter.when.is_some() && !parameters[..at].iter().any(|other| other.when == parameter.when) {
                sources.push(Source::Used(at));
            }
        }
        Self { sources }
    }

    pub(super) fn columns(&self) -> usize {
        self.sources.len()
    }

    /// The column of a parameter that has numbers.
    pub(super) fn number(&self, parameter: usize) -> Option<usize> {
        self.sources.iter().position(|source| *source == Source::Number(parameter))
    }

    /// The row of a point.
    pub(super) fn row(&self, point: &[f64]) -> Vec<f64> {
        let one = |source: &Source| match *source {
            Source::Number(at) => or(point[at], 0.5),
            Source::Category(at) => or(point[at], NO_CATEGORY),
            Source::Used(at) => f64::from(!point[at].is_nan()),
        };
        self.sources.iter().map(one).collect()
    }

    fn is_category(&self, column: usize) -> bool {
        matches!(self.sources[column], Source::Category(_))
    }
}

fn or(value: f64, other: f64) -> f64 {
    if value.is_nan() { other } else { value }
}

/// Rows that are compared with others, in columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    columns: Vec<Vec<f64>>,
    categories: Vec<bool>,
    count: usize,
}

impl Rows {
    pub(super) fn new(encoding: &Encoding) -> Self {
        let categories: Vec<bool> = (0..encoding.columns()).map(|column| encoding.is_category(column)).collect();
        Self { columns: vec![Vec::new(); categories.len()], categories, count: 0 }
    }

    pub(super) fn push(&mut self, row: &[f64]) {
        self.columns.iter_mut().zip(row).for_each(|(column, value)| column.push(*value));
        self.count += 1;
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn row(&self, at: usize) -> Vec<f64> {
        self.columns.iter().map(|column| column[at]).collect()
    }

    /// The squared distances of a row from some of these, each column weighed.
    pub(super) fn squares(&self, row: &[f64], weights: &[f64], rows: Range<usize>) -> Vec<f64> {
        let mut squares = vec![0.0; rows.len()];
        for (at, column) in self.columns.iter().enumerate() {
            let (own, weight) = (row[at], weights[at]);
            let pairs = squares.iter_mut().zip(&column[rows.clone()]);
            if self.categories[at] {
                pairs.for_each(|(square, other)| *square += if own == *other { 0.0 } else { weight });
            } else {
                pairs.for_each(|(square, other)| *square += weight * (own - other) * (own - other));
            }
        }
        squares
    }

    /// The sum of the squared differences of a column from a value, each weighed.
    pub(super) fn weighed_squares(&self, column: usize, own: f64, weights: &[f64]) -> f64 {
        let others = &self.columns[column][..weights.len()];
        if self.categories[column] {
            return weights.iter().zip(others).map(|(weight, other)| if own == *other { 0.0 } else { *weight }).sum();
        }
        let mut sums = [0.0; 4];
        for (weights, others) in weights.chunks(4).zip(others.chunks(4)) {
            for ((sum, weight), other) in sums.iter_mut().zip(weights).zip(others) {
                *sum += weight * (own - other) * (own - other);
            }
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }

    /// The sum of the differences of a value from a column, each weighed.
    pub(super) fn weighed_differences(&self, column: usize, own: f64, weights: &[f64]) -> f64 {
        weights.iter().zip(&self.columns[column]).map(|(weight, other)| weight * (own - other)).sum()
    }
}

/// The kernel of a squared distance, where it is 1 at 0.
fn matern(square: f64) -> f64 {
    let distance = (5.0 * square).sqrt();
    (1.0 + distance + square * (5.0 / 3.0)) * exp(-distance)
}

/// Its derivative by the squared distance. That by the distance would have none at 0.
fn matern_slope(square: f64) -> f64 {
    let distance = (5.0 * square).sqrt();
    (-5.0 / 6.0) * (1.0 + distance) * exp(-distance)
}

/// Covariances in place of squared distances.
pub(super) fn covariances(squares: &mut [f64], signal: f64) {
    squares.iter_mut().for_each(|square| *square = signal * matern(*square));
}

/// The derivatives of covariances by squared distances, in their place.
pub(super) fn slopes(squares: &mut [f64], signal: f64) {
    squares.iter_mut().for_each(|square| *square = signal * matern_slope(*square));
}

/// e^x for x up to 0, in operations that the processor does for some numbers at once; what is below -700 counts as that. With it a
/// suggestion depends on no library's exponential, of which each has its own last bits.
fn exp(x: f64) -> f64 {
    // Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let x = if x > -700.0 { x } else { -700.0 };
    let shifted = x * LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    // 1/13!, 1/12!, ...: the next term is below 2^-57 for |rest| up to ln(2)/2.
    let series = [
        1.605_904_383_682_161_6e-10,
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589_4e-7,
        2.755_731_922_398_589_3e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        0.5,
        1.0,
        1.0,
    ];
    let power = series.into_iter().fold(0.0, |sum, term| sum * rest + term);
    f64::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 52))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Expression;
    use crate::space::{Domain, Parameter, Scale, Value};

    #[test]
    fn the_exponential_is_exact() {
        for at in 0..=70_000 {
            let x = -f64::from(at) / 100.0;
            let wanted = x.exp();
            assert!((exp(x) / wanted - 1.0).abs() < 5e-16, "{x}: {} {wanted}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e308) < 1e-300 && exp(f64::NEG_INFINITY) < 1e-300);
    }

    #[test]
    fn the_kernel_and_its_slope_are_known() {
        // By 50 digits: (1 + sqrt(5) + 5/3) exp(-sqrt(5)), and -(5/6) (1 + sqrt(5)) exp(-sqrt(5)).
        assert!((matern(1.0) - 0.523_994_108_831_820_3).abs() < 1e-15, "{}", matern(1.0));
        assert!((matern_slope(1.0) + 0.288_220_193_942_647_8).abs() < 1e-15, "{}", matern_slope(1.0));
        assert_eq!((matern(0.0), matern_slope(0.0)), (1.0, -5.0 / 6.0));
        for square in [1e-9, 0.01, 0.3, 2.0, 40.0] {
            let step = 1e-6 * square;
            let slope = (matern(square + step) - matern(square - step)) / (2.0 * step);
            assert!((slope / matern_slope(square) - 1.0).abs() < 1e-6 || square < 1e-6, "{square}");
        }
    }

    #[test]
    fn what_is_not_used_counts_as_its_condition() {
        let parameter = |name: &str, domain, when: Option<&str>| Parameter {
            name: name.to_owned(),
            domain,
            when: when.map(|when| Expression::parse(when).expect("it parses")),
        };
        let float = |max| Domain::Float { min: 0.0, max, scale: Scale::Linear, step: None };
        let kinds = || Domain::Categorical(["a", "b", "c"].map(|kind| Value::Text(kind.to_owned())).to_vec());
        let parameters = vec![
            parameter("kind", kinds(), None),
            parameter("fixed", float(0.0), None),
            parameter("x", float(1.0), Some("kind == 'a'")),
            parameter("y", kinds(), Some("kind == 'a'")),
        ];
        let space = Space::new(parameters, vec![]).expect("a space");
        let encoding = Encoding::new(&space);
        assert_eq!((encoding.columns(), encoding.number(2), encoding.number(0)), (4, Some(1), None));
        let mut rows = Rows::new(&encoding);
        rows.push(&encoding.row(&[0.0, 0.5, 0.25, 2.0]));
        rows.push(&encoding.row(&[1.0, 0.5, f64::NAN, f64::NAN]));
        assert_eq!(rows.row(1), [1.0, 0.5, -1.0, 0.0]);
        let weights = [1.0, 16.0, 100.0, 1_000.0];
        assert_eq!(rows.squares(&rows.row(0), &weights, 0..2), [0.0, 1.0 + 1.0 + 100.0 + 1_000.0]);
        assert_eq!(rows.weighed_squares(1, 0.25, &[5.0, 2.0]), 2.0 * 0.0625);
        assert_eq!(rows.weighed_squares(0, 0.0, &[5.0, 2.0]), 2.0);
        assert_eq!(rows.weighed_differences(1, 0.25, &[5.0, 2.0]), 2.0 * -0.25);
    }
}

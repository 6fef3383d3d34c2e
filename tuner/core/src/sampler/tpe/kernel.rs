//! Mixtures of kernels over points.
//!
//! A kernel of a coordinate is a normal distribution, cut off at 0 and 1; of a category, its own with some probability for each other one.
//! The bandwidth is that of a multivariate estimator: 0.2 n^(-1/(d + 4)) for n kernels in d dimensions, but at least 1/min(100, n + 1)
//! and half a cell.

use std::f64::consts::{PI, SQRT_2};
use std::ops::Range;

use statrs::function::erf::erfc;

use crate::space::{Dimension, Point, drawn};
use crate::stream::Stream;

/// How many kernels are looked at at once.
const BLOCK: usize = 512;

/// A kernel for each trial, in columns.
///
/// Of a coordinate that every trial has used, a kernel's logarithm at x is -(x - m)^2 s - norm with s = 1/(2 h^2), or
/// 2 s x m - s x^2 - (s m^2 + norm): the last term is the kernel's alone and kept, so that one product is left for each kernel.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    columns: Vec<Column>,
    /// The sum of each kernel's own terms.
    own: Vec<f64>,
    count: usize,
    /// For how many kernels the bandwidths are.
    sized_for: usize,
}

#[derive(Debug)]
struct Column {
    dimension: Dimension,
    /// Where each kernel has its middle, or which category; NaN where the trial did not use the parameter.
    places: Vec<f64>,
    norms: Vec<f64>,
    /// Whether some trial did not use the parameter.
    has_gaps: bool,
    bandwidth: f64,
}

impl Kernels {
    pub(super) fn new(dimensions: impl Iterator<Item = Dimension>) -> Self {
        let column = |dimension| Column { dimension, places: vec![], norms: vec![], has_gaps: false, bandwidth: 1.0 };
        Self { columns: dimensions.map(column).collect(), ..Self::default() }
    }

    pub(super) fn push(&mut self, point: &[f64]) {
        self.count += 1;
        let mut changed = false;
        for (column, place) in self.columns.iter_mut().zip(point) {
            column.places.push(*place);
            changed |= place.is_nan() && !column.has_gaps;
            column.has_gaps |= place.is_nan();
        }
        // All norms change with the bandwidth: it follows in steps of a tenth, so that a trial costs the same however many there are.
        if self.count > self.sized_for + self.sized_for / 10 {
            self.sized_for = self.count;
            let (count, dimensions) = (self.count, self.columns.len());
            self.columns
                .iter_mut()
                .for_each(|column| column.bandwidth = bandwidth(column.dimension, count, dimensions));
            changed = true;
        }
        if changed {
            self.own.clear();
            self.columns.iter_mut().for_each(|column| column.norms.clear());
        }
        for at in self.own.len()..self.count {
            for column in &mut self.columns {
                column.norms.push(norm(column.places[at], column.bandwidth, column.dimension));
            }
            self.own.push(self.columns.iter().map(|column| column.own(at)).sum());
        }
    }

    /// For each candidate, the logarithm of the ratio of the density below to that above. Above are all that are not below.
    pub(super) fn scores(&self, below: &[usize], good: &Mixture, candidates: &[Point], prior_weight: f64) -> Vec<f64> {
        let mut weights = weights(self.count);
        below.iter().for_each(|at| weights[*at] = 0.0);
        let total = weights.iter().sum::<f64>() + prior_weight;
        let own: Vec<f64> = weights.iter().zip(&self.own).map(|(weight, own)| weight.ln() + own).collect();
        let priors = candidates.iter().map(|candidate| {
            let used = self.columns.iter().zip(candidate).filter(|(_, place)| !place.is_nan());
            prior_weight.ln() + used.map(|(column, _)| uniform(column.dimension)).sum::<f64>()
        });
        let mut sums: Vec<LogSum> = priors.map(LogSum::of).collect();
        let mut logs = [0.0; BLOCK];
        // All candidates meet a block of kernels while it is in the processor's cache.
        for first in (0..self.count).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(self.count);
            for (candidate, sum) in candidates.iter().zip(&mut sums) {
                let logs = &mut logs[..rows.len()];
                logs.copy_from_slice(&own[rows.clone()]);
                let used = || self.columns.iter().zip(candidate).filter(|(_, place)| !place.is_nan());
                let mut split: Vec<(f64, &[f64])> = Vec::with_capacity(self.columns.len());
                for (column, place) in used() {
                    if column.is_split() {
                        split.push((2.0 * column.sharpness() * place, &column.places[rows.clone()]));
                    } else {
                        column.add(*place, rows.clone(), logs, self.count);
                    }
                }
                add_products(logs, &split);
                sum.add(logs, used().map(|(column, place)| column.shared(*place)).sum());
            }
        }
        let score = |(candidate, sum): (&Point, &LogSum)| good.log_density(candidate) - (sum.value() - total.ln());
        candidates.iter().zip(&sums).map(score).collect()
    }
}

impl Column {
    /// Whether its logarithms are split into what is the kernel's own, the product, and what all kernels share.
    fn is_split(&self) -> bool {
        !self.has_gaps && !matches!(self.dimension, Dimension::Categories(_))
    }

    fn sharpness(&self) -> f64 {
        0.5 / (self.bandwidth * self.bandwidth)
    }

    fn own(&self, at: usize) -> f64 {
        let place = self.places[at];
        if !self.is_split() {
            return 0.0;
        }
        -(self.sharpness() * place * place + self.norms[at])
    }

    fn shared(&self, place: f64) -> f64 {
        if self.is_split() { -self.sharpness() * place * place } else { 0.0 }
    }

    /// Adds the logarithms of these of all kernels at a place, where they are not split.
    fn add(&self, place: f64, rows: Range<usize>, logs: &mut [f64], kernels: usize) {
        let middles = &self.places[rows.clone()];
        match self.dimension {
            Dimension::Continuous | Dimension::Cells(_) => {
                let sharpness = self.sharpness();
                for (log, (middle, norm)) in logs.iter_mut().zip(middles.iter().zip(&self.norms[rows])) {
                    let distance = place - middle;
                    *log -= if middle.is_nan() { 0.0 } else { sharpness * distance * distance + norm };
                }
            }
            Dimension::Categories(count) => {
                let (same, other) = category(count, kernels);
                for (log, seen) in logs.iter_mut().zip(middles) {
                    *log += if seen.is_nan() {
                        uniform(self.dimension)
                    } else if *seen == place {
                        same
                    } else {
                        other
                    };
                }
            }
        }
    }
}

/// Adds columns times their factors, four at once: reading and writing the sums would else take most of the time.
fn add_products(sums: &mut [f64], columns: &[(f64, &[f64])]) {
    let mut fours = columns.chunks_exact(4);
    for four in fours.by_ref() {
        let [(a, one), (b, two), (c, three), (d, four)] = four else { continue };
        let values = one.iter().zip(*two).zip(three.iter().zip(*four));
        for (sum, ((one, two), (three, four))) in sums.iter_mut().zip(values) {
            *sum += (a * one + b * two) + (c * three + d * four);
        }
    }
    for (factor, column) in fours.remainder() {
        sums.iter_mut().zip(*column).for_each(|(sum, value)| *sum += factor * value);
    }
}

/// A mixture of a few kernels and the whole space, to draw from.
#[derive(Debug)]
pub(super) struct Mixture {
    dimensions: Vec<Dimension>,
    bandwidths: Vec<f64>,
    points: Vec<Point>,
    norms: Vec<Vec<f64>>,
    weights: Vec<f64>,
}

impl Mixture {
    pub(super) fn of_some(kernels: &Kernels, members: &[usize], prior_weight: f64) -> Self {
        let dimensions: Vec<Dimension> = kernels.columns.iter().map(|column| column.dimension).collect();
        let bandwidths: Vec<f64> =
            dimensions.iter().map(|dimension| bandwidth(*dimension, members.len(), dimensions.len())).collect();
        let point = |at: &usize| kernels.columns.iter().map(|column| column.places[*at]).collect::<Point>();
        let points: Vec<Point> = members.iter().map(point).collect();
        let norms = |point: &Point| {
            let each = point.iter().zip(&bandwidths).zip(&dimensions);
            each.map(|((place, bandwidth), dimension)| norm(*place, *bandwidth, *dimension)).collect()
        };
        let norms = points.iter().map(norms).collect();
        let mut weights = vec![1.0; points.len()];
        weights.push(prior_weight);
        Self { dimensions, bandwidths, points, norms, weights }
    }

    /// A point from the mixture.
    pub(super) fn draw(&self, stream: &mut Stream) -> Point {
        let kernel = self.points.get(stream.weighted(&self.weights));
        let each = self.dimensions.iter().enumerate();
        each.map(|(at, dimension)| match kernel.map(|kernel| kernel[at]).filter(|place| !place.is_nan()) {
            Some(place) => self.draw_near(at, place, stream),
            None => drawn(*dimension, stream),
        })
        .collect()
    }

    fn draw_near(&self, at: usize, place: f64, stream: &mut Stream) -> f64 {
        match self.dimensions[at] {
            Dimension::Continuous | Dimension::Cells(_) => {
                // At least nearly half of the curve lies inside.
                let inside =
                    (0..64).map(|_| place + self.bandwidths[at] * stream.normal()).find(|x| (0.0..=1.0).contains(x));
                inside.unwrap_or(place)
            }
            Dimension::Categories(count) => {
                let (same, _) = category(count, self.points.len());
                if stream.uniform() < same.exp() {
                    return place;
                }
                let other = stream.below(count.saturating_sub(1).max(1)) as f64;
                if other >= place { (other + 1.0).min(count as f64 - 1.0) } else { other }
            }
        }
    }

    /// The logarithm of the density at a point.
    pub(super) fn log_density(&self, point: &[f64]) -> f64 {
        let used = || point.iter().enumerate().filter(|(_, place)| !place.is_nan());
        let kernel = |(index, middles): (usize, &Point)| {
            let terms = used().map(|(at, place)| self.log_kernel(at, index, middles[at], *place));
            terms.sum::<f64>() + self.weights[index].ln()
        };
        let logs: Vec<f64> = self.points.iter().enumerate().map(kernel).collect();
        let prior_weight = self.weights.last().copied().unwrap_or(1.0);
        let prior = prior_weight.ln() + used().map(|(at, _)| uniform(self.dimensions[at])).sum::<f64>();
        let mut sum = LogSum::of(prior);
        sum.add(&logs, 0.0);
        sum.value() - self.weights.iter().sum::<f64>().ln()
    }

    fn log_kernel(&self, at: usize, index: usize, middle: f64, place: f64) -> f64 {
        match self.dimensions[at] {
            dimension if middle.is_nan() => uniform(dimension),
            Dimension::Continuous | Dimension::Cells(_) => {
                let distance = (place - middle) / self.bandwidths[at];
                -0.5 * distance * distance - self.norms[index][at]
            }
            Dimension::Categories(count) => {
                let (same, other) = category(count, self.points.len());
                if middle == place { same } else { other }
            }
        }
    }
}

/// The logarithm of the density of the whole space in a dimension.
fn uniform(dimension: Dimension) -> f64 {
    match dimension {
        Dimension::Continuous | Dimension::Cells(_) => 0.0,
        Dimension::Categories(count) => -(count as f64).ln(),
    }
}

fn bandwidth(dimension: Dimension, kernels: usize, dimensions: usize) -> f64 {
    let kernels = kernels.max(1) as f64;
    let plain = 0.2 * kernels.powf(-1.0 / (dimensions as f64 + 4.0));
    let least = 1.0 / (kernels + 1.0).min(100.0);
    let cell = match dimension {
        Dimension::Cells(count) => 0.5 / count as f64,
        Dimension::Continuous | Dimension::Categories(_) => 0.0,
    };
    plain.max(least).max(cell).min(1.0)
}

/// The logarithm of what the curve exp(-z^2 / 2) around a place is divided by to be a density on 0 to 1.
fn norm(place: f64, bandwidth: f64, dimension: Dimension) -> f64 {
    if place.is_nan() || matches!(dimension, Dimension::Categories(_)) {
        return 0.0;
    }
    let scale = SQRT_2.recip() / bandwidth;
    let inside = 1.0 - 0.5 * erfc(place * scale) - 0.5 * erfc((1.0 - place) * scale);
    (inside * bandwidth * (2.0 * PI).sqrt()).ln()
}

/// The logarithms of the probabilities of the category that was seen, and of each other one.
fn category(count: u64, kernels: usize) -> (f64, f64) {
    let other = 1.0 / (kernels.max(1) as f64);
    let total = 1.0 + count as f64 * other;
    (((1.0 + other) / total).ln(), (other / total).ln())
}

/// What trials weigh by their age: the last 25 weigh 1, older ones less, in a line down to 1/n of the first.
fn weights(count: usize) -> Vec<f64> {
    let old = count.saturating_sub(25);
    let ramp = |at: usize| {
        let first = 1.0 / count as f64;
        if old < 2 { first } else { first + (1.0 - first) * at as f64 / (old - 1) as f64 }
    };
    (0..count).map(|at| if at < old { ramp(at) } else { 1.0 }).collect()
}

/// The logarithm of a sum of what logarithms are given of.
#[derive(Clone, Copy, Debug)]
struct LogSum {
    most: f64,
    sum: f64,
}

impl LogSum {
    fn of(log: f64) -> Self {
        Self { most: log, sum: 1.0 }
    }

    /// Adds logarithms that all have something more in common.
    fn add(&mut self, logs: &[f64], shared: f64) {
        let most = logs.iter().fold(f64::NEG_INFINITY, |most, log| if *log > most { *log } else { most });
        let most = (most + shared).max(self.most);
        self.sum *= (self.most - most).exp();
        self.most = most;
        // What is below e^-30 of the largest changes none of its first ten digits, even ten thousand times.
        let offset = shared - most;
        let terms = logs.iter().map(|log| log + offset).filter(|log| *log > -30.0).map(f64::exp);
        self.sum += terms.sum::<f64>();
    }

    fn value(&self) -> f64 {
        self.most + self.sum.ln()
    }
}

//! The distribution that is searched from, and how a generation moves it.

use crate::space::{Dimension, Point};
use crate::stream::Stream;

/// Points outside of the space are drawn again so often before they are put on its edge.
const ATTEMPTS: usize = 20;
/// A standard deviation below which nothing is left to be found, where the whole range is 1.
const LEAST: f64 = 1e-10;

/// Weights and rates, from the tutorial's table 1.
#[derive(Clone, Debug)]
struct Rates {
    weights: Vec<f64>,
    mu_eff: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    /// The expected length of a standard normal vector.
    length: f64,
}

impl Rates {
    fn new(population: usize, dimensions: usize) -> Self {
        let (lambda, n) = (population as f64, dimensions.max(1) as f64);
        let raw: Vec<f64> = (1..=population).map(|rank| ((lambda + 1.0) / 2.0).ln() - (rank as f64).ln()).collect();
        let sums = |sign: f64| {
            let some = raw.iter().filter(|weight| **weight * sign > 0.0);
            some.fold((0.0, 0.0), |(sum, squares), weight| (sum + weight.abs(), squares + weight * weight))
        };
        let ((up, up_squares), (down, down_squares)) = (sums(1.0), sums(-1.0));
        let mu_eff = up * up / up_squares;
        let mu_down = if down_squares > 0.0 { down * down / down_squares } else { 0.0 };
        let c_c = (4.0 + mu_eff / n) / (n + 4.0 + 2.0 * mu_eff / n);
        let c_sigma = (mu_eff + 2.0) / (n + mu_eff + 5.0);
        let c_1 = 2.0 / ((n + 1.3).powi(2) + mu_eff);
        let c_mu = (1.0 - c_1).min(2.0 * (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / ((n + 2.0).powi(2) + mu_eff)).max(0.0);
        let d_sigma = 1.0 + 2.0 * (((mu_eff - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma;
        let limit = (1.0 + c_1 / c_mu.max(1e-12))
            .min(1.0 + 2.0 * mu_down / (mu_eff + 2.0))
            .min((1.0 - c_1 - c_mu) / (n * c_mu.max(1e-12)));
        let weight = |weight: &f64| if *weight >= 0.0 { weight / up } else { limit * weight / down };
        let length = n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));
        Self { weights: raw.iter().map(weight).collect(), mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, length }
    }
}

/// See the [module](super).
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    dimensions: Vec<Dimension>,
    /// Parameters with coordinates, among all.
    axes: Vec<usize>,
    rates: Rates,
    mean: Vec<f64>,
    sigma: f64,
    /// Symmetric, by rows.
    covariance: Vec<Vec<f64>>,
    /// Its lower Cholesky factor.
    factor: Vec<Vec<f64>>,
    path_sigma: Vec<f64>,
    path: Vec<f64>,
    /// The probability of each category, of parameters that have them.
    categories: Vec<Vec<f64>>,
    generations: i32,
}

impl Distribution {
    /// In the middle of the space.
    pub(super) fn new(dimensions: impl Iterator<Item = Dimension>, population: usize, sigma: f64) -> Self {
        let dimensions: Vec<Dimension> = dimensions.collect();
        let has_axis = |at: &usize| !matches!(dimensions[*at], Dimension::Categories(_));
        let axes: Vec<usize> = (0..dimensions.len()).filter(has_axis).collect();
        let n = axes.len();
        let unit: Vec<Vec<f64>> = (0..n).map(|row| (0..n).map(|at| f64::from(u8::from(row == at))).collect()).collect();
        let categories = dimensions.iter().map(|dimension| match dimension {
            Dimension::Categories(count) => vec![1.0 / (*count as f64); usize::try_from(*count).unwrap_or(0)],
            Dimension::Continuous | Dimension::Cells(_) => Vec::new(),
        });
        Self {
            categories: categories.collect(),
            dimensions,
            axes,
            rates: Rates::new(population, n),
            mean: vec![0.5; n],
            sigma,
            covariance: unit.clone(),
            factor: unit,
            path_sigma: vec![0.0; n],
            path: vec![0.0; n],
            generations: 0,
        }
    }

    /// Puts its mean anywhere.
    pub(super) fn move_to(&mut self, stream: &mut Stream) {
        self.mean.iter_mut().for_each(|mean| *mean = stream.uniform());
    }

    /// How many points are a generation.
    pub(super) fn population(&self) -> usize {
        self.rates.weights.len()
    }

    /// A point of the space.
    pub(super) fn draw(&self, stream: &mut Stream) -> Point {
        let mut drawn = Vec::new();
        for _ in 0..ATTEMPTS {
            let normals: Vec<f64> = self.axes.iter().map(|_| stream.normal()).collect();
            let step = |row: &Vec<f64>| row.iter().zip(&normals).map(|(a, z)| a * z).sum::<f64>();
            drawn = self.mean.iter().zip(&self.factor).map(|(mean, row)| mean + self.sigma * step(row)).collect();
            if drawn.iter().all(|coordinate| (0.0..=1.0).contains(coordinate)) {
                break;
            }
        }
        let mut point = vec![0.0; self.dimensions.len()];
        for (axis, coordinate) in self.axes.iter().zip(drawn) {
            point[*axis] = coordinate.clamp(0.0, 1.0);
        }
        for (at, weights) in self.categories.iter().enumerate().filter(|(_, weights)| !weights.is_empty()) {
            point[at] = stream.weighted(weights) as f64;
        }
        point
    }

    /// Moves by a generation, the best first. Whether there is something left to be found.
    pub(super) fn update(&mut self, generation: &[&Point]) -> bool {
        self.generations = self.generations.saturating_add(1);
        self.choose(generation);
        if self.axes.is_empty() {
            return true;
        }
        let steps: Vec<Vec<f64>> = generation.iter().map(|point| self.step(point)).collect();
        let rates = self.rates.clone();
        let n = self.axes.len();
        let chosen = rates.weights.iter().zip(&steps).filter(|(weight, _)| **weight > 0.0);
        let mut mean_step = vec![0.0; n];
        chosen.for_each(|(weight, step)| mean_step.iter_mut().zip(step).for_each(|(sum, one)| *sum += weight * one));
        self.mean
            .iter_mut()
            .zip(&mean_step)
            .for_each(|(mean, step)| *mean = (*mean + self.sigma * step).clamp(0.0, 1.0));

        let white = self.whitened(&mean_step);
        let pull = (rates.c_sigma * (2.0 - rates.c_sigma) * rates.mu_eff).sqrt();
        self.path_sigma
            .iter_mut()
            .zip(&white)
            .for_each(|(path, step)| *path = (1.0 - rates.c_sigma) * *path + pull * step);
        let length = norm(&self.path_sigma);
        let warm = (1.0 - (1.0 - rates.c_sigma).powi(2 * self.generations)).sqrt();
        let is_short = length / warm < (1.4 + 2.0 / (n as f64 + 1.0)) * rates.length;
        let pull = if is_short { (rates.c_c * (2.0 - rates.c_c) * rates.mu_eff).sqrt() } else { 0.0 };
        self.path.iter_mut().zip(&mean_step).for_each(|(path, step)| *path = (1.0 - rates.c_c) * *path + pull * step);

        self.adapt(&rates, &steps, is_short);
        let change = (rates.c_sigma / rates.d_sigma * (length / rates.length - 1.0)).min(1.0);
        self.sigma = (self.sigma * change.exp()).min(1.0);
        self.keep_margins();
        self.refactor() && self.spread() > LEAST
    }

    /// From the mean to a point, in units of sigma; nothing along what the point does not use. Steps that are too long are shortened.
    fn step(&self, point: &Point) -> Vec<f64> {
        let mut step: Vec<f64> = self
            .axes
            .iter()
            .zip(&self.mean)
            .map(|(axis, mean)| {
                let coordinate = point.get(*axis).copied().filter(|coordinate| !coordinate.is_nan());
                coordinate.map_or(0.0, |coordinate| (coordinate - mean) / self.sigma)
            })
            .collect();
        let n = self.axes.len() as f64;
        let length = norm(&self.whitened(&step));
        let longest = n.sqrt() + 2.0 * n / (n + 2.0);
        if length > longest {
            step.iter_mut().for_each(|part| *part *= longest / length);
        }
        step
    }

    /// Moves the covariance.
    fn adapt(&mut self, rates: &Rates, steps: &[Vec<f64>], is_short: bool) {
        let n = self.axes.len();
        // Bad points push away no further than their length in the distribution.
        let weights: Vec<f64> = rates
            .weights
            .iter()
            .zip(steps)
            .map(|(weight, step)| {
                let square = self.whitened(step).iter().map(|part| part * part).sum::<f64>();
                if *weight >= 0.0 { *weight } else { weight * n as f64 / square.max(1e-12) }
            })
            .collect();
        let missing = if is_short { 0.0 } else { rates.c_c * (2.0 - rates.c_c) };
        let sum: f64 = rates.weights.iter().sum();
        let keep = 1.0 + rates.c_1 * missing - rates.c_1 - rates.c_mu * sum;
        for row in 0..n {
            for at in 0..=row {
                let rank_mu: f64 = weights.iter().zip(steps).map(|(weight, step)| weight * step[row] * step[at]).sum();
                let rank_one = self.path[row] * self.path[at];
                let entry = keep * self.covariance[row][at] + rates.c_1 * rank_one + rates.c_mu * rank_mu;
                self.covariance[row][at] = entry;
                self.covariance[at][row] = entry;
            }
        }
    }

    /// Along an axis with few values, the next value stays likely enough to be drawn once in a generation or so.
    fn keep_margins(&mut self) {
        let n = self.axes.len() as f64;
        let probability = (1.0 / (self.population() as f64 * n)).min(0.5);
        // How many standard deviations away that probability is left, on both sides together.
        let away = std::f64::consts::SQRT_2 * statrs::function::erf::erfc_inv(probability);
        for (index, axis) in self.axes.iter().enumerate() {
            let Dimension::Cells(count) = self.dimensions[*axis] else { continue };
            let cell = 1.0 / count.max(1) as f64;
            // From the mean to the nearer edge of its cell.
            let within = (self.mean[index] / cell).fract();
            let edge = cell * within.min(1.0 - within).max(0.05);
            let least = (edge / away.max(1e-3) / self.sigma).powi(2);
            let spread = self.covariance[index][index];
            if spread < least && spread > 0.0 {
                let factor = (least / spread).sqrt();
                for other in 0..self.axes.len() {
                    self.covariance[index][other] *= factor;
                    self.covariance[other][index] *= factor;
                }
            }
        }
    }

    /// Categories that the better half chose become likelier; none becomes impossible.
    fn choose(&mut self, generation: &[&Point]) {
        let rate = 1.0 / (1.0 + self.dimensions.len() as f64 / self.rates.mu_eff).max(2.0);
        for (at, weights) in self.categories.iter_mut().enumerate().filter(|(_, weights)| !weights.is_empty()) {
            let mut chosen = vec![0.0; weights.len()];
            for (weight, point) in self.rates.weights.iter().zip(generation).filter(|(weight, _)| **weight > 0.0) {
                let category = point.get(at).copied().filter(|category| !category.is_nan());
                match category.and_then(|category| chosen.get_mut(category as usize)) {
                    Some(share) => *share += weight,
                    // What is not used says nothing.
                    None => chosen.iter_mut().zip(weights.iter()).for_each(|(share, known)| *share += weight * known),
                }
            }
            let least = (1.0 / (generation.len() as f64 * weights.len() as f64)).min(0.5 / weights.len() as f64);
            weights.iter_mut().zip(&chosen).for_each(|(weight, share)| {
                *weight = (*weight + rate * (share - *weight)).max(least);
            });
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
    }

    /// A step, such that those drawn are standard normal.
    fn whitened(&self, step: &[f64]) -> Vec<f64> {
        let mut out: Vec<f64> = Vec::with_capacity(step.len());
        for (row, part) in self.factor.iter().zip(step) {
            let known: f64 = row.iter().zip(&out).map(|(entry, one)| entry * one).sum();
            let diagonal = row[out.len()];
            out.push((part - known) / diagonal);
        }
        out
    }

    /// The factor of the covariance. Where that has lost its shape, it becomes round.
    fn refactor(&mut self) -> bool {
        let n = self.axes.len();
        if let Some(factor) = cholesky(&self.covariance) {
            self.factor = factor;
            return true;
        }
        let unit = |row: usize| (0..n).map(|at| f64::from(u8::from(row == at))).collect::<Vec<f64>>();
        self.covariance = (0..n).map(unit).collect();
        self.factor.clone_from(&self.covariance);
        self.path.fill(0.0);
        self.path_sigma.fill(0.0);
        false
    }

    /// The greatest standard deviation along an axis that has not but few values.
    fn spread(&self) -> f64 {
        let spreads = self.covariance.iter().enumerate().map(|(at, row)| self.sigma * row[at].sqrt());
        spreads.fold(0.0, f64::max)
    }
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// The lower factor of a symmetric matrix, if it is positive definite.
fn cholesky(matrix: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let n = matrix.len();
    let mut factor = vec![vec![0.0; n]; n];
    for row in 0..n {
        for at in 0..=row {
            let known: f64 = factor[row][..at].iter().zip(&factor[at][..at]).map(|(one, other)| one * other).sum();
            let rest = matrix[row][at] - known;
            factor[row][at] = if row == at {
                if !(rest > 1e-20 && rest.is_finite()) {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / factor[at][at]
            };
        }
    }
    Some(factor)
}

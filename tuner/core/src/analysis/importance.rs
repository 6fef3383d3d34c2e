//! Which parameters matter: the shares of the variance of a loss over the whole space.

use super::forest::{Forest, Side};
use crate::sampler::scrambled;
use crate::space::{Dimension, Space};
use crate::stream::{Purpose, Stream};

/// So many trials that told their values say something.
pub const LEAST: usize = 10;
/// A loss that is further above the upper quartile than so many distances of the quartiles is far out (Tukey), and counts as the greatest
/// of the others: one trial that diverged says nothing about these.
const FAR: f64 = 3.0;
/// In how many cells a continuous dimension is looked at, alone and together with another one.
const CELLS: usize = 64;
const PAIRED: usize = 24;
/// At how many points variances are taken where there are up to 16 parameters, at the least, and how many steps are made in all.
const POINTS: (usize, usize, usize) = (4_096, 512, 65_536);
/// The interplay of so many parameters that matter most is looked at.
const MATTERING: usize = 8;

/// How much of the variance of the loss a parameter explains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Alone, whatever the others are: its main effect.
    pub alone: f64,
    /// In all, with its interplay with others: what would be left if all others were known. Sums to more than 1 where there is interplay.
    pub total: f64,
}

/// How much of the variance two parameters explain together, beyond what each does alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interplay {
    /// Their positions.
    pub parameters: (usize, usize),
    /// Of the variance.
    pub share: f64,
}

/// The functional analysis of variance (fANOVA; Hutter, Hoos and Leyton-Brown 2014) of a loss, as a random forest of the trials has it,
/// over all of the space as its scales have it.
///
/// A parameter that is not always used has the share that is due to it over all of the space, also where it is not used: one that is
/// used rarely explains little. Constraints are not looked at.
#[derive(Clone, Debug)]
pub struct Analysis {
    forest: Forest,
    fit: f64,
    /// The least loss, and how far the greatest is from it: what is 0 and 1 to the forest.
    scale: (f64, f64),
    variance: f64,
    shares: Vec<Share>,
}

impl Analysis {
    /// Of points with their losses, all finite. `None` where there are too few, or all losses are the same.
    #[must_use]
    pub fn of(space: &Space, points: &[(&[f64], f64)], seed: u64) -> Option<Self> {
        if points.len() < LEAST || space.parameters().is_empty() {
            return None;
        }
        let (losses, scale) = scaled(points.iter().map(|(_, loss)| *loss).collect())?;
        let places: Vec<&[f64]> = points.iter().map(|(point, _)| *point).collect();
        let dimensions: Vec<Dimension> = space.dimensions().collect();
        let (forest, fit) = Forest::grow(dimensions, &places, &losses, seed);
        let mut analysis = Self { forest, fit, scale, variance: 0.0, shares: Vec::new() };
        analysis.measure(seed);
        (analysis.variance > 0.0).then_some(analysis)
    }

    /// How much of the variance between the trials the forest explains, of each by trees that have not seen it: from 1 down to 0, where it
    /// knows nothing, and below.
    #[must_use]
    pub fn fit(&self) -> f64 {
        self.fit
    }

    /// The shares of the parameters, in their order.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The parameters, those that matter most first.
    #[must_use]
    pub fn ranked(&self) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..self.shares.len()).collect();
        let order = |at: &usize| (self.shares[*at].total, self.shares[*at].alone);
        ranked.sort_by(|one, other| {
            let (one_order, other_order) = (order(one), order(other));
            other_order.0.total_cmp(&one_order.0).then(other_order.1.total_cmp(&one_order.1)).then(one.cmp(other))
        });
        ranked
    }

    /// The interplay of each two of the parameters that matter most, the strongest first.
    #[must_use]
    pub fn interplay(&self) -> Vec<Interplay> {
        let mattering: Vec<usize> = self.ranked().into_iter().take(MATTERING).collect();
        let mut all = Vec::new();
        for (at, one) in mattering.iter().enumerate() {
            for other in &mattering[at + 1..] {
                let parameters = (*one.min(other), *one.max(other));
                let surface = self.joint(parameters.0, parameters.1);
                let together = spread(&surface.concat());
                let alone = |across: bool| spread(&sums(&surface, across));
                let share = ((together - alone(true) - alone(false)) / self.variance).clamp(0.0, 1.0);
                all.push(Interplay { parameters, share });
            }
        }
        all.sort_by(|one, other| other.share.total_cmp(&one.share).then(one.parameters.cmp(&other.parameters)));
        all
    }

    /// The loss that is expected in each cell of a parameter, as the mean over all others. A category is a cell.
    #[must_use]
    pub fn curve(&self, parameter: usize) -> Vec<f64> {
        self.marginal(parameter).into_iter().map(|value| self.loss(value)).collect()
    }

    /// The loss that is expected in each cell of two parameters, as the mean over all others: a row for each cell of the first one.
    #[must_use]
    pub fn surface(&self, one: usize, other: usize) -> Vec<Vec<f64>> {
        let joint = self.joint(one, other).into_iter();
        joint.map(|row| row.into_iter().map(|value| self.loss(value)).collect()).collect()
    }

    fn loss(&self, value: f64) -> f64 {
        self.scale.0 + self.scale.1 * value
    }

    fn marginal(&self, parameter: usize) -> Vec<f64> {
        let cells = self.cells(parameter, CELLS);
        let (mut curve, mut base) = (vec![0.0; cells], 0.0);
        self.forest.boxes(|value, sides| {
            let side = &sides[parameter];
            let own = side.share();
            let weight = value * volume(sides) / own;
            if own >= 1.0 {
                base += weight;
            } else {
                for cell in covered(side, cells) {
                    curve[cell] += weight * side.part(cell, cells);
                }
            }
        });
        curve.iter_mut().for_each(|expected| *expected += base);
        curve
    }

    fn joint(&self, one: usize, other: usize) -> Vec<Vec<f64>> {
        let (rows, columns) = (self.cells(one, PAIRED), self.cells(other, PAIRED));
        let (mut surface, mut base) = (vec![vec![0.0; columns]; rows], 0.0);
        self.forest.boxes(|value, sides| {
            let (row, column) = (&sides[one], &sides[other]);
            let own = row.share() * column.share();
            let weight = value * volume(sides) / own;
            if own >= 1.0 {
                base += weight;
                return;
            }
            for at in covered(row, rows) {
                let part = weight * row.part(at, rows);
                for cell in covered(column, columns) {
                    surface[at][cell] += part * column.part(cell, columns);
                }
            }
        });
        surface.iter_mut().flatten().for_each(|expected| *expected += base);
        surface
    }

    fn cells(&self, parameter: usize, most: usize) -> usize {
        match self.forest.dimensions[parameter] {
            Dimension::Continuous => most,
            Dimension::Cells(count) if count > most as u64 => most,
            Dimension::Cells(count) | Dimension::Categories(count) => count as usize,
        }
    }

    /// Finds the variance and the shares. What a parameter explains in all is half the mean square of what changes with it alone (Jansen
    /// 1999), at points of a low-discrepancy sequence; what it explains alone is the variance of its curve.
    fn measure(&mut self, seed: u64) {
        let dimensions = self.forest.dimensions.clone();
        let (most, least, steps) = POINTS;
        let count = (steps / dimensions.len()).clamp(least, most);
        let twice = || dimensions.iter().chain(&dimensions).copied();
        let scramble = |part: usize| Stream::new(seed, part as u64, Purpose::Analysis, 1).bits() as u32;
        let (mut sum, mut squares) = (0.0, 0.0);
        let mut changes = vec![0.0; dimensions.len()];
        for index in 0..count {
            let both = scrambled(twice(), index as u32, &scramble);
            let (one, other) = both.split_at(dimensions.len());
            let mut point = one.to_vec();
            let here = self.forest.predict(&point);
            sum += here;
            squares += here * here;
            for (at, change) in changes.iter_mut().enumerate() {
                point[at] = other[at];
                *change += (self.forest.predict(&point) - here).powi(2);
                point[at] = one[at];
            }
        }
        let count = count as f64;
        self.variance = (squares / count - (sum / count).powi(2)).max(0.0);
        let share = |(at, change): (usize, f64)| {
            let total = (change / (2.0 * count) / self.variance).clamp(0.0, 1.0);
            Share { alone: (spread(&self.marginal(at)) / self.variance).clamp(0.0, total), total }
        };
        if self.variance > 0.0 {
            self.shares = changes.into_iter().enumerate().map(share).collect();
        }
    }
}

/// The losses as numbers from 0 to 1, those that are far out taken in, with the least and the width. `None` where they are all the same.
fn scaled(mut losses: Vec<f64>) -> Option<(Vec<f64>, (f64, f64))> {
    let mut sorted = losses.clone();
    sorted.sort_by(f64::total_cmp);
    let quartile = |part: usize| sorted[(sorted.len() - 1) * part / 4];
    let fence = quartile(3) + FAR * (quartile(3) - quartile(1));
    // Where half of them are the same, whatever is apart from these is what there is to see.
    let is_near = |loss: &f64| *loss <= fence || quartile(3) <= quartile(1);
    let (least, greatest) = (sorted[0], sorted.iter().copied().rfind(is_near).unwrap_or(sorted[sorted.len() - 1]));
    losses.iter_mut().for_each(|loss| *loss = loss.min(greatest));
    // What matters is how far they are apart: so that no square of them is infinite.
    let width = greatest - least;
    if !(width > 0.0 && width.is_finite()) {
        return None;
    }
    losses.iter_mut().for_each(|loss| *loss = (*loss - least) / width);
    Some((losses, (least, width)))
}

fn volume(sides: &[Side]) -> f64 {
    sides.iter().map(Side::share).product()
}

/// The cells that a side has a part of.
fn covered(side: &Side, cells: usize) -> std::ops::Range<usize> {
    match side {
        Side::Range(low, high) => {
            let from = (low * cells as f64).floor() as usize;
            from.min(cells)..((high * cells as f64).ceil() as usize).min(cells)
        }
        Side::Among(_) => 0..cells,
    }
}

/// The means of rows, or of columns.
fn sums(surface: &[Vec<f64>], across: bool) -> Vec<f64> {
    if across {
        return surface.iter().map(|row| row.iter().sum::<f64>() / row.len() as f64).collect();
    }
    let columns = surface.first().map_or(0, Vec::len);
    (0..columns).map(|column| surface.iter().map(|row| row[column]).sum::<f64>() / surface.len() as f64).collect()
}

fn spread(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
}

//! NSGA-II and NSGA-III: the trials that no other one beats have descendants, for several objectives and cheap trials.
//!
//! Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002); Deb and Jain, "An Evolutionary Many-Objective
//! Optimization Algorithm Using Reference-Point-Based Nondominated Sorting" (2014). There are no generations: each trial that ends takes
//! its place among the best, and each suggestion has its parents there (Durillo et al., "On the Effect of the Steady-State Selection Scheme
//! in Multi-Objective Genetic Algorithms", 2009), so that any number of trials may run, and the parents are a function of what ended.
//!
//! Numbers are crossed by simulated binary crossover and changed by polynomial mutation (Deb and Agrawal, 1995), categories are taken from
//! either parent or drawn anew.

mod reference;
#[cfg(test)]
mod tests;

use super::{Context, Sampler, losses, quasi};
use crate::pareto::{Archive, crowding, least_crowded};
use crate::space::{Dimension, Point, drawn};
use crate::stream::{Purpose, Stream};

/// Which of a front are kept where there is no room for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Niching {
    /// Those that lie furthest apart: NSGA-II.
    #[default]
    Crowding,
    /// Those nearest to directions that are spread evenly over the objectives: NSGA-III.
    Reference,
}

/// The settings of the algorithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which of a front are kept.
    pub niching: Niching,
    /// How many of the best have descendants.
    pub population: usize,
    /// How many trials have to have ended before there are descendants.
    pub startup: usize,
    /// How likely a descendant has two parents and not one.
    pub crossover: f64,
    /// How likely each parameter is changed. Without it, one of them is on average.
    pub mutation: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { niching: Niching::default(), population: 50, startup: 20, crossover: 0.9, mutation: None }
    }
}

/// How near descendants are to their parents: the index of the distributions of crossover and mutation. The papers have 20, for tens of
/// thousands of trials; with hundreds, longer steps find more.
const NEARNESS: f64 = 5.0;

/// The algorithm, and what it keeps of the trials that have ended.
#[derive(Debug)]
pub struct Evolve {
    settings: Settings,
    archive: Archive,
    ended: usize,
    parents: Vec<Parent>,
}

#[derive(Debug)]
struct Parent {
    point: Point,
    rank: usize,
    apart: f64,
}

impl Evolve {
    /// One that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, archive: Archive::new(settings.population), ended: 0, parents: Vec::new() }
    }

    /// Takes in the trials that have ended since.
    fn observe(&mut self, context: &Context<'_>) {
        let new = &context.history.ended()[self.ended..];
        if new.is_empty() {
            return;
        }
        for trial in new.iter().filter_map(|id| context.history.get(*id)) {
            if let Some(losses) = losses(context, trial) {
                self.archive.insert(trial.id, losses);
            }
        }
        self.ended = context.history.ended().len();
        let best = self.archive.best(self.settings.population, |inside, front, room| match self.settings.niching {
            Niching::Crowding => least_crowded(front, room),
            Niching::Reference => reference::spread(inside, front, room, self.settings.population),
        });
        let entries = self.archive.entries();
        let mut apart = vec![0.0; best.len()];
        for rank in 0..=best.last().map_or(0, |(_, rank)| *rank) {
            let front: Vec<usize> = (0..best.len()).filter(|at| best[*at].1 == rank).collect();
            let told: Vec<&[f64]> = front.iter().map(|at| entries[best[*at].0].losses.as_slice()).collect();
            front.iter().zip(crowding(&told)).for_each(|(at, distance)| apart[*at] = distance);
        }
        let parents = best.iter().zip(apart).filter_map(|((at, rank), apart)| {
            let point = context.history.get(entries[*at].id)?.point.clone();
            Some(Parent { point, rank: *rank, apart })
        });
        self.parents = parents.collect();
    }

    /// The better of two that are drawn: of an earlier front, or further apart from the others of the same.
    fn parent(&self, stream: &mut Stream) -> &Point {
        let mut draw = || &self.parents[stream.below(self.parents.len() as u64) as usize];
        let (one, other) = (draw(), draw());
        let is_better = match self.settings.niching {
            Niching::Crowding => (other.rank, -other.apart) < (one.rank, -one.apart),
            Niching::Reference => other.rank < one.rank,
        };
        if is_better { &other.point } else { &one.point }
    }

    fn descendant(&self, context: &Context<'_>, stream: &mut Stream) -> Point {
        let first = self.parent(stream).clone();
        let second =
            if stream.uniform() < self.settings.crossover { self.parent(stream).clone() } else { first.clone() };
        let dimensions: Vec<Dimension> = context.space.dimensions().collect();
        let mutation = self.settings.mutation.unwrap_or(1.0 / dimensions.len().max(1) as f64);
        let mut point = Vec::with_capacity(dimensions.len());
        for ((dimension, one), other) in dimensions.into_iter().zip(first).zip(second) {
            let crossed = match (one.is_nan(), other.is_nan()) {
                // Neither parent used it: if the descendant does, nothing is known of it.
                (true, true) => drawn(dimension, stream),
                (true, false) => other,
                (false, true) => one,
                (false, false) => crossed(dimension, one, other, stream),
            };
            let changes = stream.uniform() < mutation;
            point.push(if changes { mutated(dimension, crossed, stream) } else { crossed });
        }
        point
    }
}

/// A coordinate of a descendant: near that of one of its parents, as near as they are to each other. Half of the coordinates are not
/// mixed, but taken.
fn crossed(dimension: Dimension, one: f64, other: f64, stream: &mut Stream) -> f64 {
    let (near, far) = if stream.uniform() < 0.5 { (one, other) } else { (other, one) };
    if matches!(dimension, Dimension::Categories(_)) || stream.uniform() < 0.5 {
        return near;
    }
    let uniform = stream.uniform();
    let spread = if uniform < 0.5 { 2.0 * uniform } else { 1.0 / (2.0 * (1.0 - uniform)) }.powf(1.0 / (NEARNESS + 1.0));
    (0.5 * ((1.0 + spread) * near + (1.0 - spread) * far)).clamp(0.0, 1.0)
}

fn mutated(dimension: Dimension, coordinate: f64, stream: &mut Stream) -> f64 {
    if let Dimension::Categories(_) = dimension {
        return drawn(dimension, stream);
    }
    // Few values are far apart: a small step would be none.
    if let Dimension::Cells(count) = dimension
        && count <= 16
    {
        let step = if stream.uniform() < 0.5 { -1.0 } else { 1.0 } / count as f64;
        let stepped = coordinate + step;
        return if (0.0..=1.0).contains(&stepped) { stepped } else { coordinate - step };
    }
    let uniform = stream.uniform();
    let power = 1.0 / (NEARNESS + 1.0);
    let step = if uniform < 0.5 {
        (2.0 * uniform + (1.0 - 2.0 * uniform) * (1.0 - coordinate).powf(NEARNESS + 1.0)).powf(power) - 1.0
    } else {
        1.0 - (2.0 * (1.0 - uniform) + 2.0 * (uniform - 0.5) * coordinate.powf(NEARNESS + 1.0)).powf(power)
    };
    (coordinate + step).clamp(0.0, 1.0)
}

impl Sampler for Evolve {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        if self.ended < self.settings.startup || self.parents.is_empty() {
            return Some(quasi::point(context, context.trial.0));
        }
        let mut stream = context.stream(Purpose::Candidate);
        Some(self.descendant(context, &mut stream))
    }
}

//! CMA-ES: a normal distribution that moves to where the better points are, and takes the shape in which they lie.
//!
//! Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772), with these differences:
//!
//! - Trials end in any order, and many may run. Each λ trials that have ended make a generation, whichever distribution they came
//!   from, as the tutorial's author does with points from elsewhere: steps that are too long for the distribution are shortened
//!   (Hansen, "Injecting External Solutions Into CMA-ES", arXiv 1110.4181). So the distribution is a function of what ended, in its order.
//! - `C^(-1/2)` is replaced by the inverse of C's Cholesky factor (Krause, Arbonès and Igel, "CMA-ES with Optimal Covariance Update
//!   and Storage Complexity", 2016).
//! - Along parameters with few values the distribution keeps a margin: neighbouring values stay likely enough to be drawn
//!   (Hamano et al., "CMA-ES with Margin", 2022). A category has a probability of its own, with such a margin.
//!
//! Failed trials are the worst of their generation. Where the distribution has become a point or a generation is all alike, the search
//! begins anew elsewhere: with twice the points (IPOP: Auger and Hansen, 2005), or in turn with many and with few (BIPOP: Hansen, 2009).

mod distribution;
#[cfg(test)]
mod tests;

use distribution::Distribution;

use super::{Context, Sampler, losses};
use crate::space::Point;
use crate::stream::{Purpose, Stream};

/// How the search goes on where it has found what there is to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// It does not.
    None,
    /// Anew, with twice as many points in a generation.
    #[default]
    Ipop,
    /// Anew, in turn with many and with few points.
    Bipop,
}

/// The settings of the strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// The first standard deviation, where the whole range is 1. Without it, 0.3.
    pub sigma: Option<f64>,
    /// How many points make a generation. Without it, 4 + 3 ln(dimensions).
    pub population: Option<usize>,
    /// How it goes on.
    pub restart: Restart,
}

/// The strategy, and what it made of the trials that have ended.
#[derive(Debug)]
pub struct CmaEs {
    settings: Settings,
    distribution: Option<Distribution>,
    /// Trials that have ended and belong to an earlier generation.
    used: usize,
    /// How often it began anew.
    restarts: u64,
    /// Points that were spent on large and on small populations.
    spent: [usize; 2],
    is_large: bool,
}

/// A generation whose losses differ by less than this, relatively, is all alike.
const ALIKE: f64 = 1e-12;

impl CmaEs {
    /// A strategy with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, distribution: None, used: 0, restarts: 0, spent: [0; 2], is_large: true }
    }

    /// Takes in the trials that have ended since, a generation at a time.
    fn observe(&mut self, context: &Context<'_>) {
        let default = default_population(context.space.parameters().len());
        let population = self.settings.population.unwrap_or(default).max(2);
        let sigma = self.settings.sigma.unwrap_or(0.3);
        let ended = context.history.ended();
        let mut distribution = self
            .distribution
            .take()
            .unwrap_or_else(|| Distribution::new(context.space.dimensions(), population, sigma));
        while ended.len() - self.used >= distribution.population() {
            let count = distribution.population();
            let generation = ended[self.used..self.used + count].iter().filter_map(|id| context.history.get(*id));
            let mut generation: Vec<(f64, &Point)> = generation
                .map(|trial| {
                    let loss = losses(context, trial).and_then(|losses| losses.first().copied());
                    (loss.unwrap_or(f64::INFINITY), &trial.point)
                })
                .collect();
            // Of equal ones the one that ended first stays first.
            generation.sort_by(|one, other| one.0.total_cmp(&other.0));
            self.used += count;
            self.spent[usize::from(!self.is_large)] += count;
            let (best, worst) = (generation[0].0, generation[generation.len() - 1].0);
            let is_alike = worst.is_finite() && worst - best <= ALIKE * best.abs().max(worst.abs());
            let points: Vec<&Point> = generation.iter().map(|(_, point)| *point).collect();
            let is_over = !distribution.update(&points) || is_alike && best.is_finite();
            if is_over && self.settings.restart != Restart::None {
                distribution = self.again(context, population, sigma);
            }
        }
        self.distribution = Some(distribution);
    }

    /// A distribution elsewhere.
    fn again(&mut self, context: &Context<'_>, population: usize, sigma: f64) -> Distribution {
        self.restarts += 1;
        let mut stream = Stream::new(context.seed, self.restarts, Purpose::Restart, 0);
        let was_large = self.is_large;
        self.is_large = self.settings.restart == Restart::Ipop || self.spent[0] <= self.spent[1];
        let doublings = if self.settings.restart == Restart::Ipop || was_large || self.is_large {
            u32::try_from(self.restarts.min(6)).unwrap_or(6)
        } else {
            0
        };
        let largest = population << doublings;
        let (count, sigma) = if self.is_large {
            (largest, sigma)
        } else {
            // Hansen's rule for the small ones: between the default and half of the largest, most of them small.
            let share = stream.uniform().powi(2);
            let ratio = (largest as f64 / population as f64 / 2.0).max(1.0);
            ((population as f64 * ratio.powf(share)) as usize, sigma * 10_f64.powf(-2.0 * stream.uniform()))
        };
        let mut made = Distribution::new(context.space.dimensions(), count, sigma);
        made.move_to(&mut stream);
        made
    }
}

fn default_population(dimensions: usize) -> usize {
    4 + (3.0 * (dimensions.max(1) as f64).ln()) as usize
}

impl Sampler for CmaEs {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        let mut stream = context.stream(Purpose::Candidate);
        self.distribution.as_ref().map(|distribution| distribution.draw(&mut stream))
    }
}

//! The tree-structured Parzen estimator: what do the good configurations have in common that the others have not?
//!
//! Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); in its multivariate form, with the settings of Watanabe,
//! "Tree-Structured Parzen Estimator" (arXiv 2304.11127): the best tenth of the trials, at most 25, is *below*, all others are *above*.
//! A density is put over each of the two, candidates are drawn from the one below, and the one with the highest ratio of the two is
//! suggested. The densities are mixtures with one kernel for each trial that covers all parameters together, so that what belongs
//! together stays together; where a trial did not use a parameter, its kernel says nothing about it.
//!
//! Of several objectives, those below are the trials of the first fronts, and of the last front that has room those that together dominate
//! the most (Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022; all of them weigh the same here).
//!
//! Trials that run count as above, so that a batch spreads out; so do failed ones, so that they are kept away from.

mod kernel;

use kernel::{Kernels, Mixture};

use std::collections::BTreeSet;

use super::{Context, Sampler, losses, quasi};
use crate::objective::order;
use crate::pareto::{Archive, least_crowded, most_volume};
use crate::space::{Point, Space};
use crate::stream::Purpose;

/// The settings of the estimator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many trials have to have ended before the estimator is used.
    pub startup: usize,
    /// How many candidates are drawn for each suggestion.
    pub candidates: usize,
    /// The share of trials that is below.
    pub gamma: f64,
    /// The most trials that are below.
    pub most_below: usize,
    /// What the whole space weighs, where a trial weighs 1.
    pub prior_weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { startup: 10, candidates: 24, gamma: 0.1, most_below: 25, prior_weight: 1.0 }
    }
}

/// Trials of which some told a loss, and the densities over them.
#[derive(Debug)]
pub(super) struct Estimator {
    /// The trials that told a loss, by the [order] of that, the best first. Each takes its place among thousands at once.
    ranked: BTreeSet<(i64, usize)>,
    /// A kernel for each trial.
    kernels: Kernels,
    count: usize,
}

impl Estimator {
    pub(super) fn new(space: &Space) -> Self {
        Self { ranked: BTreeSet::new(), kernels: Kernels::new(space.dimensions()), count: 0 }
    }

    /// Takes in a trial, and answers its place.
    pub(super) fn push(&mut self, point: &[f64]) -> usize {
        self.kernels.push(point);
        self.count += 1;
        self.count - 1
    }

    /// Takes in the loss of a trial by its place.
    pub(super) fn rank(&mut self, loss: f64, trial: usize) {
        self.ranked.insert((order(loss), trial));
    }

    /// How many told a loss.
    pub(super) fn ranked(&self) -> usize {
        self.ranked.len()
    }

    /// The best candidate by the densities of the `below` best trials, and of all others.
    pub(super) fn suggest(&self, context: &Context<'_>, settings: &Settings, below: usize) -> Point {
        let below: Vec<usize> = self.ranked.iter().take(below.max(1)).map(|(_, at)| *at).collect();
        self.suggest_like(context, settings, &below)
    }

    /// The best candidate by the densities of these trials, by their places, and of all others.
    fn suggest_like(&self, context: &Context<'_>, settings: &Settings, below: &[usize]) -> Point {
        let good = Mixture::of_some(&self.kernels, below, settings.prior_weight);
        let mut stream = context.stream(Purpose::Candidate);
        let mut candidates = Vec::with_capacity(settings.candidates);
        for _ in 0..settings.candidates.max(1) {
            let drawn = context.space.configuration(&good.draw(&mut stream));
            if context.space.is_allowed(&drawn) {
                candidates.push(context.space.point(&drawn));
            }
        }
        let scores = self.kernels.scores(below, &good, &candidates, settings.prior_weight);
        let best = scores.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1).then(other.0.cmp(&one.0)));
        // Where constraints leave none of the candidates, the experiment asks again, and draws one in the end.
        best.map_or_else(|| good.draw(&mut stream), |(at, _)| candidates.swap_remove(at))
    }
}

/// The estimator of all trials, and what it has seen of them.
#[derive(Debug, Default)]
pub struct Tpe {
    settings: Settings,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    estimator: Option<Estimator>,
    /// The best of several objectives, and how many trials told all of them.
    archive: Option<Archive>,
    told: usize,
}

impl Tpe {
    /// An estimator with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        let estimator = self.estimator.get_or_insert_with(|| Estimator::new(context.space));
        for trial in &context.history.trials()[self.begun..] {
            estimator.push(&trial.point);
        }
        self.begun = context.history.trials().len();
        for trial in context.history.ended()[self.ended..].iter().filter_map(|id| context.history.get(*id)) {
            match losses(context, trial).as_deref() {
                None | Some([]) => continue,
                Some([loss]) => estimator.rank(*loss, trial.id.0 as usize),
                Some(several) => {
                    let most = self.settings.most_below;
                    self.archive.get_or_insert_with(|| Archive::new(most)).insert(trial.id, several.to_vec());
                }
            }
            self.told += 1;
        }
        self.ended = context.history.ended().len();
    }
}

/// The volumes of more objectives take too long.
const VOLUMES: usize = 3;

fn apart(front: &[&[f64]], room: usize) -> Vec<usize> {
    let is_small = front.first().is_some_and(|losses| losses.len() <= VOLUMES);
    if is_small { most_volume(front, room) } else { least_crowded(front, room) }
}

impl Sampler for Tpe {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        let settings = self.settings;
        let is_ready = self.told > 0 && self.ended >= settings.startup;
        let Some(estimator) = self.estimator.as_ref().filter(|_| is_ready) else {
            return Some(quasi::point(context, context.trial.0));
        };
        let below = ((settings.gamma * self.told as f64).ceil() as usize).clamp(1, settings.most_below.max(1));
        Some(match &self.archive {
            None => estimator.suggest(context, &settings, below),
            Some(archive) => {
                let best = archive.best(below, |_, front, room| apart(front, room));
                let places: Vec<usize> = best.iter().map(|(at, _)| archive.entries()[*at].id.0 as usize).collect();
                estimator.suggest_like(context, &settings, &places)
            }
        })
    }
}

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

use super::{Context, Sampler, losses, quasi};
use crate::history::TrialId;
use crate::pareto::{Archive, least_crowded, most_volume};
use crate::space::Point;
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

/// The estimator, and what it keeps to answer quickly.
#[derive(Debug, Default)]
pub struct Tpe {
    settings: Settings,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    /// The losses of the trials that told one, the best first.
    ranked: Vec<(f64, TrialId)>,
    /// The best of several objectives, in place of them, and how many trials told all.
    archive: Option<Archive>,
    told: usize,
    /// A kernel for each trial.
    kernels: Kernels,
}

impl Tpe {
    /// An estimator with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        if self.begun == 0 {
            self.kernels = Kernels::new(context.space.dimensions());
        }
        for trial in &context.history.trials()[self.begun..] {
            self.kernels.push(&trial.point);
        }
        self.begun = context.history.trials().len();
        let most = self.settings.most_below;
        for id in &context.history.ended()[self.ended..] {
            let Some(losses) = context.history.get(*id).and_then(|trial| losses(context, trial)) else { continue };
            self.told += 1;
            if losses.len() > 1 {
                self.archive.get_or_insert_with(|| Archive::new(most)).insert(*id, losses);
                continue;
            }
            let Some(loss) = losses.first() else { continue };
            let entry = (*loss, *id);
            let order = |other: &(f64, TrialId)| other.0.total_cmp(&entry.0).then(other.1.cmp(&entry.1));
            let at = self.ranked.binary_search_by(order).unwrap_or_else(|at| at);
            self.ranked.insert(at, entry);
        }
        self.ended = context.history.ended().len();
    }

    fn below(&self) -> Vec<usize> {
        let wanted = (self.settings.gamma * self.told as f64).ceil() as usize;
        let count = wanted.clamp(1, self.settings.most_below.max(1));
        if let Some(archive) = &self.archive {
            let best = archive.best(count, |_, front, room| apart(front, room));
            return best.iter().map(|(at, _)| archive.entries()[*at].id.0 as usize).collect();
        }
        self.ranked.iter().take(count).map(|(_, id)| id.0 as usize).collect()
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
        if self.told == 0 || self.ended < self.settings.startup {
            return Some(quasi::point(context, context.trial.0));
        }
        let below = self.below();
        let good = Mixture::of_some(&self.kernels, &below, self.settings.prior_weight);
        let mut stream = context.stream(Purpose::Candidate);
        let mut candidates = Vec::with_capacity(self.settings.candidates);
        for _ in 0..self.settings.candidates.max(1) {
            let drawn = context.space.configuration(&good.draw(&mut stream));
            if context.space.is_allowed(&drawn) {
                candidates.push(context.space.point(&drawn));
            }
        }
        let scores = self.kernels.scores(&below, &good, &candidates, self.settings.prior_weight);
        let best = scores.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1).then(other.0.cmp(&one.0)));
        // Where constraints leave none of the candidates, the experiment asks again, and draws one in the end.
        Some(best.map_or_else(|| good.draw(&mut stream), |(at, _)| candidates.swap_remove(at)))
    }
}

//! The model of BOHB (Falkner, Klein and Hutter, arXiv 1807.01774): the tree-structured Parzen estimator of what was told with the same
//! resource, of the highest step of the ladder of which enough is known.
//!
//! Those that got so far are mostly good ones, and alike. So all configurations that began and have told nothing there count as ones to
//! stay away from; else it would be each other that they are told apart from. A share of the configurations is drawn at random, so that
//! nothing that small resources tell can lead astray for good.

use std::collections::BTreeMap;

use super::tpe::{self, Estimator};
use super::{Context, Random, Sampler, quasi};
use crate::fidelity::Ladder;
use crate::history::{State, Trial, TrialId};
use crate::space::Point;
use crate::stream::Purpose;

/// The settings of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The share of configurations that are drawn at random.
    pub random: f64,
    /// How many candidates are drawn for each suggestion.
    pub candidates: usize,
    /// The share of trials that is good.
    pub gamma: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { random: 1.0 / 3.0, candidates: 64, gamma: 0.15 }
    }
}

/// The model, and what it keeps to answer quickly.
#[derive(Debug)]
pub struct Bohb {
    settings: Settings,
    ladder: Ladder,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    /// By step of the ladder.
    rungs: Vec<Estimator>,
    /// The places of a configuration in the estimators, from that of its first rung on, by its first trial.
    places: BTreeMap<TrialId, (usize, Vec<usize>)>,
}

impl Bohb {
    /// A model that knows nothing, of trials whose resource grows so.
    #[must_use]
    pub fn new(settings: Settings, ladder: Ladder) -> Self {
        Self { settings, ladder, begun: 0, ended: 0, rungs: Vec::new(), places: BTreeMap::new() }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        if self.rungs.is_empty() {
            self.rungs = self.ladder.resources().iter().map(|_| Estimator::new(context.space)).collect();
        }
        for trial in &context.history.trials()[self.begun..] {
            if trial.level.is_some_and(|level| level.root.is_some()) {
                continue;
            }
            let first = trial.level.map_or(0, |level| level.rung).min(self.rungs.len());
            let places = self.rungs[first..].iter_mut().map(|rung| rung.push(&trial.point)).collect();
            self.places.insert(trial.id, (first, places));
        }
        self.begun = context.history.trials().len();
        let Some(objective) = context.objectives.first() else { return };
        for trial in context.history.ended()[self.ended..].iter().filter_map(|id| context.history.get(*id)) {
            for (rung, value) in self.told(trial) {
                let root = trial.level.and_then(|level| level.root).unwrap_or(trial.id);
                let place = self.places.get(&root).and_then(|(first, places)| places.get(rung.checked_sub(*first)?));
                if let (Some(place), Some(rung)) = (place, self.rungs.get_mut(rung)) {
                    rung.rank(objective.loss(value), *place);
                }
            }
        }
        self.ended = context.history.ended().len();
    }

    /// What a trial that has ended told, by rung: of its own, or of all that its reports have come to.
    fn told(&self, trial: &Trial) -> Vec<(usize, f64)> {
        if self.ladder.parameter().is_some() {
            let State::Complete { values } = &trial.state else { return Vec::new() };
            return trial.level.zip(values.first()).map(|(level, value)| (level.rung, *value)).into_iter().collect();
        }
        let value = |resource: &f64| {
            let at = trial.reports.partition_point(|report| (report.step as f64) < *resource);
            trial.reports.get(at)?.values.first().copied()
        };
        self.ladder.resources().iter().map_while(value).enumerate().collect()
    }
}

impl Sampler for Bohb {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        let least = context.space.dimensions().count() + 1;
        let known = self.rungs.iter().rev().find(|rung| rung.ranked() >= least + 2);
        let Some(known) = known else { return Some(quasi::point(context, context.trial.0)) };
        if context.stream(Purpose::Choice).uniform() < self.settings.random {
            return Random.suggest(context);
        }
        let Settings { candidates, gamma, .. } = self.settings;
        let good = (gamma * known.ranked() as f64).ceil() as usize;
        // Of few, enough that they say something of all dimensions, but not more than half.
        let good = good.max(least.min(known.ranked().div_ceil(2)));
        Some(known.suggest(context, &tpe::Settings { candidates, ..tpe::Settings::default() }, good))
    }
}

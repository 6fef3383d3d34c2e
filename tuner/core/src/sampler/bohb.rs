//! A model of configurations of which the better ones get more, in place of BOHB's (Falkner, Klein and Hutter, arXiv 1807.01774): the
//! tree-structured Parzen estimator of all configurations, each with what it told with the most that it had.
//!
//! Who got further is better than who did not; of those that got as far, who told the lower loss. BOHB looks at those only that got as far
//! as anybody, but these are good ones all, and alike: they would be told apart from each other, and not from the others. Where a bracket
//! of Hyperband begins further up, that is nobody's merit: its configurations count if they beat one that got there.
//!
//! A share of the configurations is drawn at random, so that nothing that small resources tell can lead astray for good.

use std::collections::BTreeMap;

use super::tpe::{self, Estimator};
use super::{Context, Random, Sampler, quasi};
use crate::fidelity::Ladder;
use crate::history::{State, Trial, TrialId};
use crate::space::Point;
use crate::stream::Purpose;

/// At most so many configurations are good.
const MOST: usize = 25;

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

/// What a configuration told with the most that it had.
#[derive(Clone, Copy, Debug)]
struct Told {
    rung: usize,
    loss: f64,
    /// It got there from below.
    is_promoted: bool,
    place: usize,
}

/// The model, and what it keeps to answer quickly.
#[derive(Debug)]
pub struct Bohb {
    settings: Settings,
    ladder: Ladder,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    estimator: Option<Estimator>,
    /// The places of configurations, by their first trials.
    places: BTreeMap<TrialId, usize>,
    /// By place.
    told: BTreeMap<usize, Told>,
}

impl Bohb {
    /// A model that knows nothing, of trials whose resource grows so.
    #[must_use]
    pub fn new(settings: Settings, ladder: Ladder) -> Self {
        let (places, told) = (BTreeMap::new(), BTreeMap::new());
        Self { settings, ladder, begun: 0, ended: 0, estimator: None, places, told }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        let estimator = self.estimator.get_or_insert_with(|| Estimator::new(context.space));
        for trial in &context.history.trials()[self.begun..] {
            if trial.level.is_none_or(|level| level.root.is_none()) {
                self.places.insert(trial.id, estimator.push(&trial.point));
            }
        }
        self.begun = context.history.trials().len();
        let Some(objective) = context.objectives.first() else { return };
        for trial in context.history.ended()[self.ended..].iter().filter_map(|id| context.history.get(*id)) {
            let root = trial.level.and_then(|level| level.root);
            let Some(place) = self.places.get(&root.unwrap_or(trial.id)).copied() else { continue };
            let Some((rung, value)) = self.highest(trial) else { continue };
            let is_promoted = root.is_some() || rung == 0 || trial.level.is_none();
            let told = Told { rung, loss: objective.loss(value), is_promoted, place };
            // Who got further may have ended before.
            self.told
                .entry(place)
                .and_modify(|known| *known = if known.rung > rung { *known } else { told })
                .or_insert(told);
        }
        self.ended = context.history.ended().len();
    }

    /// What a trial that has ended told at the highest rung that it came to.
    fn highest(&self, trial: &Trial) -> Option<(usize, f64)> {
        if self.ladder.parameter().is_some() {
            let State::Complete { values } = &trial.state else { return None };
            return Some((trial.level?.rung, *values.first()?));
        }
        let value = |resource: &f64| {
            let at = trial.reports.partition_point(|report| (report.step as f64) < *resource);
            trial.reports.get(at)?.values.first().copied()
        };
        self.ladder.resources().iter().map_while(value).enumerate().last()
    }

    /// The places of the best configurations.
    fn best(&self) -> Vec<usize> {
        let mut limits = vec![f64::NEG_INFINITY; self.ladder.resources().len()];
        for told in self.told.values().filter(|told| told.is_promoted) {
            if let Some(limit) = limits.get_mut(told.rung) {
                *limit = limit.max(told.loss);
            }
        }
        let counts = |told: &&Told| told.is_promoted || limits.get(told.rung).is_some_and(|limit| told.loss < *limit);
        let mut ranked: Vec<&Told> = self.told.values().filter(counts).collect();
        ranked.sort_by(|one, other| {
            other.rung.cmp(&one.rung).then(one.loss.total_cmp(&other.loss)).then(one.place.cmp(&other.place))
        });
        let count = (self.settings.gamma * self.told.len() as f64).ceil() as usize;
        ranked.iter().take(count.clamp(1, MOST)).map(|told| told.place).collect()
    }
}

impl Sampler for Bohb {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        let enough = context.space.dimensions().count() + 3;
        let Some(estimator) = self.estimator.as_ref().filter(|_| self.told.len() >= enough) else {
            return Some(quasi::point(context, context.trial.0));
        };
        if context.stream(Purpose::Choice).uniform() < self.settings.random {
            return Random.suggest(context);
        }
        let settings = tpe::Settings { candidates: self.settings.candidates, ..tpe::Settings::default() };
        Some(estimator.suggest(context, &settings, &self.best()))
    }
}

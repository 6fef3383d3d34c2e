//! Trials that first get a part of what they could use, and of which the better ones go on: successive halving, asynchronous (ASHA; Li et
//! al., arXiv 1810.05934) and in brackets (Hyperband; Li et al., arXiv 1603.06560).
//!
//! Each step of a configuration is a trial of its own, with a [`Level`]. Which one is next is a function of the history: what is kept
//! beside it is only there to be quick.

mod asha;
mod hyperband;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Level, State, TrialId};
use crate::objective::{Objective, order};
use crate::space::Value;

/// The resource of a trial, and the steps in which it grows.
#[derive(Clone, Debug, PartialEq)]
pub struct Ladder {
    parameter: Option<String>,
    resources: Vec<f64>,
    eta: f64,
    is_whole: bool,
}

impl Ladder {
    /// The rungs from about `min` to `max`, each `eta` times the one before. Where both are whole numbers, all are. The resource is the
    /// parameter of that name, or else the step of a trial's reports.
    ///
    /// # Errors
    /// When there are no two rungs.
    pub fn new(parameter: Option<String>, min: f64, max: f64, eta: f64) -> Result<Self, String> {
        let is_finite = [min, max, eta].into_iter().all(f64::is_finite);
        if !is_finite || min <= 0.0 {
            return Err(format!("expected a resource above 0, found {min}"));
        }
        if eta <= 1.0 {
            return Err(format!("expected an eta above 1, found {eta}"));
        }
        // A little more, so that 3^4 fits into 81 whatever the logarithms are rounded to.
        let steps = ((max / min).ln() / eta.ln() + 1e-9).floor();
        if steps.is_nan() || steps < 1.0 {
            return Err(format!("from {min} to {max} there is no step by a factor of {eta}"));
        }
        let is_whole = min.fract() == 0.0 && max.fract() == 0.0;
        let rung = |at: u32| {
            let resource = max / eta.powi(i32::try_from(at).unwrap_or(i32::MAX));
            if is_whole { resource.round() } else { resource }
        };
        let mut resources: Vec<f64> = (0..=steps as u32).rev().map(rung).collect();
        resources.dedup();
        Ok(Self { parameter, resources, eta, is_whole })
    }

    /// The parameter that is the resource; without one it is the step of reports.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        self.parameter.as_deref()
    }

    /// The resource of each rung, which grow.
    #[must_use]
    pub fn resources(&self) -> &[f64] {
        &self.resources
    }

    /// The resource of a rung as the value of a parameter.
    #[must_use]
    pub fn value(&self, rung: usize) -> Option<Value> {
        let resource = *self.resources.get(rung)?;
        Some(if self.is_whole { Value::Int(resource as i64) } else { Value::Float(resource) })
    }

    /// The factor between two rungs.
    #[must_use]
    pub fn eta(&self) -> f64 {
        self.eta
    }

    /// The rung of a resource.
    #[must_use]
    pub fn rung_of(&self, resource: f64) -> Option<usize> {
        self.resources.iter().position(|known| (known - resource).abs() <= 1e-9 * known.abs())
    }

    /// How many configurations begin at each first rung of Hyperband's brackets, that with the most rungs first.
    pub(crate) fn bracket_sizes(&self) -> Vec<u64> {
        let last = self.resources.len() - 1;
        let size = |first: usize| {
            let steps = last - first;
            let even = (last + 1) as f64 / (steps + 1) as f64;
            (even * self.eta.powi(i32::try_from(steps).unwrap_or(i32::MAX)) - 1e-9).ceil().max(1.0) as u64
        };
        (0..=last).map(size).collect()
    }

    /// The first rung of a trial, where trials take the places of Hyperband's brackets in turn.
    pub(crate) fn bracket_of(&self, trial: u64) -> usize {
        let sizes = self.bracket_sizes();
        let mut place = trial % sizes.iter().sum::<u64>().max(1);
        let is_in = |size: &u64| {
            let is_in = place < *size;
            place = place.saturating_sub(*size);
            is_in
        };
        sizes.iter().position(is_in).unwrap_or(0)
    }
}

/// Who goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whoever is among the best of its rung so far: nobody waits for anybody.
    Asha,
    /// The best of a rung, when all of it have ended; in brackets that begin at different rungs.
    Hyperband,
}

/// What to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A new configuration.
    New(Level),
    /// One that has been tried with less.
    Promoted(TrialId, Level),
}

/// The trials of a rung, of one bracket.
#[derive(Clone, Debug, Default)]
struct Rung {
    begun: usize,
    ended: usize,
    /// Those that told a loss, by its [order], then by configuration: that is its first trial.
    ranked: BTreeSet<(i64, TrialId)>,
    /// The configurations that went on from here.
    promoted: BTreeSet<TrialId>,
}

/// A rung that nobody has reached.
static NOBODY: Rung = Rung { begun: 0, ended: 0, ranked: BTreeSet::new(), promoted: BTreeSet::new() };

impl Rung {
    /// The best of the first `count` that has not gone on.
    fn best(&self, count: usize) -> Option<TrialId> {
        self.ranked.iter().take(count).map(|(_, root)| *root).find(|root| !self.promoted.contains(root))
    }
}

/// Says what is next.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    ladder: Ladder,
    policy: Policy,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    /// By bracket and rung.
    rungs: BTreeMap<(u64, usize), Rung>,
    /// All brackets before this one are done with.
    first_open: u64,
}

impl Schedule {
    pub(crate) fn new(ladder: Ladder, policy: Policy) -> Self {
        Self { ladder, policy, begun: 0, ended: 0, rungs: BTreeMap::new(), first_open: 0 }
    }

    pub(crate) fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// What is next. Where no new configuration is left, `is_closed`, there may be nothing.
    pub(crate) fn next(&mut self, history: &History, objective: &Objective, is_closed: bool) -> Option<Next> {
        self.observe(history, objective);
        match self.policy {
            Policy::Asha => asha::next(self, is_closed),
            Policy::Hyperband => hyperband::next(self, is_closed),
        }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, history: &History, objective: &Objective) {
        for trial in &history.trials()[self.begun..] {
            let Some(level) = trial.level else { continue };
            let rung = self.rungs.entry((level.bracket, level.rung)).or_default();
            rung.begun += 1;
            if let Some(root) = level.root {
                self.rungs.entry((level.bracket, level.rung.saturating_sub(1))).or_default().promoted.insert(root);
            }
        }
        self.begun = history.trials().len();
        for trial in history.ended()[self.ended..].iter().filter_map(|id| history.get(*id)) {
            let Some(level) = trial.level else { continue };
            let rung = self.rungs.entry((level.bracket, level.rung)).or_default();
            rung.ended += 1;
            if let State::Complete { values } = &trial.state
                && let Some(value) = values.first()
            {
                rung.ranked.insert((order(objective.loss(*value)), level.root.unwrap_or(trial.id)));
            }
        }
        self.ended = history.ended().len();
    }

    fn rung(&self, bracket: u64, rung: usize) -> &Rung {
        self.rungs.get(&(bracket, rung)).unwrap_or(&NOBODY)
    }
}

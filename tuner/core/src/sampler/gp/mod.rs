//! A Gaussian process: what can be expected of each configuration, given what came of the others, and how sure is that?
//!
//! What is suggested is the configuration of which most improvement is expected, as its logarithm (Ament et al., arXiv 2310.20708). The
//! process has a Matérn kernel with a length for each parameter, whose prior grows with the number of parameters (Hvarfner et al., arXiv
//! 2402.02229); noise is learned, and what is to be undercut is the least loss that is expected at a trial, not the luckiest that was
//! told. Every fourth trial has to promise more than a little, so that it leaves a valley of which all is known. Trials that run are
//! taken to come out as expected, so that a batch spreads out. Failed trials teach a second process where trials fail, and how likely
//! success is weighs with the improvement. In more than 20 dimensions it is looked in a box around the best trial.
//!
//! A suggestion is a function of the history: see `surrogate` for what is kept, and why a new sampler goes on the same way.

mod fit;
mod improvement;
mod kernel;
mod linear;
mod minimise;
mod model;
mod output;
mod region;
mod search;
mod surrogate;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use kernel::Encoding;
use region::Region;
use search::{Promise, Search};
use surrogate::{Observations, Scale, Surrogate};

use super::{Context, Sampler, quasi};
use crate::history::{State, TrialId};
use crate::space::Point;

/// The settings of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many trials have to have ended before the process is used.
    pub startup: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { startup: 10 }
    }
}

/// Every so manieth trial has to promise this much more, in deviations of the losses: near the end of a valley it costs little, and it
/// leads to other valleys, which small improvements never do.
const LEAP_EVERY: u64 = 4;
const LEAP: f64 = 0.1;

/// At most so many running trials are looked at, the last ones: each costs as much as one that ended.
const OPEN: usize = 128;

/// The process, and what it keeps to answer quickly.
#[derive(Debug)]
pub struct Gp {
    settings: Settings,
    encoding: Encoding,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    /// The points that have been tried, which are not tried again.
    tried: BTreeSet<Vec<u64>>,
    running: BTreeSet<TrialId>,
    /// The trials that told a loss, in the order in which they did.
    told: Vec<TrialId>,
    losses: Observations,
    loss: Surrogate,
    /// -1 for each trial that failed, 1 for each that did not.
    fates: Observations,
    success: Surrogate,
    failed: usize,
    region: Region,
}

impl Default for Gp {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Gp {
    /// A process with these settings that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            encoding: Encoding::default(),
            begun: 0,
            ended: 0,
            tried: BTreeSet::new(),
            running: BTreeSet::new(),
            told: Vec::new(),
            losses: Observations::default(),
            loss: Surrogate::new(Scale::Normal),
            fates: Observations::default(),
            success: Surrogate::new(Scale::Plain),
            failed: 0,
            region: Region::new(0),
        }
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        if self.begun == 0 {
            self.encoding = Encoding::new(context.space);
            self.region = Region::new(self.encoding.columns());
        }
        for trial in &context.history.trials()[self.begun..] {
            self.tried.insert(search::key(&trial.point));
            self.running.insert(trial.id);
        }
        self.begun = context.history.trials().len();
        for id in &context.history.ended()[self.ended..] {
            self.running.remove(id);
            let Some(trial) = context.history.get(*id) else { continue };
            let loss = match (&trial.state, context.objectives) {
                (State::Complete { values } | State::Stopped { values }, [objective, ..]) => {
                    // One that was stopped before it told anything says nothing.
                    let Some(value) = values.first() else { continue };
                    Some(objective.loss(*value))
                }
                (State::Failed { .. }, _) => None,
                (State::Running | State::Complete { .. } | State::Stopped { .. }, _) => continue,
            };
            let row = self.encoding.row(&trial.point);
            self.region.observe(loss.unwrap_or(f64::INFINITY));
            self.fates.push(row.clone(), if loss.is_some() { 1.0 } else { -1.0 });
            match loss {
                Some(loss) => {
                    self.told.push(*id);
                    self.losses.push(row, loss);
                }
                None => self.failed += 1,
            }
        }
        self.ended = context.history.ended().len();
    }

    fn promise(&mut self, context: &Context<'_>) -> Option<Promise> {
        let running = self.running.iter().rev().take(OPEN).filter_map(|id| context.history.get(*id));
        let open: Vec<Vec<f64>> = running.map(|trial| self.encoding.row(&trial.point)).collect();
        let loss = self.loss.model(&self.encoding, &self.losses, &open)?;
        let success = if self.failed > 0 { self.success.model(&self.encoding, &self.fates, &open) } else { None };
        let best = loss.expected().iter().chain(loss.expected_open()).copied().fold(f64::INFINITY, f64::min);
        let leap = if context.trial.0.is_multiple_of(LEAP_EVERY) { LEAP } else { 0.0 };
        Some(Promise { loss, success, best: best - leap })
    }

    /// The points of the trials of which least loss is expected, the best first.
    fn parents(&self, context: &Context<'_>, promise: &Promise) -> Vec<Point> {
        let mut ranked: Vec<(f64, usize)> =
            promise.loss.expected().iter().copied().zip(self.loss.members().iter().copied()).collect();
        ranked.sort_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1)));
        let trials = ranked.iter().take(search::PARENTS).filter_map(|(_, at)| context.history.get(self.told[*at]));
        trials.map(|trial| trial.point.clone()).collect()
    }
}

impl Sampler for Gp {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        let start = || Some(quasi::point(context, context.trial.0));
        if self.ended < self.settings.startup || self.losses.count() == 0 || self.encoding.columns() == 0 {
            return start();
        }
        // Where no process fits, a low-discrepancy sequence goes on.
        let Some(promise) = self.promise(context) else { return start() };
        let parents = self.parents(context, &promise);
        let lengths: Vec<Option<f64>> = (0..context.space.parameters().len())
            .map(|at| self.encoding.number(at).map(|column| promise.loss.parameters.length(column)))
            .collect();
        let bounds = parents.first().and_then(|best| self.region.around(best, &lengths));
        let search =
            Search { context, encoding: &self.encoding, promise: &promise, tried: &self.tried, parents, bounds };
        search.best().or_else(start)
    }
}

//! Rules by which a trial is ended before its end: functions of what it and others told on their way.
//!
//! A rule says why, with its numbers. What it compares with are the curves as they are stored, so that it says the same after a restart.

mod curve;
mod extrapolate;
#[cfg(test)]
mod tests;
mod wilcoxon;

use std::collections::BTreeMap;

use crate::fidelity::Ladder;
use crate::history::Report;
use crate::objective::{Objective, short};

use curve::Curve;

pub use curve::thinned;

/// What numbers of the other trials are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Against {
    /// The mean of what each told up to the same step.
    #[default]
    Average,
    /// The best of what each told up to the same step.
    Best,
    /// What each told last up to the same step.
    Last,
}

/// When a trial is ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// When its best value is worse than what so many percent of the trials that ran to their end had at the same step.
    Percentile {
        /// 50 is the median.
        percentile: f64,
        /// What numbers of the others it is.
        against: Against,
        /// No trial is stopped before this step.
        start: u64,
        /// Nor before so many trials have run to their end.
        trials: usize,
    },
    /// When a value is outside of what is possible for one that is of use.
    Threshold {
        /// Not less than this.
        lower: Option<f64>,
        /// Not more than this.
        upper: Option<f64>,
        /// No trial is stopped before this step.
        start: u64,
    },
    /// When it has not become better for some steps. What it told then counts as its result.
    Patience {
        /// For so many.
        steps: u64,
        /// By so much at least.
        least: f64,
        /// No trial is stopped before this step.
        start: u64,
    },
    /// When its values are worse than those of the best trial at the same steps, by a signed-rank test: for steps that are alike, such as
    /// the folds of a cross-validation.
    Wilcoxon {
        /// As likely as this it may be by chance.
        p: f64,
        /// No trial is stopped before so many steps that both have told.
        start: usize,
    },
    /// When its curve goes where it is hardly better than the best trial.
    Curve {
        /// With at most this probability.
        p: f64,
        /// No trial is stopped before so many reports.
        start: usize,
        /// Nor before so many trials have run to their end.
        trials: usize,
    },
    /// When it reaches a rung of a ladder and is not among the best there: asynchronous successive halving (Li et al., arXiv 1810.05934).
    Halving {
        /// The rungs, as steps.
        ladder: Ladder,
        /// Whether trials begin at different rungs, as in Hyperband.
        brackets: bool,
    },
}

/// The rules of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    /// Which of the objectives is looked at.
    pub at: usize,
    /// That one.
    pub objective: Objective,
    /// Whichever says so first.
    pub rules: Vec<Rule>,
}

impl Stopping {
    /// The ladder that is climbed, if one is, and whether trials begin at different rungs.
    fn halving(&self) -> Option<(&Ladder, bool)> {
        self.rules.iter().find_map(|rule| match rule {
            Rule::Halving { ladder, brackets } => Some((ladder, *brackets)),
            Rule::Percentile { .. }
            | Rule::Threshold { .. }
            | Rule::Patience { .. }
            | Rule::Wilcoxon { .. }
            | Rule::Curve { .. } => None,
        })
    }

    /// What has to be kept of a trial that runs and was not stopped, so that it and others are judged the same way after a restart: what it
    /// told at the rungs that it has passed.
    #[must_use]
    pub fn to_keep(&self, reports: &[Report]) -> Vec<Report> {
        let rungs = self.halving().map(|(ladder, _)| ladder.resources()).unwrap_or_default();
        // The last rung is the end.
        let rungs = &rungs[..rungs.len().saturating_sub(1)];
        let at = |rung: &f64| reports.get(reports.partition_point(|report| report.step < step_of(*rung)));
        let mut kept: Vec<Report> = rungs.iter().map_while(at).cloned().collect();
        kept.dedup_by_key(|report| report.step);
        kept
    }
}

/// The step at which a rung is reached.
fn step_of(rung: f64) -> u64 {
    rung.ceil() as u64
}

/// The rung at which a trial is judged first.
fn first(ladder: &Ladder, brackets: bool, trial: u64) -> usize {
    if brackets { ladder.bracket_of(trial) } else { 0 }
}

/// Why a trial is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing good will come of it.
    Hopeless(String),
    /// Nothing better will come of it.
    Settled(String),
}

/// What is known of a trial besides its losses.
#[derive(Clone, Debug, Default)]
struct Known {
    curve: Curve,
    /// It ran to its end.
    is_complete: bool,
    /// How many rungs it was allowed to pass.
    passed: usize,
}

/// Applies the rules of an experiment to its trials.
#[derive(Clone, Debug)]
pub struct Judge {
    stopping: Stopping,
    trials: BTreeMap<u64, Known>,
}

impl Judge {
    /// One that knows no trial.
    #[must_use]
    pub fn new(stopping: Stopping) -> Self {
        Self { stopping, trials: BTreeMap::new() }
    }

    /// Takes in a trial that has ended: whether that was its own end, and what it told on its way.
    pub fn ended(&mut self, trial: u64, is_complete: bool, reports: &[Report]) {
        let curve = Curve::new(reports, self.stopping.at, &self.stopping.objective);
        self.trials.insert(trial, Known { curve, is_complete, passed: 0 });
    }

    /// Takes in a trial that runs, of which this was kept: see [`Stopping::to_keep`].
    pub fn running(&mut self, trial: u64, reports: &[Report]) {
        if self.trials.contains_key(&trial) {
            return;
        }
        let curve = Curve::new(reports, self.stopping.at, &self.stopping.objective);
        let passed = self.stopping.halving().map_or(0, |(ladder, brackets)| {
            let rungs = &ladder.resources()[..ladder.resources().len().saturating_sub(1)];
            let reached = rungs.iter().take_while(|rung| curve.from(step_of(**rung)).is_some()).count();
            // Before its first rung nobody is judged.
            if reached > first(ladder, brackets, trial) { reached } else { 0 }
        });
        self.trials.insert(trial, Known { curve, is_complete: false, passed });
    }

    /// A trial is gone.
    pub fn forget(&mut self, trial: u64) {
        self.trials.remove(&trial);
    }

    /// Whether a trial that runs and told this so far is to be ended.
    pub fn judge(&mut self, trial: u64, reports: &[Report]) -> Option<Verdict> {
        let known = self.trials.entry(trial).or_default();
        known.curve = Curve::new(reports, self.stopping.at, &self.stopping.objective);
        known.is_complete = false;
        let own = known.curve.clone();
        let rules = self.stopping.rules.clone();
        rules.iter().find_map(|rule| self.by(rule, trial, &own))
    }

    fn by(&mut self, rule: &Rule, trial: u64, own: &Curve) -> Option<Verdict> {
        match rule {
            Rule::Percentile { percentile, against, start, trials } => {
                self.percentile(own, *percentile, *against, *start, *trials).map(Verdict::Hopeless)
            }
            Rule::Threshold { lower, upper, start } => {
                self.threshold(own, *lower, *upper, *start).map(Verdict::Hopeless)
            }
            Rule::Patience { steps, least, start } => self.patience(own, *steps, *least, *start).map(Verdict::Settled),
            Rule::Wilcoxon { p, start } => self.wilcoxon(own, *p, *start).map(Verdict::Hopeless),
            Rule::Curve { p, start, trials } => self.curve(own, *p, *start, *trials).map(Verdict::Hopeless),
            Rule::Halving { ladder, brackets } => self.halving(trial, own, ladder, *brackets).map(Verdict::Hopeless),
        }
    }

    /// A loss as the objective's value: `loss=0.5`.
    fn shown(&self, loss: f64) -> String {
        // A loss of a loss is the value.
        format!("{}={}", self.stopping.objective.name, short(self.stopping.objective.loss(loss)))
    }

    fn complete(&self) -> impl Iterator<Item = &Curve> {
        self.trials.values().filter(|known| known.is_complete).map(|known| &known.curve)
    }

    fn percentile(&self, own: &Curve, percentile: f64, against: Against, start: u64, trials: usize) -> Option<String> {
        let last = own.last().filter(|last| last.step >= start)?;
        let number = |curve: &Curve| {
            curve.up_to(last.step).map(|point| match against {
                Against::Average => point.mean,
                Against::Best => point.best,
                Against::Last => point.loss,
            })
        };
        let mut others: Vec<f64> = self.complete().filter_map(number).collect();
        if others.is_empty() || others.len() < trials {
            return None;
        }
        let limit = quantile(&mut others, percentile / 100.0);
        if last.best <= limit {
            return None;
        }
        let (step, count) = (last.step, others.len());
        let of = match against {
            Against::Average => "averages",
            Against::Best => "best values",
            Against::Last => "values",
        };
        let which = if percentile == 50.0 { "median".to_owned() } else { format!("{percentile}th percentile") };
        let best = self.shown(last.best);
        Some(format!(
            "by step {step} it had {best} at best, and the {which} of {count} trials' {of} is {}",
            self.shown(limit)
        ))
    }

    fn threshold(&self, own: &Curve, lower: Option<f64>, upper: Option<f64>, start: u64) -> Option<String> {
        let last = own.last().filter(|last| last.step >= start)?;
        let value = self.stopping.objective.loss(last.loss);
        let (side, limit) = match (lower, upper) {
            (Some(lower), _) if value < lower => ("below", lower),
            (_, Some(upper)) if value > upper => ("above", upper),
            _ => return None,
        };
        Some(format!("at step {} it had {}, which is {side} {}", last.step, self.shown(last.loss), short(limit)))
    }

    fn patience(&self, own: &Curve, steps: u64, least: f64, start: u64) -> Option<String> {
        let last = own.last().filter(|last| last.step >= start)?;
        let mut best = own.points().first()?;
        for point in own.points() {
            if point.loss < best.loss - least {
                best = point;
            }
        }
        if last.step - best.step < steps {
            return None;
        }
        Some(format!(
            "it has not become better than {} of step {} for {} steps",
            self.shown(best.loss),
            best.step,
            last.step - best.step
        ))
    }

    fn wilcoxon(&self, own: &Curve, p: f64, start: usize) -> Option<String> {
        let mean = |curve: &&Curve| curve.last().map_or(f64::INFINITY, |last| last.mean);
        let best = self.complete().min_by(|one, other| mean(one).total_cmp(&mean(other)))?;
        let pairs = own.points().iter().filter_map(|point| Some(point.loss - best.of(point.step)?.loss));
        let differences: Vec<f64> = pairs.collect();
        if differences.len() < start.max(1) {
            return None;
        }
        let chance = wilcoxon::greater(&differences);
        // One that is better on the whole is not stopped for many small losses.
        if chance >= p || differences.iter().sum::<f64>() <= 0.0 {
            return None;
        }
        let (count, worse) = (differences.len(), differences.iter().filter(|difference| **difference > 0.0).count());
        Some(format!(
            "it is worse than the best trial at {worse} of {count} steps, by chance only with p={}",
            short(chance)
        ))
    }

    fn curve(&self, own: &Curve, p: f64, start: usize, trials: usize) -> Option<String> {
        let mut steps: Vec<u64> = self.complete().filter_map(|curve| Some(curve.last()?.step)).collect();
        steps.sort_unstable();
        let last = own.last().filter(|_| own.points().len() >= start && !steps.is_empty() && steps.len() >= trials)?;
        let horizon = steps[steps.len() / 2];
        let best = self.complete().filter_map(|curve| Some(curve.last()?.best)).fold(f64::INFINITY, f64::min);
        // One that is as good already needs no outlook.
        if last.step >= horizon || last.best <= best {
            return None;
        }
        let outlook = extrapolate::outlook(own.points(), horizon, best).filter(|outlook| outlook.chance <= p)?;
        let (expected, best) = (self.shown(outlook.loss), self.shown(best));
        let chance = short(outlook.chance);
        Some(format!("by step {horizon} it comes to about {expected}, and to {best} of the best trial with p={chance}"))
    }

    fn halving(&mut self, trial: u64, own: &Curve, ladder: &Ladder, brackets: bool) -> Option<String> {
        let rungs = ladder.resources();
        let first = |trial: u64| first(ladder, brackets, trial);
        let mut passed = self.trials.get(&trial).map_or(0, |known| known.passed).max(first(trial));
        // The last rung is the end.
        while passed + 1 < rungs.len() {
            let step = step_of(rungs[passed]);
            let Some(loss) = own.from(step).map(|point| point.loss) else { break };
            let others = self.trials.iter().filter(|(other, _)| **other != trial && first(**other) == first(trial));
            let losses: Vec<(f64, u64)> =
                others.filter_map(|(other, known)| Some((known.curve.from(step)?.loss, *other))).collect();
            let better =
                losses.iter().filter(|(other, by)| other.total_cmp(&loss).then(by.cmp(&trial)).is_lt()).count();
            let count = losses.len() + 1;
            let kept = ((count as f64 / ladder.eta()).floor() as usize).max(1);
            if better >= kept {
                let had = self.shown(loss);
                return Some(format!(
                    "at step {step} it had {had}, number {} of {count} trials, of which {kept} may go on",
                    better + 1
                ));
            }
            passed += 1;
            if let Some(known) = self.trials.get_mut(&trial) {
                known.passed = passed;
            }
        }
        None
    }
}

/// The number below which a share of them lies, between two neighbours in a line.
fn quantile(numbers: &mut [f64], share: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let place = share.clamp(0.0, 1.0) * (numbers.len() - 1) as f64;
    let (below, above) = (numbers[place.floor() as usize], numbers[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

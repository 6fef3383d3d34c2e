//! The trials of an experiment, and what became of each.

use crate::space::{Configuration, Point};

/// The number of a trial in its experiment, from 0 in the order in which they were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialId(pub u64);

impl std::fmt::Display for TrialId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What became of a trial.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing is known yet.
    Running,
    /// It told the values of the objectives, in their order.
    Complete {
        /// Finite numbers.
        values: Vec<f64>,
    },
    /// It was stopped early, and this was last known of it.
    Stopped {
        /// Finite numbers; none where it had told nothing.
        values: Vec<f64>,
    },
    /// It told nothing of use.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Values of the objectives on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How far the trial was: epochs, steps, or whatever it counts.
    pub step: u64,
    /// Finite numbers, in the order of the objectives.
    pub values: Vec<f64>,
    /// What there was up to this report, where not all before it were kept.
    pub so_far: Option<Box<SoFar>>,
}

/// What a trial told up to a report, that one among it.
#[derive(Clone, Debug, PartialEq)]
pub struct SoFar {
    /// How many reports.
    pub reports: u64,
    /// The means of their values, in the order of the objectives.
    pub means: Vec<f64>,
    /// The lowest ones.
    pub lowest: Vec<f64>,
    /// The highest ones.
    pub highest: Vec<f64>,
}

impl Report {
    /// A report of which all before it are known.
    #[must_use]
    pub fn new(step: u64, values: Vec<f64>) -> Self {
        Self { step, values, so_far: None }
    }
}

impl SoFar {
    /// The same with one more report. What that says itself of what was before it counts.
    #[must_use]
    pub fn with(before: Option<&Self>, report: &Report) -> Self {
        if let Some(known) = &report.so_far {
            return Self::clone(known);
        }
        let Some(before) = before else {
            let values = || report.values.clone();
            return Self { reports: 1, means: values(), lowest: values(), highest: values() };
        };
        let reports = before.reports + 1;
        let with = |known: &[f64], of: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            known.iter().zip(&report.values).map(|(known, value)| of(*known, *value)).collect()
        };
        Self {
            reports,
            means: with(&before.means, &|mean, value| mean + (value - mean) / reports as f64),
            lowest: with(&before.lowest, &f64::min),
            highest: with(&before.highest, &f64::max),
        }
    }
}

/// Reports with what there was up to each.
pub fn summed(reports: &[Report]) -> impl Iterator<Item = (&Report, SoFar)> {
    reports.iter().scan(None, |before: &mut Option<SoFar>, report| {
        let now = SoFar::with(before.as_ref(), report);
        *before = Some(now.clone());
        Some((report, now))
    })
}

/// Some of many reports, each with what there was up to it.
pub fn some(reports: &[Report], is_kept: impl Fn(usize) -> bool) -> Vec<Report> {
    let kept = summed(reports).enumerate().filter(|(at, _)| is_kept(*at));
    kept.map(|(_, (report, so_far))| Report { so_far: Some(Box::new(so_far)), ..report.clone() }).collect()
}

/// How much a trial may use, where that grows from trial to trial of one configuration, or its place in a population.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The step of the ladder, or the generation, from 0.
    pub rung: usize,
    /// The bracket that it belongs to, or which member of the population it is.
    pub bracket: u64,
    /// The first trial of the configuration, if that was an earlier one; in a population the trial that it goes on from.
    pub root: Option<TrialId>,
}

/// One configuration that is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its number.
    pub id: TrialId,
    /// What it tries.
    pub configuration: Configuration,
    /// The same, as samplers see it.
    pub point: Point,
    /// How much it may use, where that grows.
    pub level: Option<Level>,
    /// Which part of its sampler suggested it, if it was one that has parts.
    pub by: Option<String>,
    /// What became of it.
    pub state: State,
    /// What it told on the way, by step.
    pub reports: Vec<Report>,
}

/// All trials of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    trials: Vec<Trial>,
    ended: Vec<TrialId>,
}

impl History {
    /// The trials, by number.
    #[must_use]
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// A trial.
    #[must_use]
    pub fn get(&self, id: TrialId) -> Option<&Trial> {
        usize::try_from(id.0).ok().and_then(|at| self.trials.get(at))
    }

    /// The trials that have ended, in the order in which that was told.
    #[must_use]
    pub fn ended(&self) -> &[TrialId] {
        &self.ended
    }

    /// The values that trials have told at their end, with them, in the order in which they were told.
    pub fn complete(&self) -> impl Iterator<Item = (&Trial, &[f64])> {
        self.ended.iter().filter_map(|id| self.get(*id)).filter_map(|trial| match &trial.state {
            State::Complete { values } => Some((trial, values.as_slice())),
            State::Running | State::Stopped { .. } | State::Failed { .. } => None,
        })
    }

    pub(crate) fn next_id(&self) -> TrialId {
        TrialId(self.trials.len() as u64)
    }

    pub(crate) fn begin(
        &mut self,
        configuration: Configuration,
        point: Point,
        level: Option<Level>,
        by: Option<String>,
    ) -> TrialId {
        let id = self.next_id();
        let (state, reports) = (State::Running, Vec::new());
        self.trials.push(Trial { id, configuration, point, level, by, state, reports });
        id
    }

    pub(crate) fn end(&mut self, id: TrialId, state: State) {
        if let Some(trial) = self.get_mut(id) {
            trial.state = state;
            self.ended.push(id);
        }
    }

    /// Keeps a report; a later one of the same step takes its place.
    pub(crate) fn report(&mut self, id: TrialId, report: Report) {
        if let Some(trial) = self.get_mut(id) {
            match trial.reports.binary_search_by_key(&report.step, |report| report.step) {
                Ok(at) => trial.reports[at] = report,
                Err(at) => trial.reports.insert(at, report),
            }
        }
    }

    fn get_mut(&mut self, id: TrialId) -> Option<&mut Trial> {
        usize::try_from(id.0).ok().and_then(|at| self.trials.get_mut(at))
    }
}

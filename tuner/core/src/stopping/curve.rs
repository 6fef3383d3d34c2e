//! What a trial told on its way, as losses.

use crate::history::Report;
use crate::objective::Objective;

/// So many reports of a trial that has ended are kept.
const KEPT: usize = 100;

/// A loss with what came before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) step: u64,
    pub(super) loss: f64,
    /// The mean of this one and those before.
    pub(super) mean: f64,
    /// The lowest of this one and those before.
    pub(super) best: f64,
}

/// The losses of a trial by step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curve(Vec<Point>);

impl Curve {
    pub(super) fn new(reports: &[Report], at: usize, objective: &Objective) -> Self {
        let (mut sum, mut best) = (0.0, f64::INFINITY);
        let told = reports.iter().filter_map(|report| Some((report.step, objective.loss(*report.values.get(at)?))));
        let point = |(before, (step, loss)): (usize, (u64, f64))| {
            sum += loss;
            best = if loss < best { loss } else { best };
            Point { step, loss, mean: sum / (before + 1) as f64, best }
        };
        Self(told.enumerate().map(point).collect())
    }

    pub(super) fn points(&self) -> &[Point] {
        &self.0
    }

    pub(super) fn last(&self) -> Option<&Point> {
        self.0.last()
    }

    /// The last one up to a step.
    pub(super) fn up_to(&self, step: u64) -> Option<&Point> {
        let count = self.0.partition_point(|point| point.step <= step);
        count.checked_sub(1).and_then(|at| self.0.get(at))
    }

    /// The first one from a step on.
    pub(super) fn from(&self, step: u64) -> Option<&Point> {
        self.0.get(self.0.partition_point(|point| point.step < step))
    }

    /// The one of a step.
    pub(super) fn of(&self, step: u64) -> Option<&Point> {
        self.from(step).filter(|point| point.step == step)
    }
}

/// What is stored of a trial's reports: all, or a hundred of them, the first and the last among them.
#[must_use]
pub fn thinned(reports: &[Report]) -> Vec<Report> {
    if reports.len() <= KEPT {
        return reports.to_vec();
    }
    (0..KEPT).filter_map(|at| reports.get(at * (reports.len() - 1) / (KEPT - 1))).cloned().collect()
}

//! What a trial told on its way, as losses.

use std::collections::BTreeSet;

use crate::history::{Report, some};
use crate::objective::{Goal, Objective};

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
        let (mut count, mut sum, mut best) = (0, 0.0, f64::INFINITY);
        let point = |report: &Report| {
            let loss = objective.loss(*report.values.get(at)?);
            if let Some(so_far) = &report.so_far {
                count = so_far.reports;
                sum = objective.loss(*so_far.means.get(at)?) * count as f64;
                best = objective.loss(match objective.goal {
                    Goal::Minimize => *so_far.lowest.get(at)?,
                    Goal::Maximize => *so_far.highest.get(at)?,
                });
            } else {
                count += 1;
                sum += loss;
                best = if loss < best { loss } else { best };
            }
            Some(Point { step: report.step, loss, mean: sum / count as f64, best })
        };
        Self(reports.iter().filter_map(point).collect())
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
    let kept: BTreeSet<usize> = (0..KEPT).map(|at| at * (reports.len() - 1) / (KEPT - 1)).collect();
    some(reports, |at| kept.contains(&at))
}

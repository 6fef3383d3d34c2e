//! A Gaussian process over what has been observed: which observations it is made of, and when its parameters are found anew.
//!
//! All of it is a function of the observations in their order. What is kept only saves doing the same again.
//!
//! Parameters are found anew after each observation of the first 20, then whenever there are a tenth more. Each time the search begins
//! where the last one ended, but at every eighth time it begins from nothing, so that the last eight are all that has to be done again to
//! know what they are. Of more than 320 observations a part is looked at, chosen anew after each 32: the best, the last, and those that
//! are farthest from all that were chosen before.

use super::fit::{Parameters, fit};
use super::kernel::{Encoding, Rows};
use super::model::{Base, Model};
use super::output::Output;

/// The most observations that a model has: the time that it takes grows with their square.
const MOST: usize = 320;
/// After how many more than that a part is chosen anew.
const EPOCH: usize = 32;
/// The most observations from which parameters are found: that takes time that grows with the third power.
const FITTED: usize = 160;
/// After how many searches one begins from nothing.
const FRESH: usize = 8;
/// From how many those are chosen that are farthest from the others.
const POOL: usize = 2_048;

/// What has been observed, in the order in which it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Observations {
    rows: Vec<Vec<f64>>,
    losses: Vec<f64>,
    /// The losses in ascending order.
    sorted: Vec<f64>,
}

impl Observations {
    pub(super) fn push(&mut self, row: Vec<f64>, loss: f64) {
        self.rows.push(row);
        self.losses.push(loss);
        let at = self.sorted.partition_point(|other| other.total_cmp(&loss).is_le());
        self.sorted.insert(at, loss);
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Of the first ones at most so many, by position in ascending order.
    fn part(&self, first: usize, most: usize) -> Vec<usize> {
        if first <= most {
            return (0..first).collect();
        }
        let mut chosen: Vec<usize> = (0..first).collect();
        chosen.sort_by(|one, other| self.losses[*one].total_cmp(&self.losses[*other]).then(one.cmp(other)));
        chosen.truncate(most / 4);
        let last = (first - most / 8..first).filter(|at| !chosen.contains(at)).collect::<Vec<_>>();
        chosen.extend(last);
        // The squared distance of each other one from the nearest that is chosen.
        let pool = (0..first).step_by(first.div_ceil(POOL).max(1)).filter(|at| !chosen.contains(at));
        let mut pool: Vec<(usize, f64)> = pool.map(|at| (at, f64::INFINITY)).collect();
        let mut done = 0;
        loop {
            for at in &chosen[done..] {
                let own = &self.rows[*at];
                for (other, nearest) in &mut pool {
                    let pairs = own.iter().zip(&self.rows[*other]);
                    let square: f64 = pairs.map(|(one, other)| (one - other) * (one - other)).sum();
                    *nearest = nearest.min(square);
                }
            }
            done = chosen.len();
            let order = |one: &(usize, f64), other: &(usize, f64)| one.1.total_cmp(&other.1).then(other.0.cmp(&one.0));
            let farthest = pool.iter().enumerate().max_by(|(_, one), (_, other)| order(one, other));
            let Some((place, _)) = farthest.filter(|_| done < most) else { break };
            chosen.push(pool.swap_remove(place).0);
        }
        chosen.sort_unstable();
        chosen
    }
}

/// What is modelled of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// What [`Output`] makes of them.
    Normal,
    /// They are as they are to be.
    Plain,
}

/// A process, and what it keeps.
#[derive(Debug)]
pub(super) struct Surrogate {
    scale: Scale,
    /// The last parameters that were found, and the how manieth they were.
    found: Option<(usize, Parameters)>,
    /// The last model without values, with the number of its parameters, of its part, and the observations it is made of.
    base: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    fit: usize,
    epoch: usize,
    /// How many observations the members are chosen from.
    seen: usize,
    members: Vec<usize>,
    base: Base,
}

/// After how many observations parameters are found for the how manieth time.
fn fit_counts() -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |count: &usize| Some((count + 1).max(count * 11 / 10)))
}

impl Surrogate {
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, found: None, base: None }
    }

    /// Which observations the last model was made of, in the order of its rows.
    pub(super) fn members(&self) -> &[usize] {
        self.base.as_ref().map_or(&[], |kept| &kept.members)
    }

    /// The model of what was observed, of which there is something. `None` where there is none, whatever is tried.
    pub(super) fn model(&mut self, encoding: &Encoding, seen: &Observations, open: &[Vec<f64>]) -> Option<Model> {
        let count = seen.count();
        let fit = fit_counts().take_while(|fitted| *fitted <= count).count().checked_sub(1)?;
        let epoch = count.saturating_sub(MOST).div_ceil(EPOCH);
        if self.base.as_ref().is_none_or(|kept| (kept.fit, kept.epoch) != (fit, epoch)) {
            let base = Base::new(Rows::new(encoding), self.parameters(encoding, seen, fit));
            let chosen_from = if epoch == 0 { 0 } else { MOST + (epoch - 1) * EPOCH };
            let members = seen.part(chosen_from, MOST - EPOCH);
            self.base = Some(Kept { fit, epoch, seen: chosen_from, members, base });
        }
        let kept = self.base.as_mut()?;
        kept.members.extend(kept.seen..count);
        kept.seen = count;
        let new = &kept.members[kept.base.count()..];
        if !kept.base.extend(new.iter().map(|at| seen.rows[*at].as_slice())) {
            self.base = None;
            return None;
        }
        let values = values(self.scale, seen, &kept.members, &seen.sorted);
        Some(kept.base.clone().model(&values, open))
    }

    /// The parameters that are found for the how manieth time.
    fn parameters(&mut self, encoding: &Encoding, seen: &Observations, fit: usize) -> Parameters {
        let fresh = fit - fit % FRESH;
        let (mut next, mut last) = match self.found.take() {
            Some((known, parameters)) if known >= fresh && known <= fit => (known + 1, parameters),
            _ => (fresh, Parameters::prior(encoding.columns())),
        };
        while next <= fit {
            last = self.search(encoding, seen, next, last);
            next += 1;
        }
        self.found = Some((fit, last.clone()));
        last
    }

    /// Finds parameters, where the last ones are given. Where none are found they stay.
    fn search(&self, encoding: &Encoding, seen: &Observations, fit_number: usize, last: Parameters) -> Parameters {
        let first = fit_counts().nth(fit_number).unwrap_or(1).min(seen.count());
        let members = seen.part(first, FITTED);
        let mut rows = Rows::new(encoding);
        members.iter().for_each(|at| rows.push(&seen.rows[*at]));
        let mut sorted = seen.losses[..first].to_vec();
        sorted.sort_by(f64::total_cmp);
        let values = values(self.scale, seen, &members, &sorted);
        let prior = Parameters::prior(encoding.columns());
        let (starts, looks) = match fit_number % FRESH {
            0 => (vec![prior, Parameters::short(encoding.columns())], 40),
            _ if first < 40 => (vec![last.clone(), prior], 25),
            _ => (vec![last.clone()], 15),
        };
        fit(&rows, &values, &starts, looks).unwrap_or(last)
    }
}

fn values(scale: Scale, seen: &Observations, members: &[usize], sorted: &[f64]) -> Vec<f64> {
    let losses = members.iter().map(|at| seen.losses[*at]);
    match scale {
        Scale::Normal => {
            let output = Output::of(sorted);
            losses.map(|loss| output.value(loss)).collect()
        }
        Scale::Plain => losses.collect(),
    }
}

//! An experiment whose trials are kept elsewhere: as what is stored changes it is shown here, and what was asked for and is
//! not yet stored is remembered.
//!
//! Trials are asked for in batches, one after the other is stored. Each trial says which batch it belongs to, and which ends were learned just
//! before that. So a new search that is shown the same trials, in whatever order, goes on as the first one would have, bit for bit; and where
//! some of a batch were stored and others not, it asks for those that lack, as they were.

use std::collections::{BTreeMap, BTreeSet};

use crate::experiment::{AskError, Experiment, Outcome};
use crate::history::{Level, Report, TrialId};
use crate::objective::{self, Objective, dominates};
use crate::space::{Configuration, Value};

mod repeats;
mod replay;

use repeats::Repeat;
pub use repeats::Winner;

/// Where a stored trial is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// It has not ended.
    Running,
    /// It told the values of the objectives, in their order.
    Succeeded(Vec<f64>),
    /// It told nothing of use.
    Failed,
    /// It was stopped early; the last values that it told, with how far it was.
    Stopped(Option<(u64, Vec<f64>)>),
}

/// A trial as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What it tries, by name.
    pub parameters: BTreeMap<String, Value>,
    /// The trials whose ends were learned just before its batch was asked for.
    pub learned: Vec<u64>,
    /// The batch in which it was asked for, if it was.
    pub batch: Option<Batch>,
    /// Which part of the sampler suggested it, if it was one that has parts.
    pub by: Option<String>,
    /// The first trial of its configuration, and the bracket, where the resource of trials grows.
    pub place: Place,
    /// What it told on its way; as long as it runs, at the rungs that it has passed.
    pub reports: Vec<Report>,
    /// The trial whose configuration it tries again, if it does.
    pub repeats: Option<u64>,
    /// Where it is.
    pub stage: Stage,
}

/// Where a trial is among those whose resource grows, how much it has being among its parameters, or in a population.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The first trial of its configuration, if that was an earlier one; in a population the trial that it goes on from.
    pub continues: Option<u64>,
    /// The bracket that it belongs to, or which member of the population it is.
    pub bracket: u64,
}

/// Trials that were asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first one; those of the others follow.
    pub first: u64,
    /// How many there are.
    pub trials: u64,
}

/// A trial that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// What it tries, by name.
    pub parameters: BTreeMap<String, Value>,
    /// The trials whose ends were learned just before its batch was asked for.
    pub learned: Vec<u64>,
    /// The batch in which it was asked for.
    pub batch: Batch,
    /// Which part of the sampler suggested it, if it was one that has parts.
    pub by: Option<String>,
    /// The first trial of its configuration, and the bracket, where the resource of trials grows.
    pub place: Place,
}

/// How many trials there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub started: u64,
    /// Those that have not ended.
    pub running: u64,
    /// Those that told their values.
    pub succeeded: u64,
    /// Those that told nothing of use.
    pub failed: u64,
    /// Those that were stopped early.
    pub stopped: u64,
}

/// See the [module](self).
pub struct Search {
    experiment: Experiment,
    trials: BTreeMap<u64, Stored>,
    ids: BTreeMap<u64, TrialId>,
    numbers: BTreeMap<TrialId, u64>,
    /// Trials that are stored, were not asked for here, and have not been gone through.
    unknown: BTreeSet<u64>,
    /// Trials that have ended, and of which that was not yet told.
    news: BTreeSet<u64>,
    /// Trials of whose ends was told, in that order, and no trial says so: nothing has been asked for since.
    unsaid: Vec<u64>,
    /// The same of an earlier process.
    before: Vec<u64>,
    asked: BTreeMap<u64, Proposal>,
    counts: Counts,
    /// The trials that no other one beats, with their losses. Of those with the most resource.
    front: Vec<(u64, Vec<f64>)>,
    front_rung: usize,
    /// Trials that try others again. The sampler does not see them.
    repeats: BTreeMap<u64, Repeat>,
    asked_repeats: BTreeMap<u64, u64>,
}

impl Search {
    /// A search of which no trial is known.
    #[must_use]
    pub fn new(experiment: Experiment) -> Self {
        Self {
            experiment,
            trials: BTreeMap::new(),
            ids: BTreeMap::new(),
            numbers: BTreeMap::new(),
            unknown: BTreeSet::new(),
            news: BTreeSet::new(),
            unsaid: Vec::new(),
            before: Vec::new(),
            asked: BTreeMap::new(),
            counts: Counts::default(),
            front: Vec::new(),
            front_rung: 0,
            repeats: BTreeMap::new(),
            asked_repeats: BTreeMap::new(),
        }
    }

    /// What it is after.
    #[must_use]
    pub fn objectives(&self) -> &[Objective] {
        self.experiment.objectives()
    }

    /// One more than the highest number of a stored trial.
    #[must_use]
    pub fn next(&self) -> u64 {
        let last = self.trials.keys().next_back().max(self.repeats.keys().next_back());
        last.map_or(0, |last| last.saturating_add(1))
    }

    /// How many trials are stored.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A stored trial.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Stored> {
        self.trials.get(&number)
    }

    /// The best stored trial: the first of those that no other one beats.
    #[must_use]
    pub fn best(&self) -> Option<u64> {
        self.front.iter().map(|(number, _)| *number).min()
    }

    /// Takes in a trial as it is stored now; `None` if it is not there any more.
    pub fn observe(&mut self, number: u64, stored: Option<Stored>) {
        if self.repeats.contains_key(&number) || stored.as_ref().is_some_and(|stored| stored.repeats.is_some()) {
            return self.observe_repeat(number, stored);
        }
        let old = self.trials.get(&number);
        if old == stored.as_ref() {
            return;
        }
        if let Some(old) = old {
            *self.count(&old.stage.clone()) -= 1;
            self.counts.started -= 1;
        } else if !self.ids.contains_key(&number) {
            self.unknown.insert(number);
        }
        self.front.retain(|(known, _)| *known != number);
        let Some(stored) = stored else {
            let was_best = self.trials.remove(&number).is_some_and(|old| matches!(old.stage, Stage::Succeeded(_)));
            self.unknown.remove(&number);
            self.news.insert(number);
            if was_best {
                self.rank_all();
            }
            return;
        };
        *self.count(&stored.stage) += 1;
        self.counts.started += 1;
        self.asked.remove(&number);
        if stored.stage != Stage::Running {
            self.news.insert(number);
        }
        if let Stage::Succeeded(values) = &stored.stage {
            let (losses, rung) = (self.losses(values), self.rung(&stored.parameters));
            self.rank(number, losses, rung);
        }
        self.trials.insert(number, stored);
    }

    fn count(&mut self, stage: &Stage) -> &mut u64 {
        match stage {
            Stage::Running => &mut self.counts.running,
            Stage::Succeeded(_) => &mut self.counts.succeeded,
            Stage::Failed => &mut self.counts.failed,
            Stage::Stopped(_) => &mut self.counts.stopped,
        }
    }

    fn losses(&self, values: &[f64]) -> Vec<f64> {
        objective::losses(self.objectives(), values)
    }

    fn rank_all(&mut self) {
        self.front.clear();
        self.front_rung = 0;
        let told = |(number, stored): (&u64, &Stored)| match &stored.stage {
            Stage::Succeeded(values) => Some((*number, self.losses(values), self.rung(&stored.parameters))),
            Stage::Running | Stage::Failed | Stage::Stopped(_) => None,
        };
        let all: Vec<(u64, Vec<f64>, usize)> = self.trials.iter().filter_map(told).collect();
        all.into_iter().for_each(|(number, losses, rung)| self.rank(number, losses, rung));
    }

    /// The step of the ladder that a trial is on.
    fn rung(&self, parameters: &BTreeMap<String, Value>) -> usize {
        let ladder = self.experiment.ladder();
        let resource = ladder.and_then(|ladder| parameters.get(ladder.parameter()?)?.number());
        ladder.zip(resource).and_then(|(ladder, resource)| ladder.rung_of(resource)).unwrap_or(0)
    }

    /// Of equal ones the first stays.
    fn rank(&mut self, number: u64, losses: Vec<f64>, rung: usize) {
        if rung < self.front_rung {
            return;
        }
        if rung > self.front_rung {
            self.front_rung = rung;
            self.front.clear();
        }
        let beats = |one: &(u64, Vec<f64>), other: &(u64, Vec<f64>)| {
            dominates(&one.1, &other.1) || one.1 == other.1 && one.0 < other.0
        };
        let new = (number, losses);
        if !self.front.iter().any(|known| beats(known, &new)) {
            self.front.retain(|known| !beats(&new, known));
            self.front.push(new);
        }
    }

    /// The trials whose ends were learned, in that order, and of which no trial says so: nothing could be asked for since.
    #[must_use]
    pub fn unsaid(&self) -> &[u64] {
        &self.unsaid
    }

    /// Before anything is asked for: what an earlier search had as [`Search::unsaid`].
    pub fn learned_before(&mut self, ended: Vec<u64>) {
        self.before = ended;
    }

    /// What was asked for and is not stored, by number.
    #[must_use]
    pub fn asked(&self) -> &BTreeMap<u64, Proposal> {
        &self.asked
    }

    /// Asks for so many trials, or, after the first one, until there is to be no `more`; for none as long as some that were asked for are
    /// not stored. What comes of them does not depend on how many are asked for at once.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn ask(&mut self, count: usize, more: &mut dyn FnMut() -> bool) -> Result<(), AskError> {
        if count == 0 || !self.asked.is_empty() {
            return Ok(());
        }
        self.catch_up();
        if !self.asked.is_empty() {
            return Ok(());
        }
        let before = std::mem::take(&mut self.before);
        let before: Vec<u64> = before.into_iter().filter(|ended| self.news.remove(ended)).collect();
        for ended in before.into_iter().chain(std::mem::take(&mut self.news)) {
            if self.tell(ended) {
                self.unsaid.push(ended);
            }
        }
        let first = self.last().map_or(Some(0), |last| last.checked_add(1)).ok_or(AskError::Numbers)?;
        let (mut batch, mut failed) = (Batch { first, trials: 0 }, None);
        let count = (count as u64).min(replay::LONGEST);
        while batch.trials < count && (batch.trials == 0 || more()) {
            let next = first.checked_add(batch.trials).ok_or(AskError::Numbers);
            match next.and_then(|next| self.propose(next, batch, &[])) {
                Ok(()) => batch.trials += 1,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // Where there is none to say what was told, one of the next batch will.
        let learned = if batch.trials > 0 { std::mem::take(&mut self.unsaid) } else { Vec::new() };
        for proposal in self.asked.values_mut() {
            proposal.batch = batch;
            proposal.learned.clone_from(&learned);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks for the trial of a number.
    fn propose(&mut self, number: u64, batch: Batch, learned: &[u64]) -> Result<(), AskError> {
        let trial = self.experiment.ask()?;
        let (id, configuration, level, by) = (trial.id, trial.configuration.clone(), trial.level, trial.by.clone());
        let mut parameters = configuration.named(self.experiment.space());
        parameters.extend(level.and_then(|level| self.resource(level)));
        let place = Place {
            continues: level.and_then(|level| self.numbers.get(&level.root?).copied()),
            bracket: level.map_or(0, |level| level.bracket),
        };
        self.know(number, id);
        self.asked.insert(number, Proposal { parameters, learned: learned.to_vec(), batch, by, place });
        Ok(())
    }

    /// The highest number that a trial has.
    fn last(&self) -> Option<u64> {
        let highest = self.ids.keys().next_back().max(self.trials.keys().next_back());
        highest.max(self.repeats.keys().next_back()).max(self.asked_repeats.keys().next_back()).copied()
    }

    fn know(&mut self, number: u64, id: TrialId) {
        self.ids.insert(number, id);
        self.numbers.insert(id, number);
    }

    /// The name and value of the parameter that is the resource, if one is.
    fn resource(&self, level: Level) -> Option<(String, Value)> {
        let ladder = self.experiment.ladder()?;
        Some((ladder.parameter()?.to_owned(), ladder.value(level.rung)?))
    }

    fn level(&self, stored: &Stored) -> Option<Level> {
        let root = stored.place.continues.and_then(|number| self.ids.get(&number).copied());
        if self.experiment.has_population() {
            // One further than what it goes on from.
            let before = root.and_then(|root| self.experiment.history().get(root)?.level);
            return Some(Level { rung: before.map_or(0, |level| level.rung + 1), bracket: stored.place.bracket, root });
        }
        self.experiment.ladder()?;
        Some(Level { rung: self.rung(&stored.parameters), bracket: stored.place.bracket, root })
    }

    fn configuration(&self, parameters: &BTreeMap<String, Value>) -> Option<Configuration> {
        let mut parameters = parameters.clone();
        if let Some(resource) = self.experiment.ladder().and_then(|ladder| ladder.parameter()) {
            parameters.remove(resource);
        }
        self.experiment.space().read(&parameters).ok()
    }

    /// Tells the end of a trial. Whether it was one that is known.
    fn tell(&mut self, number: u64) -> bool {
        let Some(id) = self.ids.get(&number).copied() else { return false };
        let reports = self.trials.get(&number).map(|stored| stored.reports.clone()).unwrap_or_default();
        for Report { step, values, .. } in reports {
            // Values that make no report make none here.
            let _ = self.experiment.report(id, step, values);
        }
        let outcome = match self.trials.get(&number).map(|stored| &stored.stage) {
            Some(Stage::Running) => return false,
            Some(Stage::Succeeded(values)) => Outcome::Values(values.clone()),
            Some(Stage::Failed) => Outcome::Failed { reason: "it failed".to_owned() },
            Some(Stage::Stopped(last)) => {
                if let Some((step, values)) = last.clone() {
                    let _ = self.experiment.report(id, step, values);
                }
                Outcome::Stopped
            }
            None => Outcome::Failed { reason: "it was deleted".to_owned() },
        };
        // It may have been told before, then deleted: what was told stays.
        self.experiment.tell(id, outcome).is_ok()
    }
}

#[cfg(test)]
mod tests;

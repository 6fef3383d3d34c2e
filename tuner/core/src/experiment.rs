//! An experiment that is asked what to try, and told what came of it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::fidelity::{Ladder, Next as Step, Policy, Schedule};
use crate::history::{History, Level, Report, State, Trial, TrialId};
use crate::objective::{self, Objective, dominates};
use crate::population::{self, Next as Bred, Population};
use crate::sampler::{Context, Sampler};
use crate::space::{Configuration, Key, Space};
use crate::stream::{Purpose, Stream};
use crate::walk::Walk;

/// What became of a trial, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The values of the objectives, in their order.
    Values(Vec<f64>),
    /// It came to nothing.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was stopped early.
    Stopped,
}

/// Why there is nothing to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Every configuration has been tried.
    #[error("all {tried} configurations that the space allows have been tried")]
    Exhausted {
        /// How many there were.
        tried: usize,
    },
    /// All members of a population train.
    #[error("all {members} members of the population train; the next trial goes on from one of theirs")]
    Training {
        /// How many there are.
        members: u64,
    },
    /// A trial has the greatest number that there is.
    #[error("a trial has the greatest number that there is; delete it")]
    Numbers,
    /// None that was drawn was allowed and new.
    #[error("of {draws} configurations that were drawn none was allowed by the constraints and new")]
    NothingNew {
        /// How many were drawn.
        draws: u64,
    },
}

/// Why something was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// There is no such trial.
    #[error("there is no trial {id}: {trials} have been asked for")]
    Unknown {
        /// What was named.
        id: TrialId,
        /// How many there are.
        trials: usize,
    },
    /// The trial has ended, and what is told now differs.
    #[error("trial {id} has ended already, and otherwise")]
    Ended {
        /// The trial.
        id: TrialId,
    },
    /// Another number of values than there are objectives.
    #[error("expected {expected} values, one for each objective ({names}), found {found}")]
    Count {
        /// How many objectives there are.
        expected: usize,
        /// Their names.
        names: String,
        /// How many values were told.
        found: usize,
    },
    /// A value on the way that is no finite number.
    #[error("a report has finite values, found {value}")]
    NotFinite {
        /// As it was told.
        value: String,
    },
}

/// What is tried next.
struct Next {
    configuration: Configuration,
    level: Option<Level>,
    by: Option<String>,
}

impl Next {
    /// What no sampler suggested.
    fn given(configuration: Configuration, level: Level) -> Self {
        Self { configuration, level: Some(level), by: None }
    }
}

/// How often a sampler is asked again before a configuration is drawn.
const ATTEMPTS: u64 = 16;
/// How many configurations are drawn before all of them are walked through, or none is found.
const DRAWS: u64 = 200;
/// Spaces of up to this size are walked through in the end.
const WALKED: u64 = 1 << 24;

/// An experiment: what is searched, what was tried, and the sampler that says what is next.
///
/// Nothing depends on time, process or chance besides the seed: a new one that is asked and told the same in the same order answers
/// the same, bit for bit.
pub struct Experiment {
    space: Space,
    objectives: Vec<Objective>,
    seed: u64,
    sampler: Box<dyn Sampler>,
    history: History,
    tried: BTreeMap<Key, TrialId>,
    queued: VecDeque<Configuration>,
    walk: Option<Walk>,
    schedule: Option<Schedule>,
    population: Option<Population>,
}

impl Experiment {
    /// An experiment in which nothing has been tried.
    #[must_use]
    pub fn new(space: Space, objectives: Vec<Objective>, seed: u64, sampler: Box<dyn Sampler>) -> Self {
        let size = space.size().filter(|size| *size <= WALKED);
        let walk = size.map(|size| Walk::new(size, &mut Stream::new(seed, 0, Purpose::Order, 0)));
        let (history, tried, queued) = (History::default(), BTreeMap::new(), VecDeque::new());
        let (schedule, population) = (None, None);
        Self { space, objectives, seed, sampler, history, tried, queued, walk, schedule, population }
    }

    /// The same, with trials that first get a part of their resource.
    #[must_use]
    pub fn with_ladder(self, ladder: Ladder, policy: Policy) -> Self {
        Self { schedule: Some(Schedule::new(ladder, policy)), ..self }
    }

    /// The same, with trials that go on from each other.
    #[must_use]
    pub fn with_population(self, settings: population::Settings) -> Self {
        Self { population: Some(Population::new(settings)), ..self }
    }

    /// Whether trials go on from each other, as members of a population.
    #[must_use]
    pub fn has_population(&self) -> bool {
        self.population.is_some()
    }

    /// How the resource of trials grows, if it does.
    #[must_use]
    pub fn ladder(&self) -> Option<&Ladder> {
        self.schedule.as_ref().map(Schedule::ladder)
    }

    /// What is searched.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// What it is after.
    #[must_use]
    pub fn objectives(&self) -> &[Objective] {
        &self.objectives
    }

    /// What was tried.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Has a configuration tried before anything that the sampler says. It is tried even if it was before.
    pub fn enqueue(&mut self, configuration: Configuration) {
        self.queued.push_back(configuration);
    }

    /// Begins the next trial. No configuration is suggested twice; one whose trials have a [`Level`] is tried again with more.
    pub fn ask(&mut self) -> Result<&Trial, AskError> {
        let Next { configuration, level, by } = self.next()?;
        Ok(self.begin_by(configuration, level, by))
    }

    fn next(&mut self) -> Result<Next, AskError> {
        if self.population.is_some() {
            return self.next_member();
        }
        let queued = self.queued.pop_front();
        let (Some(schedule), Some(objective)) = (&mut self.schedule, self.objectives.first()) else {
            let (configuration, by) = queued.map_or_else(|| self.suggest(), |queued| Ok((queued, None)))?;
            return Ok(Next { configuration, level: None, by });
        };
        let next = schedule.next(&self.history, objective, false);
        let level = match (next, queued) {
            (Some(Step::Promoted(root, level)), None) => return self.promoted(root, level),
            (Some(Step::New(level)), Some(queued)) => return Ok(Next::given(queued, level)),
            (Some(Step::New(level)), None) => level,
            (_, Some(queued)) => return Ok(Next::given(queued, Level { rung: 0, bracket: 0, root: None })),
            (None, None) => return Err(AskError::Exhausted { tried: self.tried.len() }),
        };
        match self.suggest() {
            Ok((configuration, by)) => Ok(Next { configuration, level: Some(level), by }),
            // Those that have been tried may still go on.
            Err(error) => {
                let schedule = self.schedule.as_mut();
                match schedule.zip(self.objectives.first()).and_then(|(one, of)| one.next(&self.history, of, true)) {
                    Some(Step::Promoted(root, level)) => self.promoted(root, level),
                    Some(Step::New(_)) | None => Err(error),
                }
            }
        }
    }

    /// What a member of the population does next. Several may train with the same parameters.
    fn next_member(&mut self) -> Result<Next, AskError> {
        let trial = self.history.next_id();
        let Self { space, objectives, history, seed, .. } = self;
        let context = Context { space, objectives, history, seed: *seed, trial, attempt: 0 };
        let Some(population) = &mut self.population else { return Err(AskError::Numbers) };
        let level = match population.next(&context) {
            Some(Bred::From(configuration, level)) => return Ok(Next::given(configuration, level)),
            Some(Bred::Born(level)) => level,
            None => return Err(AskError::Training { members: population.members() }),
        };
        if let Some(queued) = self.queued.pop_front() {
            return Ok(Next::given(queued, level));
        }
        match self.suggest() {
            Ok((configuration, _)) => Ok(Next::given(configuration, level)),
            Err(error) => {
                let mut stream = Stream::new(self.seed, trial.0, Purpose::Restart, 0);
                self.space.draw(&mut stream).map(|drawn| Next::given(drawn, level)).ok_or(error)
            }
        }
    }

    fn promoted(&self, root: TrialId, level: Level) -> Result<Next, AskError> {
        let configuration = self.history.get(root).map(|trial| trial.configuration.clone());
        configuration.map(|configuration| Next::given(configuration, level)).ok_or(AskError::Numbers)
    }

    /// Begins a trial with a configuration that somebody else suggested.
    pub fn begin(&mut self, configuration: Configuration, level: Option<Level>) -> &Trial {
        self.begin_by(configuration, level, None)
    }

    /// Begins a trial that was suggested before, by this experiment or an earlier form of it: to go on after a restart. `by` is what the
    /// trial had as [`Trial::by`] then.
    pub fn begin_by(&mut self, configuration: Configuration, level: Option<Level>, by: Option<String>) -> &Trial {
        let point = self.space.point(&configuration);
        let key = self.space.key(&configuration);
        let id = self.history.begin(configuration, point, level, by);
        self.tried.entry(key).or_insert(id);
        &self.history.trials()[self.history.trials().len() - 1]
    }

    /// A configuration, and which part of the sampler it is from.
    fn suggest(&mut self) -> Result<(Configuration, Option<String>), AskError> {
        let trial = self.history.next_id();
        for attempt in 0..ATTEMPTS {
            let context = Context {
                space: &self.space,
                objectives: &self.objectives,
                history: &self.history,
                seed: self.seed,
                trial,
                attempt,
            };
            let Some(point) = self.sampler.suggest(&context) else { return self.left().map(|left| (left, None)) };
            let configuration = self.space.configuration(&point);
            if self.is_of_use(&configuration) {
                return Ok((configuration, self.sampler.author().map(str::to_owned)));
            }
        }
        let mut stream = Stream::new(self.seed, trial.0, Purpose::Prior, ATTEMPTS);
        let drawn = (0..DRAWS).map_while(|_| self.space.draw(&mut stream)).find(|drawn| self.is_new(drawn));
        drawn.map_or_else(|| self.left(), Ok).map(|configuration| (configuration, None))
    }

    /// One that has not been tried, of all that there are.
    fn left(&mut self) -> Result<Configuration, AskError> {
        let Some(walk) = &mut self.walk else { return Err(AskError::NothingNew { draws: DRAWS }) };
        let (space, tried) = (&self.space, &self.tried);
        let left = walk.find(|configuration| {
            let configuration = space.numbered(*configuration);
            space.is_allowed(&configuration) && !tried.contains_key(&space.key(&configuration))
        });
        left.map(|number| space.numbered(number)).ok_or(AskError::Exhausted { tried: tried.len() })
    }

    fn is_of_use(&self, configuration: &Configuration) -> bool {
        self.space.is_allowed(configuration) && self.is_new(configuration)
    }

    fn is_new(&self, configuration: &Configuration) -> bool {
        !self.tried.contains_key(&self.space.key(configuration))
    }

    /// Takes in what became of a trial. The same may be told again. Values that are not finite numbers are a failure.
    pub fn tell(&mut self, id: TrialId, outcome: Outcome) -> Result<(), TellError> {
        let trial = self.trial(id)?;
        let state = match outcome {
            Outcome::Failed { reason } => State::Failed { reason },
            Outcome::Stopped => {
                State::Stopped { values: trial.reports.last().map(|report| report.values.clone()).unwrap_or_default() }
            }
            Outcome::Values(values) => {
                self.count(&values)?;
                match values.iter().position(|value| !value.is_finite()) {
                    Some(at) => State::Failed { reason: format!("{} was {}", self.objectives[at].name, values[at]) },
                    None => State::Complete { values },
                }
            }
        };
        if trial.state != State::Running {
            return if trial.state == state { Ok(()) } else { Err(TellError::Ended { id }) };
        }
        self.history.end(id, state);
        Ok(())
    }

    /// Takes in the values of a trial on its way.
    pub fn report(&mut self, id: TrialId, step: u64, values: Vec<f64>) -> Result<(), TellError> {
        let trial = self.trial(id)?;
        self.count(&values)?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(TellError::NotFinite { value: value.to_string() });
        }
        if trial.state != State::Running {
            return Err(TellError::Ended { id });
        }
        self.history.report(id, Report::new(step, values));
        Ok(())
    }

    /// The best trials: the one with the lowest loss, and the first of several; of several objectives, those that no other is better
    /// than in all of them. Where the resource of trials grows, of those that had the most.
    #[must_use]
    pub fn best(&self) -> Vec<&Trial> {
        let losses = |values: &[f64]| objective::losses(&self.objectives, values);
        let rung = |trial: &Trial| trial.level.filter(|_| self.schedule.is_some()).map_or(0, |level| level.rung);
        let most = self.history.complete().map(|(trial, _)| rung(trial)).max().unwrap_or(0);
        let complete = self.history.complete().filter(|(trial, _)| rung(trial) == most);
        let mut complete: Vec<(Vec<f64>, &Trial)> = complete.map(|(trial, values)| (losses(values), trial)).collect();
        if self.objectives.len() == 1 {
            let first =
                complete.iter().min_by(|one, other| one.0[0].total_cmp(&other.0[0]).then(one.1.id.cmp(&other.1.id)));
            return first.map(|(_, trial)| *trial).into_iter().collect();
        }
        complete.sort_by_key(|(_, trial)| trial.id);
        let is_best = |one: &&(Vec<f64>, &Trial)| !complete.iter().any(|other| dominates(&other.0, &one.0));
        complete.iter().filter(is_best).map(|(_, trial)| *trial).collect()
    }

    fn trial(&self, id: TrialId) -> Result<&Trial, TellError> {
        self.history.get(id).ok_or(TellError::Unknown { id, trials: self.history.trials().len() })
    }

    fn count(&self, values: &[f64]) -> Result<(), TellError> {
        if values.len() == self.objectives.len() {
            return Ok(());
        }
        let names = self.objectives.iter().map(|objective| objective.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(TellError::Count { expected: self.objectives.len(), names, found: values.len() })
    }
}

//! Population-based training (Jaderberg et al., arXiv 1711.09846): trials of a population train for a while each, those that are behind
//! take over what others have learned, with parameters a little off theirs, and all go on from there.
//!
//! Each trial is one such while of one member. Members move on in step: the next trial is of a member that has got least far, and it is
//! compared with what others told as far as that. Who is next is a function of the history: what is kept beside it is only there to be
//! quick.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Level, State, TrialId};
use crate::objective::order;
use crate::sampler::Context;
use crate::space::{Configuration, Domain, Point, Value, drawn};
use crate::stream::{Purpose, Stream};

/// How often parameters are perturbed again that break a constraint.
const ATTEMPTS: usize = 16;
/// By this share numbers are perturbed.
const SHARE: f64 = 0.2;

/// What a population is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many members there are.
    pub members: u64,
    /// The share of them that is behind, and gives up for as many that are ahead.
    pub truncation: f64,
    /// With this probability a parameter of one that takes over is drawn anew, and perturbed else. Without one all are perturbed.
    pub resample: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { members: 20, truncation: 0.2, resample: None }
    }
}

/// What to begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// A member without a past.
    Born(Level),
    /// One that goes on from a trial.
    From(Configuration, Level),
}

/// Says what is next.
#[derive(Clone, Debug)]
pub(crate) struct Population {
    settings: Settings,
    /// How many of the trials, and of those that ended, it has seen.
    begun: usize,
    ended: usize,
    /// The last trial of each member.
    last: BTreeMap<u64, TrialId>,
    /// Members that do not train now, those that have got least far first.
    idle: BTreeSet<(usize, u64)>,
    /// Those that told a loss, by its [order], for each generation.
    told: BTreeMap<usize, BTreeSet<(i64, TrialId)>>,
}

impl Population {
    pub(crate) fn new(settings: Settings) -> Self {
        let (last, idle, told) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { settings, begun: 0, ended: 0, last, idle, told }
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> u64 {
        self.settings.members
    }

    /// What is next; nothing while all members train.
    pub(crate) fn next(&mut self, context: &Context<'_>) -> Option<Next> {
        self.observe(context);
        let born = |member: u64| Next::Born(Level { rung: 0, bracket: member, root: None });
        if let Some(member) = (0..self.settings.members).find(|member| !self.last.contains_key(member)) {
            return Some(born(member));
        }
        let (_, member) = *self.idle.first()?;
        let last = context.history.get(*self.last.get(&member)?)?;
        let generation = last.level.map_or(0, |level| level.rung);
        let (parent, is_taken_over) = match self.parent(last.id, generation, context) {
            Some(parent) => (context.history.get(parent)?, parent != last.id),
            None => return Some(born(member)),
        };
        let rung = parent.level.map_or(0, |level| level.rung) + 1;
        let level = Level { rung, bracket: member, root: Some(parent.id) };
        let configuration = match is_taken_over {
            true => self.explored(&parent.configuration, context),
            false => parent.configuration.clone(),
        };
        Some(Next::From(configuration, level))
    }

    /// The trial that a member goes on from whose last one was this. One that failed takes over from a trial that is ahead, of the
    /// generation before if need be.
    fn parent(&self, last: TrialId, generation: usize, context: &Context<'_>) -> Option<TrialId> {
        let (_, told) = self.told.range(..=generation).next_back()?;
        let behind = ((self.settings.truncation * told.len() as f64).floor() as usize).min(told.len() / 2);
        let place = told.iter().position(|(_, id)| *id == last);
        if place.is_some_and(|place| place + behind < told.len()) {
            return Some(last);
        }
        let chosen = context.stream(Purpose::Choice).below(behind.max(1) as u64) as usize;
        told.iter().nth(chosen).map(|(_, id)| *id)
    }

    /// Parameters a little off these.
    fn explored(&self, from: &Configuration, context: &Context<'_>) -> Configuration {
        let mut stream = context.stream(Purpose::Candidate);
        let perturbed = (0..ATTEMPTS).map(|_| context.space.configuration(&self.off(from, context, &mut stream)));
        perturbed.into_iter().find(|one| context.space.is_allowed(one)).unwrap_or_else(|| from.clone())
    }

    fn off(&self, from: &Configuration, context: &Context<'_>, stream: &mut Stream) -> Point {
        let values = from.values().iter().zip(context.space.parameters()).zip(context.space.dimensions());
        let one = |(at, ((value, parameter), dimension)): (usize, ((&Option<Value>, _), _))| {
            // The same numbers are drawn whatever comes of them.
            let anew = drawn(dimension, stream);
            let is_up = stream.uniform() < 0.5;
            let is_anew = stream.uniform() < self.settings.resample.unwrap_or(0.0);
            let parameter: &crate::space::Parameter = parameter;
            let near = value.as_ref().filter(|_| !is_anew).and_then(|value| match &parameter.domain {
                Domain::Float { step, .. } => beside(value, step.unwrap_or(0.0), is_up),
                Domain::Int { step, .. } => beside(value, *step as f64, is_up),
                Domain::Ordinal(choices) => {
                    let cell = 1.0 / choices.len() as f64;
                    let place = context.space.place(at, value)? + if is_up { cell } else { -cell };
                    Some(place.clamp(0.0, 1.0))
                }
                Domain::Categorical(_) => None,
            });
            near.map_or(anew, |near| match &parameter.domain {
                Domain::Float { .. } | Domain::Int { .. } => context.space.nearest_to(at, near),
                Domain::Ordinal(_) | Domain::Categorical(_) => near,
            })
        };
        values.enumerate().map(one).collect()
    }

    /// Takes in what has happened since.
    fn observe(&mut self, context: &Context<'_>) {
        let history = context.history;
        for trial in &history.trials()[self.begun..] {
            let Some(level) = trial.level else { continue };
            if let Some(before) = self.last.insert(level.bracket, trial.id).and_then(|before| history.get(before)) {
                self.idle.remove(&(before.level.map_or(0, |level| level.rung), level.bracket));
            }
        }
        self.begun = history.trials().len();
        for trial in history.ended()[self.ended..].iter().filter_map(|id| history.get(*id)) {
            let Some(level) = trial.level else { continue };
            if self.last.get(&level.bracket) == Some(&trial.id) {
                self.idle.insert((level.rung, level.bracket));
            }
            if let (State::Complete { values }, Some(objective)) = (&trial.state, context.objectives.first())
                && let Some(value) = values.first()
            {
                self.told.entry(level.rung).or_default().insert((order(objective.loss(*value)), trial.id));
            }
        }
        self.ended = history.ended().len();
    }
}

/// A number beside another one, at least so far away; none where that is the same one.
fn beside(value: &Value, least: f64, is_up: bool) -> Option<f64> {
    let number = value.number()?;
    let by = (number * SHARE).abs().max(least);
    (by > 0.0).then_some(if is_up { number + by } else { number - by })
}

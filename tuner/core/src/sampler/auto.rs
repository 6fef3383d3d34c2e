//! Several samplers, of which the one that earns them gets the next trials.
//!
//! All of them learn from every trial. Which one suggests a trial is decided as by the AUC bandit of OpenTuner (Ansel et al., 2014): a
//! sampler earns where its trials were better than all before, the more the later, and one that was asked less than its share is tried.
//! So the one that finds most with few trials begins; where it finds nothing better for long, the others are asked as well.
//!
//! Each trial says which of them it came from, so that the decisions are a function of the history, too. Trials that somebody else suggested,
//! those of the start and those that were drawn are credited to nobody.

use std::collections::VecDeque;

use super::{CmaEs, Context, Evolve, Gp, Sampler, Tpe, cmaes, evolve, losses, quasi, tpe};
use crate::history::Trial;
use crate::pareto::Archive;
use crate::space::{Dimension, Point, Space};

/// The trials at the start, of a sequence that leaves no large holes.
const STARTUP: usize = 10;
/// How many of its last trials say what a sampler earns.
const WINDOW: usize = 30;
/// What a sampler that was seldom asked is worth.
const CURIOSITY: f64 = 0.08;
/// As if each sampler had been asked so often before: none is asked only because it never was.
const HEAD_START: f64 = 4.0;
/// A suggestion that was of no use this often is left to the next sampler.
const PATIENCE: u64 = 4;

/// See the [module](self).
pub struct Auto {
    arms: Vec<Arm>,
    /// Which arm each trial came from, if from one.
    origins: Vec<Option<usize>>,
    /// How many of the trials that ended have been judged.
    judged: usize,
    best: Archive,
    /// The arm of the last suggestion, if it is from one.
    last: Option<usize>,
}

struct Arm {
    name: &'static str,
    sampler: Box<dyn Sampler>,
    /// Of the trials for which nothing speaks for another one.
    share: f64,
    /// How many trials came from it.
    asked: usize,
    /// Whether each of its last trials was better than all before.
    gains: VecDeque<bool>,
}

impl Default for Auto {
    fn default() -> Self {
        Self { arms: Vec::new(), origins: Vec::new(), judged: 0, best: Archive::new(1), last: None }
    }
}

impl Auto {
    /// Takes in what has happened: where each trial came from, and what came of it.
    fn observe(&mut self, context: &Context<'_>) {
        if self.arms.is_empty() {
            let samplers = samplers(context);
            let arm = |(name, share, sampler)| Arm { name, sampler, share, asked: 0, gains: VecDeque::new() };
            self.arms = samplers.into_iter().map(arm).collect();
        }
        for trial in &context.history.trials()[self.origins.len()..] {
            let origin = trial.by.as_deref().and_then(|by| self.arms.iter().position(|arm| arm.name == by));
            self.begin(origin);
        }
        self.judge(context);
    }

    fn begin(&mut self, origin: Option<usize>) {
        self.origins.push(origin);
        if let Some(arm) = origin.and_then(|at| self.arms.get_mut(at)) {
            arm.asked += 1;
        }
    }

    /// Takes in the ends of trials.
    fn judge(&mut self, context: &Context<'_>) {
        let ended = context.history.ended();
        let new = &ended[self.judged..];
        self.judged = ended.len();
        for trial in new.iter().filter_map(|id| context.history.get(*id)) {
            let is_better = self.is_better(context, trial);
            let origin = self.origins.get(trial.id.0 as usize).copied().flatten();
            let Some(arm) = origin.and_then(|at| self.arms.get_mut(at)) else { continue };
            arm.gains.push_back(is_better);
            if arm.gains.len() > WINDOW {
                arm.gains.pop_front();
            }
        }
    }

    /// Whether no trial before was as good; of several objectives, whether none dominates it.
    fn is_better(&mut self, context: &Context<'_>, trial: &Trial) -> bool {
        let Some(losses) = losses(context, trial) else { return false };
        let equal = self.best.entries().iter().any(|entry| entry.losses == losses);
        self.best.insert(trial.id, losses);
        !equal && self.best.entries().last().is_some_and(|entry| entry.id == trial.id)
    }

    /// The sampler that is asked for the next trial; none at the start.
    fn choose(&self, known: usize) -> Option<usize> {
        if known < STARTUP {
            return None;
        }
        let all: usize = self.arms.iter().map(|arm| arm.asked).sum();
        let score = |arm: &Arm| {
            let asked = (arm.asked as f64 + HEAD_START) / arm.share;
            arm.earned() + CURIOSITY * (2.0 * ((all + 2) as f64).ln() / asked).sqrt()
        };
        let scores = self.arms.iter().map(score).enumerate();
        // Of equal ones the first.
        let best = scores.max_by(|one, other| one.1.total_cmp(&other.1).then(other.0.cmp(&one.0)));
        best.map(|(at, _)| at)
    }
}

impl Arm {
    /// The area under the curve of its gains, from 0 to 1: later ones weigh more.
    fn earned(&self) -> f64 {
        let count = self.gains.len();
        if count == 0 {
            return 0.0;
        }
        let sum: usize = self.gains.iter().zip(1..).filter(|(gain, _)| **gain).map(|(_, at)| at).sum();
        2.0 * sum as f64 / (count * (count + 1)) as f64
    }
}

/// Those that can search this space for these objectives, with their shares; the one that finds most with few trials first.
fn samplers(context: &Context<'_>) -> Vec<(&'static str, f64, Box<dyn Sampler>)> {
    let tpe =
        || -> Box<dyn Sampler> { Box::new(Tpe::new(tpe::Settings { startup: STARTUP, ..tpe::Settings::default() })) };
    if context.objectives.len() > 1 {
        let settings = evolve::Settings { startup: STARTUP, ..evolve::Settings::default() };
        return vec![("tpe", 0.5, tpe()), ("nsga2", 0.5, Box::new(Evolve::new(settings)))];
    }
    let mut samplers: Vec<(_, _, Box<dyn Sampler>)> = vec![("gp", 0.6, Box::new(Gp::default())), ("tpe", 0.2, tpe())];
    if is_numeric(context.space) {
        samplers.push(("cmaes", 0.2, Box::new(CmaEs::new(cmaes::Settings::default()))));
    }
    samplers
}

/// Whether a distribution over several numbers makes sense.
fn is_numeric(space: &Space) -> bool {
    let numbers = space.dimensions().filter(|dimension| !matches!(dimension, Dimension::Categories(_))).count();
    space.is_free() && numbers >= 2 && 2 * numbers >= space.parameters().len()
}

impl Sampler for Auto {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.observe(context);
        self.last = None;
        let Some(chosen) = self.choose(context.history.ended().len()) else {
            return Some(quasi::point(context, context.trial.0));
        };
        let at = (chosen + (context.attempt / PATIENCE) as usize) % self.arms.len();
        self.last = Some(at);
        self.arms[at].sampler.suggest(context)
    }

    fn author(&self) -> Option<&'static str> {
        self.last.and_then(|at| self.arms.get(at)).map(|arm| arm.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Experiment, Outcome};
    use crate::history::{State, TrialId};
    use crate::objective::{Goal, Objective, Take};
    use crate::space::{Domain, Parameter, Scale};

    fn objective(name: &str) -> Objective {
        Objective { name: name.to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }
    }

    fn experiment(objectives: usize, seed: u64) -> Experiment {
        let parameter = |name: &str| Parameter {
            name: name.to_owned(),
            domain: Domain::Float { min: -1.0, max: 1.0, scale: Scale::Linear, step: None },
            when: None,
        };
        let space = Space::new(vec![parameter("x"), parameter("y")], Vec::new()).expect("a space");
        let objectives = ["f", "g"].iter().take(objectives).map(|name| objective(name)).collect();
        Experiment::new(space, objectives, seed, Box::<Auto>::default())
    }

    fn losses_of(point: &[f64], objectives: usize) -> Vec<f64> {
        let far = |x: f64, y: f64| (point[0] - x).powi(2) + (point[1] - y).powi(2);
        [far(0.3, 0.7), far(0.8, 0.2)].into_iter().take(objectives).collect()
    }

    fn ask(experiment: &mut Experiment) -> (TrialId, Vec<f64>) {
        experiment.ask().map(|trial| (trial.id, trial.point.clone())).expect("a trial")
    }

    #[test]
    fn it_finds_what_its_samplers_find() {
        let mut experiment = experiment(1, 2);
        for _ in 0..40 {
            let (id, point) = ask(&mut experiment);
            experiment.tell(id, Outcome::Values(losses_of(&point, 1))).expect("told");
        }
        let State::Complete { values } = &experiment.best()[0].state else { panic!("a best one") };
        assert!(values[0] < 1e-4, "{values:?}");
    }

    /// Trials that end in another order than they began, and some that fail.
    #[test]
    fn a_new_one_goes_on_the_same_way() {
        for objectives in [1, 2] {
            let mut first = experiment(objectives, 9);
            let mut log = Vec::new();
            let mut open = Vec::new();
            for round in 0..50 {
                let (id, point) = ask(&mut first);
                log.push(None);
                open.push((id, point));
                if open.len() == 4 {
                    let (id, point) = open.remove((round * 7) % 4);
                    let outcome = if round % 9 == 4 {
                        Outcome::Failed { reason: "of no use".to_owned() }
                    } else {
                        Outcome::Values(losses_of(&point, objectives))
                    };
                    first.tell(id, outcome.clone()).expect("told");
                    log.push(Some((id, outcome)));
                }
            }
            let mut second = experiment(objectives, 9);
            let mut begun = first.history().trials().iter();
            for entry in log {
                match entry {
                    None => {
                        let trial = begun.next().expect("a trial");
                        second.begin_by(trial.configuration.clone(), None, trial.by.clone());
                    }
                    Some((id, outcome)) => second.tell(id, outcome).expect("told"),
                }
            }
            for _ in 0..5 {
                assert_eq!(ask(&mut first), ask(&mut second));
            }
        }
    }

    #[test]
    fn nobody_earns_what_somebody_else_suggested() {
        let mut experiment = experiment(1, 2);
        let space = experiment.space().clone();
        let add = |experiment: &mut Experiment, x: f64, loss: f64| {
            let id = experiment.begin(space.configuration(&[x, 0.5]), None).id;
            experiment.tell(id, Outcome::Values(vec![loss])).expect("told");
        };
        (0..STARTUP).for_each(|at| add(&mut experiment, at as f64 / 20.0, 9.0 - at as f64 / 10.0));
        // Each of these is better than all before.
        (0..5).for_each(|at| add(&mut experiment, 0.6 + at as f64 / 20.0, 1.0 - at as f64 / 10.0));
        let (id, _) = ask(&mut experiment);
        let by = experiment.history().get(id).and_then(|trial| trial.by.clone());
        assert_eq!(by.as_deref(), Some("gp"));
        experiment.tell(id, Outcome::Values(vec![0.0])).expect("told");
        let mut auto = Auto::default();
        auto.observe(&Context {
            space: &space,
            objectives: experiment.objectives(),
            history: experiment.history(),
            seed: 2,
            trial: TrialId(16),
            attempt: 0,
        });
        let known = |arm: &Arm| (arm.name, arm.asked, arm.gains.iter().copied().collect::<Vec<_>>());
        let expected = [("gp", 1, vec![true]), ("tpe", 0, vec![]), ("cmaes", 0, vec![])];
        assert_eq!(auto.arms.iter().map(known).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn trials_go_to_whoever_earns_them() {
        let arm = |gains: &[bool], asked| Arm {
            name: "random",
            sampler: Box::new(crate::sampler::Random),
            share: 0.5,
            asked,
            gains: gains.iter().copied().collect(),
        };
        let of = |arms| Auto { arms, ..Auto::default() };
        assert_eq!(of(vec![arm(&[], 0), arm(&[], 0)]).choose(STARTUP - 1), None);
        assert_eq!(
            of(vec![arm(&[true, false], 5), arm(&[false, true], 5)]).choose(20),
            Some(1),
            "later gains weigh more"
        );
        assert_eq!(of(vec![arm(&[true, true], 5), arm(&[false], 5)]).choose(20), Some(0));
        assert_eq!(of(vec![arm(&[false; 9], 200), arm(&[false; 9], 10)]).choose(250), Some(1), "seldom asked");
        assert_eq!(of(vec![arm(&[true; 9], 5), arm(&[], 0)]).choose(20), Some(0), "there is no need for another one");
        assert_eq!(of(vec![arm(&[false; 9], 30), arm(&[], 0)]).choose(40), Some(1), "never asked");
    }
}

//! Several samplers, of which the one that earns them gets the next trials.
//!
//! All of them learn from every trial. Which one suggests a trial is decided as by the AUC bandit of OpenTuner (Ansel et al., 2014): a
//! sampler earns where its trials were better than all before, the more the later, and one that was asked less than its share is tried.
//! So the one that finds most with few trials begins; where it finds nothing better for long, the others are asked as well.
//!
//! Each trial says how many others had ended when it was asked for, so that the decisions are a function of the history, too.

use std::collections::VecDeque;

use super::{CmaEs, Context, Evolve, Gp, Sampler, Tpe, cmaes, evolve, losses, quasi, tpe};
use crate::history::{Trial, TrialId};
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
}

struct Arm {
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
        Self { arms: Vec::new(), origins: Vec::new(), judged: 0, best: Archive::new(1) }
    }
}

impl Auto {
    /// Takes in what has happened: for each trial what was known when it was asked for, and then where it came from.
    fn observe(&mut self, context: &Context<'_>) {
        if self.arms.is_empty() {
            let samplers = samplers(context);
            let arm = |(share, sampler)| Arm { sampler, share, asked: 0, gains: VecDeque::new() };
            self.arms = samplers.into_iter().map(arm).collect();
        }
        for trial in &context.history.trials()[self.origins.len()..] {
            self.judge(context, trial.known);
            let origin = self.choose(trial.known);
            self.begin(origin);
        }
        self.judge(context, context.history.ended().len());
    }

    fn begin(&mut self, origin: Option<usize>) {
        self.origins.push(origin);
        if let Some(arm) = origin.and_then(|at| self.arms.get_mut(at)) {
            arm.asked += 1;
        }
    }

    /// Takes in the ends of trials, up to so many.
    fn judge(&mut self, context: &Context<'_>, known: usize) {
        let new: Vec<TrialId> = context.history.ended()[self.judged..known.max(self.judged)].to_vec();
        self.judged = known.max(self.judged);
        for trial in new.into_iter().filter_map(|id| context.history.get(id)) {
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
fn samplers(context: &Context<'_>) -> Vec<(f64, Box<dyn Sampler>)> {
    let tpe =
        || -> Box<dyn Sampler> { Box::new(Tpe::new(tpe::Settings { startup: STARTUP, ..tpe::Settings::default() })) };
    if context.objectives.len() > 1 {
        let settings = evolve::Settings { startup: STARTUP, ..evolve::Settings::default() };
        return vec![(0.5, tpe()), (0.5, Box::new(Evolve::new(settings)))];
    }
    let mut samplers: Vec<(f64, Box<dyn Sampler>)> = vec![(0.6, Box::new(Gp::default())), (0.2, tpe())];
    if is_numeric(context.space) {
        samplers.push((0.2, Box::new(CmaEs::new(cmaes::Settings::default()))));
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
        let Some(chosen) = self.choose(context.history.ended().len()) else {
            return Some(quasi::point(context, context.trial.0));
        };
        let at = (chosen + (context.attempt / PATIENCE) as usize) % self.arms.len();
        self.arms[at].sampler.suggest(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Experiment, Outcome};
    use crate::history::State;
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
                        second.begin(begun.next().expect("a trial").configuration.clone(), None);
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
    fn trials_go_to_whoever_earns_them() {
        let arm = |gains: &[bool], asked| Arm {
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

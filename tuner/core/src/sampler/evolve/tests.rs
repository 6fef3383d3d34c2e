use super::*;
use crate::experiment::{Experiment, Outcome};
use crate::history::State;
use crate::objective::{Goal, Objective, Take};
use crate::pareto::hypervolume;
use crate::sampler::Random;
use crate::space::{Domain, Parameter, Scale, Space, Value};

fn objective(name: &str) -> Objective {
    Objective { name: name.to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }
}

fn float(name: &str) -> Parameter {
    let domain = Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
    Parameter { name: name.to_owned(), domain, when: None }
}

fn space() -> Space {
    let kind = Parameter {
        name: "kind".to_owned(),
        domain: Domain::Categorical(vec![Value::Text("a".to_owned()), Value::Text("b".to_owned())]),
        when: None,
    };
    Space::new(vec![float("x"), float("y"), float("z"), kind], Vec::new()).expect("a space")
}

/// ZDT1 with three numbers, and a category that makes both losses worse.
fn losses_of(point: &[f64]) -> Vec<f64> {
    let (x, y, z) = (point[0], point[1], point[2]);
    let away = 1.0 + 9.0 * (y + z) / 2.0 + point[3];
    vec![x + point[3] * 0.1, away * (1.0 - (x / away).sqrt())]
}

fn volume(sampler: Box<dyn Sampler>, seed: u64, trials: usize) -> f64 {
    let mut experiment = Experiment::new(space(), vec![objective("f"), objective("g")], seed, sampler);
    let mut told = Vec::new();
    for _ in 0..trials {
        let (id, point) = experiment.ask().map(|trial| (trial.id, trial.point.clone())).expect("a trial");
        let losses = losses_of(&point);
        told.push(losses.clone());
        experiment.tell(id, Outcome::Values(losses)).expect("told");
    }
    hypervolume(&mut told, 2.0)
}

#[test]
fn it_dominates_more_than_chance_does() {
    for niching in [Niching::Crowding, Niching::Reference] {
        let own = |seed| volume(Box::new(Evolve::new(Settings { niching, ..Settings::default() })), seed, 400);
        let chance = |seed| volume(Box::new(Random), seed, 400);
        let (own, chance): (Vec<f64>, Vec<f64>) = (0..3).map(|seed| (own(seed), chance(seed))).unzip();
        // All that can be dominated is 4 - 1/3.
        assert!(own.iter().all(|volume| *volume > 3.4), "{niching:?}: {own:?}");
        assert!(own.iter().zip(&chance).all(|(own, chance)| own > chance), "{niching:?}: {own:?} {chance:?}");
    }
}

#[test]
fn coordinates_stay_where_they_belong() {
    let mut stream = Stream::new(1, 0, Purpose::Prior, 0);
    for dimension in [Dimension::Continuous, Dimension::Cells(5), Dimension::Cells(100), Dimension::Categories(3)] {
        for _ in 0..2_000 {
            let (one, other) = (drawn(dimension, &mut stream), drawn(dimension, &mut stream));
            let made = crossed(dimension, one, other, &mut stream);
            let made = mutated(dimension, made, &mut stream);
            let most = if let Dimension::Categories(count) = dimension { count as f64 - 1.0 } else { 1.0 };
            assert!((0.0..=most).contains(&made), "{dimension:?}: {one} {other} {made}");
        }
    }
}

/// One that is shown what was tried goes on as the one that tried it.
#[test]
fn a_new_one_goes_on_the_same_way() {
    let two = || vec![objective("f"), objective("g")];
    let mut first = Experiment::new(space(), two(), 5, Box::new(Evolve::new(Settings::default())));
    for number in 0..60 {
        let (id, point) = first.ask().map(|trial| (trial.id, trial.point.clone())).expect("a trial");
        let outcome = match number % 7 {
            3 => Outcome::Failed { reason: "of no use".to_owned() },
            _ => Outcome::Values(losses_of(&point)),
        };
        first.tell(id, outcome).expect("told");
    }
    let mut second = Experiment::new(space(), two(), 5, Box::new(Evolve::new(Settings::default())));
    for trial in first.history().trials() {
        let id = second.begin(trial.configuration.clone(), None).id;
        let outcome = match &trial.state {
            State::Complete { values } => Outcome::Values(values.clone()),
            State::Running | State::Stopped { .. } | State::Failed { .. } => {
                Outcome::Failed { reason: "of no use".to_owned() }
            }
        };
        second.tell(id, outcome).expect("told");
    }
    let next = |experiment: &mut Experiment| experiment.ask().map(|trial| trial.point.clone()).expect("a trial");
    for _ in 0..5 {
        assert_eq!(next(&mut first), next(&mut second));
    }
}

/// The other sampler for several objectives.
#[test]
fn the_estimator_dominates_more_than_chance_does() {
    for seed in 0..3 {
        let (own, chance) =
            (volume(Box::<crate::sampler::Tpe>::default(), seed, 200), volume(Box::new(Random), seed, 200));
        assert!(own > chance + 0.1, "{own} {chance}");
    }
}

use std::collections::BTreeSet;

use super::*;
use crate::expression::Expression;
use crate::objective::{Goal, Take};
use crate::sampler::{Grid, Quasi, Random, Tpe};
use crate::space::{Domain, Parameter, Scale, Value};

fn float(name: &str, min: f64, max: f64, scale: Scale) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Float { min, max, scale, step: None }, when: None }
}

fn int(name: &str, min: i64, max: i64) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Int { min, max, scale: Scale::Linear, step: 1 }, when: None }
}

fn texts(name: &str, choices: &[&str]) -> Parameter {
    let choices = choices.iter().map(|choice| Value::Text((*choice).to_owned())).collect();
    Parameter { name: name.to_owned(), domain: Domain::Categorical(choices), when: None }
}

fn when(mut parameter: Parameter, condition: &str) -> Parameter {
    parameter.when = Some(Expression::parse(condition).expect("it parses"));
    parameter
}

fn loss() -> Vec<Objective> {
    vec![Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }]
}

fn square(dimensions: usize) -> Space {
    let parameters = (0..dimensions).map(|at| float(&format!("x{at}"), -5.0, 5.0, Scale::Linear)).collect();
    Space::new(parameters, vec![]).expect("a space")
}

/// Two branches: in one the loss is a parabola of `x`, in the other of `y` and a category.
fn branches() -> Space {
    let parameters = vec![
        texts("branch", &["left", "right"]),
        when(float("x", 0.0, 1.0, Scale::Linear), "branch == 'left'"),
        when(float("y", 1e-4, 1.0, Scale::Log), "branch == 'right'"),
        when(texts("kind", &["a", "b", "c", "d"]), "branch == 'right'"),
        int("size", 1, 64),
    ];
    Space::new(parameters, vec![]).expect("a space")
}

fn branched_loss(space: &Space, trial: &Trial) -> f64 {
    let named = trial.configuration.named(space);
    let number = |name: &str| named.get(name).and_then(Value::number);
    let size = (number("size").expect("used") - 40.0) / 64.0;
    let branch = match (number("x"), number("y")) {
        (Some(x), _) => 0.3 + (x - 0.2).powi(2),
        (_, Some(y)) => {
            (y.log10() + 3.0).powi(2) / 9.0 + if named["kind"] == Value::Text("c".to_owned()) { 0.0 } else { 0.2 }
        }
        _ => f64::NAN,
    };
    branch + size * size
}

type Make = fn() -> Box<dyn Sampler>;

fn samplers() -> Vec<(&'static str, Make)> {
    vec![("random", || Box::new(Random)), ("quasi", || Box::new(Quasi)), ("tpe", || Box::new(Tpe::default()))]
}

/// The best loss after so many trials, one after the other.
fn run(
    space: &Space,
    sampler: Box<dyn Sampler>,
    seed: u64,
    trials: usize,
    loss_of: &dyn Fn(&Space, &Trial) -> f64,
) -> f64 {
    let mut experiment = Experiment::new(space.clone(), loss(), seed, sampler);
    let mut best = f64::INFINITY;
    for _ in 0..trials {
        let trial = experiment.ask().expect("there is more").clone();
        let loss = loss_of(space, &trial);
        best = best.min(loss);
        experiment.tell(trial.id, Outcome::Values(vec![loss])).expect("taken in");
    }
    let found = experiment.best();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state, State::Complete { values: vec![best] });
    best
}

fn sphere(_: &Space, trial: &Trial) -> f64 {
    trial.configuration.values().iter().flatten().filter_map(Value::number).map(|x| (x - 1.5).powi(2)).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn the_estimator_finds_more_than_chance() {
    for (name, space, loss_of) in
        [("square", square(5), &sphere as &dyn Fn(&Space, &Trial) -> f64), ("branches", branches(), &branched_loss)]
    {
        let medians: Vec<f64> = samplers()
            .iter()
            .map(|(_, make)| median((0..11).map(|seed| run(&space, make(), seed, 100, loss_of)).collect()))
            .collect();
        assert!(medians[2] < 0.35 * medians[0], "{name}: random, quasi and the estimator found {medians:?}");
    }
}

#[test]
fn nothing_is_tried_twice_and_a_finite_space_ends() {
    let parameters = vec![int("a", 1, 6), texts("b", &["x", "y", "z"]), when(int("c", 1, 4), "b == 'x'")];
    let constraint = Expression::parse("a != 3").expect("it parses");
    let space = Space::new(parameters, vec![constraint]).expect("a space");
    let all = 5 * (4 + 2);
    for (name, make) in samplers().into_iter().chain([("grid", (|| Box::new(Grid)) as Make)]) {
        let mut experiment = Experiment::new(space.clone(), loss(), 5, make());
        let mut seen = BTreeSet::new();
        for _ in 0..all {
            let trial = experiment.ask().unwrap_or_else(|error| panic!("{name} after {}: {error}", seen.len())).clone();
            assert!(seen.insert(space.key(&trial.configuration)), "{name}: twice");
            if !trial.id.0.is_multiple_of(3) {
                experiment.tell(trial.id, Outcome::Values(vec![trial.id.0 as f64])).expect("taken in");
            }
        }
        assert_eq!(experiment.ask().map(|trial| trial.id), Err(AskError::Exhausted { tried: all }), "{name}");
    }
}

#[test]
fn a_batch_of_sixty_four_spreads_out() {
    let space = square(3);
    let mut experiment = Experiment::new(space.clone(), loss(), 9, Box::new(Tpe::default()));
    let mut running = VecDeque::new();
    let mut seen = BTreeSet::new();
    for _ in 0..2_000 {
        let trial = experiment.ask().expect("more").clone();
        assert!(seen.insert(space.key(&trial.configuration)));
        running.push_back(trial);
        if running.len() == 64 {
            let done = running.pop_front().expect("one");
            experiment.tell(done.id, Outcome::Values(vec![sphere(&space, &done)])).expect("taken in");
        }
    }
}

#[test]
fn a_new_one_that_is_told_the_same_goes_on_the_same_way() {
    let space = branches();
    for (name, make) in samplers() {
        let mut first = Experiment::new(space.clone(), loss(), 77, make());
        let mut second = Experiment::new(space.clone(), loss(), 77, make());
        let mut stream = Stream::new(0, 0, Purpose::Prior, 0);
        let mut open: Vec<TrialId> = Vec::new();
        for step in 0..300 {
            if step % 50 == 49 {
                // As after a restart: all that was asked and told is put in again, in its order.
                let mut again = Experiment::new(space.clone(), loss(), 77, make());
                let mut ended = first.history().ended().to_vec();
                for trial in first.history().trials() {
                    again.begin(trial.configuration.clone(), None);
                }
                for id in ended.drain(..) {
                    let state = first.history().get(id).map(|trial| trial.state.clone());
                    let Some(State::Complete { values }) = state else { continue };
                    again.tell(id, Outcome::Values(values)).expect("taken in");
                }
                second = again;
            }
            if open.len() < 8 {
                let one = first.ask().expect("more").clone();
                let other = second.ask().expect("more").clone();
                assert_eq!(one.configuration, other.configuration, "{name} at {step}");
                assert!(one.point.iter().zip(&other.point).all(|(one, other)| one.to_bits() == other.to_bits()));
                open.push(one.id);
            } else {
                let id = open.swap_remove(stream.below(8) as usize);
                let trial = first.history().get(id).expect("it was asked").clone();
                let outcome = Outcome::Values(vec![branched_loss(&space, &trial)]);
                first.tell(id, outcome.clone()).expect("taken in");
                second.tell(id, outcome).expect("taken in");
            }
        }
    }
}

#[test]
fn what_is_told_is_checked() {
    let mut experiment = Experiment::new(square(1), loss(), 0, Box::new(Random));
    let id = experiment.ask().expect("one").id;
    assert_eq!(
        experiment.tell(TrialId(7), Outcome::Stopped).expect_err("unknown").to_string(),
        "there is no trial 7: 1 have been asked for"
    );
    assert_eq!(
        experiment.tell(id, Outcome::Values(vec![1.0, 2.0])).expect_err("count").to_string(),
        "expected 1 values, one for each objective (loss), found 2"
    );
    assert!(matches!(experiment.report(id, 1, vec![f64::NAN]), Err(TellError::NotFinite { .. })));
    experiment.report(id, 2, vec![0.5]).expect("taken in");
    experiment.report(id, 1, vec![0.9]).expect("taken in");
    experiment.report(id, 2, vec![0.4]).expect("taken in");
    assert_eq!(
        experiment.history().trials()[0].reports.iter().map(|report| report.values[0]).collect::<Vec<_>>(),
        [0.9, 0.4]
    );
    experiment.tell(id, Outcome::Stopped).expect("taken in");
    experiment.tell(id, Outcome::Stopped).expect("the same again");
    assert_eq!(experiment.tell(id, Outcome::Values(vec![1.0])), Err(TellError::Ended { id }));
    assert_eq!(experiment.report(id, 3, vec![0.1]), Err(TellError::Ended { id }));
    assert_eq!(experiment.history().trials()[0].state, State::Stopped { values: vec![0.4] });
    let next = experiment.ask().expect("one").id;
    experiment.tell(next, Outcome::Values(vec![f64::INFINITY])).expect("taken in");
    assert_eq!(experiment.history().trials()[1].state, State::Failed { reason: "loss was inf".to_owned() });
    assert!(experiment.best().is_empty());
}

#[test]
fn of_several_objectives_the_best_are_those_that_nothing_beats() {
    let objectives = vec![
        Objective { name: "accuracy".to_owned(), goal: Goal::Maximize, target: None, take: Take::Last },
        Objective { name: "latency".to_owned(), goal: Goal::Minimize, target: Some(5.0), take: Take::Last },
    ];
    assert!(objectives[1].is_reached(5.0) && !objectives[1].is_reached(5.1) && !objectives[0].is_reached(1.0));
    let mut experiment = Experiment::new(square(1), objectives, 0, Box::new(Random));
    for values in [[0.9, 10.0], [0.8, 5.0], [0.8, 6.0], [0.95, 20.0], [0.9, 10.0]] {
        let id = experiment.ask().expect("one").id;
        experiment.tell(id, Outcome::Values(values.to_vec())).expect("taken in");
    }
    assert_eq!(experiment.best().iter().map(|trial| trial.id.0).collect::<Vec<_>>(), [0, 1, 3, 4]);
}

#[test]
fn what_is_queued_comes_first() {
    let space = square(2);
    let mut experiment = Experiment::new(space.clone(), loss(), 0, Box::new(Tpe::default()));
    let wanted = space.configuration(&[0.25, 0.75]);
    experiment.enqueue(wanted.clone());
    assert_eq!(experiment.ask().expect("one").configuration, wanted);
    assert_ne!(experiment.ask().expect("one").configuration, wanted);
}

#[test]
fn nothing_stops_an_experiment() {
    let one_point = Space::new(vec![float("x", 3.0, 3.0, Scale::Log), float("y", 0.0, 1.0, Scale::Linear)], vec![])
        .expect("a space");
    let wide = square(200);
    for space in [one_point, wide] {
        let mut experiment = Experiment::new(space, loss(), 1, Box::new(Tpe::default()));
        for at in 0..60 {
            let id = experiment.ask().expect("more").id;
            let outcome = match at % 4 {
                0 => Outcome::Values(vec![1.0]),
                1 => Outcome::Failed { reason: "out of memory".to_owned() },
                2 => Outcome::Values(vec![f64::NAN]),
                _ => Outcome::Values(vec![1e300]),
            };
            experiment.tell(id, outcome).expect("taken in");
        }
    }
    let empty = Space::new(vec![], vec![]).expect("a space");
    let mut experiment = Experiment::new(empty, loss(), 1, Box::new(Tpe::default()));
    assert!(experiment.ask().is_ok());
    assert_eq!(experiment.ask().map(|trial| trial.id), Err(AskError::Exhausted { tried: 1 }));
}

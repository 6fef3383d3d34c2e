#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;

use super::*;
use crate::experiment::{Experiment, Outcome};
use crate::objective::{Goal, Objective, Take};
use crate::space::{Domain, Parameter, Scale, Space, Value};

fn floats(count: usize) -> Vec<Parameter> {
    let domain = Domain::Float { min: -5.0, max: 5.0, scale: Scale::Linear, step: None };
    (0..count).map(|at| Parameter { name: format!("x{at}"), domain: domain.clone(), when: None }).collect()
}

fn experiment(parameters: Vec<Parameter>, seed: u64, settings: Settings) -> Experiment {
    let loss = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
    let space = Space::new(parameters, Vec::new()).unwrap();
    Experiment::new(space, vec![loss], seed, Box::new(CmaEs::new(settings)))
}

fn numbers(values: &[Option<Value>]) -> Vec<f64> {
    values.iter().flatten().filter_map(Value::number).collect()
}

/// The lowest loss of so many trials, of which so many run at a time.
fn lowest(experiment: &mut Experiment, trials: usize, parallel: usize, loss: impl Fn(&[Option<Value>]) -> f64) -> f64 {
    let mut best = f64::INFINITY;
    let mut running = Vec::new();
    for _ in 0..trials {
        let trial = experiment.ask().unwrap();
        running.push((trial.id, loss(trial.configuration.values())));
        if running.len() == parallel {
            // The last that was begun ends first.
            let (id, value) = running.pop().unwrap();
            best = best.min(value);
            experiment.tell(id, Outcome::Values(vec![value])).unwrap();
        }
    }
    best
}

fn ellipsoid(values: &[Option<Value>]) -> f64 {
    let numbers = numbers(values);
    let last = numbers.len() as f64 - 1.0;
    numbers.iter().enumerate().map(|(at, x)| 10_f64.powf(3.0 * at as f64 / last) * (x - 1.3).powi(2)).sum()
}

fn rosenbrock(values: &[Option<Value>]) -> f64 {
    numbers(values).windows(2).map(|x| 100.0 * (x[1] - x[0] * x[0]).powi(2) + (1.0 - x[0]).powi(2)).sum()
}

#[test]
fn it_finds_the_bottom_of_long_valleys() {
    for (name, loss) in [("ellipsoid", ellipsoid as fn(&[Option<Value>]) -> f64), ("rosenbrock", rosenbrock)] {
        for parallel in [1, 8] {
            let mut found: Vec<f64> = (0..5)
                .map(|seed| lowest(&mut experiment(floats(5), seed, Settings::default()), 3_000, parallel, loss))
                .collect();
            found.sort_by(f64::total_cmp);
            assert!(found[2] < 1e-4, "{name}, {parallel} at a time: {found:?}");
        }
    }
}

#[test]
fn trials_that_fail_do_not_make_it_begin_anew() {
    let mut found: Vec<f64> = (0..5)
        .map(|seed| {
            let mut experiment = experiment(floats(5), seed, Settings::default());
            let mut best = f64::INFINITY;
            for number in 0..3_000 {
                let trial = experiment.ask().unwrap();
                let (id, value) = (trial.id, ellipsoid(trial.configuration.values()));
                let value = if number % 10 == 3 { f64::NAN } else { value };
                best = best.min(value);
                experiment.tell(id, Outcome::Values(vec![value])).unwrap();
            }
            best
        })
        .collect();
    found.sort_by(f64::total_cmp);
    assert!(found[2] < 1e-4, "{found:?}");
}

#[test]
fn whole_numbers_and_categories_are_found_too() {
    let mut parameters = floats(2);
    let int = Domain::Int { min: 0, max: 20, scale: Scale::Linear, step: 1 };
    parameters.push(Parameter { name: "n".to_owned(), domain: int, when: None });
    let choices = Domain::Categorical(["a", "b", "c"].map(|text| Value::Text(text.to_owned())).into());
    parameters.push(Parameter { name: "c".to_owned(), domain: choices, when: None });
    let loss = |values: &[Option<Value>]| {
        let x = numbers(values);
        let category = match &values[3] {
            Some(Value::Text(text)) if text == "b" => 0.0,
            _ => 1.0,
        };
        x[0] * x[0] + x[1] * x[1] + (x[2] - 13.0).powi(2) + category
    };
    let found: Vec<f64> = (0..5)
        .map(|seed| lowest(&mut experiment(parameters.clone(), seed, Settings::default()), 800, 1, loss))
        .collect();
    assert!(found.iter().filter(|found| **found < 1e-3).count() >= 4, "{found:?}");
}

#[test]
fn it_begins_anew_where_all_is_found() {
    // Rastrigin's function, with a valley at each corner of a grid.
    let loss = |values: &[Option<Value>]| {
        let wave = |x: f64| x * x + 10.0 * (1.0 - (std::f64::consts::TAU * x).cos());
        numbers(values).iter().map(|x| wave(x - 0.7)).sum()
    };
    let with = |restart| {
        let settings = Settings { restart, ..Settings::default() };
        (0..9).filter(|seed| lowest(&mut experiment(floats(3), *seed, settings), 4_000, 1, loss) < 0.5).count()
    };
    let (none, ipop, bipop) = (with(Restart::None), with(Restart::Ipop), with(Restart::Bipop));
    assert!(none < 9 && ipop > none && bipop > none, "none {none}, ipop {ipop}, bipop {bipop} of 9");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn it_never_stops_and_a_new_one_goes_on_the_same_way(
        seed in 0_u64..100,
        count in 1_usize..6,
        told in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(f64::NAN), Just(1e300), Just(-1e300), Just(0.0), -10.0..10.0_f64,
        ]), 1..150),
    ) {
        let settings = Settings { restart: Restart::Bipop, ..Settings::default() };
        let mut first = experiment(floats(count), seed, settings);
        let mut again = experiment(floats(count), seed, settings);
        let mut running = Vec::new();
        for (which, value) in told {
            let trial = first.ask().unwrap();
            running.push(trial.id);
            let configuration = trial.configuration.clone();
            again.begin(configuration, None);
            let id = running.swap_remove(which.index(running.len()));
            first.tell(id, Outcome::Values(vec![value])).unwrap();
            again.tell(id, Outcome::Values(vec![value])).unwrap();
        }
        let next = first.ask().unwrap().configuration.clone();
        prop_assert_eq!(&next, &again.ask().unwrap().configuration);
        prop_assert!(next.values().iter().flatten().all(|value| value.number().is_some_and(f64::is_finite)));
    }
}

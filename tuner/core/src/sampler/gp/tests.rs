use proptest::prelude::*;

use super::*;
use crate::experiment::{AskError, Experiment, Outcome};
use crate::expression::Expression;
use crate::history::Trial;
use crate::objective::{Goal, Objective, Take};
use crate::sampler::{Quasi, Random, Tpe};
use crate::space::{Domain, Parameter, Scale as Spread, Space, Value};
use crate::stream::{Purpose, Stream};

fn loss() -> Vec<Objective> {
    vec![Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }]
}

fn parameter(name: &str, domain: Domain, when: Option<&str>) -> Parameter {
    let when = when.map(|when| Expression::parse(when).expect("it parses"));
    Parameter { name: name.to_owned(), domain, when }
}

fn float(name: &str, min: f64, max: f64) -> Parameter {
    parameter(name, Domain::Float { min, max, scale: Spread::Linear, step: None }, None)
}

fn int(name: &str, min: i64, max: i64, when: Option<&str>) -> Parameter {
    parameter(name, Domain::Int { min, max, scale: Spread::Linear, step: 1 }, when)
}

fn kinds(name: &str, count: i64, when: Option<&str>) -> Parameter {
    parameter(name, Domain::Categorical((0..count).map(Value::Int).collect()), when)
}

fn cube(dimensions: usize) -> Space {
    Space::new((0..dimensions).map(|at| float(&format!("x{at}"), 0.0, 1.0)).collect(), vec![]).expect("a space")
}

/// All kinds of parameters, a condition and a constraint.
fn everything() -> Space {
    let depth = Domain::Float { min: 1e-3, max: 1.0, scale: Spread::Log, step: None };
    let parameters = vec![
        float("x", -1.0, 1.0),
        kinds("kind", 3, None),
        parameter("rate", depth, Some("kind == 1")),
        int("size", 1, 100, Some("kind != 1")),
        parameter("order", Domain::Ordinal([4, 8, 16].map(Value::Int).to_vec()), None),
        kinds("one", 1, None),
    ];
    let constraint = Expression::parse("x * x < 0.9").expect("it parses");
    Space::new(parameters, vec![constraint]).expect("a space")
}

fn numbers(trial: &Trial) -> Vec<f64> {
    trial.configuration.values().iter().flatten().filter_map(Value::number).collect()
}

fn everywhere(trial: &Trial) -> f64 {
    let values = trial.configuration.values();
    let number = |at: usize| values[at].as_ref().and_then(Value::number);
    let rest = number(2).map_or(0.1, |rate| (rate.log10() + 1.0).powi(2))
        + number(3).map_or(0.0, |size| ((size - 30.0) / 50.0).powi(2));
    (number(0).unwrap_or(0.0) - 0.4).powi(2) + rest + number(4).unwrap_or(0.0) / 100.0
}

fn branin(x: &[f64]) -> f64 {
    use std::f64::consts::PI;
    let (a, b) = (15.0 * x[0] - 5.0, 15.0 * x[1]);
    let bowl = b - 5.1 / (4.0 * PI * PI) * a * a + 5.0 / PI * a - 6.0;
    bowl * bowl + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * a.cos() + 10.0
}

/// The best loss of so many trials.
fn found(space: Space, sampler: Box<dyn Sampler>, seed: u64, trials: usize, loss_of: &dyn Fn(&Trial) -> f64) -> f64 {
    let mut experiment = Experiment::new(space, loss(), seed, sampler);
    let losses = (0..trials).map(|_| {
        let trial = experiment.ask().expect("there is more").clone();
        let loss = loss_of(&trial);
        experiment.tell(trial.id, Outcome::Values(vec![loss])).expect("taken in");
        loss
    });
    losses.fold(f64::INFINITY, f64::min)
}

fn median(seeds: u64, one: impl Fn(u64) -> f64) -> f64 {
    let mut all: Vec<f64> = (0..seeds).map(one).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
fn it_finds_much_more_than_others() {
    let loss_of = |trial: &Trial| branin(&numbers(trial)) - 0.397_887_357_729_739;
    let lacks = |make: fn() -> Box<dyn Sampler>| median(5, |seed| found(cube(2), make(), seed, 35, &loss_of));
    let (gp, tpe, random) =
        (lacks(|| Box::new(Gp::default())), lacks(|| Box::new(Tpe::default())), lacks(|| Box::new(Random)));
    assert!(gp < 0.01 * tpe && gp < 0.01 * random && gp < 1e-3, "{gp} {tpe} {random}");
}

#[test]
fn it_finds_its_way_among_choices_and_conditions() {
    let lacks =
        |make: fn() -> Box<dyn Sampler>| median(5, |seed| found(everything(), make(), seed, 40, &everywhere) - 0.04);
    let (gp, quasi) = (lacks(|| Box::new(Gp::default())), lacks(|| Box::new(Quasi)));
    assert!(gp < 0.1 * quasi && gp < 0.002, "{gp} {quasi}");
}

/// Half of the space fails: what is suggested after some trials is seldom there.
#[test]
fn where_trials_fail_is_learned() {
    let mut experiment = Experiment::new(cube(2), loss(), 3, Box::new(Gp::default()));
    let (mut failed, mut best) = (0, f64::INFINITY);
    for at in 0..45 {
        let trial = experiment.ask().expect("more").clone();
        let x = numbers(&trial);
        let outcome = if x[0] > 0.5 {
            failed += usize::from(at >= 20);
            Outcome::Failed { reason: "out of memory".to_owned() }
        } else {
            let loss = (x[0] - 0.3).powi(2) + (x[1] - 0.3).powi(2);
            best = best.min(loss);
            Outcome::Values(vec![loss])
        };
        experiment.tell(trial.id, outcome).expect("taken in");
    }
    assert!(failed <= 8 && best < 1e-3, "{failed} of the last 25 failed, and the best was {best}");
}

#[test]
fn noise_does_not_hide_the_valley() {
    let lacks = |make: fn() -> Box<dyn Sampler>| {
        median(5, |seed| {
            let mut experiment = Experiment::new(cube(3), loss(), seed, make());
            let mut noise = Stream::new(seed, 0, Purpose::Order, 0);
            let mut last = Vec::new();
            for _ in 0..50 {
                let trial = experiment.ask().expect("more").clone();
                let loss: f64 = numbers(&trial).iter().map(|x| (x - 0.6).powi(2)).sum();
                last.push(loss);
                experiment.tell(trial.id, Outcome::Values(vec![loss + 0.1 * noise.normal()])).expect("taken in");
            }
            last[40..].iter().sum::<f64>() / 10.0
        })
    };
    let (gp, quasi) = (lacks(|| Box::new(Gp::default())), lacks(|| Box::new(Quasi)));
    assert!(gp < 0.3 * quasi, "the last ten are worth {gp}, and {quasi} by chance");
}

#[test]
fn a_batch_spreads_out() {
    let space = cube(2);
    let mut experiment = Experiment::new(space, loss(), 5, Box::new(Gp::default()));
    for _ in 0..20 {
        let trial = experiment.ask().expect("more").clone();
        experiment.tell(trial.id, Outcome::Values(vec![branin(&numbers(&trial))])).expect("taken in");
    }
    let batch: Vec<Point> = (0..16).map(|_| experiment.ask().expect("more").point.clone()).collect();
    let distance = |one: &Point, other: &Point| (one[0] - other[0]).hypot(one[1] - other[1]);
    let pairs = batch.iter().enumerate().flat_map(|(at, one)| batch[..at].iter().map(move |other| (one, other)));
    let nearest = pairs.map(|(one, other)| distance(one, other)).fold(f64::INFINITY, f64::min);
    assert!(nearest > 1e-4, "two of a batch are {nearest} apart");
}

#[test]
fn a_box_is_searched_in_many_dimensions() {
    let sphere = |trial: &Trial| numbers(trial).iter().map(|x| (x - 0.3).powi(2)).sum::<f64>();
    let gp = found(cube(60), Box::new(Gp::default()), 1, 60, &sphere);
    let random = found(cube(60), Box::new(Random), 1, 60, &sphere);
    assert!(gp < 0.5 * random, "{gp} {random}");
}

#[test]
fn nothing_stops_it() {
    let one_point = Space::new(vec![float("x", 3.0, 3.0), float("y", 0.0, 1.0)], vec![]).expect("a space");
    for space in [one_point, cube(200), everything()] {
        let mut experiment = Experiment::new(space, loss(), 1, Box::new(Gp::default()));
        for at in 0..30 {
            let id = experiment.ask().expect("more").id;
            let outcome = match at % 5 {
                0 => Outcome::Values(vec![1.0]),
                1 => Outcome::Failed { reason: "out of memory".to_owned() },
                2 => Outcome::Values(vec![f64::NAN]),
                3 => Outcome::Values(vec![1e300]),
                _ => Outcome::Values(vec![f64::MIN]),
            };
            experiment.tell(id, outcome).expect("taken in");
        }
    }
    for fixed in [0, 1, 2] {
        let parameters = (0..fixed).map(|at| float(&format!("x{at}"), 1.0, 1.0)).collect();
        let mut experiment =
            Experiment::new(Space::new(parameters, vec![]).expect("a space"), loss(), 1, Box::new(Gp::default()));
        assert!(experiment.ask().is_ok());
        assert_eq!(experiment.ask().map(|trial| trial.id), Err(AskError::Exhausted { tried: 1 }));
    }
}

#[test]
fn a_finite_space_is_tried_whole_and_the_best_comes_early() {
    let space = || Space::new(vec![int("a", 1, 12, None), kinds("b", 5, None)], vec![]).expect("a space");
    let mut experiment = Experiment::new(space(), loss(), 2, Box::new(Gp::default()));
    let mut best_at = None;
    for at in 0..60 {
        let trial = experiment.ask().expect("more").clone();
        let x = numbers(&trial);
        let loss = (x[0] - 9.0).powi(2) + if x[1] == 3.0 { 0.0 } else { 4.0 };
        if loss == 0.0 {
            best_at = Some(at);
        }
        experiment.tell(trial.id, Outcome::Values(vec![loss])).expect("taken in");
    }
    assert!(best_at.is_some_and(|at| at < 25), "{best_at:?}");
    assert_eq!(experiment.ask().map(|trial| trial.id), Err(AskError::Exhausted { tried: 60 }));
}

/// Puts into a new experiment what was asked and told of another one, in its order.
fn replayed(first: &Experiment, space: &Space, seed: u64) -> Experiment {
    let mut again = Experiment::new(space.clone(), loss(), seed, Box::new(Gp::default()));
    for trial in first.history().trials() {
        again.begin(trial.configuration.clone(), None);
    }
    for id in first.history().ended() {
        let outcome = match first.history().get(*id).map(|trial| trial.state.clone()) {
            Some(State::Complete { values }) => Outcome::Values(values),
            Some(State::Failed { reason }) => Outcome::Failed { reason },
            Some(State::Stopped { .. } | State::Running) | None => Outcome::Stopped,
        };
        again.tell(*id, outcome).expect("taken in");
    }
    again
}

/// Trials are told in any order, some fail, and at some of the steps a new sampler is shown what was: it answers the same, to the bit.
fn same_after_restart(
    space: &Space,
    seed: u64,
    steps: u64,
    open: usize,
    restarts: u64,
    losses: &dyn Fn(&Trial) -> f64,
) {
    let mut first = Experiment::new(space.clone(), loss(), seed, Box::new(Gp::default()));
    let mut second = replayed(&first, space, seed);
    let mut stream = Stream::new(seed, 0, Purpose::Prior, 0);
    let mut running: Vec<TrialId> = Vec::new();
    for _ in 0..steps {
        if stream.below(restarts) == 0 {
            second = replayed(&first, space, seed);
        }
        if running.len() < open {
            let (one, other) = (first.ask().expect("more").clone(), second.ask().expect("more").clone());
            assert_eq!(one.configuration, other.configuration, "trial {}", one.id);
            assert!(one.point.iter().zip(&other.point).all(|(one, other)| one.to_bits() == other.to_bits()));
            running.push(one.id);
        } else {
            let id = running.swap_remove(stream.below(open as u64) as usize);
            let trial = first.history().get(id).expect("it was asked").clone();
            let outcome = match stream.below(8) {
                0 => Outcome::Failed { reason: "by chance".to_owned() },
                _ => Outcome::Values(vec![losses(&trial)]),
            };
            first.tell(id, outcome.clone()).expect("taken in");
            second.tell(id, outcome).expect("taken in");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_new_one_goes_on_the_same_way(seed in 0..1_000_u64, open in 1..5_usize) {
        same_after_restart(&everything(), seed, 90, open, 7, &everywhere);
    }

    #[test]
    fn no_losses_stop_it(seed in 0..1_000_u64, power in -300..300_i32, levels in 1..4_u64) {
        // Few levels: many trials are equally good.
        let size = 10.0_f64.powi(power);
        let losses = move |trial: &Trial| size * (trial.id.0 % levels) as f64;
        same_after_restart(&everything(), seed, 40, 2, 20, &losses);
    }
}

/// Beyond the number of trials of which all are in the model.
#[test]
fn a_new_one_goes_on_the_same_way_after_many_trials() {
    let (space, mut stream) = (cube(3), Stream::new(8, 0, Purpose::Prior, 0));
    let sphere = |trial: &Trial| numbers(trial).iter().map(|x| (x - 0.3).powi(2)).sum::<f64>();
    let mut first = Experiment::new(space.clone(), loss(), 4, Box::new(Gp::default()));
    for at in 0..700 {
        let id = if at < 640 || at % 20 == 0 {
            first.begin(space.draw(&mut stream).expect("a configuration"), None).id
        } else {
            first.ask().expect("more").id
        };
        let loss = sphere(&first.history().trials()[id.0 as usize].clone());
        first.tell(id, Outcome::Values(vec![loss])).expect("taken in");
    }
    let mut second = replayed(&first, &space, 4);
    for _ in 0..40 {
        let (one, other) = (first.ask().expect("more").clone(), second.ask().expect("more").clone());
        assert_eq!(one.configuration, other.configuration);
        let outcome = Outcome::Values(vec![sphere(&one)]);
        first.tell(one.id, outcome.clone()).expect("taken in");
        second.tell(one.id, outcome).expect("taken in");
    }
}

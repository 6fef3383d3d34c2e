//! How near the samplers come to the least value of known functions: the median over seeds of what the best trial lacks to it, after some
//! numbers of trials, with the processor time that the suggestions took.

use std::collections::VecDeque;
use std::f64::consts::{E, PI, TAU};
use std::io::Write;

use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use trainyard_benches::Error;
use trainyard_tuner_core::experiment::{Experiment, Outcome};
use trainyard_tuner_core::expression::Expression;
use trainyard_tuner_core::objective::{Goal, Objective, Take};
use trainyard_tuner_core::sampler::{Auto, Gp, Quasi, Random, Sampler, Tpe};
use trainyard_tuner_core::space::{Configuration, Domain, Parameter, Scale, Space, Value};
use trainyard_tuner_core::stream::{Purpose, Stream};

#[derive(Parser)]
struct Arguments {
    /// After how many trials it is looked; the last number is how many there are
    #[arg(long, value_delimiter = ',', default_value = "25,50,100,200")]
    trials: Vec<usize>,
    /// How often each is done, each time with another seed
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Trials that run at the same time
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Only functions whose names contain one of these
    #[arg(long, value_delimiter = ',')]
    functions: Vec<String>,
    /// Only these samplers
    #[arg(long, value_delimiter = ',', default_value = "random,quasi,tpe,gp,auto")]
    samplers: Vec<String>,
}

/// What is made small.
struct Problem {
    name: &'static str,
    parameters: Vec<Parameter>,
    /// Of the values in their order; `None` where a trial fails.
    loss: fn(&[Option<Value>]) -> Option<f64>,
    least: f64,
    /// The deviation of what trials tell from that.
    noise: f64,
}

fn float(name: String, min: f64, max: f64, scale: Scale) -> Parameter {
    Parameter { name, domain: Domain::Float { min, max, scale, step: None }, when: None }
}

fn cube(dimensions: usize, min: f64, max: f64) -> Vec<Parameter> {
    (0..dimensions).map(|at| float(format!("x{at}"), min, max, Scale::Linear)).collect()
}

fn numbers(values: &[Option<Value>]) -> Vec<f64> {
    values.iter().flatten().filter_map(Value::number).collect()
}

fn branin(x: &[f64]) -> f64 {
    let bowl = x[1] - 5.1 / (4.0 * PI * PI) * x[0] * x[0] + 5.0 / PI * x[0] - 6.0;
    bowl * bowl + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x[0].cos() + 10.0
}

fn hartmann<const D: usize>(x: &[f64], sharpness: [[f64; D]; 4], middles: [[f64; D]; 4]) -> f64 {
    let peaks = sharpness.iter().zip(&middles).zip([1.0, 1.2, 3.0, 3.2]);
    let height = |((sharpness, middle), height): ((&[f64; D], &[f64; D]), f64)| {
        let distance: f64 = (0..D).map(|at| sharpness[at] * (x[at] - middle[at]).powi(2)).sum();
        height * (-distance).exp()
    };
    -peaks.map(height).sum::<f64>()
}

fn hartmann3(x: &[f64]) -> f64 {
    let middles =
        [[0.3689, 0.117, 0.2673], [0.4699, 0.4387, 0.747], [0.1091, 0.8732, 0.5547], [0.0381, 0.5743, 0.8828]];
    hartmann(x, [[3.0, 10.0, 30.0], [0.1, 10.0, 35.0], [3.0, 10.0, 30.0], [0.1, 10.0, 35.0]], middles)
}

fn hartmann6(x: &[f64]) -> f64 {
    let sharpness = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    let middles = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.665],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    hartmann(x, sharpness, middles)
}

fn ackley(x: &[f64]) -> f64 {
    let count = x.len() as f64;
    let (size, waves) = x.iter().fold((0.0, 0.0), |(size, waves), x| (size + x * x, waves + (TAU * x).cos()));
    -20.0 * (-0.2 * (size / count).sqrt()).exp() - (waves / count).exp() + 20.0 + E
}

fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|pair| 100.0 * (pair[1] - pair[0] * pair[0]).powi(2) + (1.0 - pair[0]).powi(2)).sum()
}

fn levy(x: &[f64]) -> f64 {
    let w: Vec<f64> = x.iter().map(|x| 1.0 + (x - 1.0) / 4.0).collect();
    let last = w[w.len() - 1];
    let middle = w.windows(2).map(|pair| (pair[0] - 1.0).powi(2) * (1.0 + 10.0 * (PI * pair[0] + 1.0).sin().powi(2)));
    (PI * w[0]).sin().powi(2) + middle.sum::<f64>() + (last - 1.0).powi(2) * (1.0 + (TAU * last).sin().powi(2))
}

fn styblinski_tang(x: &[f64]) -> f64 {
    x.iter().map(|x| x.powi(4) - 16.0 * x * x + 5.0 * x).sum::<f64>() / 2.0
}

/// Two numbers, two whole ones and two choices, of which one moves the least place and one the value.
fn mixed(values: &[Option<Value>]) -> Option<f64> {
    let number = |at: usize| values[at].as_ref().and_then(Value::number);
    let kind = |at: usize| match &values[at] {
        Some(Value::Text(text)) => "abcde".find(text.as_str()).map(|place| place as f64),
        _ => None,
    };
    let (x, y, layers, width) = (number(0)?, number(1)?.log10(), number(2)?, number(3)?.log2());
    let (one, other) = (kind(4)?, kind(5)?);
    let place = 0.2 + 0.15 * one;
    let rest = 0.2 * (layers - 5.0).abs() / 8.0 + ((width - 6.5) / 4.0).powi(2) + 0.1 * (other - 1.0).abs().min(1.0);
    Some((3.0 * (x - place)).powi(2) + ((y + 3.0) / 2.0).powi(2) + 0.3 * (one - 3.0).abs().min(1.0) + rest)
}

/// One of two methods, each with numbers of its own and some in common.
fn conditional(values: &[Option<Value>]) -> Option<f64> {
    let number = |at: usize| values[at].as_ref().and_then(Value::number);
    let shared = (number(1)?.log10() + 2.5).powi(2) / 4.0 + (number(2)? - 0.3).powi(2);
    match (number(3), number(4), number(5)) {
        (Some(momentum), ..) => Some(shared + 0.1 + 2.0 * (momentum - 0.9).powi(2)),
        (None, Some(beta), Some(depth)) => Some(shared + (beta - 0.6).powi(2) + ((depth - 7.0) / 6.0).powi(2)),
        (None, ..) => None,
    }
}

fn texts(name: &str, choices: &str) -> Parameter {
    let choices = choices.chars().map(|choice| Value::Text(choice.to_string())).collect();
    Parameter { name: name.to_owned(), domain: Domain::Categorical(choices), when: None }
}

fn int(name: &str, min: i64, max: i64, scale: Scale) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Int { min, max, scale, step: 1 }, when: None }
}

fn when(mut parameter: Parameter, condition: &str) -> Parameter {
    parameter.when = Expression::parse(condition).ok();
    parameter
}

fn problems() -> Vec<Problem> {
    let plane = || {
        let sides = [("x", -5.0, 10.0), ("y", 0.0, 15.0)];
        sides.map(|(name, min, max)| float(name.to_owned(), min, max, Scale::Linear)).to_vec()
    };
    let lr = || float("lr".to_owned(), 1e-5, 1.0, Scale::Log);
    let share = |name: &str| float(name.to_owned(), 0.0, 1.0, Scale::Linear);
    let kinds = [
        share("x"),
        lr(),
        int("layers", 1, 9, Scale::Linear),
        int("width", 8, 1_024, Scale::Log),
        texts("one", "abcde"),
        texts("other", "abc"),
    ];
    let methods = [
        texts("method", "ab"),
        lr(),
        share("decay"),
        when(share("momentum"), "method == 'a'"),
        when(share("beta"), "method == 'b'"),
        when(int("depth", 1, 12, Scale::Linear), "method == 'b'"),
    ];
    let problem = |name, parameters, loss, least| Problem { name, parameters, loss, least, noise: 0.0 };
    let hartmann6: fn(&[Option<Value>]) -> Option<f64> = |values| Some(hartmann6(&numbers(values)));
    vec![
        problem("branin", plane(), |values| Some(branin(&numbers(values))), 0.397_887_357_729_739),
        problem("hartmann3", cube(3, 0.0, 1.0), |values| Some(hartmann3(&numbers(values))), -3.862_779_787_332_66),
        problem("hartmann6", cube(6, 0.0, 1.0), hartmann6, -3.322_368_011_415_5),
        Problem { noise: 0.1, ..problem("hartmann6, noise 0.1", cube(6, 0.0, 1.0), hartmann6, -3.322_368_011_415_5) },
        problem("ackley10", cube(10, -32.768, 32.768), |values| Some(ackley(&numbers(values))), 0.0),
        problem("rosenbrock5", cube(5, -5.0, 10.0), |values| Some(rosenbrock(&numbers(values))), 0.0),
        problem("levy8", cube(8, -10.0, 10.0), |values| Some(levy(&numbers(values))), 0.0),
        problem(
            "styblinski-tang6",
            cube(6, -5.0, 5.0),
            |values| Some(styblinski_tang(&numbers(values))),
            -234.996_994_5,
        ),
        problem("levy40", cube(40, -10.0, 10.0), |values| Some(levy(&numbers(values))), 0.0),
        problem("mixed", kinds.to_vec(), mixed, 0.0),
        problem("conditional", methods.to_vec(), conditional, 0.0),
        problem("branin, half fails", plane(), fails_in_part, 0.397_887_357_729_739),
    ]
}

/// It fails above a slope on which the least place lies only just below.
fn fails_in_part(values: &[Option<Value>]) -> Option<f64> {
    let x = numbers(values);
    (x[0] + x[1] < 13.0 && x[0] > 0.0).then(|| branin(&x))
}

fn sampler(name: &str) -> Option<Box<dyn Sampler>> {
    match name {
        "random" => Some(Box::new(Random)),
        "quasi" => Some(Box::new(Quasi)),
        "tpe" => Some(Box::new(Tpe::default())),
        "gp" => Some(Box::new(Gp::default())),
        "auto" => Some(Box::<Auto>::default()),
        _ => None,
    }
}

fn wrong(why: String) -> Error {
    Error::Program { program: "tuner_regret".to_owned(), why }
}

fn processor_s() -> Result<f64, Error> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_err(std::io::Error::from)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// What the best of so many trials lacks to the least value, without noise, and the time that suggestions took.
fn run(
    problem: &Problem,
    sampler: Box<dyn Sampler>,
    seed: u64,
    arguments: &Arguments,
) -> Result<(Vec<f64>, f64), Error> {
    let space = Space::new(problem.parameters.clone(), vec![]).map_err(|errors| wrong(format!("{errors:?}")))?;
    let objective = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
    let mut experiment = Experiment::new(space, vec![objective], seed, sampler);
    let mut noise = Stream::new(seed, u64::MAX, Purpose::Order, 1);
    let (mut best, mut lacks, mut time_s) = (f64::INFINITY, Vec::new(), 0.0);
    let mut running: VecDeque<_> = VecDeque::new();
    let most = arguments.trials.last().copied().unwrap_or(0);
    for at in 1..=most {
        while running.len() < arguments.parallel.min(most + 1 - at) {
            let before = processor_s()?;
            let trial = experiment.ask().map_err(|error| wrong(error.to_string()))?;
            running.push_back((trial.id, trial.configuration.clone()));
            time_s += processor_s()? - before;
        }
        let Some((id, configuration)) = running.pop_front() else { break };
        let loss = (problem.loss)(Configuration::values(&configuration));
        let outcome = match loss {
            Some(loss) => Outcome::Values(vec![loss + problem.noise * noise.normal()]),
            None => Outcome::Failed { reason: "it fails here".to_owned() },
        };
        best = best.min(loss.unwrap_or(f64::INFINITY));
        experiment.tell(id, outcome).map_err(|error| wrong(error.to_string()))?;
        if arguments.trials.contains(&at) {
            lacks.push(best - problem.least);
        }
    }
    Ok((lacks, time_s))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let trials: Vec<String> = arguments.trials.iter().map(usize::to_string).collect();
    writeln!(out, "| function | sampler | {} | ms a suggestion |", trials.join(" | "))?;
    writeln!(out, "|---|---|{}---|", "---|".repeat(trials.len()))?;
    let wanted =
        |name: &str| arguments.functions.is_empty() || arguments.functions.iter().any(|part| name.contains(part));
    for problem in problems().iter().filter(|problem| wanted(problem.name)) {
        for name in &arguments.samplers {
            let mut all = Vec::new();
            let mut time_s = 0.0;
            for seed in 0..arguments.seeds {
                let Some(sampler) = sampler(name) else {
                    return Err(wrong(format!("there is no sampler {name}: random, quasi, tpe, gp, auto")));
                };
                let (lacks, run_s) = run(problem, sampler, seed, &arguments)?;
                all.push(lacks);
                time_s += run_s;
            }
            let shown: Vec<String> = (0..trials.len())
                .map(|at| format!("{:.3e}", median(all.iter().filter_map(|lacks| lacks.get(at).copied()).collect())))
                .collect();
            let suggestions = arguments.seeds as f64 * arguments.trials.last().copied().unwrap_or(1) as f64;
            writeln!(out, "| {} | {name} | {} | {:.2} |", problem.name, shown.join(" | "), 1e3 * time_s / suggestions)?;
            out.flush()?;
        }
    }
    Ok(())
}

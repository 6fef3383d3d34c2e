//! How near the importance of parameters comes to what is known of functions whose shares of variance can be computed, for
//! `benches/importance.py`, which asks others the same: a line of JSON for each function, number of trials and seed.

use std::f64::consts::PI;
use std::io::Write;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use trainyard_benches::Error;
use trainyard_tuner_core::analysis::Analysis;
use trainyard_tuner_core::space::{Domain, Parameter, Scale, Space};
use trainyard_tuner_core::stream::{Purpose, Stream};

/// A function of numbers from 0 to 1, with what part of its variance each explains alone and in all.
struct Known {
    name: &'static str,
    function: fn(&[f64]) -> f64,
    alone: Vec<f64>,
    total: Vec<f64>,
}

fn ishigami(u: &[f64]) -> f64 {
    let x: Vec<f64> = u.iter().map(|u| PI * (2.0 * u - 1.0)).collect();
    x[0].sin() + 7.0 * x[1].sin().powi(2) + 0.1 * x[2].powi(4) * x[0].sin()
}

/// Sobol's g-function with these weights: the product of (|4 u - 2| + a) / (1 + a).
const WEIGHTS: [f64; 6] = [0.0, 0.5, 3.0, 9.0, 99.0, 99.0];

fn sobol(u: &[f64]) -> f64 {
    u.iter().zip(WEIGHTS).map(|(u, a)| ((4.0 * u - 2.0).abs() + a) / (1.0 + a)).product()
}

const SLOPES: [f64; 8] = [8.0, 4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0];

fn linear(u: &[f64]) -> f64 {
    u.iter().zip(SLOPES).map(|(u, slope)| slope * u).sum()
}

fn known() -> [Known; 3] {
    let (a, b) = (7.0, 0.1);
    let first = 0.5 * (1.0 + b * PI.powi(4) / 5.0_f64).powi(2);
    let (second, both) = (a * a / 8.0, 8.0 * b * b * PI.powi(8) / 225.0);
    let sum: f64 = first + second + both;
    let of = |parts: [f64; 3]| parts.map(|part| part / sum).to_vec();
    let parts: Vec<f64> = WEIGHTS.iter().map(|a| 1.0 / 3.0 / (1.0 + a).powi(2)).collect();
    let whole: f64 = parts.iter().map(|part| 1.0 + part).product();
    let total = parts.iter().map(|part| part * whole / (1.0 + part) / (whole - 1.0)).collect();
    let squares: f64 = SLOPES.iter().map(|slope| slope * slope).sum();
    let slopes: Vec<f64> = SLOPES.iter().map(|slope| slope * slope / squares).collect();
    [
        Known {
            name: "ishigami",
            function: ishigami,
            alone: of([first, second, 0.0]),
            total: of([first + both, second, both]),
        },
        Known {
            name: "sobol-g",
            function: sobol,
            alone: parts.iter().map(|part| part / (whole - 1.0)).collect(),
            total,
        },
        Known { name: "linear", function: linear, alone: slopes.clone(), total: slopes },
    ]
}

fn wrong(why: &str) -> Error {
    Error::Program { program: "tuner_importance".to_owned(), why: why.to_owned() }
}

fn processor_s() -> Result<f64, Error> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_err(std::io::Error::from)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// What is found of a function from so many random points.
fn case(known: &Known, trials: usize, seed: u64) -> Result<Value, Error> {
    let domain = || Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
    let parameter = |at: usize| Parameter { name: format!("x{at}"), domain: domain(), when: None };
    let count = known.alone.len();
    let space = Space::new((0..count).map(parameter).collect(), vec![]);
    let space = space.map_err(|errors| wrong(&format!("{errors:?}")))?;
    let mut stream = Stream::new(seed, 0, Purpose::Prior, 0);
    let points: Vec<Vec<f64>> = (0..trials).map(|_| (0..count).map(|_| stream.uniform()).collect()).collect();
    let losses: Vec<f64> = points.iter().map(|point| (known.function)(point)).collect();
    let given: Vec<(&[f64], f64)> = points.iter().map(Vec::as_slice).zip(losses.iter().copied()).collect();
    let before = processor_s()?;
    let analysis = Analysis::of(&space, &given, seed).ok_or_else(|| wrong("there is nothing to analyse"))?;
    let seconds = processor_s()? - before;
    Ok(json!({
        "function": known.name, "trials": trials, "seed": seed, "points": points, "losses": losses,
        "alone": known.alone, "total": known.total, "seconds": seconds, "fit": analysis.fit(),
        "found_alone": analysis.shares().iter().map(|share| share.alone).collect::<Vec<f64>>(),
        "found_total": analysis.shares().iter().map(|share| share.total).collect::<Vec<f64>>(),
    }))
}

fn main() -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for known in known() {
        for trials in [50, 200, 1_000] {
            for seed in 0..5 {
                writeln!(out, "{}", case(&known, trials, seed)?)?;
            }
        }
    }
    Ok(())
}

//! What a suggestion costs in processor time after so many trials: ten numbers, everything from the start by the sampler itself or, for
//! more trials than it is asked for, by chance.

use std::io::Write;

use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use trainyard_benches::Error;
use trainyard_tuner_core::experiment::{Experiment, Outcome};
use trainyard_tuner_core::objective::{Goal, Objective, Take};
use trainyard_tuner_core::sampler::{Gp, Quasi, Random, Sampler, Tpe};
use trainyard_tuner_core::space::{Domain, Parameter, Scale, Space, Value};
use trainyard_tuner_core::stream::{Purpose, Stream};

#[derive(Parser)]
struct Arguments {
    /// After how many trials it is measured
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    trials: Vec<usize>,
    /// How many suggestions are measured, each told before the next
    #[arg(long, default_value_t = 100)]
    suggestions: usize,
    /// Floats
    #[arg(long, default_value_t = 10)]
    dimensions: usize,
}

type Make = fn() -> Box<dyn Sampler>;

const SAMPLERS: [(&str, Make); 4] = [
    ("random", || Box::new(Random)),
    ("quasi", || Box::new(Quasi)),
    ("tpe", || Box::new(Tpe::default())),
    ("gp", || Box::new(Gp::default())),
];

fn wrong(why: String) -> Error {
    Error::Program { program: "tuner_speed".to_owned(), why }
}

fn processor_ms() -> Result<f64, Error> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_err(std::io::Error::from)?;
    Ok(time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6)
}

/// The milliseconds of each suggestion after so many trials.
fn measure(make: Make, trials: usize, arguments: &Arguments) -> Result<Vec<f64>, Error> {
    let domain = Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
    let parameter = |at: usize| Parameter { name: format!("x{at}"), domain: domain.clone(), when: None };
    let parameters = (0..arguments.dimensions).map(parameter).collect();
    let space = Space::new(parameters, vec![]).map_err(|errors| wrong(format!("{errors:?}")))?;
    let objective = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
    let mut experiment = Experiment::new(space.clone(), vec![objective], 1, make());
    let mut stream = Stream::new(1, 0, Purpose::Order, 0);
    let mut times = Vec::new();
    for at in 0..trials + arguments.suggestions {
        let id = if at < trials {
            let drawn = space.draw(&mut stream).ok_or_else(|| wrong("nothing is allowed".to_owned()))?;
            experiment.begin(drawn, None).id
        } else {
            let before = processor_ms()?;
            let id = experiment.ask().map_err(|error| wrong(error.to_string()))?.id;
            times.push(processor_ms()? - before);
            id
        };
        let trial = experiment.history().get(id).ok_or_else(|| wrong("it was begun".to_owned()))?;
        let x: Vec<f64> = trial.configuration.values().iter().flatten().filter_map(Value::number).collect();
        let loss: f64 =
            x.iter().enumerate().map(|(at, x)| (at + 1) as f64 * (x - 0.3).powi(2) + 0.1 * (9.0 * x).sin()).sum();
        experiment.tell(id, Outcome::Values(vec![loss])).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(times)
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    writeln!(out, "| sampler | trials | first ms | median ms | mean ms | most ms |\n|---|---|---|---|---|---|")?;
    for (name, make) in SAMPLERS {
        for trials in &arguments.trials {
            let mut times = measure(make, *trials, &arguments)?;
            // The first takes in all trials at once, as after a restart.
            let first = times.remove(0);
            let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
            times.sort_by(f64::total_cmp);
            let (median, most) = (times.get(times.len() / 2), times.last());
            let [median, most] = [median, most].map(|time| time.copied().unwrap_or_default());
            writeln!(out, "| {name} | {trials} | {first:.2} | {median:.3} | {mean:.3} | {most:.2} |")?;
        }
    }
    Ok(())
}

//! How many epochs it takes to find a configuration as good as the best of many random ones that were all trained to the end, on simulated
//! learning curves: with trials that first get a few epochs, with and without going on from their checkpoints.

use std::collections::VecDeque;
use std::io::Write;

use clap::Parser;
use trainyard_tuner_core::experiment::{Experiment, Outcome};
use trainyard_tuner_core::fidelity::{Ladder, Policy};
use trainyard_tuner_core::history::Trial;
use trainyard_tuner_core::objective::{Goal, Objective, Take};
use trainyard_tuner_core::sampler::{Bohb, Random, Sampler, Tpe, bohb};
use trainyard_tuner_core::space::{Domain, Parameter, Scale, Space, Value};
use trainyard_tuner_core::stream::{Purpose, Stream};

type Error = Box<dyn std::error::Error>;

#[derive(Parser)]
struct Arguments {
    /// The best of so many random trials is what is to be reached
    #[arg(long, default_value_t = 200)]
    trials: usize,
    /// The most epochs of a trial
    #[arg(long, default_value_t = 81)]
    epochs: u32,
    /// How often each is done, each time with another table of curves and another seed
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Trials that run at the same time
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Only these
    #[arg(long, value_delimiter = ',', default_value = "random,tpe,asha,hyperband,bohb,asha+tpe")]
    contenders: Vec<String>,
}

fn space() -> Result<Space, Error> {
    let float = |name: &str, min, max, scale| Parameter {
        name: name.to_owned(),
        domain: Domain::Float { min, max, scale, step: None },
        when: None,
    };
    let choices = |name: &str, choices: &[&str]| Parameter {
        name: name.to_owned(),
        domain: Domain::Categorical(choices.iter().map(|choice| Value::Text((*choice).to_owned())).collect()),
        when: None,
    };
    let width = Parameter {
        name: "width".to_owned(),
        domain: Domain::Int { min: 16, max: 512, scale: Scale::Log, step: 1 },
        when: None,
    };
    let parameters = vec![
        float("lr", 1e-5, 1.0, Scale::Log),
        float("decay", 1e-6, 1e-1, Scale::Log),
        float("dropout", 0.0, 0.7, Scale::Linear),
        width,
        choices("optimizer", &["sgd", "adam", "rmsprop"]),
    ];
    Space::new(parameters, Vec::new()).map_err(|errors| format!("{errors:?}").into())
}

/// A table of learning curves: where its valleys are differs from one to the next.
struct Curves {
    middles: Vec<f64>,
    weights: Vec<f64>,
    offsets: Vec<f64>,
    seed: u64,
}

impl Curves {
    fn new(seed: u64) -> Self {
        let mut stream = Stream::new(seed, 0, Purpose::Prior, 7);
        let mut draw = |from: f64, to: f64| from + (to - from) * stream.uniform();
        Self {
            middles: (0..4).map(|_| draw(0.2, 0.8)).collect(),
            weights: (0..4).map(|_| draw(0.1, 1.0)).collect(),
            offsets: (0..3).map(|_| draw(0.0, 0.1)).collect(),
            seed,
        }
    }

    /// The loss after so many epochs. A power law from 1 to what the configuration comes to; how fast that is depends on the rate of
    /// learning, as does what it comes to: fast ones end higher, so that curves cross. Each evaluation has noise of its own.
    fn loss(&self, trial: &Trial, epochs: f64) -> f64 {
        let at = &trial.point;
        let bowl: f64 = (0..4).map(|axis| self.weights[axis] * (at[axis] - self.middles[axis]).powi(2)).sum();
        let last = 0.05 + 0.6 * bowl.min(1.0) + self.offsets[at[4] as usize % 3];
        let speed = 0.35 + 1.2 * at[0];
        let mut own = Stream::new(
            self.seed,
            at.iter().fold(0, |key, x| key ^ x.to_bits().rotate_left(17)),
            Purpose::Choice,
            epochs as u64,
        );
        last + (1.0 - last) * (1.0 + epochs).powf(-speed) + 0.003 * own.normal()
    }
}

struct Contender {
    experiment: Experiment,
    most: f64,
}

impl Contender {
    fn new(name: &str, arguments: &Arguments, seed: u64) -> Result<Self, Error> {
        let most = f64::from(arguments.epochs);
        let ladder = Ladder::new(Some("epochs".to_owned()), 1.0, most, 3.0)?;
        let model = || -> Box<dyn Sampler> { Box::new(Bohb::new(bohb::Settings::default(), ladder.clone())) };
        let (sampler, policy): (Box<dyn Sampler>, _) = match name {
            "random" => (Box::new(Random), None),
            "tpe" => (Box::new(Tpe::default()), None),
            "asha" => (Box::new(Random), Some(Policy::Asha)),
            "asha+tpe" => (model(), Some(Policy::Asha)),
            "hyperband" => (Box::new(Random), Some(Policy::Hyperband)),
            "bohb" => (model(), Some(Policy::Hyperband)),
            _ => return Err(format!("there is no contender {name}").into()),
        };
        let loss = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
        let experiment = Experiment::new(space()?, vec![loss], seed, sampler);
        let experiment = match policy {
            Some(policy) => experiment.with_ladder(ladder, policy),
            None => experiment,
        };
        Ok(Self { experiment, most })
    }

    /// The epochs of a trial, and those that its configuration had before.
    fn epochs(&self, trial: &Trial) -> (f64, f64) {
        let (Some(ladder), Some(level)) = (self.experiment.ladder(), trial.level) else { return (self.most, 0.0) };
        let of = |rung: usize| ladder.resources().get(rung).copied().unwrap_or(self.most);
        (of(level.rung), if level.root.is_some() { of(level.rung - 1) } else { 0.0 })
    }

    /// Runs trials, each as long as its epochs, until one that was trained to the end is as good; answers the epochs of all until then,
    /// gone on from checkpoints and begun from scratch each time.
    fn reach(&mut self, curves: &Curves, goal: f64, parallel: usize, limit: f64) -> Result<Option<(f64, f64)>, Error> {
        let mut running: VecDeque<(f64, u64)> = VecDeque::new();
        let (mut now, mut resumed, mut anew) = (0.0, 0.0, 0.0);
        while resumed < limit {
            while running.len() < parallel {
                let trial = self.experiment.ask()?.clone();
                let (epochs, before) = self.epochs(&trial);
                let at = running.partition_point(|(end, _)| *end <= now + epochs - before);
                running.insert(at, (now + epochs - before, trial.id.0));
            }
            let Some((end, id)) = running.pop_front() else { break };
            now = end;
            let trial = self.experiment.history().trials()[id as usize].clone();
            let (epochs, before) = self.epochs(&trial);
            resumed += epochs - before;
            anew += epochs;
            let loss = curves.loss(&trial, epochs);
            self.experiment.tell(trial.id, Outcome::Values(vec![loss]))?;
            if epochs >= self.most && loss <= goal {
                return Ok(Some((resumed, anew)));
            }
        }
        Ok(None)
    }
}

/// The best of so many random trials that are all trained to the end.
fn best_of_random(arguments: &Arguments, curves: &Curves, seed: u64) -> Result<f64, Error> {
    // Other draws than those of the contenders.
    let mut random = Contender::new("random", arguments, seed.wrapping_add(1 << 32))?;
    let mut best = f64::INFINITY;
    for _ in 0..arguments.trials {
        let trial = random.experiment.ask()?.clone();
        best = best.min(curves.loss(&trial, random.most));
    }
    Ok(best)
}

fn median(shares: &mut [f64]) -> f64 {
    shares.sort_by(f64::total_cmp);
    shares[shares.len() / 2]
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let all = arguments.trials as f64 * f64::from(arguments.epochs);
    let mut out = std::io::stdout().lock();
    writeln!(out, "| who | epochs, median | most | share of {all} | from scratch | not reached |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for name in &arguments.contenders {
        let (mut resumed, mut anew, mut missed) = (Vec::new(), Vec::new(), 0);
        for seed in 0..arguments.seeds {
            let curves = Curves::new(seed);
            let goal = best_of_random(&arguments, &curves, seed)?;
            let mut contender = Contender::new(name, &arguments, seed)?;
            let reached = contender.reach(&curves, goal, arguments.parallel, 3.0 * all)?;
            missed += usize::from(reached.is_none());
            let (with, without) = reached.unwrap_or((f64::INFINITY, f64::INFINITY));
            resumed.push(with);
            anew.push(without);
        }
        let (with, without) = (median(&mut resumed), median(&mut anew));
        let most = resumed.last().copied().unwrap_or_default();
        writeln!(
            out,
            "| {name} | {with:.0} | {most:.0} | {:.1} % | {:.1} % | {missed} of {} |",
            100.0 * with / all,
            100.0 * without / all,
            arguments.seeds
        )?;
        out.flush()?;
    }
    Ok(())
}

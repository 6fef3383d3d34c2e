//! Data-parallel training of a red-wine classifier: the example that a newcomer runs first.
//!
//! Every rank holds the whole model and a share of each batch. Per step the ranks average their gradients with one
//! all-reduce over the [`Communicator`], then all take the same step. The training depends on the seed and the global
//! batch alone: any number of ranks that divides the batch trains the same model, up to rounding.
//!
//! When a rank dies the others keep their processes and all that they have learned: they meet again in the next
//! generation, and whoever is new there takes over the model of the rank that is furthest.

pub mod data;
pub mod model;
mod state;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use trainyard_worker::comm::{CommError, Communicator, Generations, ReduceOp};

use data::{Data, Samples};
use model::{Model, Optimizer, Scratch};

/// Trains a red-wine classifier data-parallel, over all ranks of the job
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Passes over the training set
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub epochs: usize,
    /// Samples per step, over all ranks together; rounded up to a multiple of the ranks
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub batch: usize,
    /// Neurons in each of the two hidden layers
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub hidden: usize,
    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    pub lr: f32,
    /// Share of the last step that the next one keeps
    #[arg(long, default_value_t = 0.9, value_name = "SHARE")]
    pub momentum: f32,
    /// Pull of the weights toward zero
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    pub weight_decay: f32,
    /// Decides the split, the initial weights and the order of samples
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Measure on a fifth of the training wines instead of the test's: for choosing the values above
    #[arg(long)]
    pub validate: bool,
    /// Steps between two progress lines
    #[arg(long, default_value_t = 40, value_name = "STEPS")]
    pub log_every: usize,
    /// Folder for the model (model.json) and the metrics of every step (metrics.jsonl)
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Fail at this step, to see what a crash looks like
    #[arg(long, value_name = "STEP")]
    pub fail_at_step: Option<usize>,
    /// The rank that fails
    #[arg(long, default_value_t = 0, value_name = "RANK", requires = "fail_at_step")]
    pub fail_rank: usize,
}

/// Why the training ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rank was lost, or the ranks never met.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The arguments make no training.
    #[error("{0}")]
    Arguments(&'static str),
    /// The loss is no number any more.
    #[error("the loss is {loss} at step {step}; a smaller --lr may help")]
    Diverged {
        /// What it is.
        loss: f32,
        /// Where it happened.
        step: usize,
    },
    /// The output could not be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// Which file or folder.
        path: String,
        /// The system's words.
        source: io::Error,
    },
    /// As asked.
    #[error("rank {rank} fails at step {step}, as --fail-at-step asks")]
    Asked {
        /// Who.
        rank: usize,
        /// When.
        step: usize,
    },
}

/// The result, the same on every rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Share of the test set that is classified right, 0 to 1.
    pub test_accuracy: f64,
    /// What always naming the more frequent class would reach.
    pub baseline_accuracy: f64,
    /// Mean cross entropy of the last step's batch.
    pub loss: f32,
    /// The trained model.
    pub model: Model,
}

/// Joins the job that the environment describes and trains, through as many generations as it takes. Rank 0 prints
/// progress lines (`epoch=3/60 step=80/2040 loss=0.5312 lr=0.0198`) and at the end the accuracy on the test set.
///
/// # Errors
/// See [`Error`].
pub fn run(args: &Args) -> Result<Report, Error> {
    check(args)?;
    let mut generations = Generations::from_env()?;
    let mut comm = generations.join()?;
    let data = data::load(args.seed, args.validate);
    let out = &mut io::stdout();
    let mut trainer = Trainer::new(args, &data, out)?;
    loop {
        match trainer.train(&mut comm) {
            Err(Error::Comm(error)) if error.ends_generation() => comm = generations.regroup(comm, &error)?,
            result => return leave(comm, result),
        }
    }
}

/// Trains as one rank of `comm`, writing rank 0's lines to `out`.
///
/// # Errors
/// See [`Error`].
pub fn train(args: &Args, mut comm: Communicator, out: &mut dyn Write) -> Result<Report, Error> {
    check(args)?;
    let data = data::load(args.seed, args.validate);
    let result = Trainer::new(args, &data, out)?.train(&mut comm);
    leave(comm, result)
}

/// Whoever fails says so: the others need not wait for it.
fn leave(comm: Communicator, result: Result<Report, Error>) -> Result<Report, Error> {
    if result.is_err() {
        comm.abort();
    }
    result
}

fn check(args: &Args) -> Result<(), Error> {
    if args.epochs == 0 || args.batch == 0 || args.hidden == 0 || args.log_every == 0 {
        return Err(Error::Arguments("--epochs, --batch, --hidden and --log-every must be 1 or more"));
    }
    Ok(())
}

struct Trainer<'run> {
    args: &'run Args,
    data: &'run Data,
    model: Model,
    optimizer: Optimizer,
    /// The gradient, and behind it the loss: one all-reduce averages both.
    gradient: Vec<f32>,
    scratch: Scratch,
    global_batch: usize,
    steps: usize,
    /// Steps done.
    step: usize,
    /// Steps that were done when these ranks met.
    from: usize,
    loss: f32,
    out: &'run mut dyn Write,
    metrics: Option<(PathBuf, Vec<u8>)>,
}

impl<'run> Trainer<'run> {
    fn new(args: &'run Args, data: &'run Data, out: &'run mut dyn Write) -> Result<Self, Error> {
        let model = Model::new(vec![data::FEATURES, args.hidden, args.hidden, 1], args.seed);
        let parameters = model.parameters.len();
        let metrics = match &args.output {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
                Some((folder.join("metrics.jsonl"), Vec::new()))
            }
            None => None,
        };
        Ok(Self {
            args,
            data,
            optimizer: Optimizer::new(parameters, args.momentum, args.weight_decay),
            gradient: vec![0.0; parameters + 1],
            model,
            scratch: Scratch::default(),
            global_batch: 0,
            steps: 0,
            step: 0,
            from: 0,
            loss: f32::NAN,
            out,
            metrics,
        })
    }

    /// From where the furthest of these ranks is, to the end.
    fn train(&mut self, comm: &mut Communicator) -> Result<Report, Error> {
        self.meet(comm)?;
        let (rank, world_size, data, global_batch) = (comm.rank(), comm.world_size(), self.data, self.global_batch);
        let (train_samples, test_samples) = (data.train.len(), data.test.len());
        let parameters = self.model.parameters.len();
        self.say(
            comm,
            format_args!(
                "ranks={world_size} train_samples={train_samples} test_samples={test_samples} \
                 parameters={parameters} global_batch={global_batch}"
            ),
        );
        let share = global_batch / world_size;
        let from = if self.step > 0 { format!(", from step {} on", self.step) } else { String::new() };
        let process = std::process::id();
        self.tell(format_args!(
            "rank {rank} of {world_size} takes {share} of each {global_batch} wines{from} (process {process})"
        ));
        while self.step < self.steps {
            self.rest_of_epoch(comm)?;
        }
        let test_accuracy = accuracy(&self.model, &data.test, comm)?;
        let baseline_accuracy = data.test.majority();
        let name = if self.args.validate { "validation_accuracy" } else { "test_accuracy" };
        self.say(comm, format_args!("baseline_accuracy={baseline_accuracy:.4} {name}={test_accuracy:.4}"));
        let report = Report { test_accuracy, baseline_accuracy, loss: self.loss, model: self.model.clone() };
        if rank == 0
            && let Some(folder) = &self.args.output
        {
            write_model(folder, data, &report)?;
        }
        // Nobody leaves while rank 0 may still fail to write.
        comm.barrier()?;
        Ok(report)
    }

    fn rest_of_epoch(&mut self, comm: &mut Communicator) -> Result<(), Error> {
        let (epoch, done) = (self.step / self.batches(), self.step % self.batches());
        let order = data::epoch_order(self.data.train.len(), self.global_batch, self.args.seed, epoch);
        for batch in order.chunks_exact(self.global_batch).skip(done) {
            let fails = self.args.fail_at_step == Some(self.step) && self.args.fail_rank == comm.rank();
            // Once: whoever took over from others has failed already.
            if fails && self.from == 0 {
                return Err(Error::Asked { rank: comm.rank(), step: self.step });
            }
            self.step(comm, batch, epoch)?;
        }
        Ok(())
    }

    /// Steps of an epoch.
    fn batches(&self) -> usize {
        self.data.train.len().div_ceil(self.global_batch)
    }

    fn step(&mut self, comm: &mut Communicator, batch: &[usize], epoch: usize) -> Result<(), Error> {
        let parameters = self.model.parameters.len();
        let weight = comm.world_size() as f32 / self.global_batch as f32;
        self.gradient.fill(0.0);
        let mut loss = 0.0;
        for index in data::share(batch, comm.rank(), comm.world_size()) {
            let (row, label) = (self.data.train.row(index), self.data.train.labels[index]);
            let gradient = &mut self.gradient[..parameters];
            loss += weight * self.model.backward(row, label, weight, gradient, &mut self.scratch);
        }
        self.gradient[parameters] = loss;
        comm.all_reduce(&mut self.gradient, ReduceOp::Mean)?;
        let rate = self.rate();
        self.optimizer.step(&mut self.model.parameters, &self.gradient[..parameters], rate);
        self.loss = self.gradient[parameters];
        self.step += 1;
        if !self.loss.is_finite() {
            return Err(Error::Diverged { loss: self.loss, step: self.step });
        }
        self.record(comm, epoch, rate)
    }

    /// A cosine from the chosen rate to zero.
    fn rate(&self) -> f32 {
        let done = self.step as f32 / self.steps as f32;
        self.args.lr * 0.5 * (1.0 + (std::f32::consts::PI * done).cos())
    }

    fn record(&mut self, comm: &Communicator, epoch: usize, rate: f32) -> Result<(), Error> {
        let is_last = self.step == self.steps;
        if self.step.is_multiple_of(self.args.log_every) || is_last {
            let (epoch, epochs, step, steps, loss) = (epoch + 1, self.args.epochs, self.step, self.steps, self.loss);
            self.say(comm, format_args!("epoch={epoch}/{epochs} step={step}/{steps} loss={loss:.4} lr={rate:.4}"));
        }
        // All keep them: whoever is rank 0 at the end writes them down.
        if let Some((path, lines)) = &mut self.metrics {
            let line = json!({"step": self.step, "epoch": epoch + 1, "loss": self.loss, "lr": rate});
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
            if is_last && comm.rank() == 0 {
                std::fs::write(&*path, &*lines).map_err(|source| failed(path, source))?;
            }
        }
        Ok(())
    }

    /// A line of rank 0.
    fn say(&mut self, comm: &Communicator, line: std::fmt::Arguments<'_>) {
        if comm.rank() == 0 {
            self.tell(line);
        }
    }

    /// That nobody reads the lines is no reason to stop training.
    fn tell(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }
}

/// The share of `samples` that the model classifies right; each rank looks at its part.
fn accuracy(model: &Model, samples: &Samples, comm: &mut Communicator) -> Result<f64, Error> {
    let mut scratch = Scratch::default();
    let right = (comm.rank()..samples.len())
        .step_by(comm.world_size())
        .filter(|index| (model.logit(samples.row(*index), &mut scratch) > 0.0) == (samples.labels[*index] > 0.5))
        .count();
    let mut right = [right as i64];
    comm.all_reduce(&mut right, ReduceOp::Sum)?;
    Ok(right[0] as f64 / samples.len() as f64)
}

fn write_model(folder: &Path, data: &Data, report: &Report) -> Result<(), Error> {
    let path = folder.join("model.json");
    let model = json!({
        "task": "red wine of quality 6 or more",
        "features": linfa_datasets::winequality().feature_names(),
        "mean": data.mean,
        "deviation": data.deviation,
        "layers": report.model.sizes,
        "parameters": report.model.parameters,
        "testAccuracy": report.test_accuracy,
        "baselineAccuracy": report.baseline_accuracy,
    });
    std::fs::write(&path, model.to_string()).map_err(|source| failed(&path, source))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Output { path: path.display().to_string(), source }
}

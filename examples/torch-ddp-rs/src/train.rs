//! The training loop.

use std::io::Write;

use tch::nn::{Module, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor, nn};
use trainyard_example_wine_ddp::data::{self, FEATURES, Samples};
use trainyard_worker::comm::{CommError, Communicator, ReduceOp};

/// Trains a red-wine classifier with libtorch, data-parallel, over all ranks of the job
#[derive(Clone, Debug, clap::Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Passes over the training set
    #[arg(long, default_value_t = 60, value_name = "N")]
    epochs: usize,
    /// Samples per step, over all ranks together; rounded up to a multiple of the ranks
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch: usize,
    /// Neurons in each of the two hidden layers
    #[arg(long, default_value_t = 256, value_name = "N")]
    hidden: usize,
    /// Learning rate
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    lr: f64,
    /// Decides the split, the initial weights and the order of samples
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Steps between two progress lines
    #[arg(long, default_value_t = 40, value_name = "STEPS")]
    log_every: usize,
}

/// Why the training ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Comm(#[from] CommError),
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let mut comm = Communicator::from_env()?;
    // As many ranks as processors share this machine: threads of one rank would only disturb the others.
    tch::set_num_threads(1);
    tch::manual_seed(args.seed.cast_signed());
    let (rank, world) = (comm.rank(), comm.world_size());
    let data = data::load(args.seed, false);
    let variables = VarStore::new(Device::Cpu);
    let model = network(&variables, args.hidden as i64);
    let mut parameters = variables.trainable_variables();
    broadcast(&mut parameters, &mut comm)?;

    let mut optimizer = nn::Sgd { momentum: 0.9, wd: 0.005, ..Default::default() }.build(&variables, args.lr)?;
    let global_batch = args.batch.div_ceil(world) * world;
    let steps = args.epochs * data.train.len().div_ceil(global_batch);
    let mut step = 0;
    for epoch in 0..args.epochs {
        let order = data::epoch_order(data.train.len(), global_batch, args.seed, epoch);
        for batch in order.chunks_exact(global_batch) {
            let (features, labels) = tensors(&data.train, data::share(batch, rank, world));
            let loss = model.forward(&features).squeeze().binary_cross_entropy_with_logits::<Tensor>(
                &labels,
                None,
                None,
                tch::Reduction::Mean,
            );
            optimizer.zero_grad();
            loss.backward();
            let loss = average(&parameters, &loss, &mut comm)?;
            optimizer.step();
            step += 1;
            if rank == 0 && (step % args.log_every == 0 || step == steps) {
                // That nobody reads the lines is no reason to stop training.
                let _ = writeln!(out, "epoch={}/{} step={step}/{steps} loss={loss:.4}", epoch + 1, args.epochs);
            }
        }
    }
    let accuracy = accuracy(&model, &data.test, &mut comm)?;
    if rank == 0 {
        let _ = writeln!(out, "baseline_accuracy={:.4} test_accuracy={accuracy:.4}", data.test.majority());
    }
    comm.barrier()?;
    Ok(())
}

fn network(variables: &VarStore, hidden: i64) -> impl Module {
    let root = variables.root();
    nn::seq()
        .add(nn::linear(&root / "first", FEATURES as i64, hidden, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(&root / "second", hidden, hidden, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(&root / "last", hidden, 1, Default::default()))
}

/// All ranks start from rank 0's weights.
fn broadcast(parameters: &mut [Tensor], comm: &mut Communicator) -> Result<(), Error> {
    for parameter in parameters {
        let mut values = numbers(parameter)?;
        comm.broadcast(&mut values, 0)?;
        let values = Tensor::from_slice(&values).reshape(parameter.size());
        tch::no_grad(|| parameter.copy_(&values));
    }
    Ok(())
}

/// Replaces every gradient by its mean over the ranks, with one all-reduce for all of them and the loss.
fn average(parameters: &[Tensor], loss: &Tensor, comm: &mut Communicator) -> Result<f32, Error> {
    let mut all = vec![f32::try_from(loss)?];
    for parameter in parameters {
        all.extend(numbers(&parameter.grad())?);
    }
    comm.all_reduce(&mut all, ReduceOp::Mean)?;
    let mut offset = 1;
    for parameter in parameters {
        let mut gradient = parameter.grad();
        let count = gradient.numel();
        let mean = Tensor::from_slice(&all[offset..offset + count]).reshape(gradient.size());
        tch::no_grad(|| gradient.copy_(&mean));
        offset += count;
    }
    Ok(all[0])
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(Vec::<f32>::try_from(tensor.detach().reshape([-1]))?)
}

fn tensors(samples: &Samples, indices: impl Iterator<Item = usize>) -> (Tensor, Tensor) {
    let mut features = Vec::new();
    let mut labels = Vec::new();
    for index in indices {
        features.extend_from_slice(samples.row(index));
        labels.push(samples.labels[index]);
    }
    (Tensor::from_slice(&features).reshape([-1, FEATURES as i64]), Tensor::from_slice(&labels))
}

/// Each rank looks at its share of the samples; the counts are added up.
fn accuracy(model: &impl Module, samples: &Samples, comm: &mut Communicator) -> Result<f64, Error> {
    let share = (comm.rank()..samples.len()).step_by(comm.world_size());
    let (features, labels) = tensors(samples, share);
    let good = tch::no_grad(|| model.forward(&features)).reshape([-1]).gt(0.0);
    let right = good.eq_tensor(&labels.gt(0.5)).sum(Kind::Int64);
    let mut right = [i64::try_from(right)?];
    comm.all_reduce(&mut right, ReduceOp::Sum)?;
    Ok(right[0] as f64 / samples.len() as f64)
}

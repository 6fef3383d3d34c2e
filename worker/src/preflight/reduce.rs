//! All-reduces whose sums are known, and how long they take: over the communicator that a job would get, and over NCCL
//! between the GPUs where every rank has one.

use std::time::{Duration, Instant};

use trainyard_worker_core::preflight::{AllReduce, bus_bandwidth};

use crate::comm::{CommError, Communicator, Options, ReduceOp};
use crate::nccl::{DeviceBuffer, Group, NcclError};

/// Timed repetitions; their median is told.
const TIMES: usize = 5;

/// What rank `rank` gives at `index`: small whole numbers, whose sum is exact in any order.
fn value(rank: usize, index: usize) -> f32 {
    ((rank + 1) * (index % 13 + 1)) as f32
}

fn sum(world: usize, index: usize) -> f32 {
    (world * (world + 1) / 2 * (index % 13 + 1)) as f32
}

/// What was measured, and why not over NCCL.
pub(super) struct Reduces {
    pub(super) all: Vec<AllReduce>,
    pub(super) without_gpus: Option<String>,
}

/// One all-reduce of each length, by each way. `gpu` is this rank's; nothing takes longer than `patience`.
pub(super) fn over_all(
    options: &Options,
    bytes: &[usize],
    gpu: usize,
    patience: Duration,
) -> Result<Reduces, CommError> {
    let mut comm = Communicator::connect(options)?;
    let backend = comm.backend().name();
    let mut all = Vec::new();
    for bytes in bytes {
        all.push(one(&mut comm, *bytes, backend, |comm, data| {
            let began = Instant::now();
            comm.all_reduce(data, ReduceOp::Sum)?;
            Ok(began.elapsed())
        })?);
    }
    // Whether all have a GPU is agreed on in there.
    let mut group = match Group::form(&mut comm, gpu, patience) {
        Ok(group) => group,
        Err(NcclError::Comm(error)) => return Err(error),
        Err(reason) => return Ok(Reduces { all, without_gpus: Some(reason.to_string()) }),
    };
    for bytes in bytes {
        all.push(one(&mut comm, *bytes, "nccl", |_, data| between_gpus(&mut group, data).map_err(failed))?);
    }
    Ok(Reduces { all, without_gpus: None })
}

fn failed(error: NcclError) -> CommError {
    CommError::Io { peer: "the other ranks' GPUs".to_owned(), reason: error.to_string() }
}

/// The copies to the GPU and back are not part of what a job would do, nor of the time.
fn between_gpus(group: &mut Group, data: &mut [f32]) -> Result<Duration, NcclError> {
    let mut buffer = DeviceBuffer::new(group.device(), data.len())?;
    buffer.upload(data)?;
    let began = Instant::now();
    group.all_reduce(&mut buffer, ReduceOp::Sum)?;
    let took = began.elapsed();
    buffer.download(data)?;
    Ok(took)
}

fn one(
    comm: &mut Communicator,
    bytes: usize,
    backend: &str,
    mut reduce: impl FnMut(&mut Communicator, &mut [f32]) -> Result<Duration, CommError>,
) -> Result<AllReduce, CommError> {
    let (rank, world, length) = (comm.rank(), comm.world_size(), (bytes / 4).max(1));
    let mut data: Vec<f32> = (0..length).map(|index| value(rank, index)).collect();
    reduce(comm, &mut data)?;
    let right = data.iter().enumerate().all(|(index, got)| got.to_bits() == sum(world, index).to_bits());
    let wrong = comm.all_gather(&[u8::from(!right)])?;
    data.fill(0.0);
    let mut nanos = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        comm.barrier()?;
        nanos.push(i64::try_from(reduce(comm, &mut data)?.as_nanos()).unwrap_or(i64::MAX));
    }
    nanos.sort_unstable();
    // The slowest rank's time is the job's.
    let mut median = [nanos[TIMES / 2]];
    comm.all_reduce(&mut median, ReduceOp::Max)?;
    let seconds = (median[0] as f64 / 1e9).max(1e-9);
    let algorithm = (length * 4) as f64 / seconds / 1e9;
    Ok(AllReduce {
        backend: backend.to_owned(),
        bytes: (length * 4) as u64,
        micros: seconds * 1e6,
        algorithm_gigabytes_per_second: algorithm,
        bus_gigabytes_per_second: bus_bandwidth(algorithm, world),
        wrong_ranks: (0..world).filter(|rank| wrong[*rank] != 0).collect(),
    })
}

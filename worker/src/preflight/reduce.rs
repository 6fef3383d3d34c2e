//! All-reduces whose sums are known, and how long they take.

use std::time::Instant;

use trainyard_worker_core::preflight::{AllReduce, bus_bandwidth};

use crate::comm::{CommError, Communicator, Options, ReduceOp};

/// Timed repetitions; their median is told.
const TIMES: usize = 5;

/// What rank `rank` gives at `index`: small whole numbers, whose sum is exact in any order.
fn value(rank: usize, index: usize) -> f32 {
    ((rank + 1) * (index % 13 + 1)) as f32
}

fn sum(world: usize, index: usize) -> f32 {
    (world * (world + 1) / 2 * (index % 13 + 1)) as f32
}

/// One all-reduce of each length over the communicator that a job would get.
pub(super) fn over_all(options: &Options, bytes: &[usize]) -> Result<Vec<AllReduce>, CommError> {
    let mut comm = Communicator::connect(options)?;
    bytes.iter().map(|bytes| one(&mut comm, *bytes)).collect()
}

fn one(comm: &mut Communicator, bytes: usize) -> Result<AllReduce, CommError> {
    let (rank, world, length) = (comm.rank(), comm.world_size(), (bytes / 4).max(1));
    let mut data: Vec<f32> = (0..length).map(|index| value(rank, index)).collect();
    comm.all_reduce(&mut data, ReduceOp::Sum)?;
    let right = data.iter().enumerate().all(|(index, got)| got.to_bits() == sum(world, index).to_bits());
    let wrong = comm.all_gather(&[u8::from(!right)])?;
    data.fill(0.0);
    let mut nanos = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        comm.barrier()?;
        let began = Instant::now();
        comm.all_reduce(&mut data, ReduceOp::Sum)?;
        nanos.push(i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX));
    }
    nanos.sort_unstable();
    // The slowest rank's time is the job's.
    let mut median = [nanos[TIMES / 2]];
    comm.all_reduce(&mut median, ReduceOp::Max)?;
    let seconds = (median[0] as f64 / 1e9).max(1e-9);
    let algorithm = (length * 4) as f64 / seconds / 1e9;
    Ok(AllReduce {
        backend: comm.backend().name().to_owned(),
        bytes: (length * 4) as u64,
        micros: seconds * 1e6,
        algorithm_gigabytes_per_second: algorithm,
        bus_gigabytes_per_second: bus_bandwidth(algorithm, world),
        wrong_ranks: (0..world).filter(|rank| wrong[*rank] != 0).collect(),
    })
}

//! Everything that is said to NCCL and to CUDA's driver, against libraries that play them (`played/*.c`, built here with
//! `cc`): signatures, the layout of `ncclConfig_t`, who passes what to shrink and grow, deadlines and aborts. What real
//! GPUs make of it is another matter: see `nccl.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use trainyard_worker::comm::{Backend, Communicator, Options, ReduceOp};
use trainyard_worker::nccl::{Device, DeviceBuffer, Group, Library, NcclError};
use trainyard_worker::preflight::{self, Plan};

const PATIENCE: Duration = Duration::from_secs(30);

/// Set in the process whose libraries are played.
const INSIDE: &str = "PLAYED_GPUS";

fn build(folder: &Path, name: &str) -> bool {
    let source = format!("{}/tests/played/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let file = folder.join(if name == "cuda" { "libcuda.so.1" } else { "libnccl.so.2" });
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(file).args([&source, "-lpthread"]).status();
    built.is_ok_and(|status| status.success())
}

/// Runs the test of this name again, in a process that finds the played libraries. False in there.
fn outside(test: &str, gpus: usize, more: &[(&str, &str)]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let folder = tempfile::tempdir().unwrap();
    if !build(folder.path(), "cuda") || !build(folder.path(), "nccl") {
        eprintln!("SKIPPED {test}: no C compiler");
        return true;
    }
    let inside = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, gpus.to_string())
        .env("LD_LIBRARY_PATH", folder.path())
        .env("NCCL_LIBRARY", folder.path().join("libnccl.so.2"))
        .envs(more.iter().copied())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(inside.status.success() && said.contains("1 passed"), "{said}");
    true
}

fn ranks<R: Send>(world: usize, body: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let door = Mutex::new(Some(door));
    let one = |rank| {
        let options = Options::new(rank, world, "127.0.0.1", port);
        // In a statement of its own: the lock must not be held while the ranks meet.
        let door = door.lock().unwrap().take_if(|_| rank == 0);
        let comm = match door {
            Some(door) => Communicator::connect_on(&options, door),
            None => Communicator::connect(&options),
        };
        body(comm.unwrap())
    };
    let one = &one;
    thread::scope(|scope| {
        let all: Vec<_> = (0..world).map(|rank| scope.spawn(move || one(rank))).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn reduce(group: &mut Group, value: f32, op: ReduceOp) -> Result<f32, NcclError> {
    let mut buffer = DeviceBuffer::new(group.device(), 3)?;
    buffer.upload(&[value; 3])?;
    group.all_reduce(&mut buffer, op)?;
    let mut back = [0.0; 3];
    buffer.download(&mut back)?;
    assert!(back.iter().all(|one| *one == back[0]), "{back:?}");
    Ok(back[0])
}

#[test]
fn a_group_forms_and_reduces_by_every_operation() {
    if outside("a_group_forms_and_reduces_by_every_operation", 3, &[]) {
        return;
    }
    let found = ranks(3, |mut comm| {
        let rank = comm.rank();
        let mut group = Group::form(&mut comm, rank, PATIENCE).unwrap();
        assert_eq!((group.rank(), group.world_size()), (rank, 3));
        [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Min, ReduceOp::Max]
            .map(|op| reduce(&mut group, rank as f32 + 1.0, op).unwrap())
    });
    assert_eq!(found, [[6.0, 2.0, 1.0, 3.0]; 3]);
    let sums = ranks(2, |mut comm| {
        let (now, why) = comm.use_gpus(comm.rank()).unwrap();
        assert_eq!((now, why), (Backend::Nccl, None));
        let mut long = vec![comm.rank() as f32; 1 << 20];
        comm.all_reduce(&mut long, ReduceOp::Sum).unwrap();
        long.iter().all(|sum| *sum == 1.0)
    });
    assert_eq!(sums, [true; 2]);
}

#[test]
fn survivors_shrink_and_newcomers_are_taken_in() {
    if outside("survivors_shrink_and_newcomers_are_taken_in", 4, &[]) {
        return;
    }
    let library = Library::load().unwrap();
    assert!(library.can_shrink() && library.can_grow(), "{}", library.version());
    // Rank 1 of 3 goes; the others close up.
    let left = Mutex::new(Vec::new());
    ranks(3, |mut comm| {
        let rank = comm.rank();
        let group = Group::form(&mut comm, rank, PATIENCE).unwrap();
        if rank == 1 {
            return group.abort().unwrap();
        }
        let mut next = group.shrink(&[1]).unwrap();
        assert_eq!((next.rank(), next.world_size()), (rank / 2, 2));
        assert_eq!(reduce(&mut next, rank as f32, ReduceOp::Sum).unwrap(), 2.0);
        left.lock().unwrap().push(next);
    });
    // Then two more come: the old ones keep their numbers.
    let left = Mutex::new(left.into_inner().unwrap());
    let found = ranks(4, |mut comm| {
        let rank = comm.rank();
        let old = {
            let mut left = left.lock().unwrap();
            left.iter().position(|group| group.rank() == rank).map(|at| left.swap_remove(at))
        };
        assert_eq!(old.is_some(), rank < 2);
        let mut next = Group::grow(old, &mut comm, rank, PATIENCE).unwrap();
        assert_eq!((next.rank(), next.world_size()), (rank, 4));
        reduce(&mut next, 1.0, ReduceOp::Sum).unwrap()
    });
    assert_eq!(found, [4.0; 4]);
}

#[test]
fn what_does_not_end_is_aborted_in_time() {
    if outside("what_does_not_end_is_aborted_in_time", 2, &[]) {
        return;
    }
    let library = std::env::var("NCCL_LIBRARY").unwrap();
    // Its counters live as long as somebody has it open.
    // SAFETY: our own library.
    let library = unsafe { libloading::Library::new(library).unwrap() };
    let errors = ranks(2, |mut comm| {
        let rank = comm.rank();
        let mut group = Group::form(&mut comm, rank, Duration::from_millis(300)).unwrap();
        // Rank 1 does not take part.
        let error = (rank == 0).then(|| reduce(&mut group, 1.0, ReduceOp::Sum).unwrap_err());
        comm.barrier().unwrap();
        error
    });
    assert!(matches!(errors[0], Some(NcclError::Timeout { doing: "all-reduce", .. })), "{errors:?}");
    // SAFETY: the signature of its source.
    let aborts =
        unsafe { library.get::<unsafe extern "C" fn() -> i32>("played_aborts").map(|aborts| aborts()).unwrap() };
    assert_eq!(aborts, 2, "the one that hung, and the other at its end");
}

#[test]
fn ranks_share_a_gpu_where_nccl_can() {
    let shared = ("NCCL_MULTI_RANK_GPU_ENABLE", "1");
    if outside("ranks_share_a_gpu_where_nccl_can", 1, &[shared]) {
        return;
    }
    let sums = ranks(2, |mut comm| {
        let gpu = comm.rank();
        let mut group = Group::form(&mut comm, gpu, PATIENCE).unwrap();
        reduce(&mut group, 2.0, ReduceOp::Sum).unwrap()
    });
    assert_eq!(sums, [4.0; 2]);
}

#[test]
fn ranks_do_not_share_a_gpu_where_nccl_cannot() {
    let older = [("NCCL_MULTI_RANK_GPU_ENABLE", "1"), ("PLAYED_NCCL_VERSION", "22907")];
    if outside("ranks_do_not_share_a_gpu_where_nccl_cannot", 1, &older) {
        return;
    }
    let errors = ranks(2, |mut comm| {
        let gpu = comm.rank();
        Group::form(&mut comm, gpu, PATIENCE).map(drop).unwrap_err().to_string()
    });
    assert_eq!(errors[0], "rank 1 cannot use NCCL");
    assert_eq!(errors[1], "NCCL_MULTI_RANK_GPU_ENABLE is not in this NCCL (2.29.7); it came with 2.30");
}

#[test]
fn without_leave_to_share_the_gpu_that_is_not_there_is_named() {
    if outside("without_leave_to_share_the_gpu_that_is_not_there_is_named", 1, &[]) {
        return;
    }
    assert_eq!(Device::open(1).map(drop).unwrap_err().to_string(), "no usable GPU: there is no GPU 1, there are 1");
}

#[test]
fn the_check_before_a_job_goes_over_the_gpus_too() {
    if outside("the_check_before_a_job_goes_over_the_gpus_too", 2, &[]) {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let report = thread::scope(|scope| {
        let one = |rank| {
            let plan =
                Plan { all_reduce_bytes: vec![4096, 1 << 20], link_bytes: 100_000, gpu: rank, ..Plan::default() };
            preflight::run(&Options::new(rank, 2, "127.0.0.1", port), &plan).unwrap()
        };
        let other = scope.spawn(move || one(1));
        let first = one(0);
        other.join().unwrap();
        first
    });
    let told: Vec<(&str, u64)> = report.all_reduces.iter().map(|one| (one.backend.as_str(), one.bytes)).collect();
    assert_eq!(told, [("memory", 4096), ("memory", 1 << 20), ("nccl", 4096), ("nccl", 1 << 20)]);
    assert!(report.all_reduces.iter().all(|one| one.wrong_ranks.is_empty()), "{report}");
}

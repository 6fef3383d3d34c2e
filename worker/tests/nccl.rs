//! NCCL where there is a library, GPUs where there are any; each test says aloud when it skips.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use trainyard_worker::comm::{Backend, Communicator, Options, ReduceOp};
use trainyard_worker::nccl::{Device, DeviceBuffer, Group, Library, NcclError};

fn pair<R: Send>(body: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let mut door = Some(door);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..2)
            .map(|rank| {
                let (door, body) = (door.take(), &body);
                scope.spawn(move || {
                    let options = Options::new(rank, 2, "127.0.0.1", port);
                    let comm = match door {
                        Some(door) => Communicator::connect_on(&options, door),
                        None => Communicator::connect(&options),
                    };
                    body(comm.unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn the_library_of_the_python_on_the_path_is_found() {
    match Library::load() {
        Ok(library) => {
            eprintln!("NCCL {} from {}", library.version(), library.path());
            assert_eq!(library.version().major, 2);
            // Shrink came with 2.27, grow with 2.29.
            assert_eq!(library.can_shrink(), library.version().minor >= 27);
            assert_eq!(library.can_grow(), library.version().minor >= 29);
        }
        Err(error) => {
            eprintln!("SKIPPED the_library_of_the_python_on_the_path_is_found: {error}");
            assert!(matches!(error, NcclError::NotFound { .. }), "{error}");
        }
    }
}

#[test]
fn what_a_version_lacks_is_a_typed_error_and_the_rest_works() {
    let folder = tempfile::tempdir().unwrap();
    let (source, file): (PathBuf, PathBuf) = (folder.path().join("old.c"), folder.path().join("libnccl.so.2"));
    std::fs::write(&source, "int ncclGetVersion(int *version) { *version = 21805; return 0; }\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED what_a_version_lacks_is_a_typed_error_and_the_rest_works: no C compiler");
        return;
    }
    let old = Library::open(&file).unwrap();
    assert_eq!(old.version().to_string(), "2.18.5");
    assert!(!old.can_shrink() && !old.can_grow());
    let error = old.needs_shrink().unwrap_err();
    assert_eq!(error.to_string(), "ncclCommShrink is not in this NCCL (2.18.5); it came with 2.27");
    assert!(matches!(Library::open(&folder.path().join("nothing")), Err(NcclError::NotFound { .. })));
}

#[test]
fn without_gpus_on_every_rank_the_communicator_stays_as_it_is() {
    let had = pair(|mut comm| {
        let before = comm.backend();
        let (now, reason) = comm.use_gpus(comm.rank()).unwrap();
        let mut data = vec![1.0_f32; 1 << 20];
        comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert!(data.iter().all(|value| *value == 2.0));
        (before, now, reason)
    });
    for (before, now, reason) in had {
        match reason {
            Some(reason) => {
                eprintln!("not over NCCL: {reason}");
                assert_eq!(now, before, "{reason}");
            }
            None => assert_eq!(now, Backend::Nccl),
        }
    }
}

#[test]
fn two_gpus_reduce() {
    if let Err(error) = Library::load().map(drop).and_then(|()| Device::open(1).map(drop)) {
        eprintln!("SKIPPED two_gpus_reduce: {error}");
        return;
    }
    let sums = pair(|mut comm| {
        let gpu = comm.rank();
        let mut group = Group::form(&mut comm, gpu, Duration::from_secs(60)).unwrap();
        let mut buffer = DeviceBuffer::new(group.device(), 1000).unwrap();
        buffer.upload(&vec![comm.rank() as f32 + 1.0; 1000]).unwrap();
        group.all_reduce(&mut buffer, ReduceOp::Sum).unwrap();
        let mut data = vec![0.0; 1000];
        buffer.download(&mut data).unwrap();
        data
    });
    assert!(sums.iter().flatten().all(|sum| *sum == 3.0));
}

#[test]
fn one_gpu_forms_a_group_of_one_and_aborts_it() {
    if let Err(error) = Library::load().map(drop).and_then(|()| Device::open(0).map(drop)) {
        eprintln!("SKIPPED one_gpu_forms_a_group_of_one_and_aborts_it: {error}");
        return;
    }
    let mut comm = Communicator::solo();
    let mut group = Group::form(&mut comm, 0, Duration::from_secs(60)).unwrap();
    let mut buffer = DeviceBuffer::new(group.device(), 1000).unwrap();
    buffer.upload(&[2.0; 1000]).unwrap();
    group.all_reduce(&mut buffer, ReduceOp::Mean).unwrap();
    let mut data = vec![0.0; 1000];
    buffer.download(&mut data).unwrap();
    assert!(data.iter().all(|value| *value == 2.0));
    group.abort().unwrap();
}

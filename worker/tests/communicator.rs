//! The communicator's promises (C-1 to C-5 of `trainyard_worker::comm`), over real sockets, one thread per rank.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use trainyard_worker::comm::{CommError, Communicator, Interrupt, Number, Options, ReduceOp};

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(rank: usize, world: usize, port: u16) -> Options {
    let mut options = Options::new(rank, world, "127.0.0.1", port);
    options.rendezvous_timeout = PATIENCE;
    options.operation_timeout = PATIENCE;
    options.token = "secret".to_owned();
    options.generation = 7;
    options
}

fn door() -> (TcpListener, u16) {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    (door, port)
}

/// Runs `body` as every rank of a group and gives the results in rank order; data goes through memory.
fn group<R: Send>(world: usize, body: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    group_over(true, world, body)
}

/// Data goes through memory, or through sockets as between machines.
fn group_over<R: Send>(memory: bool, world: usize, body: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let (listener, port) = door();
    let mut listener = Some(listener);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let listener = listener.take();
                let body = &body;
                scope.spawn(move || {
                    let mut options = options(rank, world, port);
                    options.shared_memory = memory;
                    let comm = match listener {
                        Some(listener) => Communicator::connect_on(&options, listener),
                        None => Communicator::connect(&options),
                    };
                    body(comm.unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The value of rank `rank` at `index`: no two alike, and sums that are exact in every type.
fn value(rank: usize, index: usize) -> i64 {
    ((rank * 31 + index * 7) % 101) as i64 - 50
}

fn expected(world: usize, index: usize, op: ReduceOp) -> i64 {
    let values = (0..world).map(|rank| value(rank, index));
    match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Mean => values.sum::<i64>() / world as i64,
        ReduceOp::Min => values.min().unwrap(),
        ReduceOp::Max => values.max().unwrap(),
    }
}

fn any_op() -> impl Strategy<Value = ReduceOp> {
    prop_oneof![Just(ReduceOp::Sum), Just(ReduceOp::Mean), Just(ReduceOp::Min), Just(ReduceOp::Max)]
}

/// Lengths around every limit at which another algorithm is taken (of `i64`, in any world of up to 8).
fn any_length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0_usize..40, 2 => 1000_usize..1400, 2 => 8000_usize..9000, 1 => 32_700_usize..33_000]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn all_reduce_agrees_with_a_loop(memory: bool, world in 1_usize..=8, length in any_length(), op in any_op()) {
        let results = group_over(memory, world, |mut comm| {
            let mut data: Vec<i64> = (0..length).map(|index| value(comm.rank(), index)).collect();
            comm.all_reduce(&mut data, op).unwrap();
            data
        });
        let wanted: Vec<i64> = (0..length).map(|index| expected(world, index, op)).collect();
        for result in results {
            prop_assert!(result == wanted, "{world} ranks, {length} elements, {op:?}");
        }
    }

    #[test]
    fn gather_scatter_and_broadcast_agree_with_a_loop(
        memory: bool,
        world in 1_usize..=8,
        each in prop_oneof![4 => 0_usize..20, 1 => 5000_usize..5100],
        root in 0_usize..8,
    ) {
        let root = root % world;
        let results = group_over(memory, world, |mut comm| {
            let rank = comm.rank();
            let own: Vec<f64> = (0..each).map(|index| value(rank, index) as f64).collect();
            let gathered = comm.all_gather(&own).unwrap();
            let all: Vec<f32> = (0..each * world).map(|index| value(rank, index) as f32).collect();
            let share = comm.reduce_scatter(&all, ReduceOp::Sum).unwrap();
            let mut sent = own.clone();
            comm.broadcast(&mut sent, root).unwrap();
            comm.barrier().unwrap();
            (gathered, share, sent)
        });
        let gathered: Vec<f64> =
            (0..world).flat_map(|rank| (0..each).map(move |index| value(rank, index) as f64)).collect();
        let from_root: Vec<f64> = (0..each).map(|index| value(root, index) as f64).collect();
        for (rank, (all, share, sent)) in results.into_iter().enumerate() {
            let wanted: Vec<f32> =
                (rank * each..(rank + 1) * each).map(|index| expected(world, index, ReduceOp::Sum) as f32).collect();
            prop_assert!(all == gathered, "all_gather of {each} on rank {rank} of {world}");
            prop_assert!(share == wanted, "reduce_scatter of {each} on rank {rank} of {world}");
            prop_assert!(sent == from_root, "broadcast of {each} from {root} on rank {rank} of {world}");
        }
    }
}

#[test]
fn calls_of_all_lengths_follow_each_other() {
    // What one call leaves behind must not disturb the next: banks, turns and bytes in flight.
    for memory in [true, false] {
        let lengths = [1, 700_001, 0, 5, 300_000, 300_000, 2, 1_100_000, 0, 9, 20_000];
        group_over(memory, 4, |mut comm| {
            for (turn, length) in lengths.into_iter().enumerate() {
                let mut data: Vec<i64> = (0..length).map(|index| value(comm.rank(), index) + turn as i64).collect();
                comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                let right = |(index, sum): (usize, &i64)| *sum == expected(4, index, ReduceOp::Sum) + 4 * turn as i64;
                assert!(data.iter().enumerate().all(right), "call {turn}, memory {memory}");
                let root = turn % 4;
                data.iter_mut().for_each(|value| *value = comm.rank() as i64);
                comm.broadcast(&mut data, root).unwrap();
                assert!(data.iter().all(|value| *value == root as i64), "broadcast {turn}, memory {memory}");
            }
        });
    }
}

#[test]
fn worlds_too_large_for_a_full_mesh_go_around_the_ring() {
    let world = 66;
    let results = group_over(false, world, |mut comm| {
        let mut data: Vec<i64> = (0..100).map(|index| value(comm.rank(), index)).collect();
        comm.all_reduce(&mut data, ReduceOp::Max).unwrap();
        let gathered = comm.all_gather(&[comm.rank() as i64]).unwrap();
        comm.barrier().unwrap();
        (data, gathered)
    });
    for (data, gathered) in results {
        assert!((0..100).all(|index| data[index] == expected(world, index, ReduceOp::Max)));
        assert!(gathered.iter().enumerate().all(|(rank, value)| rank as i64 == *value));
    }
}

fn reduced<T: Number>(memory: bool, length: usize, make: impl Fn(usize, usize) -> T + Sync) -> Vec<Vec<T>> {
    group_over(memory, 5, |mut comm| {
        let rank = comm.rank();
        let mut data: Vec<T> = (0..length).map(|index| make(rank, index)).collect();
        comm.all_reduce(&mut data, ReduceOp::Mean).unwrap();
        data
    })
}

#[test]
fn c1_floats_are_equal_bit_for_bit_on_all_ranks_and_in_all_runs() {
    // Thirds do not add exactly, so another order of additions would show.
    let make = |rank: usize, index: usize| ((rank + 1) as f32 / 3.0) * (index as f32 + 0.1).sin();
    let bits = |runs: Vec<Vec<f32>>| -> Vec<Vec<u32>> {
        runs.into_iter().map(|run| run.into_iter().map(f32::to_bits).collect()).collect()
    };
    for (memory, length) in [(true, 10_007), (false, 1_001), (false, 10_007), (false, 100_003)] {
        let first = bits(reduced(memory, length, make));
        let second = bits(reduced(memory, length, make));
        assert!(first.iter().all(|rank| rank == &first[0]), "{length} elements, memory {memory}");
        assert!(first == second, "{length} elements, memory {memory}: another run, other bits");
    }
}

#[test]
fn c2_buffers_larger_than_any_socket_buffer_pass() {
    let length = 6_000_001; // 48 MB of f64 per rank
    for memory in [true, false] {
        let results = group_over(memory, 3, |mut comm| {
            let mut data = vec![comm.rank() as f64 + 1.0; length];
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            let reduced = data.iter().all(|value| *value == 6.0);
            data.fill(comm.rank() as f64);
            comm.broadcast(&mut data, 1).unwrap();
            reduced && data.iter().all(|value| *value == 1.0)
        });
        assert_eq!(results, [true; 3], "memory {memory}");
    }
}

#[test]
fn nan_of_one_rank_reaches_all() {
    let results = group(3, |mut comm| {
        let mut data = [if comm.rank() == 1 { f32::NAN } else { 1.0 }];
        comm.all_reduce(&mut data, ReduceOp::Max).unwrap();
        data[0].is_nan()
    });
    assert_eq!(results, [true; 3]);
}

#[test]
fn barrier_waits_for_the_last() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for late in 0..4 {
        let arrived = AtomicUsize::new(0);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let seen = group(4, |mut comm| {
            if comm.rank() == late {
                // The others are at the barrier, or on their way, before this rank is allowed to come.
                for _ in 0..3 {
                    wait.lock().unwrap().recv().unwrap();
                }
            } else {
                release.send(()).unwrap();
            }
            arrived.fetch_add(1, Ordering::SeqCst);
            comm.barrier().unwrap();
            arrived.load(Ordering::SeqCst)
        });
        assert_eq!(seen, [4; 4], "rank {late} came last");
    }
}

/// All ranks but `dead` are in an all-reduce when `dead` goes away as a dying process does: without a word.
fn death(memory: bool, world: usize, dead: usize) -> Vec<Option<CommError>> {
    group_over(memory, world, |mut comm| {
        // The death may be told while the last ranks are still on their way out of the barrier.
        let barrier = comm.barrier();
        if comm.rank() == dead {
            comm.abort();
            return None;
        }
        let mut data = vec![1.0_f32; 100_000];
        let error = barrier.and_then(|()| comm.all_reduce(&mut data, ReduceOp::Sum)).unwrap_err();
        assert_eq!(comm.barrier().unwrap_err(), error, "the first error stays");
        Some(error)
    })
}

#[test]
fn c3_every_survivor_names_the_dead_rank() {
    for (memory, world, dead) in [
        (true, 2, 0),
        (true, 2, 1),
        (true, 4, 2),
        (true, 5, 0),
        (false, 2, 0),
        (false, 2, 1),
        (false, 4, 2),
        (false, 5, 0),
    ] {
        for (rank, error) in death(memory, world, dead).into_iter().enumerate() {
            let Some(error) = error else { continue };
            // Nothing else ends it: without the news it would run into its timeout, which is another error.
            assert!(matches!(error, CommError::PeerLost { .. }), "{error}");
            assert_eq!(error.rank(), Some(dead), "rank {rank} of {world}, memory {memory}: {error}");
        }
    }
}

#[test]
fn c3_leaving_early_is_told_apart_from_dying() {
    for memory in [true, false] {
        let errors = group_over(memory, 3, |mut comm| {
            let barrier = comm.barrier();
            if comm.rank() == 1 {
                return None;
            }
            Some(barrier.and_then(|()| comm.all_reduce(&mut [1.0_f32], ReduceOp::Sum)).unwrap_err().to_string())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error, "rank 1 is gone: it left the group while others still needed it");
        }
    }
}

#[test]
fn another_thread_can_end_a_collective_and_a_rendezvous() {
    for memory in [true, false] {
        let (listener, port) = door();
        let interrupt = Interrupt::new().unwrap();
        thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                let mut options = options(0, 2, port);
                options.shared_memory = memory;
                let comm = Communicator::connect_on(&options, listener).unwrap();
                wait.recv().unwrap();
                drop(comm);
            });
            let mut options = options(1, 2, port);
            options.shared_memory = memory;
            options.interrupt = Some(interrupt.clone());
            let mut comm = Communicator::connect(&options).unwrap();
            scope.spawn(|| interrupt.trigger());
            // Rank 0 never comes to the barrier.
            assert_eq!(comm.barrier().unwrap_err(), CommError::Interrupted);
            assert!(interrupt.is_triggered());
            done.send(()).unwrap();
        });
    }
    for rank in [0, 1] {
        let mut lonely = options(rank, 2, door().1);
        let interrupt = Interrupt::new().unwrap();
        lonely.interrupt = Some(interrupt.clone());
        let ended = thread::scope(|scope| {
            scope.spawn(|| interrupt.trigger());
            Communicator::connect(&lonely).unwrap_err()
        });
        assert_eq!(ended, CommError::Interrupted, "rank {rank}");
    }
}

#[test]
fn ranks_may_leave_after_the_last_collective_in_any_order() {
    for turn in 0..40 {
        group_over(turn % 2 == 0, 4, |mut comm| {
            let mut data = vec![1_i64; 1000];
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            assert_eq!(data[999], 4);
        });
    }
}

/// Tries to join a group of two as rank 1 with changed options; rank 0 must refuse, then take the right one.
fn refusal(change: impl Fn(&mut Options) + Sync) -> String {
    let (listener, port) = door();
    thread::scope(|scope| {
        let host = scope.spawn(move || Communicator::connect_on(&options(0, 2, port), listener).unwrap().barrier());
        let mut wrong = options(1, 2, port);
        change(&mut wrong);
        let error = Communicator::connect(&wrong).unwrap_err();
        let mut right = Communicator::connect(&options(1, 2, port)).unwrap();
        right.barrier().unwrap();
        host.join().unwrap().unwrap();
        error.to_string()
    })
}

#[test]
fn c4_strangers_and_old_generations_are_refused() {
    let stranger = refusal(|options| options.token = "guess".to_owned());
    assert_eq!(stranger, "rank 0 refused rank 1: it does not know this job's token");
    let stale = refusal(|options| options.generation = 6);
    assert_eq!(stale, "rank 0 refused rank 1: it is of generation 6, the job is at 7");
    let size = refusal(|options| options.world_size = 3);
    assert_eq!(size, "rank 0 refused rank 1: it expects 3 ranks, the job has 2");
}

#[test]
fn c4_a_silent_or_rude_stranger_keeps_nobody_waiting() {
    use std::io::Write as _;
    let (listener, port) = door();
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut rude = TcpStream::connect(("127.0.0.1", port)).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // Shorter than a guest may take to say who he is: waiting for the silent one would be too late.
    let impatient = |rank| {
        let mut options = options(rank, 2, port);
        options.rendezvous_timeout = Duration::from_secs(4);
        options
    };
    thread::scope(|scope| {
        let host = scope.spawn(move || Communicator::connect_on(&impatient(0), listener).unwrap().barrier());
        Communicator::connect(&impatient(1)).unwrap().barrier().unwrap();
        host.join().unwrap().unwrap();
    });
}

#[test]
fn c5_different_calls_are_named() {
    for memory in [true, false] {
        let errors = group_over(memory, 2, |mut comm| {
            if comm.rank() == 0 {
                comm.all_reduce(&mut [0.0_f32; 10], ReduceOp::Mean).unwrap_err()
            } else {
                comm.broadcast(&mut [0.0_f64; 12], 0).unwrap_err()
            }
        });
        let told = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(told.contains("all_reduce(10 × f32, mean) as call 1"), "{told}");
        assert!(told.contains("broadcast(12 × f64, root 0) as call 1"), "{told}");
    }
}

#[test]
fn missing_ranks_are_named_to_everybody() {
    let (listener, port) = door();
    let short = |rank| {
        let mut options = options(rank, 4, port);
        options.rendezvous_timeout = Duration::from_millis(300);
        options
    };
    let (host, guest) = thread::scope(|scope| {
        let host = scope.spawn(|| Communicator::connect_on(&short(0), listener).unwrap_err());
        let guest = scope.spawn(|| Communicator::connect(&short(2)).unwrap_err());
        (host.join().unwrap(), guest.join().unwrap())
    });
    for error in [host, guest] {
        assert!(matches!(&error, CommError::Missing { ranks, .. } if *ranks == [1, 3]), "{error}");
        assert!(error.to_string().starts_with("ranks 1 and 3 are missing at the rendezvous (4 expected)"), "{error}");
    }
}

#[test]
fn rank_0_may_listen_on_every_address() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::scope(|scope| {
        let host = scope.spawn(move || Communicator::connect_on(&options(0, 3, port), listener).unwrap().barrier());
        let others: Vec<_> = (1..3)
            .map(|rank| scope.spawn(move || Communicator::connect(&options(rank, 3, port)).unwrap().barrier()))
            .collect();
        host.join().unwrap().unwrap();
        others.into_iter().for_each(|other| other.join().unwrap().unwrap());
    });
}

#[test]
fn beside_a_store_rank_0_listens_elsewhere_and_is_found() {
    // The master's port is PyTorch's store's, as the launcher hosts it; two groups of one generation come one after another.
    let (listener, port) = door();
    let _store = trainyard_worker::c10d::Server::start(listener).unwrap();
    for _ in 0..2 {
        thread::scope(|scope| {
            for rank in 0..3 {
                scope.spawn(move || {
                    let mut options = options(rank, 3, port);
                    options.store = true;
                    Communicator::connect(&options).unwrap().barrier().unwrap();
                });
            }
        });
    }
}

#[test]
fn an_absent_rank_0_is_named() {
    let (listener, port) = door();
    drop(listener);
    let mut lonely = options(1, 2, port);
    lonely.rendezvous_timeout = Duration::from_millis(200);
    let error = Communicator::connect(&lonely).unwrap_err().to_string();
    assert!(error.starts_with(&format!("rank 1 got no answer from rank 0 at 127.0.0.1:{port} within")), "{error}");
}

#[test]
fn a_stuck_neighbour_runs_into_the_timeout() {
    let (listener, port) = door();
    let impatient = |rank| {
        let mut options = options(rank, 2, port);
        options.operation_timeout = Duration::from_millis(200);
        options
    };
    let (done, wait) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let stuck = scope.spawn(move || {
            let comm = Communicator::connect_on(&impatient(0), listener).unwrap();
            wait.recv().unwrap();
            drop(comm);
        });
        let mut comm = Communicator::connect(&impatient(1)).unwrap();
        let error = comm.barrier().unwrap_err();
        assert!(matches!(error, CommError::Timeout { rank: 0, .. }), "{error}");
        done.send(()).unwrap();
        stuck.join().unwrap();
    });
}

#[test]
fn the_environment_is_read_and_its_faults_named() {
    let read = |pairs: &[(&str, &str)]| {
        Options::from_lookup(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let alone = read(&[]).unwrap();
    assert_eq!((alone.rank, alone.world_size), (0, 1));
    let full = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "29500")];
    assert_eq!(read(&full).unwrap().master_port, 29500);
    let fault = |pairs: &[(&str, &str)]| read(pairs).unwrap_err().to_string();
    assert!(fault(&[("RANK", "1")]).contains("WORLD_SIZE is not set"));
    assert!(fault(&[("RANK", "1"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR is not set"));
    assert!(fault(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK=x is not a number"));
    let beyond = [("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")];
    assert!(fault(&beyond).contains("rank 2 is not one of 2 ranks (0 to 1)"));
}

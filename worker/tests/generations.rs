//! Joining the next generation in the same process, against a launcher that is played here.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use trainyard_worker::comm::{CommError, Communicator, Generations, ReduceOp};

/// A rank's end of the launcher.
struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    fn accept(door: &UnixListener) -> Self {
        Self { reader: BufReader::new(door.accept().unwrap().0) }
    }

    fn hear(&mut self) -> Value {
        let mut text = String::new();
        self.reader.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.reader.get_mut(), "{message}").unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn world(rank: usize, size: usize, port: u16) -> BTreeMap<String, String> {
    [("RANK", rank.to_string()), ("WORLD_SIZE", size.to_string()), ("MASTER_PORT", port.to_string())]
        .into_iter()
        .chain([("MASTER_ADDR", "127.0.0.1".to_owned()), ("TRAINYARD_RENDEZVOUS_TIMEOUT", "30".to_owned())])
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn rank_of(folder: &Path, rank: usize, size: usize, port: u16) -> Generations {
    let mut variables = world(rank, size, port);
    variables.insert("TRAINYARD_GENERATION".to_owned(), "1".to_owned());
    variables.insert("TRAINYARD_LAUNCHER_SOCKET".to_owned(), folder.join(format!("{rank}")).display().to_string());
    Generations::from_variables(variables).unwrap()
}

/// Sums 1 over the ranks: how many there are.
fn count(comm: &mut Communicator) -> Result<i64, CommError> {
    let mut ones = [1_i64];
    comm.all_reduce(&mut ones, ReduceOp::Sum)?;
    Ok(ones[0])
}

#[test]
fn the_others_go_on_in_the_same_process_when_a_rank_died() {
    let folder = tempfile::tempdir().unwrap();
    let doors: Vec<_> = (0..3).map(|rank| UnixListener::bind(folder.path().join(format!("{rank}"))).unwrap()).collect();
    let (first, second) = (free_port(), free_port());
    let path = folder.path();
    thread::scope(|scope| {
        // Rank 1 dies. The others come again, and rank 2 is rank 1 in a group of two.
        let ranks: Vec<_> = [0, 2]
            .map(|rank| {
                scope.spawn(move || {
                    let mut generations = rank_of(path, rank, 3, first);
                    let mut comm = generations.join().unwrap();
                    assert_eq!(count(&mut comm).unwrap(), 3);
                    let error = count(&mut comm).unwrap_err();
                    assert!(error.ends_generation(), "{error}");
                    let mut comm = generations.regroup(comm, &error).unwrap();
                    let seen = (generations.generation(), comm.rank(), count(&mut comm).unwrap());
                    // The launcher is there until its ranks are done.
                    drop(generations);
                    (error, seen)
                })
            })
            .into_iter()
            .collect();
        scope.spawn(move || {
            let mut comm = rank_of(path, 1, 3, first).join().unwrap();
            assert_eq!(count(&mut comm).unwrap(), 3);
            comm.abort();
        });
        let mut lines: Vec<_> = doors.iter().map(Line::accept).collect();
        for (rank, line) in lines.iter_mut().enumerate() {
            let hello = line.hear();
            let said = json!({"rank": rank, "generation": 1, "pid": std::process::id(), "cooperates": true});
            assert_eq!(hello, json!({ "hello": said }));
        }
        // Nothing is ordered before the two have noticed by themselves: what they report is what they saw.
        for (old, new) in [(0, 0), (2, 1)] {
            let waiting = lines[old].hear();
            assert_eq!(waiting["waiting"]["generation"], json!(1), "{waiting}");
            lines[old].say(&json!({"generation": {"generation": 2, "env": world(new, 2, second)}}));
        }
        for (new, rank) in ranks.into_iter().enumerate() {
            let (error, seen) = rank.join().unwrap();
            assert_eq!(error.rank(), Some(1), "{error}");
            assert_eq!(seen, (2, new, 2));
        }
        assert_eq!(lines[2].hear()["hello"]["rank"], json!(1), "the new rank is told");
    });
}

#[test]
fn the_launcher_ends_what_nobody_else_would_end() {
    let folder = tempfile::tempdir().unwrap();
    let door = UnixListener::bind(folder.path().join("0")).unwrap();
    let stuck = UnixListener::bind(folder.path().join("1")).unwrap();
    let port = free_port();
    let path = folder.path();
    let (joined, both_joined) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let waits = scope.spawn(move || {
            let mut generations = rank_of(path, 0, 2, port);
            let mut comm = generations.join().unwrap();
            joined.send(()).unwrap();
            let error = comm.barrier().unwrap_err();
            let mut comm = generations.regroup(comm, &error).unwrap();
            (error, comm.world_size(), count(&mut comm).unwrap())
        });
        // Rank 1 joins and then neither dies nor comes to the barrier.
        let (release, released) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let comm = rank_of(path, 1, 2, port).join().unwrap();
            released.recv().unwrap();
            drop(comm);
        });
        let (mut line, mut other) = (Line::accept(&door), Line::accept(&stuck));
        assert!(line.hear().get("hello").is_some() && other.hear().get("hello").is_some());
        both_joined.recv().unwrap();
        line.say(&json!({"interrupt": {"generation": 1}}));
        line.say(&json!({"generation": {"generation": 4, "env": world(0, 1, port)}}));
        let (error, size, sum) = waits.join().unwrap();
        assert!(matches!(error, CommError::Interrupted | CommError::PeerLost { .. }), "{error}");
        assert_eq!((size, sum), (1, 1));
        release.send(()).unwrap();
    });
}

#[test]
fn without_a_next_generation_the_first_error_stays() {
    let error = CommError::PeerLost { rank: 3, reason: "its process ended".to_owned() };
    // No launcher.
    let mut alone = Generations::from_variables(BTreeMap::new()).unwrap();
    let comm = alone.join().unwrap();
    assert_eq!(alone.regroup(comm, &error).unwrap_err(), error);
    // A launcher that ends.
    let folder = tempfile::tempdir().unwrap();
    let door = UnixListener::bind(folder.path().join("0")).unwrap();
    let mut orphan = rank_of(folder.path(), 0, 1, 1);
    let comm = orphan.join().unwrap();
    drop(door.accept().unwrap());
    assert_eq!(orphan.regroup(comm, &error).unwrap_err(), error);
}

#[test]
fn a_launcher_that_is_not_there_is_named() {
    let variables = [("TRAINYARD_LAUNCHER_SOCKET".to_owned(), "@nobody-listens-here".to_owned())].into();
    let error = Generations::from_variables(variables).unwrap_err().to_string();
    assert!(error.starts_with("connection to the launcher:"), "{error}");
}

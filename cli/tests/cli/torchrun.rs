//! `trainyard torchrun` on several nodes, started by hand: shell scripts as ranks, and a launcher for each node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::launcher::{Launcher, PATIENCE, Rank, WHO, is_alive, wait_until_gone};

/// A port that is free now, and that nobody is given who asks for any: the launchers of all tests do so all the time.
fn port() -> String {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    let mut ports = (0..u16::MAX).map(|_| first + GIVEN.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap().to_string()
}

/// What each rank says of itself: torchrun makes one dollar of two.
fn who() -> String {
    WHO.replace("$$", "$$$$")
}

/// A launcher of a c10d rendezvous on this machine, with two ranks.
fn node(nodes: &str, port: &str, more: &[&str], script: &str) -> Launcher {
    let endpoint = format!("localhost:{port}");
    let fixed = ["torchrun", "--nnodes", nodes, "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"];
    let given = [&fixed[..], &[&endpoint, "--rdzv-id", "j7"], more, &["--no-python", "sh", "-c", script]].concat();
    Launcher::run(&given)
}

/// The first words of two launchers' ranks: by launcher, each sorted by rank.
fn both(nodes: &mut [Launcher; 2]) -> [Vec<Rank>; 2] {
    let [one, other] = nodes;
    [one.ranks(2), other.ranks(2)]
}

fn numbers(ranks: &[Vec<Rank>; 2]) -> Vec<usize> {
    let mut all: Vec<usize> = ranks.iter().flatten().map(|rank| rank.rank).collect();
    all.sort_unstable();
    all
}

fn generations(ranks: &[Vec<Rank>; 2]) -> Vec<u64> {
    ranks.iter().flatten().map(|rank| rank.generation).collect()
}

fn ended(nodes: [Launcher; 2]) -> [(Option<i32>, String); 2] {
    nodes.map(|node| {
        let (code, _, told) = node.finish();
        (code, told)
    })
}

#[test]
fn nodes_find_each_other_and_a_killed_rank_costs_all_of_them_a_generation() {
    let (port, script) = (port(), format!("{}; exec sleep 600", who()));
    let mut nodes = [(); 2].map(|()| node("2", &port, &["--max-restarts", "2"], &script));
    let mut before = both(&mut nodes);
    assert_eq!((numbers(&before), generations(&before)), (vec![0, 1, 2, 3], vec![1; 4]));
    for (round, generation) in [(0, 2), (1, 3)] {
        before[round][1].kill();
        let after = both(&mut nodes);
        assert_eq!((numbers(&after), generations(&after)), (vec![0, 1, 2, 3], vec![generation; 4]));
        for (now, old) in after.iter().flatten().zip(before.iter().flatten()) {
            assert_eq!(now.launcher, old.launcher, "in place");
            assert!(now.port != old.port && now.port == after[0][0].port, "{after:?}");
            wait_until_gone(old.pid);
        }
        before = after;
    }
    // Two restarts were allowed: the third failure is the end, everywhere and with its exit code.
    before[0][1].kill();
    for (code, told) in ended(nodes) {
        assert_eq!(code, Some(137), "{told}");
    }
}

#[test]
fn all_nodes_end_well_together() {
    let port = port();
    // A node that is through waits for the others.
    let nodes = [(); 2].map(|()| node("2", &port, &[], "[ $RANK = 3 ] && sleep 0.3; echo \"$RANK of $WORLD_SIZE\""));
    let mut said = Vec::new();
    for launcher in nodes {
        let (code, out, told) = launcher.finish();
        assert_eq!(code, Some(0), "{told}");
        said.extend(out.into_iter().map(|line| line.split_once("] ").unwrap().1.to_owned()));
    }
    said.sort();
    assert_eq!(said, ["0 of 4", "1 of 4", "2 of 4", "3 of 4"]);
}

#[test]
fn a_failure_without_a_restart_left_ends_all_nodes_with_its_code() {
    let port = port();
    let nodes = [(); 2].map(|()| node("2", &port, &[], "[ $RANK = 3 ] && exit 7; exec sleep 600"));
    let ends = ended(nodes);
    assert_eq!(ends.each_ref().map(|(code, _)| *code), [Some(7); 2], "{ends:?}");
    let count = |words: &str| ends.iter().filter(|(_, told)| told.contains(words)).count();
    assert_eq!(count("trainyard: rank 3 failed first: exit code 7"), 1, "{ends:?}");
    assert_eq!(count("trainyard: the job failed, not here: rank 3: "), 1, "{ends:?}");
}

#[test]
fn places_of_a_static_rendezvous_are_those_that_the_user_gave() {
    let (port, script) = (port(), format!("{}; exec sleep 600", who()));
    let start = |rank: &str| {
        let place = ["--nnodes=2", "--node-rank", rank, "--master-addr", "localhost", "--master-port", &port];
        let more = ["--nproc-per-node=2", "--max-restarts=1", "--no-python", "sh", "-c", &script];
        Launcher::run(&[&["torchrun"], &place[..], &more[..]].concat())
    };
    // The second one waits for the first, who serves.
    let mut nodes = [start("1"), start("0")];
    let before = both(&mut nodes);
    let ranks = |ranks: &[Vec<Rank>; 2]| ranks.each_ref().map(|ranks| ranks.iter().map(|r| r.rank).collect::<Vec<_>>());
    assert_eq!(ranks(&before), [vec![2, 3], vec![0, 1]]);
    before[0][0].kill();
    let after = both(&mut nodes);
    assert_eq!((ranks(&after), generations(&after)), (ranks(&before), vec![2; 4]));
    nodes.iter().for_each(|node| node.signal(Signal::SIGTERM));
    ended(nodes);
}

const ELASTIC: &str = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=1";

#[test]
fn nodes_come_and_go_between_the_bounds() {
    let (port, script) = (port(), format!("{}; exec sleep 600", who()));
    let more = ["--max-restarts", "1", "--rdzv-conf", ELASTIC];
    let mut first = node("1:2", &port, &more, &script);
    let alone = first.ranks(2);
    assert_eq!((alone[1].rank, alone[1].generation), (1, 1), "after the last call");
    let mut nodes = [first, node("1:2", &port, &more, &script)];
    let two = both(&mut nodes);
    assert_eq!((numbers(&two), generations(&two)), (vec![0, 1, 2, 3], vec![2; 4]), "a newcomer is let in");
    assert_eq!(two[0][0].restarts, 0, "which is nobody's failure");
    let [mut first, second] = nodes;
    second.signal(Signal::SIGKILL);
    second.finish();
    let left = first.ranks(2);
    assert_eq!((left[1].rank, left[1].generation), (1, 3), "one that is gone is not waited for for ever");
    first.told("generation 3: 2 ranks on 1 node");
    first.signal(Signal::SIGTERM);
    first.finish();
}

#[test]
fn without_the_serving_launcher_the_others_train_on_and_say_for_whom_they_wait() {
    let (port, script) = (port(), format!("{}; exec sleep 600", who()));
    let more = ["--max-restarts", "3"];
    let mut host = node("2", &port, &more, &script);
    host.told("1 of 2 nodes are at the rendezvous");
    let mut guest = node("2", &port, &more, &script);
    let before = guest.ranks(2);
    host.signal(Signal::SIGKILL);
    host.finish();
    guest.told(&format!("waiting for the rendezvous at http://localhost:{port}"));
    assert!(before.iter().all(|rank| is_alive(rank.pid)), "its ranks run on");
    // The new one knows nothing of the generations before it: it hears of them.
    let mut nodes = [node("2", &port, &more, &script), guest];
    let after = both(&mut nodes);
    assert_eq!(numbers(&after), [0, 1, 2, 3]);
    assert_eq!(generations(&after), [2; 4], "{after:?}");
    before.iter().for_each(|rank| wait_until_gone(rank.pid));
    nodes.iter().for_each(|node| node.signal(Signal::SIGTERM));
    ended(nodes);
}

#[test]
fn launchers_of_another_job_and_torchruns_are_refused_with_words() {
    let port = port();
    let mut host = node("2", &port, &[], "exec sleep 600");
    host.told("1 of 2 nodes");
    let other = ["torchrun", "--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=j8", "--no-python"];
    let endpoint = format!("--rdzv-endpoint=localhost:{port}");
    let mut stranger = Launcher::run(&[&other[..], &["--rdzv-conf=is_host=0", &endpoint, "true"]].concat());
    host.told("was refused at the rendezvous: its --rdzv-id");
    stranger.told("another --rdzv-id, or another TRAINYARD_JOB_TOKEN, meets there");
    stranger.end();
    // What PyTorch's client says first.
    let mut torch = TcpStream::connect(format!("localhost:{port}")).unwrap();
    torch.set_read_timeout(Some(PATIENCE)).unwrap();
    torch.write_all(&[0, 0xce, 0xf7, 0x85, 0x3c]).unwrap();
    host.told("PyTorch's torchrun called at the rendezvous");
    assert!(torch.read(&mut [0]).map_or(true, |count| count == 0), "it is hung up on");
    host.end();
}

#[test]
fn a_torchrun_at_the_endpoint_is_told_apart_from_a_node_that_is_late() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let launcher = node("2", &port.to_string(), &[], "exec sleep 600");
    // PyTorch's store repeats the number of a ping, and hangs up on what it does not know.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut first = [0; 10];
            if stream.read_exact(&mut first).is_ok() && first[0] == 0 {
                stream.write_all(&first[6..]).unwrap();
            }
        }
    });
    let (code, _, told) = launcher.finish();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("trainyard: the nodes did not meet: PyTorch's torchrun answers at localhost:"), "{told}");
}

#[test]
fn who_is_alone_at_the_endpoint_gives_up_in_time() {
    let began = Instant::now();
    let conf = ["--rdzv-conf", "join_timeout=1"];
    let (code, _, told) = node("2", &port(), &conf, "exec sleep 600").finish();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the nodes did not meet: 1 of 2 launchers joined the rendezvous within 1 s"), "{told}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    let etcd = ["torchrun", "--nnodes=2", "--rdzv-backend=etcd", "--rdzv-endpoint=e:2379", "t.py"];
    let output = Command::new(env!("CARGO_BIN_EXE_trainyard")).args(etcd).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no etcd is needed here") && told.contains("--rdzv-backend c10d --rdzv-endpoint"), "{told}");
}

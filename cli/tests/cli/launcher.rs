//! `trainyard launch` alone on a machine, with restarts left: shell scripts as ranks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here should take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What each rank says of itself.
pub(crate) const WHO: &str = "echo \"$RANK $TRAINYARD_GENERATION $$ $PPID $MASTER_PORT $TORCHELASTIC_RESTART_COUNT\"";

/// A launcher whose output is read line by line.
pub(crate) struct Launcher {
    pub(crate) child: Child,
    out: std::io::Lines<BufReader<ChildStdout>>,
    err: std::io::Lines<BufReader<ChildStderr>>,
}

/// A rank's word of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) rank: usize,
    pub(crate) generation: u64,
    pub(crate) pid: i32,
    pub(crate) launcher: i32,
    pub(crate) port: u16,
    pub(crate) restarts: u32,
}

impl Launcher {
    fn start(options: &[&str], script: &str) -> Self {
        let words: Vec<&str> = std::iter::once("launch").chain(options.iter().copied()).collect();
        Self::run(&[&words[..], &["--", "sh", "-c", script]].concat())
    }

    /// Starts the binary with these words.
    pub(crate) fn run(words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        command.args(words);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TORCHELASTIC_USE_AGENT_STORE", "True");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err }
    }

    pub(crate) fn line(&mut self) -> String {
        self.out
            .next()
            .unwrap_or_else(|| panic!("the launcher has ended: {:?}", self.err.by_ref().collect::<Vec<_>>()))
            .unwrap()
    }

    /// The next words of `count` ranks, by rank.
    pub(crate) fn ranks(&mut self, count: usize) -> Vec<Rank> {
        let mut ranks: Vec<Rank> = (0..count).map(|_| Rank::parse(&self.line())).collect();
        ranks.sort();
        ranks
    }

    /// Waits for a line on standard error.
    pub(crate) fn told(&mut self, wanted: &str) -> String {
        let mut lines = self.err.by_ref().map(Result::unwrap);
        lines.find(|line| line.contains(wanted)).expect("the launcher says so")
    }

    /// Stops it however long its ranks would take. One signal may be taken for two that come together.
    pub(crate) fn end(&mut self) {
        while self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::SIGTERM);
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Exit code and the rest of both outputs.
    pub(crate) fn finish(mut self) -> (Option<i32>, Vec<String>, String) {
        let out = self.out.map(Result::unwrap).collect();
        let err: Vec<String> = self.err.map(Result::unwrap).collect();
        (self.child.wait().unwrap().code(), out, err.join("\n"))
    }
}

impl Rank {
    fn parse(line: &str) -> Self {
        let words = line.split_once("] ").map_or(line, |(_, words)| words);
        let words: Vec<&str> = words.split(' ').collect();
        Self {
            rank: words[0].parse().unwrap(),
            generation: words[1].parse().unwrap(),
            pid: words[2].parse().unwrap(),
            launcher: words[3].parse().unwrap(),
            port: words[4].parse().unwrap(),
            restarts: words[5].parse().unwrap(),
        }
    }

    pub(crate) fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie has ended; only its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

pub(crate) fn wait_until_gone(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

/// Whether a process listens on a port. Another test's may have it as soon as it is free.
fn listens(pid: i32, port: u16) -> bool {
    let sockets = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mine: Vec<String> = sockets
        .filter_map(|entry| {
            std::fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned)
        })
        .map(|inode| inode.trim_end_matches(']').to_owned())
        .collect();
    ["tcp", "tcp6"].iter().any(|table| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let at_port = fields[1].ends_with(&format!(":{port:04X}"));
            at_port && fields[3] == "0A" && mine.iter().any(|inode| inode == fields[9])
        })
    })
}

#[test]
fn a_killed_rank_costs_a_generation_and_not_the_launcher() {
    let script = format!("{WHO}; exec sleep 600");
    let mut launcher = Launcher::start(&["--nproc", "2", "--max-restarts", "3"], &script);
    let mut before = launcher.ranks(2);
    assert_eq!(before.iter().map(|rank| rank.generation).collect::<Vec<_>>(), [1, 1]);
    for round in 1..=3 {
        let port = before[0].port;
        assert!(listens(before[0].launcher, port), "the store listens");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "the store listens");
        before[round % 2].kill();
        let after = launcher.ranks(2);
        for (rank, old) in after.iter().zip(&before) {
            assert!(rank.generation > old.generation, "{after:?} after {before:?}");
            assert_eq!((rank.launcher, rank.restarts), (old.launcher, u32::try_from(round).unwrap()));
            assert_ne!(rank.port, port);
        }
        assert!(!listens(before[0].launcher, port), "nothing of generation {round} is left to call");
        before.iter().for_each(|old| wait_until_gone(old.pid));
        before = after;
    }
    launcher.told("(restart 3 of 3)");
    before[0].kill();
    let (code, rest, told) = launcher.finish();
    assert_eq!((code, rest), (Some(137), Vec::new()), "{told}");
    assert!(told.contains("trainyard: rank 0 failed first: killed by SIGKILL"), "{told}");
    wait_until_gone(before[1].pid);
}

#[test]
fn lines_and_reports_name_the_generation() {
    let script = "[ $TRAINYARD_GENERATION = 2 ] && { echo done; exit 0; }
        [ $RANK = 1 ] && { echo 'error: the disk is full' >&2; exit 3; }; exec sleep 600";
    let launcher = Launcher::start(&["--nproc", "2", "--max-restarts", "1"], script);
    let (code, mut out, told) = launcher.finish();
    out.sort();
    assert_eq!((code, out), (Some(0), vec!["[rank 0 gen 2] done".to_owned(), "[rank 1 gen 2] done".to_owned()]));
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[0], "[rank 1] error: the disk is full");
    assert!(told[1].starts_with("trainyard: generation 1: rank 1 failed: "), "{told:?}");
    assert!(told.contains(&"  | error: the disk is full"), "{told:?}");
    let again = told.last().unwrap();
    assert!(again.starts_with("trainyard: generation 2: 2 ranks run again, "), "{told:?}");
    assert!(again.contains(" ms later (restart 1 of 1)"), "{told:?}");
}

#[test]
fn when_no_restart_is_left_the_exit_code_is_that_of_the_failure() {
    let script = "[ $RANK = 1 ] && exit $((6 + TRAINYARD_GENERATION)); exec sleep 600";
    let (code, _, told) = Launcher::start(&["--nproc", "2", "--max-restarts", "2"], script).finish();
    assert_eq!(code, Some(9), "{told}");
    assert!(
        told.contains("trainyard: rank 1 failed first: exit code 9; the other ranks of this pod were stopped"),
        "{told}"
    );
}

#[test]
fn who_ignores_sigterm_is_killed_before_the_next_generation_begins() {
    let script = format!("[ $RANK = 0 ] && trap '' TERM; {WHO}; while :; do sleep 0.05; done");
    let mut launcher = Launcher::start(&["--nproc", "2", "--grace", "1", "--max-restarts", "1"], &script);
    let before = launcher.ranks(2);
    let killed = Instant::now();
    before[1].kill();
    let after = launcher.ranks(2);
    assert!(killed.elapsed() >= Duration::from_millis(900), "it was not given its grace");
    assert_eq!(after[0].generation, 2);
    wait_until_gone(before[0].pid);
    launcher.end();
    launcher.finish();
    after.iter().for_each(|rank| wait_until_gone(rank.pid));
}

#[test]
fn a_stop_during_a_restart_starts_nothing_more() {
    // Rank 0 answers SIGTERM, and stays: the next generation has to wait for it.
    let script = format!("[ $RANK = 0 ] && trap 'echo told' TERM; {WHO}; while :; do sleep 0.05; done");
    let mut launcher = Launcher::start(&["--nproc", "2", "--grace", "600", "--max-restarts", "1"], &script);
    let ranks = launcher.ranks(2);
    ranks[1].kill();
    assert_eq!(launcher.line(), "[rank 0] told");
    launcher.end();
    let (code, out, told) = launcher.finish();
    assert_eq!((code, out), (Some(143), Vec::new()), "{told}");
    assert!(told.contains("trainyard: stopped by SIGTERM; exit code 143"), "{told}");
    wait_until_gone(ranks[0].pid);
}

#[test]
fn a_killed_launcher_leaves_no_rank_of_any_generation() {
    let script = format!("{WHO}; exec sleep 600");
    let mut launcher = Launcher::start(&["--nproc", "2", "--max-restarts", "1"], &script);
    let before = launcher.ranks(2);
    before[0].kill();
    let after = launcher.ranks(2);
    launcher.signal(Signal::SIGKILL);
    launcher.finish();
    before.iter().chain(&after).for_each(|rank| wait_until_gone(rank.pid));
}

#[test]
fn what_a_rank_left_behind_ends_with_its_generation() {
    // A helper in a session of its own outlives its rank, and must not outlive the generation.
    let script = format!(
        "if [ $TRAINYARD_GENERATION = 1 ] && [ $RANK = 0 ]; then
            setsid sh -c 'echo 0 1 $$ 0 0 0; exec sleep 600' & fi; {WHO}; exec sleep 600"
    );
    let mut launcher = Launcher::start(&["--nproc", "2", "--max-restarts", "1"], &script);
    let said = launcher.ranks(3);
    let (helper, ranks): (Vec<&Rank>, Vec<&Rank>) = said.iter().partition(|rank| rank.launcher == 0);
    ranks[0].kill();
    launcher.ranks(2);
    wait_until_gone(helper[0].pid);
    launcher.signal(Signal::SIGTERM);
    launcher.finish();
}

#[test]
fn a_rank_that_cooperates_goes_on_in_the_next_generation() {
    // The rank's process is a shell; this test speaks for it.
    let script =
        format!("[ $RANK = 0 ] && echo \"$TRAINYARD_LAUNCHER_SOCKET\"; [ $RANK = 1 ] && {{ {WHO}; }}; exec sleep 600");
    let mut launcher = Launcher::start(&["--nproc", "2", "--max-restarts", "1"], &script);
    let lines = [launcher.line(), launcher.line()];
    let socket = lines.iter().find_map(|line| line.split_once('@')).unwrap().1;
    let killed = lines.iter().find(|line| !line.contains('@')).map(|line| Rank::parse(line)).unwrap();
    let mut voice = UnixStream::connect_addr(&SocketAddr::from_abstract_name(socket).unwrap()).unwrap();
    voice.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = |generation: u64| {
        format!("{{\"hello\":{{\"rank\":0,\"generation\":{generation},\"pid\":1,\"cooperates\":true}}}}\n")
    };
    voice.write_all(hello(1).as_bytes()).unwrap();
    let mut news = BufReader::new(voice.try_clone().unwrap()).lines().map(Result::unwrap);
    // It is heard before the death is seen: the loop hears its ranks first.
    killed.kill();
    assert_eq!(news.next().unwrap(), "{\"interrupt\":{\"generation\":1}}");
    let order: serde_json::Value = serde_json::from_str(&news.next().unwrap()).unwrap();
    let order = &order["generation"];
    assert_eq!((&order["generation"], &order["env"]["RANK"]), (&2.into(), &"0".into()));
    let after = Rank::parse(&launcher.line());
    assert_eq!((after.rank, after.generation), (1, 2));
    assert_eq!(order["env"]["MASTER_PORT"], after.port.to_string());
    voice.write_all(hello(2).as_bytes()).unwrap();
    launcher.told("2 ranks run again");
    launcher.signal(Signal::SIGTERM);
    let (code, out, _) = launcher.finish();
    assert_eq!((code, out), (Some(143), Vec::new()));
}

#[test]
fn variables_that_are_told_as_one_are_variables_of_their_own_for_ranks() {
    let output = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args([
            "launch",
            "--",
            "sh",
            "-c",
            "echo \"$TRAINYARD_JOB|$LIST|$PET_NPROC_PER_NODE|${TRAINYARD_TOLD-taken apart}\"",
        ])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("TRAINYARD_TOLD", "TRAINYARD_JOB=wine\nLIST=a=b c\nPET_NPROC_PER_NODE=2")
        .output()
        .unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<&str> = lines.lines().filter_map(|line| line.split_once("] ")).map(|(_, line)| line).collect();
    assert_eq!(said, ["wine|a=b c|2|taken apart"; 2], "{lines}{}", String::from_utf8_lossy(&output.stderr));
}

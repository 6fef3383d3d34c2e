//! With real processes: Python ranks that do what ranks do when they hang.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};

use super::*;

/// Long enough for a slow machine; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ranks that wait for others, as torch's do: in a file of `torch/distributed`.
const COLLECTIVE: &str = "import time\ndef all_reduce(x):\n    time.sleep(1000)\n";
const PROGRAM: &str = r#"
import sys, time
sys.path.insert(0, sys.argv[2])
import collective

def fetch():
    print("up", flush=True)
    time.sleep(1000)

def compute():
    print("up", flush=True)
    while True:
        sum(range(10000))

def wait():
    print("up", flush=True)
    collective.all_reduce(1)

{"fetch": fetch, "compute": compute, "wait": wait}[sys.argv[1]]()
"#;

struct Bed {
    folder: tempfile::TempDir,
    ranks: Vec<Child>,
    watch: Watch,
    began: Instant,
}

impl Bed {
    /// Ranks that do this, of which the first has told of quick steps until now.
    fn new(ranks: &[&str]) -> Self {
        Self::behind(None, ranks)
    }

    /// The same, started by a script of the shell.
    fn behind(front: Option<&str>, ranks: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("torch/distributed");
        std::fs::create_dir_all(&library).unwrap();
        std::fs::write(library.join("collective.py"), COLLECTIVE).unwrap();
        std::fs::write(folder.path().join("train.py"), PROGRAM).unwrap();
        let mut watch = Watch::new("node-a".to_owned(), false);
        watch.begin(0, 0..u32::try_from(ranks.len()).unwrap(), 1, true);
        let ranks: Vec<Child> = ranks.iter().map(|what| start(folder.path(), what, front)).collect();
        let mut bed = Self { folder, ranks, watch, began: Instant::now() };
        for (rank, child) in (0..).zip(&bed.ranks) {
            bed.watch.started(rank, Pid::from_raw(child.id().cast_signed()));
        }
        for step in 0..10 {
            bed.watch.sign(i64::try_from(step).unwrap() * 20 - 200, 0, Sign::Step(step));
        }
        bed.began = Instant::now();
        bed
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// What the watch says until there is something to say, or `limit` is over.
    fn until_said(&mut self, limit: Duration) -> Verdict {
        while self.began.elapsed() < limit {
            let now_ms = self.now_ms();
            let wait = self.watch.deadline(now_ms).map_or(1_000, |due| (due - now_ms).clamp(0, 1_000));
            let mut fds: Vec<PollFd<'_>> =
                self.watch.readable().into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let _ = poll(&mut fds, PollTimeout::try_from(wait).unwrap());
            let verdict = self.watch.advance(self.now_ms(), None);
            if verdict != Verdict::default() {
                return verdict;
            }
        }
        Verdict::default()
    }
}

fn start(folder: &Path, what: &str, front: Option<&str>) -> Child {
    let mut command = match front {
        None => Command::new("python3"),
        Some(script) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            shell
        }
    };
    let mut child = command
        .arg(folder.join("train.py"))
        .args([what, folder.join("torch/distributed").to_str().unwrap()])
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
    child
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in &mut self.ranks {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

#[test]
fn the_rank_that_sleeps_is_named_with_its_line() {
    let mut bed = Bed::new(&["wait", "fetch", "wait"]);
    bed.watch.restart = true;
    let verdict = bed.until_said(PATIENCE);
    let text = &verdict.text;
    assert!(text.starts_with("trainyard: rank 1 on node-a hangs: no progress for "), "{text}");
    assert!(text.contains("waits in `time.sleep(1000)` in fetch ("), "{text}");
    assert!(text.contains("train.py:8)\n  | <module> ("), "{text}");
    assert!(text.contains("trainyard: ranks 0, 2 wait for it in all_reduce (distributed/collective.py:3)\n"), "{text}");
    assert_eq!(verdict.end.len(), 1);
    assert_eq!(verdict.end[0].0, 1);
    let pulse = bed.watch.pulse(bed.now_ms(), 0).unwrap();
    assert!(pulse.stalled && pulse.in_collective && pulse.silent_ms >= 1_600, "{pulse:?}");
    assert_eq!(pulse.step, Some(9));
}

/// A stop is named without a stack, too: on a busy machine that may take longer than there is time for it.
#[test]
fn the_stack_of_a_stopped_rank_is_read() {
    let is_read = || {
        let mut bed = Bed::new(&["wait", "compute", "wait"]);
        kill(Pid::from_raw(bed.ranks[1].id().cast_signed()), Signal::SIGSTOP).unwrap();
        bed.until_said(PATIENCE).text.contains("stopped by a signal (SIGSTOP or a debugger) in `")
    };
    assert!((0..10).any(|_| is_read()));
}

#[test]
fn a_stopped_rank_is_named_and_seen_to_move_again() {
    let mut bed = Bed::new(&["wait", "compute", "wait"]);
    let pid = Pid::from_raw(bed.ranks[1].id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let verdict = bed.until_said(PATIENCE);
    let text = &verdict.text;
    assert!(text.contains("rank 1 on node-a hangs"), "{text}");
    assert!(text.contains("stopped by a signal (SIGSTOP or a debugger)"), "{text}");
    assert!(text.contains("ranks 0, 2 wait for it"), "{text}");
    assert_eq!(verdict.end, [], "a report is all that is asked for");
    kill(pid, Signal::SIGCONT).unwrap();
    let verdict = bed.until_said(PATIENCE);
    assert_eq!(verdict.text, "trainyard: rank 1 on node-a moves again\n");
    assert!(!bed.watch.pulse(bed.now_ms(), 1).unwrap().stalled);
}

/// The shell waits for its child, and that for others.
#[test]
fn a_shell_in_front_of_a_rank_is_looked_through() {
    let front = Some("python3 \"$0\" \"$@\"; exit $?");
    let mut bed = Bed::behind(front, &["wait", "fetch", "wait"]);
    let text = bed.until_said(PATIENCE).text;
    assert!(text.contains("waits in `time.sleep(1000)` in fetch ("), "{text}");
    assert!(text.contains("trainyard: ranks 0, 2 wait for it in all_reduce (distributed/collective.py:3)\n"), "{text}");
    drop(bed);
    let mut bed = Bed::behind(front, &["wait", "compute", "wait"]);
    assert_eq!(bed.until_said(Duration::from_secs(6)), Verdict::default());
}

/// Nobody knows what they wait for: it may be the one that computes.
#[test]
fn who_cannot_be_read_is_not_to_blame_while_another_rank_works() {
    let front = Some("case $1 in compute) exec python3 \"$0\" \"$@\";; esac; printf up; sleep 1000");
    let mut bed = Bed::behind(front, &["wait", "compute", "wait"]);
    assert_eq!(bed.until_said(Duration::from_secs(6)), Verdict::default());
}

#[test]
fn who_computes_does_not_hang() {
    let mut bed = Bed::new(&["wait", "compute", "wait"]);
    // Three times what a hang may take to be found.
    assert_eq!(bed.until_said(Duration::from_secs(6)), Verdict::default());
    assert!(bed.folder.path().exists());
}

//! Against the interpreter that is there. What a program sees is checked by `tests/python`; here it is the life of the
//! zygote and of its spares.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Read as _;
use std::process::Child;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::*;

/// Long enough for a slow machine; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = r#"
import os, sys, wave
print("wave" in sys.modules, os.environ.get("RANK"), os.getppid(), flush=True)
import time
time.sleep(1000)
"#;

struct Bed {
    _folder: tempfile::TempDir,
    first: Child,
    warm: Warm,
}

/// A first rank that runs, and the spares that were made after it.
fn bed(program: &str, spares: usize) -> Bed {
    crate::launch::process::adopt_orphans().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("train.py");
    std::fs::write(&script, program).unwrap();
    let command = vec!["python3".to_owned(), script.to_str().unwrap().to_owned()];
    let mut first = Command::new(&command[0]).arg(&command[1]).stdout(Stdio::piped()).spawn().unwrap();
    first.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    let mut warm = Warm::new(&command, spares, &[]).unwrap();
    assert_eq!(warm.socket().map(|_| ()), None, "nothing is started before there is progress");
    warm.progress(first.id());
    let mut bed = Bed { _folder: folder, first, warm };
    bed.until(|warm| warm.spares() == spares);
    bed
}

impl Bed {
    fn until(&mut self, done: impl Fn(&Warm) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.warm) {
            assert!(Instant::now() < deadline, "{:?}", self.warm.trouble());
            if let Some(socket) = self.warm.socket() {
                let _ = poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], PollTimeout::from(100_u8));
            }
            self.warm.hear();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn rank(number: u32) -> Vec<(String, String)> {
    vec![("RANK".to_owned(), number.to_string())]
}

/// The first line that a rank writes; then it is killed, and must end.
fn first_line(started: Started) -> String {
    let [out, _error] = started.pipes;
    let mut text = String::new();
    let mut byte = [0; 1];
    let mut out = File::from(out);
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0].into());
    }
    let pid = Pid::from_raw(started.pid.cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    text
}

#[test]
fn a_spare_becomes_a_rank_and_is_replaced() {
    let mut bed = bed(PROGRAM, 2);
    assert!(bed.warm.memory() > 1_000_000);
    for number in [4, 5] {
        let started = bed.warm.try_start(&rank(number)).unwrap();
        assert_eq!(first_line(started), format!("True {number} {}", std::process::id()));
    }
    assert!(bed.warm.try_start(&rank(6)).is_none(), "there are none left");
    bed.warm.progress(bed.first.id());
    bed.until(|warm| warm.spares() == 2);
    let zygote = bed.warm.zygote.as_ref().unwrap().process.pid;
    assert_eq!(bed.warm.failures, 0, "the zygote {zygote} is still the first one");
}

#[test]
fn dead_spares_and_a_dead_zygote_cost_the_warm_start_only() {
    let mut bed = bed(PROGRAM, 1);
    let spare = Pid::from_raw(bed.warm.spares[0].process.pid.cast_signed());
    kill(spare, Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(spare, None).unwrap();
    assert!(bed.warm.try_start(&rank(0)).is_none());
    let zygote = Pid::from_raw(bed.warm.zygote.as_ref().unwrap().process.pid.cast_signed());
    kill(zygote, Signal::SIGKILL).unwrap();
    bed.until(|warm| warm.socket().is_none());
    bed.warm.progress(bed.first.id());
    bed.until(|warm| warm.spares() == 1);
    assert!(bed.warm.try_start(&rank(0)).is_some());
}

#[test]
fn a_spare_that_hangs_costs_a_moment() {
    let mut bed = bed(PROGRAM, 1);
    let spare = Pid::from_raw(bed.warm.spares[0].process.pid.cast_signed());
    kill(spare, Signal::SIGSTOP).unwrap();
    let before = Instant::now();
    assert!(bed.warm.try_start(&rank(0)).is_none());
    assert!(before.elapsed() < PROMOTION + Duration::from_secs(1));
    // It was killed, so that it cannot become a second rank later.
    let deadline = Instant::now() + PATIENCE;
    nix::sys::wait::waitpid(spare, None).unwrap();
    assert!(Instant::now() < deadline);
}

#[test]
fn all_end_with_the_one_who_holds_them() {
    let bed = bed(PROGRAM, 1);
    let pids = [bed.warm.spares[0].process.pid, bed.warm.zygote.as_ref().unwrap().process.pid];
    drop(bed);
    for pid in pids {
        nix::sys::wait::waitpid(Pid::from_raw(pid.cast_signed()), None).unwrap();
    }
}

#[test]
fn what_is_no_python_program_has_no_spares() {
    let command = ["sh".to_owned(), "train.sh".to_owned()];
    assert!(Warm::new(&command, 1, &[]).is_none());
    assert!(python_path(&command).is_none());
}

#[test]
fn what_a_spare_forks_as_a_rank_is_known_by_its_generation() {
    // A daemon as they were always made: it has its own session, and nobody for a parent.
    let program = r#"
import os, sys, wave
if "RANK" in os.environ and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), os.environ["TRAINYARD_GENERATION"], flush=True)
    else:
        os._exit(0)
print("." if "RANK" not in os.environ else "", end="", flush=True)
import time
time.sleep(1000)
"#;
    let mut bed = bed(program, 1);
    let zygote = Pid::from_raw(bed.warm.zygote.as_ref().unwrap().process.pid.cast_signed());
    let is_of_before = crate::launch::process::is_of_before;
    let mut variables = rank(0);
    variables.push(("TRAINYARD_GENERATION".to_owned(), "7".to_owned()));
    let line = first_line(bed.warm.try_start(&variables).unwrap());
    let (daemon, generation) = line.split_once(' ').unwrap();
    let daemon = Pid::from_raw(daemon.parse().unwrap());
    assert_eq!(generation, "7");
    assert!(!is_of_before(daemon, 7));
    assert!(is_of_before(daemon, 8));
    assert!(!is_of_before(zygote, 8), "spares are for any generation");
    kill(daemon, Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(daemon, None).unwrap();
}

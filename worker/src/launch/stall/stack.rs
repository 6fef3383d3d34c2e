//! The Python stacks of ranks, read from outside by an interpreter of the same build: `worker/python/warm/stacks.py`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::Pid;
use serde::Deserialize;
use trainyard_worker_core::stall::Waits;
use trainyard_worker_core::stall::python::{Frame, waits};

use super::super::warm;
use super::proc;
use crate::descendants;

/// More than the stacks of a machine's ranks are.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Source files that are larger are no source files.
const SOURCE_BYTES: u64 = 4 * 1024 * 1024;
/// Programs in front of a rank's own, one in the other.
const WRAPPERS: usize = 4;

/// A reading that is under way.
pub(super) struct Reading {
    ranks: BTreeMap<u32, Pid>,
    helper: Option<Helper>,
}

struct Helper {
    child: Child,
    answer: File,
    text: Vec<u8>,
    deadline: Instant,
}

#[derive(Deserialize)]
struct Thread {
    main: bool,
    frames: Vec<Frame>,
}

impl Reading {
    /// Begins to find out what these ranks wait in; what takes longer is not found out.
    pub(super) fn begin(ranks: BTreeMap<u32, Pid>, patience: Duration) -> Self {
        let ranks: BTreeMap<u32, Pid> = ranks.into_iter().map(|(rank, pid)| (rank, program(pid))).collect();
        let helper = Helper::start(&ranks, patience).ok();
        Self { ranks, helper }
    }

    /// To be polled for reading.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.helper.as_ref().map(|helper| helper.answer.as_fd())
    }

    /// What they wait in, once that is known; at the latest when the patience is over.
    pub(super) fn advance(&mut self) -> Option<BTreeMap<u32, Waits>> {
        let (stacks, unread) = match &mut self.helper {
            Some(helper) => (helper.advance()?, helper.is_late()),
            None => (BTreeMap::new(), false),
        };
        let waits = |pid: Pid| match stacks.get(&pid.to_string()) {
            None => Waits { unread, ..what(pid, None) },
            stack => what(pid, stack),
        };
        Some(self.ranks.iter().map(|(rank, pid)| (*rank, waits(*pid))).collect())
    }

    /// Milliseconds until [`Self::advance`] has an answer in any case.
    pub(super) fn left_ms(&self) -> i64 {
        let left = self.helper.as_ref().map(|helper| helper.deadline.saturating_duration_since(Instant::now()));
        i64::try_from(left.unwrap_or_default().as_millis()).unwrap_or(0)
    }
}

/// The program that a rank is: behind a shell, or a program like it, that waits for the end of its only child.
fn program(pid: Pid) -> Pid {
    let mut inner = pid;
    for _ in 0..WRAPPERS {
        if is_python(inner) {
            return inner;
        }
        if !proc::waits_for_child(inner) {
            return pid;
        }
        let children = descendants::children(inner);
        let [child] = children.as_slice() else { return pid };
        inner = *child;
    }
    pid
}

fn is_python(pid: Pid) -> bool {
    executable(pid).is_some_and(|path| is_interpreter(&path))
}

fn executable(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn is_interpreter(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))
}

fn what(pid: Pid, stack: Option<&Vec<Frame>>) -> Waits {
    let Some((frames, innermost)) = stack.and_then(|frames| frames.first().map(|innermost| (frames, innermost))) else {
        // Not Python, or not to be read: the system's view.
        return Waits { place: proc::waits_in(pid).unwrap_or_default(), ..Waits::default() };
    };
    waits(frames, source(pid, innermost).as_deref())
}

/// The line of source that a frame is in.
fn source(pid: Pid, frame: &Frame) -> Option<String> {
    // Through the process's own root, which may be a container's.
    let inside = Path::new(&frame.file);
    let path = match inside.strip_prefix("/") {
        Ok(inside) => Path::new("/proc").join(pid.to_string()).join("root").join(inside),
        Err(_) => Path::new("/proc").join(pid.to_string()).join("cwd").join(inside),
    };
    let data = std::fs::metadata(&path).ok()?;
    if !data.is_file() || data.len() > SOURCE_BYTES {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let line = usize::try_from(frame.line).ok()?.checked_sub(1)?;
    text.lines().nth(line).map(str::to_owned)
}

impl Helper {
    /// One interpreter for all of them: the ranks of a job run the same.
    fn start(ranks: &BTreeMap<u32, Pid>, patience: Duration) -> io::Result<Self> {
        let interpreter: PathBuf = ranks
            .values()
            .filter_map(|pid| executable(*pid))
            .find(|path| is_interpreter(path))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no Python among them"))?;
        let memories: Vec<(Pid, File)> = ranks
            .values()
            .filter_map(|pid| File::open(format!("/proc/{pid}/mem")).ok().map(|memory| (*pid, memory)))
            .collect();
        let inherited: Vec<RawFd> = memories.iter().map(|(_, memory)| memory.as_raw_fd()).collect();
        let mut command = Command::new(interpreter);
        command.args(["-I", "-S"]).arg(warm::folder()?.join("warm/stacks.py"));
        command.args(memories.iter().map(|(pid, memory)| format!("{pid}:{}", memory.as_raw_fd())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(move || {
                for raw in &inherited {
                    // SAFETY: the descriptor is open: the parent holds it until this process runs the interpreter.
                    fcntl(BorrowedFd::borrow_raw(*raw), FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                crate::signal::reset()
            });
        }
        let mut child = command.spawn()?;
        let Some(answer) = child.stdout.take() else { return Err(io::Error::other("a child without a pipe")) };
        let answer = File::from(OwnedFd::from(answer));
        let flags = OFlag::from_bits_retain(fcntl(&answer, FcntlArg::F_GETFL)?);
        fcntl(&answer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { child, answer, text: Vec::new(), deadline: Instant::now() + patience })
    }

    /// Whether it did not end in time.
    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The stacks of the main threads by process, once they are all there.
    fn advance(&mut self) -> Option<BTreeMap<String, Vec<Frame>>> {
        let mut chunk = vec![0; 64 * 1024];
        while self.text.len() < ANSWER_BYTES {
            match self.answer.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.text.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < self.deadline => {
                    return None;
                }
                Err(_) => break,
            }
        }
        let answers: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&self.text).unwrap_or_default();
        let main = |value: serde_json::Value| {
            let threads: Vec<Thread> = serde_json::from_value(value).ok()?;
            threads.into_iter().find(|thread| thread.main).map(|thread| thread.frames)
        };
        Some(answers.into_iter().filter_map(|(pid, value)| Some((pid, main(value)?))).collect())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It has ended, or has had its time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

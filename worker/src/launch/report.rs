//! What the launcher says when ranks fail, are started again, or are stopped.

use std::fmt::Write as _;

use nix::sys::signal::Signal;
use trainyard_proto::rendezvous::{Cause, Failure};
use trainyard_worker_core::supervisor::{Exit, Outcome, Stop, Tail};

/// Lines of the failed rank's output that are shown again: enough for the end of a traceback.
const LINES: usize = 15;
/// Bytes of a failure's message.
const MESSAGE_BYTES: usize = 500;

/// The end of a launch that did not go well, in words; empty when it did. `ranks` of this pod; `rank` counts over all pods.
pub(super) fn report(outcome: &Outcome, rank: impl Fn(usize) -> usize, tail: Option<&Tail>, ranks: usize) -> String {
    let mut text = String::new();
    if let Some((local_rank, exit)) = outcome.first_failure {
        let rank = rank(local_rank);
        let others = if ranks > 1 { "; the other ranks of this pod were stopped" } else { "" };
        let _ = writeln!(text, "trainyard: rank {rank} failed first: {}{others}", words(exit));
        last_words(&mut text, tail);
        if let Some(hint) = hint(exit) {
            let _ = writeln!(text, "hint: {hint}");
        }
    } else if let Some(stop) = outcome.stopped {
        let why = match stop {
            Stop::Terminate => "SIGTERM",
            Stop::Interrupt => "SIGINT",
            Stop::Kill => "SIGKILL",
        };
        let _ = writeln!(text, "trainyard: stopped by {why}; exit code {}", outcome.code);
    }
    text
}

/// The end of a job because of a rank of another pod.
pub(super) fn elsewhere(failure: &Failure) -> String {
    let who = failure.rank.map_or_else(|| "a launcher".to_owned(), |rank| format!("rank {rank}"));
    format!("trainyard: the job failed, not here: {who}: {}; exit code {}\n", failure.message, failure.code)
}

/// A failure after which the ranks are started again.
pub(super) fn borne(generation: u64, rank: usize, exit: Exit, tail: Option<&Tail>) -> String {
    let mut text = format!("trainyard: generation {generation}: rank {rank} failed: {}\n", words(exit));
    if matches!(exit, Exit::Code(_)) {
        last_words(&mut text, tail);
    }
    text
}

/// The ranks run again.
pub(super) fn again(generation: u64, ranks: usize, restart: (u32, u32), after_ms: i64) -> String {
    let (restart, most) = restart;
    let are = if ranks == 1 { "1 rank runs" } else { &format!("{ranks} ranks run") };
    let most = if most >= restart { format!(" of {most}") } else { String::new() };
    format!("trainyard: generation {generation}: {are} again, {after_ms} ms later (restart {restart}{most})\n")
}

/// What the rendezvous is told of a failure.
pub(super) fn failure(rank: usize, exit: Exit, tail: Option<&Tail>) -> Failure {
    let cause = match exit {
        Exit::Code(_) => Cause::ExitCode,
        Exit::Signal(_) => Cause::Signal,
    };
    // The last line of a traceback says what it was; without one there is nothing better than the exit.
    let said = tail.and_then(|tail| tail.meaningful(1).first().map(|line| (*line).to_owned()));
    let mut message = match (exit, said) {
        (Exit::Code(_), Some(line)) => format!("{}: {}", words(exit), line.trim()),
        (Exit::Code(_) | Exit::Signal(_), _) => words(exit),
    };
    let mut end = message.len().min(MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    Failure { rank: u32::try_from(rank).ok(), cause: cause.into(), code: exit.code(), message }
}

fn last_words(text: &mut String, tail: Option<&Tail>) {
    let lines = tail.map(|tail| tail.meaningful(LINES)).unwrap_or_default();
    if !lines.is_empty() {
        let _ = writeln!(text, "trainyard: its last words:");
        for line in lines {
            let _ = writeln!(text, "  | {line}");
        }
    }
}

fn words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(number) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal} (exit code {})", exit.code()),
            Err(_) => format!("killed by signal {number} (exit code {})", exit.code()),
        },
    }
}

fn hint(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::Signal(libc::SIGKILL) => {
            Some("nobody here sent that signal; the machine may have run out of memory (see `dmesg`)")
        }
        Exit::Signal(libc::SIGSEGV | libc::SIGABRT | libc::SIGBUS | libc::SIGILL) => {
            Some("the program crashed in native code; for Python, PYTHONFAULTHANDLER=1 prints where")
        }
        Exit::Code(127) => Some("is the program installed, and is its folder in PATH?"),
        Exit::Code(_) | Exit::Signal(_) => None,
    }
}

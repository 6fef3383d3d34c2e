//! What the launcher says when ranks fail.

use std::fmt::Write as _;

use nix::sys::signal::Signal;
use trainyard_worker_core::supervisor::{Exit, Outcome, Stop, Tail};

/// Lines of the failed rank's output that are shown again: enough for the end of a traceback.
const LINES: usize = 15;

/// The end of a launch that did not go well, in words; empty when it did.
pub(super) fn report(outcome: &Outcome, rank: impl Fn(usize) -> usize, tail: Option<&Tail>, ranks: usize) -> String {
    let mut text = String::new();
    if let Some((local_rank, exit)) = outcome.first_failure {
        let rank = rank(local_rank);
        let others = if ranks > 1 { "; the other ranks of this pod were stopped" } else { "" };
        let _ = writeln!(text, "trainyard: rank {rank} failed first: {}{others}", words(exit));
        let lines = tail.map(|tail| tail.meaningful(LINES)).unwrap_or_default();
        if !lines.is_empty() {
            let _ = writeln!(text, "trainyard: its last words:");
            for line in lines {
                let _ = writeln!(text, "  | {line}");
            }
        }
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

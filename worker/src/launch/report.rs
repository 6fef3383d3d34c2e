//! What the launcher says when ranks fail, are started again, or are stopped.

use std::fmt::Write as _;

use nix::sys::signal::Signal;
use trainyard_proto::rendezvous::{Cause, Failure};
use trainyard_worker_core::cause::{Candidate, Kind};
use trainyard_worker_core::supervisor::{Exit, Outcome, Stop, Tail};

/// Lines of the failed rank's output that are shown again: enough for the end of a traceback.
const LINES: usize = 15;

/// The failure of which a launch ended. `exit` is how that rank ended, `ranks` how many this pod has.
pub(super) fn failed_first(failure: &Failure, exit: Option<Exit>, tail: Option<&Tail>, ranks: usize) -> String {
    let rank = failure.rank.unwrap_or_default();
    // A rank that was about to fail by itself may have been ended before it could.
    let exit = exit.filter(|exit| exit.code() == failure.code);
    let how = exit.map_or_else(|| format!("exit code {}", failure.code), words);
    let others = if ranks > 1 { "; the other ranks of this pod were stopped" } else { "" };
    let mut text = format!("trainyard: rank {rank} failed first: {how}{others}\n");
    last_words(&mut text, tail);
    let memory = (failure.cause() == Cause::OutOfMemory).then_some(failure.message.as_str());
    if let Some(hint) = memory.or_else(|| exit.and_then(hint)) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// The end of a launch that was stopped; empty when it was not.
pub(super) fn stopped(outcome: &Outcome) -> String {
    let Some(stop) = outcome.stopped else { return String::new() };
    let why = match stop {
        Stop::Terminate => "SIGTERM",
        Stop::Interrupt => "SIGINT",
        Stop::Kill => "SIGKILL",
    };
    format!("trainyard: stopped by {why}; exit code {}\n", outcome.code)
}

/// The end of a job because of a rank of another pod.
pub(super) fn elsewhere(failure: &Failure) -> String {
    if failure.rank.is_none() && failure.cause() == Cause::RendezvousTimeout {
        return format!("trainyard: the nodes did not meet: {}; exit code {}\n", failure.message, failure.code);
    }
    let who = failure.rank.map_or_else(|| "a launcher".to_owned(), |rank| format!("rank {rank}"));
    let code = format!("exit code {}", failure.code);
    let code = if failure.message.ends_with(&code) { String::new() } else { format!("; {code}") };
    format!("trainyard: the job failed, not here: {who}: {}{code}\n", failure.message)
}

/// What NCCL warned a failed rank of: it went into a file, so that we could read it.
pub(super) fn warnings(rank: usize, warnings: &[String]) -> String {
    let mut text = format!("trainyard: NCCL warned rank {rank}:\n");
    for line in warnings.iter().rev().take(LINES).rev() {
        let _ = writeln!(text, "  | {line}");
    }
    text
}

/// A failure after which the ranks are started again.
pub(super) fn borne(generation: u64, failure: &Failure, tail: Option<&Tail>) -> String {
    let who = failure.rank.map_or_else(|| "a launcher".to_owned(), |rank| format!("rank {rank}"));
    let mut text = format!("trainyard: generation {generation}: {who} failed: {}\n", failure.message);
    match failure.cause() {
        Cause::Exception | Cause::ImportError | Cause::ExitCode => last_words(&mut text, tail),
        Cause::Unspecified
        | Cause::Signal
        | Cause::OutOfMemory
        | Cause::RendezvousTimeout
        | Cause::Hang
        | Cause::NodeLost
        | Cause::GpuXid
        | Cause::Preflight => {}
    }
    text
}

/// How ranks came to run again.
pub(super) struct Spares<'a> {
    /// Out of how many spares.
    pub(super) used: usize,
    /// Why there were none, as far as that is known.
    pub(super) why: Option<&'a str>,
}

/// The ranks run again.
pub(super) fn again(generation: u64, ranks: usize, restart: (u32, u32), after_ms: i64, spares: &Spares<'_>) -> String {
    let (restart, most) = restart;
    let are = if ranks == 1 { "1 rank runs" } else { &format!("{ranks} ranks run") };
    let most = if most >= restart { format!(" of {most}") } else { String::new() };
    let how = match spares {
        Spares { used: 0, why: Some(why) } => format!("; without spares: {why}"),
        Spares { used: 0, why: None } => String::new(),
        Spares { used, .. } => format!(", {used} from spares"),
    };
    format!("trainyard: generation {generation}: {are} again, {after_ms} ms later (restart {restart}{most}){how}\n")
}

/// What the rendezvous is told of a failure.
pub(super) fn failure(candidate: &Candidate) -> Failure {
    let cause = match candidate.cause.kind {
        Kind::ExitCode => Cause::ExitCode,
        Kind::Signal => Cause::Signal,
        Kind::OutOfMemory => Cause::OutOfMemory,
        Kind::ImportError => Cause::ImportError,
        Kind::Exception => Cause::Exception,
        Kind::RendezvousTimeout => Cause::RendezvousTimeout,
        Kind::Hang => Cause::Hang,
        Kind::GpuXid => Cause::GpuXid,
        Kind::Preflight => Cause::Preflight,
    };
    let (code, message) = (candidate.cause.code, candidate.cause.message.clone());
    Failure { rank: Some(candidate.rank), cause: cause.into(), code, message, secondary: candidate.cause.secondary }
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

//! The shim: one small process per container that outlives the agent, keeps its logs and its exit code.
//!
//! It is told a [`ShimSpec`] through its standard input, claims the run by making its state file, starts the program in
//! a session of its own and is the subreaper of everything that descends from it. When the program ends, or a stop has
//! used up its grace, all descendants are killed, the rest of the output is written, and the end is written down. The
//! agent learns of it from the state file, now or after its own restart.

pub(crate) mod aside;
mod child;
mod engine;
mod family;
mod hook;
mod log;
mod order;
mod scan;
mod spec;
mod watch;

pub use engine::EngineContainer;
pub use order::{Launched, launch, order_stop, run_beside};
pub(crate) use spec::write_lightly;
pub use spec::{Beside, Hook, ProcessId, RunState, ShimSpec, User, boot_id, now_ms, write_atomically};

use std::io::{Read, Write};
use std::process::ExitCode;

use trainyard_worker_core::pod::Ending;

/// Entry of the hidden subcommand `trainyard shim`. `args` is what follows `shim`.
///
/// Call it before any runtime or logging is set up: the shim must stay single-threaded.
#[must_use]
pub fn main(args: &[String]) -> ExitCode {
    match args.first().map(String::as_str) {
        None => watch_over(),
        Some("check-namespaces") => check_namespaces(),
        Some("beside") => beside(&args[1..]),
        Some(other) => {
            let _ =
                writeln!(std::io::stderr(), "trainyard shim is started by the node agent; {other:?} is unknown to it");
            ExitCode::from(2)
        }
    }
}

/// Runs one container to its end.
fn watch_over() -> ExitCode {
    // Before anything else: what ends the terminal's foreground group must not end us.
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let _ = nix::sys::prctl::set_name(c"trainyard-shim");
    let Ok(mut signals) = watch::block_signals() else { return ExitCode::from(2) };
    let mut told = Vec::new();
    // An agent that died while telling leaves half a sentence, which is no order.
    let Some(spec) =
        std::io::stdin().read_to_end(&mut told).ok().and_then(|_| serde_json::from_slice::<ShimSpec>(&told).ok())
    else {
        return ExitCode::from(2);
    };
    drop(told);
    let Some(me) = ProcessId::of(std::process::id().cast_signed()) else { return ExitCode::from(2) };
    let state = RunState {
        container: spec.container.clone(),
        attempt: spec.attempt,
        streak: spec.streak,
        boot_id: boot_id(),
        shim: me,
        process: None,
        started_ms: None,
        stop_deadline_ms: None,
        engine: spec.engine.clone(),
        user: spec.user.clone(),
        cgroup: spec.cgroup.clone(),
        ending: None,
    };
    let claim = serde_json::to_vec(&state).unwrap_or_default();
    if spec::create_exclusively(&spec.state_file, &claim).is_err() {
        // Somebody has this run already: it must not run twice.
        return ExitCode::from(3);
    }
    // A block of disk to give back when the end must be written and the disk is full.
    let _ = std::fs::write(watch::reserve_of(&spec.state_file), [b' '; 4096]);
    match child::start(&spec) {
        Ok(started) => watch::Watch::new(&spec, state, started).run(&mut signals),
        Err(failure) => {
            let ending = Ending {
                started_ms: None,
                finished_ms: now_ms(),
                exit_code: failure.exit_code,
                signal: None,
                reason: "StartError".to_owned(),
                message: failure.message,
                lost_log_lines: 0,
            };
            if let Some(cgroup) = &spec.cgroup {
                cgroup.remove();
            }
            watch::insist(&spec.state_file, &RunState { ending: Some(ending), ..state });
        }
    }
    ExitCode::SUCCESS
}

/// Says on standard output which namespaces this user may make: `root`, `user`, or why none.
fn check_namespaces() -> ExitCode {
    use crate::sandbox::Allowed;
    let answer = match crate::sandbox::allowed() {
        Allowed::Root => "root".to_owned(),
        Allowed::User => "user".to_owned(),
        Allowed::None(why) => why,
    };
    let _ = writeln!(std::io::stdout(), "{answer}");
    ExitCode::SUCCESS
}

/// `beside <order> <command…>`: runs a command in the surroundings of a running container. The order is a [`Beside`].
fn beside(args: &[String]) -> ExitCode {
    let Some((order, argv)) = args.split_first() else { return ExitCode::from(2) };
    let Ok(order) = serde_json::from_str::<Beside>(order) else { return ExitCode::from(2) };
    let code = hook::exec_beside(argv, &order, None);
    ExitCode::from(u8::try_from(code).unwrap_or(126))
}

//! `trainyard launch`: starts the ranks of one pod and sees them through.
//!
//! One thread, one poll: signals arrive through a signalfd, deaths through pidfds, output through pipes. Nothing in it waits:
//! two more threads write, and one speaks with a coordinator. What to do is decided by
//! `trainyard_worker_core::supervisor`; this module does it. No rank outlives the launcher: each dies with it (parent-death
//! signal), is killed as a group, and its orphans are adopted and ended.

mod aside;
mod choice;
mod console;
mod environment;
mod evidence;
mod grpc;
mod interface;
pub mod link;
mod notes;
mod orders;
mod output;
mod port;
mod process;
mod pulse;
mod ranks;
mod report;
mod run;
mod saves;
pub(crate) mod span;
mod stall;
mod store;
mod torchrun;
mod warm;

use std::io;
use std::process::ExitCode;

use link::Without;

/// The arguments of `trainyard launch`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LaunchArgs {
    /// Ranks to start here: a number, `gpu`, `cpu`, or `auto` (a rank per GPU, else per CPU)
    #[arg(long, env = "PET_NPROC_PER_NODE", default_value = "1", value_name = "N")]
    pub nproc: String,
    /// How long the other ranks may take to end after one failed, in seconds, before they are killed
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub grace: u64,
    /// How often this launcher may start the ranks again after one failed
    #[arg(long, env = "PET_MAX_RESTARTS", value_name = "N")]
    pub max_restarts: Option<u32>,
    /// Keep Python interpreters ready to take a failed rank's place: `auto` (where it is safe) or `off` (auto, or what TRAINYARD_SPARES says)
    #[arg(long, value_name = "WHEN", value_parser = warm::WORDS)]
    pub spares: Option<String>,
    /// What to do about a rank that stands still: `report` it, or `restart`, which counts as a failure (report, or what TRAINYARD_ON_HANG says)
    #[arg(long, value_name = "WHAT", value_parser = stall::WORDS)]
    pub on_hang: Option<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Why no rank could be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("{0}")]
    Environment(String),
    #[error("{0}")]
    Usage(String),
    #[error("cannot {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    #[error(
        "cannot host PyTorch's store at {address}: {source}\n\nhint: another program may listen there; with \
         TORCHELASTIC_USE_AGENT_STORE=False rank 0 hosts the store itself"
    )]
    Store { address: String, source: io::Error },
}

/// The exit code for a launch that could not begin, as `env` and `timeout` use it.
const CANNOT_LAUNCH: u8 = 125;
/// What a flag with an unknown word exits with; a variable that stands for one does so, too.
const BAD_USAGE: u8 = 2;

/// Tells the user something, behind what was told before, and never waits for it to be read.
pub fn tell(text: impl Into<String>) {
    console::tell(text);
}

/// Runs the command once per rank and returns the first failed rank's exit code (128 + n for signal n), or 0.
///
/// SIGTERM, SIGINT and SIGHUP are passed on to the ranks; a second one kills them. Blocks signals in the calling
/// thread, so call it before any other thread is started.
///
/// `without` makes the rendezvous of a launcher that has no coordinator; without that it has no restarts and meets nobody.
pub fn main(args: LaunchArgs, without: Option<Without>) -> ExitCode {
    let pod = environment::Pod::read(&args, |name| std::env::var(name).ok());
    let pod = pod.map(|pod| if without.is_some() { pod } else { pod.without_restarts() });
    match pod.and_then(|pod| run::run(&args, &pod, without)) {
        // Exit codes are 8 bits wide.
        Ok(code) => ExitCode::from((code & 0xff) as u8),
        Err(error) => {
            console::tell(format!("trainyard launch: {error}\n"));
            console::finish(true, None);
            ExitCode::from(if matches!(error, LaunchError::Usage(_)) { BAD_USAGE } else { CANNOT_LAUNCH })
        }
    }
}

//! `trainyard launch`: starts the ranks of one pod and sees them through.

use std::process::ExitCode;

/// The arguments of `trainyard launch`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LaunchArgs {
    /// Ranks to start here: a number, `gpu`, `cpu`, or `auto` (a rank per GPU, else per CPU)
    #[arg(long, env = "PET_NPROC_PER_NODE", default_value = "1", value_name = "N")]
    pub nproc: String,
    /// How long the other ranks may take to end after one failed, in seconds, before they are killed
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub grace: u64,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs the command once per rank and returns the first failed rank's exit code (128 + n for signal n), or 0.
///
/// Blocks; handles SIGTERM, SIGINT and SIGHUP itself, so call it before any other thread is started.
pub fn main(_args: LaunchArgs) -> ExitCode {
    ExitCode::FAILURE
}

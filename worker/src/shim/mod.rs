//! The shim: one small process per container that outlives the agent, keeps its logs and its exit code.

use std::process::ExitCode;

/// Entry of the hidden subcommand `trainyard shim`. `args` is what follows `shim`.
///
/// Call it before any runtime or logging is set up: the shim must stay single-threaded.
#[must_use]
pub fn main(_args: &[String]) -> ExitCode {
    ExitCode::from(2)
}

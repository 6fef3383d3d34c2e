//! `trainyard shim`: one supervised container. The node agent calls it; nobody else should.

use crate::error::CliError;

/// Handed on as they are: the agent and the shim are the same binary, so they agree.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of the shim
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes its arguments by value")]
pub(crate) fn run(args: Args) -> Result<std::process::ExitCode, CliError> {
    Ok(trainyard_worker::shim::main(&args.rest))
}

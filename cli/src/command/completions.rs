//! `trainyard completions`.

use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments handed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<std::ffi::OsString>,
}

pub(crate) fn run(_args: Args) -> Result<u8, CliError> {
    Err(CliError::Missing {
        what: "completions",
    })
}

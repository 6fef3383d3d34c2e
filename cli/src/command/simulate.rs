//! `trainyard simulate`.

use crate::arg::Global;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_global: &Global, _args: Args) -> Result<u8, CliError> {
    Err(CliError::Missing { what: "simulate" })
}

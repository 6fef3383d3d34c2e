//! `trainyard suspend`.

use crate::arg::Global;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: crate::arg::Target,
}

pub(crate) fn run(_global: &Global, _args: Args, _suspend: bool) -> Result<u8, CliError> {
    Err(CliError::Missing { what: "suspend" })
}

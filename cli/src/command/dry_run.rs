//! `trainyard run --dry-run`: hops 1 to 6, with the plan printed and nothing started.

use crate::arg::Global;
use crate::error::CliError;
use crate::manifest::Document;

pub(crate) fn run(_global: &Global, _documents: &[Document]) -> Result<u8, CliError> {
    Err(CliError::Missing { what: "run --dry-run" })
}

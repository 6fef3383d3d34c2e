//! `trainyard tune`: what to try next.

mod ask_tell;

use crate::error::CliError;

/// Ask what to try next, and tell what came of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    AskTell(ask_tell::AskTellArgs),
}

pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    match &args.what {
        What::AskTell(args) => ask_tell::run(args),
    }
}

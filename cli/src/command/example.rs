//! `trainyard example`: trainers that are built in, so that the first job needs nothing else.

use crate::error::CliError;
use crate::session::internal;

/// Run one of the trainers that are built in. They run as ranks of a job: see examples/.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    WineDdp(trainyard_example_wine_ddp::Args),
}

pub(crate) fn run(args: Args) -> Result<u8, CliError> {
    match args.which {
        Which::WineDdp(args) => {
            trainyard_example_wine_ddp::run(&args).map(|_| 0).map_err(internal("the training ended early"))
        }
    }
}

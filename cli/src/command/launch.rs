//! `trainyard launch`: what runs inside each pod of a TrainingJob.

use trainyard_worker::launch::link::Without;
use trainyard_worker::launch::{self, LaunchArgs};

use crate::error::CliError;
use crate::{alone, meeting};

/// Start the ranks of one pod, each with the environment that torchrun gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  trainyard launch --nproc 4 -- python train.py

The job's pods call it; PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT say where this pod is among
the others. The exit code is that of the first rank that failed (128+N for signal N), or 0.")]
pub(crate) struct Args {
    #[command(flatten)]
    inner: LaunchArgs,
}

pub(crate) fn run(args: Args) -> Result<std::process::ExitCode, CliError> {
    Ok(launch::main(args.inner, Some(Without { alone: alone::rendezvous, meet: meeting::meet })))
}

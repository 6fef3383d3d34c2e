//! The launcher alone, without the rest of `trainyard`: small enough to be copied into a pod.

use std::process::ExitCode;

use clap::Parser;
use trainyard_worker::launch::{self, LaunchArgs};

/// Starts one process per rank, with torchrun's environment, and sees them through
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    launch: LaunchArgs,
}

fn main() -> ExitCode {
    // Who starts ranks again needs a rendezvous, which is not part of this crate.
    launch::main(Cli::parse().launch, None)
}

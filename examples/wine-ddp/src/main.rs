//! The example as a program of its own, as a user's trainer would be: `trainyard launch --nproc 4 -- wine-ddp`.

use std::process::ExitCode;

use clap::Parser;

/// Trains a red-wine classifier data-parallel, over all ranks of the job
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    args: trainyard_example_wine_ddp::Args,
}

fn main() -> ExitCode {
    match trainyard_example_wine_ddp::run(&Cli::parse().args) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

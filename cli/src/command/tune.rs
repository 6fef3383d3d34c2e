//! `trainyard tune`: what to try next.

mod ask_tell;
mod file;
mod follow;
mod run;

use crate::arg::Global;
use crate::error::CliError;

/// Run an experiment, or ask what to try next and tell what came of it.
///
/// Runs the trials of an experiment's file as jobs and shows what came of each; then the best configuration. An experiment without a
/// name in its file has that of the file.
///
/// Without a running control plane, one is brought up for the time of the experiment, on the same records as that of `trainyard up`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  trainyard tune experiment.toml
  trainyard tune experiment.toml --trials 100 --parallel 8
  trainyard tune experiment.toml --resume             go on after Ctrl-C, or with more trials than before

experiment.toml:
  [objective]
  metric = \"accuracy\"        # a trial prints lines such as accuracy=0.93, or {\"accuracy\": 0.93}
  goal = \"maximize\"
  [parameters.lr]
  type = \"float\"
  min = 1e-5
  max = 1.0
  scale = \"log\"
  [budget]
  trials = 50
  parallel = 4
  [trial]
  command = [\"python\", \"train.py\", \"--lr={lr}\"]

Ctrl-C stops the trials that run, and keeps them to be run again with --resume."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    AskTell(ask_tell::AskTellArgs),
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<u8, CliError> {
    match &args.what {
        Some(What::AskTell(args)) => ask_tell::run(args),
        None => run::run(global, &args.run),
    }
}

//! `trainyard tune`: what to try next.

mod ask_tell;
mod compare;
mod ending;
mod export;
mod file;
mod follow;
mod found;
mod number;
mod plot;
mod run;
mod toml;

use crate::arg::Global;
use crate::error::CliError;

/// Run an experiment, or ask what to try next and tell what came of it.
///
/// Runs the trials of an experiment's file as jobs and shows what came of each; then the best configuration, which parameters mattered,
/// and where the report is. An experiment without a name in its file has that of the file.
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
  trainyard tune experiment.toml --report wine.html   with the report in this file

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
    Plot(plot::PlotArgs),
    Export(export::ExportArgs),
    Compare(compare::CompareArgs),
    AskTell(ask_tell::AskTellArgs),
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<u8, CliError> {
    match &args.what {
        Some(What::Plot(args)) => plot::run(global, args),
        Some(What::Export(args)) => export::run(global, args),
        Some(What::Compare(args)) => compare::run(global, args),
        Some(What::AskTell(args)) => ask_tell::run(args),
        None => run::run(global, &args.run),
    }
}

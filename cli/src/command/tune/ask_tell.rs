//! `trainyard tune ask-tell`: a sampler for any program, over stdin and stdout.

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;

use trainyard_tuner::dialogue::Dialogue;

use super::file;
use crate::error::CliError;
use crate::exit_code;

/// Answer lines of JSON on stdin with lines of JSON on stdout.
///
/// {"ask": 2} is answered with {"trials": [{"id": 0, "params": {...}}, ...]}: what to try next. {"tell": {"id": 0, "values": [0.9]}} says
/// what came of a trial, with one value for each objective, or null if it failed; it has no answer. {"report": {"id": 0, "step": 3,
/// "values": [0.7]}} tells values on the way, and is answered with {"stop": false}, or with true and a reason. {"add": {"params": {...}}}
/// takes in a trial that somebody else suggested, and is answered like {"ask": 1}. {"best": true} is answered with the best trial, or the
/// Pareto front of several objectives. What cannot be taken is answered with {"error": "..."} and changes nothing.
///
/// The same lines with the same seed have the same answers, bit for bit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard tune ask-tell space.toml                  talk to it over pipes
  echo '{\"ask\": 8}' | trainyard tune ask-tell space.toml --algorithm quasi
                                                      eight points that cover the space

space.toml:
  objective = {metric = \"loss\", goal = \"minimize\"}
  [parameters]
  lr = {type = \"float\", min = 1e-5, max = 1.0, scale = \"log\"}
  optimizer = {type = \"categorical\", choices = [\"sgd\", \"adam\"]}
  momentum = {type = \"float\", min = 0, max = 0.99, when = \"optimizer == 'sgd'\"}")]
pub(crate) struct AskTellArgs {
    /// The experiment's file
    #[arg(value_name = "SPACE.toml")]
    file: PathBuf,
    /// Who says what to try next, in place of what the file says: auto, tpe, gp, cmaes, nsga2, nsga3, random, quasi, grid, asha, hyperband, bohb or pbt
    #[arg(long, value_name = "NAME")]
    algorithm: Option<String>,
    /// What random numbers are made of, in place of what the file says
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(crate) fn run(args: &AskTellArgs) -> Result<u8, CliError> {
    let (_, mut definition) = file::read(&args.file)?;
    if let Some(name) = &args.algorithm {
        definition = definition.with_algorithm(name).map_err(|message| CliError::Usage {
            message: format!("--algorithm: {message}"),
            hint: "leave it out, and the file's algorithm is used".to_owned(),
        })?;
    }
    definition.seed = args.seed.unwrap_or(definition.seed);
    let mut dialogue = Dialogue::new(&definition);
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        if let Some(answer) = dialogue.answer(&line) {
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
    }
    Ok(exit_code::SUCCESS)
}

//! `trainyard tune ask-tell`: a sampler for any program, over stdin and stdout.

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;

use trainyard_tuner::definition::{Algorithm, Definition, DefinitionError};
use trainyard_tuner::dialogue::Dialogue;

use crate::error::CliError;
use crate::exit_code;
use crate::manifest::diagnostic::{Diagnostic, Position};
use crate::manifest::{self, Source};

/// Answer lines of JSON on stdin with lines of JSON on stdout.
///
/// {"ask": 2} is answered with {"trials": [{"id": 0, "params": {...}}, ...]}: what to try next. {"tell": {"id": 0, "values": [0.9]}} says
/// what came of a trial, with one value for each objective, or null if it failed; it has no answer. {"report": {"id": 0, "step": 3,
/// "values": [0.7]}} tells values on the way, and is answered with {"stop": false}. {"best": true} is answered with the best trial, or
/// the Pareto front of several objectives. What cannot be taken is answered with {"error": "..."} and changes nothing.
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
    /// Who says what to try next, in place of what the file says: tpe, gp, random, quasi or grid
    #[arg(long, value_name = "NAME")]
    algorithm: Option<String>,
    /// What random numbers are made of, in place of what the file says
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(crate) fn run(args: &AskTellArgs) -> Result<u8, CliError> {
    let mut definition = read(args)?;
    if let Some(name) = &args.algorithm {
        let checked = Algorithm::named(name)
            .and_then(|algorithm| algorithm.check(&definition.space, &definition.objectives).map(|()| algorithm));
        definition.algorithm = checked.map_err(|message| CliError::Usage {
            message: format!("--algorithm: {message}"),
            hint: "leave it out, and the file's algorithm is used".to_owned(),
        })?;
    }
    definition.seed = args.seed.unwrap_or(definition.seed);
    let mut dialogue = Dialogue::new(definition);
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

fn read(args: &AskTellArgs) -> Result<Definition, CliError> {
    let text = std::fs::read_to_string(&args.file).map_err(|source| CliError::File {
        verb: "read",
        path: args.file.clone(),
        source,
    })?;
    let source = Source { name: args.file.display().to_string(), text, folder: None };
    Definition::read(&source.text).map_err(|errors| {
        let diagnostics: Vec<Diagnostic> = errors.iter().map(|error| diagnostic(&source, error)).collect();
        let refused = manifest::refuse(&diagnostics).err();
        refused.unwrap_or_else(|| CliError::Manifest { summary: format!("{} has an error", source.name) })
    })
}

fn diagnostic(source: &Source, error: &DefinitionError) -> Diagnostic {
    let diagnostic = Diagnostic::at(source, position(&source.text, error), &error.path, &error.message);
    match &error.hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// The line and column of an error's first byte.
fn position(text: &str, error: &DefinitionError) -> Position {
    let before = text.get(..error.span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let meant = text.get(error.span.clone()).unwrap_or_default().lines().next().unwrap_or_default();
    Position { line, column, length: meant.chars().count().max(1) }
}

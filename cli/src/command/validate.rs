//! `trainyard validate`: hops 1 to 4, without a server.

use std::io::Write as _;
use std::path::PathBuf;

use crate::arg::Global;
use crate::error::CliError;
use crate::manifest::{self, edit::Edits};

/// Check manifests without starting anything.
///
/// Reads each file, checks every object against the schema of its kind, lowers every job, and reports everything that is wrong at once. Needs
/// no server. The exit code is 2 if something is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard validate job.yaml
  kustomize build . | trainyard validate -")]
pub(crate) struct Args {
    /// Manifests; `-` reads stdin
    #[arg(value_name = "FILE", required_unless_present = "file")]
    files: Vec<PathBuf>,
    /// Another manifest (repeatable)
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    edits: Edits,
}

pub(crate) fn run(_global: &Global, args: Args) -> Result<u8, CliError> {
    let files: Vec<_> = args.files.into_iter().chain(args.file).collect();
    let documents = manifest::load(&files, &args.edits)?;
    let mut out = std::io::stdout().lock();
    for document in &documents {
        let name = if document.name().is_empty() { "(name is generated)" } else { document.name() };
        writeln!(out, "{}: {} {name} is valid", document.source.name, document.kind())?;
    }
    Ok(0)
}

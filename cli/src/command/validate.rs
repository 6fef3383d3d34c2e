//! `trainyard validate`: hops 1 to 4, without a server; with a cluster it is asked as well.

use std::io::Write as _;
use std::path::PathBuf;

use super::run::submit;
use crate::arg::Global;
use crate::error::CliError;
use crate::manifest::{self, Document, edit::Edits};
use crate::resource::Discovery;
use crate::session;

/// Check manifests without starting anything.
///
/// Reads each file, checks every object against the schema of its kind, lowers every job, and reports everything that is wrong at once. Needs
/// no server. With --context or --kubeconfig the cluster is asked as well, by a dry run. The exit code is 2 if something is wrong.
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

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let files: Vec<_> = args.files.into_iter().chain(args.file).collect();
    let documents = manifest::load(&files, &args.edits, session::runner(global))?;
    if session::wants_cluster(global) {
        return on_cluster(global, &documents);
    }
    tell(&documents)
}

/// Asks the cluster whether it would take every object, and keeps none of them there.
pub(crate) fn on_cluster(global: &Global, documents: &[Document]) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        submit::known(session, &discovery, documents)?;
        for document in documents {
            submit::rehearse(session, &discovery, document).await?;
        }
        tell(documents)
    })
}

fn tell(documents: &[Document]) -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    for document in documents {
        let name = if document.name().is_empty() { "(name is generated)" } else { document.name() };
        writeln!(out, "{}: {} {name} is valid", document.source.name, document.kind())?;
    }
    Ok(0)
}

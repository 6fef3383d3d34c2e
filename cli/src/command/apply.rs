//! `trainyard apply`.

use std::io::Write as _;
use std::path::PathBuf;

use crate::arg::Global;
use crate::command::run::submit;
use crate::error::CliError;
use crate::manifest::{self, edit::Edits};
use crate::output::style;
use crate::resource::Discovery;
use crate::session::{self, Place};

/// Create or change the objects of a manifest, without following them.
///
/// Uses server-side apply: fields that others set stay as they are. Without a control plane that runs, the objects are stored, and jobs start
/// with the next `trainyard up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard apply -f job.yaml
  kustomize build . | trainyard apply -")]
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
    let mut documents = manifest::load(&files, &args.edits, session::runner(global))?;
    if !session::wants_cluster(global) {
        super::run::place_in_folders(&mut documents)?;
    }
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        submit::known(session, &discovery, &documents)?;
        for document in &documents {
            let title = submit::apply(session, &discovery, document).await?;
            writeln!(std::io::stdout().lock(), "{title} applied")?;
        }
        let waits = documents.iter().any(manifest::is_runnable) && matches!(session.place, Place::InProcess { .. });
        if waits {
            let hint = style::HINT;
            writeln!(
                anstream::stderr(),
                "\n{hint}hint:{hint:#} jobs start with the next `trainyard up`, or now with `trainyard run`"
            )?;
        }
        Ok(0)
    })
}

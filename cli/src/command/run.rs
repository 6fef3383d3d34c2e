//! `trainyard run`: from a manifest to the job's exit code.

mod place;
pub(crate) mod process;
pub(crate) mod submit;
mod summary;

use std::path::PathBuf;

use tracing::Instrument as _;

use crate::arg::Global;
use crate::error::CliError;
use crate::exit_code;
use crate::follow::screen::Screen;
use crate::follow::watcher::{self, Manner, Outcome};
use crate::manifest::{self, Document, edit, edit::Edits};
use crate::output::style;
use crate::resource::Discovery;
use crate::session::{Place, Session};
use crate::telemetry::{self, Quiet};

/// Run a job from a manifest and follow it to its end.
///
/// Shows the job's phases, its progress, and one merged log in which ranks are told apart; then what came out. The exit code is the job's.
/// Config maps, secrets, claims and other objects of the manifest are applied first.
///
/// Without a running control plane, one is brought up for the time of the run, on the same records as that of `trainyard up`.
/// A program given by a relative path is looked for in the folder where `run` is called, else in that of the manifest; so is every relative
/// file that it gets as an argument.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard run examples/wine-ddp.yaml
  trainyard run job.yaml --procs 8 --env OMP_NUM_THREADS=2 --set spec.backoffLimit=0
  trainyard run job.yaml --name second-try --detach
  trainyard run job.yaml --dry-run            show what would be created, and start nothing

A job of the same name that has ended is replaced; one that is running is followed if the manifest is the same.
Ctrl-C stops the job gracefully (its ranks get SIGTERM) and keeps it, to be resumed; a second Ctrl-C kills it.", after_long_help = exit_code::HELP)]
pub(crate) struct Args {
    /// Manifest; `-` reads stdin
    #[arg(value_name = "FILE", required_unless_present = "file")]
    files: Vec<PathBuf>,
    /// Another manifest (repeatable)
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Start the job and return; needs a control plane that runs (`trainyard up`, or a cluster)
    #[arg(short, long)]
    detach: bool,
    /// Show what would be created and where it would run, and start nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    edits: Edits,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let files: Vec<_> = args.files.into_iter().chain(args.file).collect();
    let mut documents = manifest::load(&files, &args.edits)?;
    if !crate::session::wants_cluster(global) {
        place_in_folders(&mut documents)?;
    }
    if args.dry_run {
        return super::dry_run::run(global, &documents);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The control plane is light; the machine is for the ranks.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(crate::session::internal("cannot start the asynchronous runtime"))?;
    let code = runtime.block_on(async {
        let traces = telemetry::init_with_traces(global, Quiet::Command);
        let job = documents.iter().find(|document| manifest::is_runnable(document)).map_or("", Document::name);
        let span = tracing::info_span!("run", job, otel.name = format!("run {job}"));
        let result = async {
            let place = place::open(global, args.detach).await?;
            let result = carry_out(&place.session, &documents, args.detach).await;
            place.close().await;
            result
        };
        let result = result.instrument(span).await;
        traces.finish().await;
        result
    });
    // Watches that are still open are of no use to anybody now.
    runtime.shutdown_background();
    code
}

/// Applies everything, then follows the jobs one after the other. All are started at once.
async fn carry_out(session: &Session, documents: &[Document], detach: bool) -> Result<u8, CliError> {
    let discovery = Discovery::of_session(session).await?;
    let mut screen = Screen::new();
    let (jobs, others): (Vec<_>, Vec<_>) = documents.iter().partition(|document| manifest::is_runnable(document));
    for document in others {
        let title = submit::apply(session, &discovery, document).await?;
        screen.say("Applied", style::GOOD, &title)?;
    }
    let mut started = Vec::new();
    for document in jobs {
        started.push(submit::start(session, &discovery, document, &mut screen).await?);
    }
    if detach || started.is_empty() {
        for job in &started {
            summary::detached(&mut screen, &job.found)?;
        }
        return Ok(exit_code::SUCCESS);
    }
    screen.clear();
    let mut code = exit_code::SUCCESS;
    for job in started {
        let manner = Manner { owner: job.ours, until_available: !matches!(session.place, Place::InProcess { .. }) };
        let report = watcher::follow(session, job.found.clone(), manner).await?;
        if let (Place::InProcess { home }, Outcome::Stopped { .. } | Outcome::Deleted) =
            (&session.place, &report.outcome)
        {
            process::gone(home, &report.pod_uids).await;
        }
        let one = summary::print(session, &job.found, &report)?;
        code = if code == exit_code::SUCCESS { one } else { code };
    }
    Ok(code)
}

/// Fills in the folders in which programs work.
pub(crate) fn place_in_folders(documents: &mut [Document]) -> Result<(), CliError> {
    let here =
        std::env::current_dir().map_err(|source| CliError::File { verb: "find", path: PathBuf::from("."), source })?;
    for document in documents.iter_mut().filter(|document| manifest::is_runnable(document)) {
        let folder = match &document.source.folder {
            Some(beside) if edit::needs_folder(&document.value, &here, beside) => beside.clone(),
            Some(_) | None => here.clone(),
        };
        edit::fill_working_dir(document, &folder.display().to_string());
    }
    Ok(())
}

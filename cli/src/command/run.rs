//! `trainyard run`: from a manifest to the job's exit code.

pub(crate) mod others;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod submit;
mod summary;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tracing::Instrument as _;

use crate::arg::{ContainerArgs, Engine, Global};
use crate::error::CliError;
use crate::exit_code;
use crate::follow::outcome::{Before, Manner, Outcome, Report};
use crate::follow::screen::Screen;
use crate::follow::{control, watcher};
use crate::job;
use crate::manifest::{self, Document, edit, edit::Edits};
use crate::output::style;
use crate::resource::Discovery;
use crate::session::{Place, Session};
use crate::target::Found;
use crate::telemetry::{self, Quiet};

/// Controllers answer within a second; one that is busy or just starting gets more.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(10);

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
    containers: ContainerArgs,
    #[command(flatten)]
    edits: Edits,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let files: Vec<_> = args.files.into_iter().chain(args.file).collect();
    let mut documents = manifest::load(&files, &args.edits, crate::session::runner(global))?;
    if args.dry_run {
        if !crate::session::wants_cluster(global) && args.containers.engine == Engine::None {
            place_in_folders(&mut documents)?;
        }
        if crate::session::wants_cluster(global) {
            super::validate::on_cluster(global, &documents)?;
        }
        return super::dry_run::run(global, &documents);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The control plane is light; the machine is for the ranks.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(crate::session::internal("cannot start the asynchronous runtime"))?;
    let code = crate::session::complete(&runtime, async {
        let traces = telemetry::init_with_traces(global, Quiet::Command);
        let job = documents.iter().find(|document| manifest::is_runnable(document)).map_or("", Document::name);
        let span = tracing::info_span!("run", job, otel.name = format!("run {job}"));
        let result = async {
            let mut place = place::open(global, args.detach, args.containers).await?;
            others::say_adopted(&Screen::new(), &place.adopted)?;
            if place.runs_processes().await {
                place_in_folders(&mut documents)?;
            }
            let failed = place.failed();
            let result = tokio::select! {
                result = carry_out(global, &mut place, &documents, args.detach) => result,
                failed = failed => {
                    place.give_up().await;
                    return Err(failed);
                }
            };
            if matches!(place.session.place, Place::InProcess { .. }) {
                match others::living(&place.session.api).await {
                    Ok(left) => others::say_left(&Screen::new(), &left)?,
                    Err(error) => tracing::warn!(%error, "cannot find out whether other jobs go on"),
                }
            }
            let result = result.map_err(|error| crate::cluster::located(error, &place.session.place));
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
async fn carry_out(
    global: &Global,
    place: &mut place::Opened,
    documents: &[Document],
    detach: bool,
) -> Result<u8, CliError> {
    let discovery = Discovery::of_session(&place.session).await?;
    submit::known(&place.session, &discovery, documents)?;
    let mut screen = Screen::new();
    let (jobs, others): (Vec<_>, Vec<_>) = documents.iter().partition(|document| manifest::is_runnable(document));
    for document in others {
        let title = submit::apply(&place.session, &discovery, document).await?;
        screen.say("Applied", style::GOOD, &title)?;
    }
    let mut started = Vec::new();
    for document in jobs {
        match submit::start(&place.session, &discovery, document, &mut screen).await {
            Ok(job) => started.push(job),
            Err(error) => {
                // Without us nobody looks after those that were started.
                stop(global, place, started).await;
                return Err(error);
            }
        }
    }
    if detach || started.is_empty() {
        for job in &started {
            summary::detached(&mut screen, &job.found)?;
        }
        return Ok(exit_code::SUCCESS);
    }
    screen.clear();
    let mut code = exit_code::SUCCESS;
    let mut rest = started.into_iter();
    let mut stopped = None;
    while let Some(job) = rest.next() {
        let report = match follow(global, place, &job, Before { stop: stopped, ..Before::new() }).await {
            Ok(report) => report,
            Err(error) => {
                stop(global, place, std::iter::once(job).chain(rest).collect()).await;
                return Err(error);
            }
        };
        if let (Outcome::Stopped { signal, killed }, None) = (&report.outcome, stopped) {
            // Whoever stops one of them stops them all.
            stopped = Some((*signal, *killed));
            for other in rest.as_slice().iter().filter(|other| other.ours) {
                control::suspend(&place.session, &other.found).await?;
            }
        }
        let one = summary::print(&place.session, &job.found, &report)?;
        let one = if one == exit_code::SUCCESS && report.output_failed { exit_code::FAILURE } else { one };
        code = if code == exit_code::SUCCESS { one } else { code };
    }
    Ok(code)
}

/// Follows a job. When the server goes away meanwhile, its successor is taken, or its place.
async fn follow(
    global: &Global,
    place: &mut place::Opened,
    job: &submit::Job,
    mut before: Before,
) -> Result<Report, CliError> {
    loop {
        // Without a server of its own nobody would look after a job that we leave.
        let owner = job.ours || matches!(place.session.place, Place::InProcess { .. });
        let manner = Manner { owner, until_available: !matches!(place.session.place, Place::InProcess { .. }) };
        let report = tokio::select! {
            report = watcher::follow(&place.session, job.found.clone(), manner, before) => report?,
            never = nobody_acts(&place.session, &job.found) => match never {},
        };
        match (&place.session.place, &report.outcome) {
            (Place::InProcess { home }, Outcome::Stopped { .. } | Outcome::Deleted) => {
                process::gone(home, &report.pod_uids).await;
                return Ok(report);
            }
            (Place::Server { .. }, Outcome::ServerLost) => {}
            _ => return Ok(report),
        }
        before = report.before;
        *place = place::open(global, false, place.containers).await?;
        let screen = Screen::new();
        if matches!(place.session.place, Place::InProcess { .. }) {
            screen.say("Continuing", style::CARE, "without the server, which went away; the job goes on here")?;
        }
        let object = place.session.api.find(&job.found.path()).await?;
        if object.is_some_and(|object| job::suspended(&object)) && before.stop.is_none() {
            let found = &job.found;
            return Err(CliError::Conflict {
                message: format!("{} was suspended while it was followed", found.title()),
                hint: format!("go on with `trainyard resume {}`, or run the manifest again", found.name()),
            });
        }
    }
}

/// A job that no controller looks at waits forever, and nothing on the cluster says so. Never ends.
async fn nobody_acts(session: &Session, found: &Found) -> Infallible {
    if matches!(session.place, Place::Cluster(_)) && found.resource.is_job() {
        tokio::time::sleep(OPERATOR_PATIENCE).await;
        let object = session.api.find(&found.path()).await;
        if let Ok(Some(object)) = object
            && let Some(words) = job::unattended(&found.resource, &object)
        {
            // Only a word on the side: whoever follows the job tells about broken output.
            let _ = Screen::new().say("note:", style::CARE, &words);
        }
    }
    std::future::pending().await
}

/// Stops jobs that we started and cannot follow, unless there is a server that looks after them.
async fn stop(global: &Global, place: &mut place::Opened, jobs: Vec<submit::Job>) {
    if !matches!(place.session.place, Place::InProcess { .. }) {
        return;
    }
    for job in &jobs {
        let before = Before { stop: Some((nix::libc::SIGTERM, false)), ..Before::new() };
        // The error that brought us here is the one to tell.
        if let Err(error) = Box::pin(follow(global, place, job, before)).await {
            tracing::warn!(%error, "cannot stop {}", job.found.title());
        }
    }
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

//! `trainyard delete`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use trainyard_worker::agent;

use crate::api::ApiError;
use crate::arg::{Global, Target};
use crate::error::CliError;
use crate::manifest;
use crate::resource::{Discovery, Resource};
use crate::session::{Place, Session, internal};
use crate::target;

/// How often we look whether a deleted object is gone.
const POLL: Duration = Duration::from_millis(50);

/// Delete objects.
///
/// Deleting a job ends its pods: they get SIGTERM, and SIGKILL after their grace period. Their logs
/// and emptyDir volumes go with them; claims stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard delete wine-ddp              a job of any kind, and wait until its pods are gone
  trainyard delete pod wine-ddp-master-0
  trainyard delete -f job.yaml           everything in a manifest
  trainyard delete wine-ddp --now        kill its ranks at once")]
pub(crate) struct Args {
    /// A job's name, or KIND NAME, or KIND/NAME
    #[arg(value_name = "[KIND] NAME", required_unless_present_any = ["file", "all"], num_args = 0..)]
    words: Vec<String>,
    /// Delete the objects of this manifest (repeatable)
    #[arg(short, long, value_name = "FILE", conflicts_with = "words")]
    file: Vec<PathBuf>,
    /// Delete all finished jobs of the namespace
    #[arg(long, conflicts_with_all = ["words", "file"])]
    all: bool,
    /// What happens to objects that the deleted one owns
    #[arg(long, value_name = "HOW", default_value = "background")]
    cascade: Cascade,
    /// Give pods this long to end before they are killed
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// Kill at once: the same as --grace-period 0
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// It is no error if the object does not exist
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cascade {
    /// Owned objects are deleted afterwards
    Background,
    /// Owned objects are deleted first
    Foreground,
    /// Owned objects stay
    Orphan,
}

/// What is to go: kind, namespace, name, and uid if it was seen.
struct Doomed {
    resource: Resource,
    namespace: String,
    name: String,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    super::run::place::with_hands(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let mut missing = None;
        let doomed = if args.all {
            finished(session, &discovery).await?
        } else if args.file.is_empty() {
            named(session, &discovery, &args, &mut missing).await?
        } else {
            in_files(session, &discovery, &args.file)?
        };
        for one in &doomed {
            delete(session, one, &args).await?;
        }
        if doomed.is_empty() && args.all {
            writeln!(anstream::stderr(), "no finished job in namespace `{}`", session.namespace)?;
        }
        if let (Place::InProcess { home }, Some(embedded)) = (&session.place, &session.embedded) {
            // Nobody else is there to make room on the disk.
            agent::tidy(&embedded.client(), home).await.map_err(internal("cannot tidy the state folder"))?;
        }
        missing.map_or(Ok(0), Err)
    })
}

async fn finished(session: &Session, discovery: &Discovery) -> Result<Vec<Doomed>, CliError> {
    let mut doomed = Vec::new();
    for resource in discovery.jobs() {
        let list = session.api.get(&resource.collection(Some(&session.namespace))).await?;
        for job in list["items"].as_array().into_iter().flatten().filter(|job| crate::job::end(job).is_some()) {
            let name = job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            doomed.push(Doomed { resource: resource.clone(), namespace: session.namespace.clone(), name });
        }
    }
    Ok(doomed)
}

/// What was named and is there. The first one that is not there goes to `missing`: it does not save the others.
async fn named(
    session: &Session,
    discovery: &Discovery,
    args: &Args,
    missing: &mut Option<CliError>,
) -> Result<Vec<Doomed>, CliError> {
    // `KIND NAME NAME…` when the first word is a kind, else names of jobs.
    let kind = args.words.first().and_then(|word| discovery.find(word)).filter(|_| args.words.len() > 1);
    let targets: Vec<Target> = match kind {
        Some(kind) => {
            let kind = kind.qualified_singular();
            args.words[1..].iter().map(|name| Target { words: vec![kind.clone(), name.clone()] }).collect()
        }
        None => args.words.iter().map(|word| Target { words: vec![word.clone()] }).collect(),
    };
    let mut doomed = Vec::new();
    for target in targets {
        match target::find(session, discovery, &target).await {
            Ok(found) => doomed.push(Doomed {
                namespace: found.namespace().to_owned(),
                name: found.name().to_owned(),
                resource: found.resource,
            }),
            Err(CliError::NotFound { .. }) if args.ignore_not_found => {}
            Err(error @ CliError::NotFound { .. }) => *missing = missing.take().or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Ok(doomed)
}

fn in_files(session: &Session, discovery: &Discovery, files: &[PathBuf]) -> Result<Vec<Doomed>, CliError> {
    let mut doomed = Vec::new();
    for path in files {
        let source = manifest::read(path)?;
        let (documents, diagnostics) = manifest::detect(&source);
        manifest::refuse(&diagnostics)?;
        for document in documents {
            let resource = match discovery.of(&document.value) {
                Some(resource) => resource.clone(),
                None => discovery.need(document.kind())?.clone(),
            };
            let namespace = document.value["metadata"]["namespace"].as_str().unwrap_or(&session.namespace).to_owned();
            doomed.push(Doomed { resource, namespace, name: document.name().to_owned() });
        }
    }
    // Jobs before what they use.
    doomed.reverse();
    Ok(doomed)
}

async fn delete(session: &Session, doomed: &Doomed, args: &Args) -> Result<(), CliError> {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    if let Some(seconds) = args.grace_period.or(args.now.then_some(0)) {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    let path = doomed.resource.object(&doomed.namespace, &doomed.name);
    let pods = pods_of(session, doomed).await;
    let answer = match session.api.delete(&path, &options).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() && args.ignore_not_found => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if args.now {
        for pod in &pods {
            kill(session, pod).await?;
        }
    }
    if !args.no_wait {
        let uid = answer["details"]["uid"].as_str().or(answer["metadata"]["uid"].as_str());
        gone(session, &path, uid).await?;
        if args.cascade != Cascade::Orphan && session.embedded.is_none() {
            for pod in &pods {
                gone(session, pod, None).await?;
            }
        }
    }
    writeln!(std::io::stdout().lock(), "{} {} deleted", doomed.resource.qualified_singular(), doomed.name)?;
    Ok(())
}

/// The paths of the pods of a job.
async fn pods_of(session: &Session, doomed: &Doomed) -> Vec<String> {
    if !doomed.resource.is_job() {
        return Vec::new();
    }
    let found = target::Found {
        resource: doomed.resource.clone(),
        object: json!({"metadata": {"name": doomed.name, "namespace": doomed.namespace}}),
    };
    let root = format!("/api/v1/namespaces/{}/pods", doomed.namespace);
    let path = format!("{root}?labelSelector={}", crate::api::query(&crate::job::pod_selector(&found)));
    let list = session.api.get(&path).await.unwrap_or_default();
    let pods = list["items"].as_array().into_iter().flatten();
    pods.filter_map(|pod| pod["metadata"]["name"].as_str()).map(|name| format!("{root}/{name}")).collect()
}

async fn kill(session: &Session, pod: &str) -> Result<(), CliError> {
    match session.api.delete(pod, &json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})).await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the object is gone, or another one has its name.
async fn gone(session: &Session, path: &str, uid: Option<&str>) -> Result<(), CliError> {
    // Without controllers nobody takes finalizers off: waiting would never end.
    if session.embedded.is_some() {
        return Ok(());
    }
    loop {
        let found = match session.api.find(path).await {
            // `trainyard run` takes its server down when the job that it follows is gone.
            Err(ApiError::Transport(_)) => return Ok(()),
            found => found?,
        };
        match found {
            None => return Ok(()),
            Some(object) if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) => return Ok(()),
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

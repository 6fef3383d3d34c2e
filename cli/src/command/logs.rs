//! `trainyard logs`.

use std::io::{self, Write as _};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::query;
use crate::arg::{Global, Target};
use crate::error::CliError;
use crate::follow::label::{Label, Speaker};
use crate::follow::observe::{Seen, Subject, observe};
use crate::follow::phase;
use crate::follow::screen::Screen;
use crate::follow::stream::{Choice, Streams, statuses};
use crate::job;
use crate::resource::Discovery;
use crate::session::{self, Session};
use crate::target::{self, Found};

/// Lines waiting to be printed; readers wait when it is full.
const QUEUE: usize = 1024;

/// Print or follow the logs of a job, with its ranks told apart.
///
/// The lines of all pods are merged by time. Logs stay when a job has ended, until it is deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard logs wine-ddp                 all ranks, merged by time
  trainyard logs -f wine-ddp --rank 2     follow one rank
  trainyard logs wine-ddp --tail 20       the last 20 lines
  trainyard logs wine-ddp --previous      of the run before the last restart in place
  trainyard logs pod/wine-ddp-master-0")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Go on with what comes, until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Only this rank (repeatable)
    #[arg(long, value_name = "N")]
    rank: Vec<usize>,
    /// Only this container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Of the containers' run before the last restart
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// With the time of each line
    #[arg(long, conflicts_with = "follow")]
    timestamps: bool,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let found = target::find(session, &discovery, &args.target).await?;
        if args.follow && session.embedded.is_none() {
            follow(session, &found, &args).await
        } else {
            // Without a control plane nothing can come.
            print(session, &found, &args).await
        }
    })
}

/// The pods that a target means, by name.
async fn pods(session: &Session, found: &Found) -> Result<Vec<Value>, CliError> {
    if found.resource.kind == "Pod" {
        return Ok(vec![found.object.clone()]);
    }
    let selector = query(&job::pod_selector(found));
    let list =
        session.api.get(&format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace())).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// A line with its time.
struct Stamped {
    time: String,
    label: Label,
    text: String,
}

async fn print(session: &Session, found: &Found, args: &Args) -> Result<u8, CliError> {
    let pods = pods(session, found).await?;
    let alone = pods.len() <= 1;
    let mut lines: Vec<Stamped> = Vec::new();
    let mut problem = None;
    for pod in &pods {
        for status in statuses(pod) {
            let name = status["name"].as_str().unwrap_or_default();
            if args.container.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            match read(session, found, pod, name, alone, args).await {
                Ok(more) => lines.extend(more),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
    }
    if let (true, Some(error)) = (lines.is_empty(), problem) {
        return Err(not_yet(error, found.name()));
    }
    // Stable: lines of one container keep their order also where their times are equal.
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    let skip = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    let screen = Screen::new();
    for line in &lines[skip..] {
        let text = if args.timestamps { format!("{} {}", line.time, line.text) } else { line.text.clone() };
        screen.log(&line.label, &text)?;
    }
    if lines.is_empty() {
        let why = if pods.is_empty() { "it has no pods" } else { "nothing was printed" };
        let which = if args.rank.is_empty() { String::new() } else { " by these ranks".to_owned() };
        writeln!(anstream::stderr(), "no log of {}: {why}{which}", found.title())?;
    }
    Ok(0)
}

/// A container that has not started has no log; why it has not is another command's to tell.
fn not_yet(error: CliError, name: &str) -> CliError {
    if let CliError::Refused { message, hint: None, status: 400 } = &error
        && message.contains("waiting to start")
    {
        let hint = format!("`trainyard explain {name}` tells why; `trainyard logs -f {name}` waits for it");
        return CliError::Refused { message: message.clone(), hint: Some(hint), status: 500 };
    }
    error
}

async fn read(
    session: &Session,
    found: &Found,
    pod: &Value,
    container: &str,
    alone: bool,
    args: &Args,
) -> Result<Vec<Stamped>, CliError> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?timestamps=true&container={}{}",
        found.namespace(),
        pod["metadata"]["name"].as_str().unwrap_or_default(),
        query(container),
        if args.previous { "&previous=true" } else { "" }
    );
    let text = session.api.text(&path).await?;
    let speaker = Speaker::new(pod, found.name(), container, alone);
    let stamped = |line: &str| {
        let (time, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (label, text) = speaker.attribute(rest);
        Stamped { time: time.to_owned(), label, text: text.to_owned() }
    };
    Ok(text.lines().map(stamped).filter(|line| wanted(&line.label, &args.rank)).collect())
}

fn wanted(label: &Label, ranks: &[usize]) -> bool {
    ranks.is_empty()
        || match label {
            Label::Rank(rank) => ranks.contains(rank),
            Label::Only => ranks.contains(&0),
            Label::Named(_) => false,
        }
}

async fn follow(session: &Session, found: &Found, args: &Args) -> Result<u8, CliError> {
    let (to, mut from) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    let namespace = found.namespace();
    let path = match found.resource.kind.as_str() {
        "Pod" => format!(
            "/api/v1/namespaces/{namespace}/pods?fieldSelector={}",
            query(&format!("metadata.name={}", found.name()))
        ),
        _ => format!("/api/v1/namespaces/{namespace}/pods?labelSelector={}", query(&job::pod_selector(found))),
    };
    tasks.spawn(observe(session.api.clone(), path, Subject::Pod, to.clone()));
    if found.resource.is_job() {
        let one = query(&format!("metadata.name={}", found.name()));
        let path = format!("{}?fieldSelector={one}", found.resource.collection(Some(namespace)));
        tasks.spawn(observe(session.api.clone(), path, Subject::Job, to.clone()));
    }
    let alone = pods(session, found).await?.len() <= 1;
    let choice = Choice { container: args.container.clone(), tail: args.tail };
    let mut streams = Streams::new(session.api.clone(), found.name().to_owned(), choice, to);
    let screen = Screen::new();
    let mut over = false;
    let mut listed = false;
    while let Some(seen) = from.recv().await {
        match seen {
            Seen::Line(line) if wanted(&line.label, &args.rank) => screen.log(&line.label, &line.text)?,
            Seen::Line(_) | Seen::Back(_) | Seen::Lost(..) => {}
            Seen::LogEnded(key) => streams.ended(&key),
            Seen::Present(Subject::Pod, pod) => {
                streams.look_at(&pod, alone);
                over |= found.resource.kind == "Pod" && phase::is_over(&pod);
            }
            Seen::Present(Subject::Job, object) => over |= job::end(&object).is_some(),
            Seen::Gone(Subject::Job, _) => over = true,
            Seen::Gone(Subject::Pod, _) => over |= found.resource.kind == "Pod",
            Seen::Listed(Subject::Pod, _) => listed = true,
            Seen::Listed(Subject::Job, uids) => over |= uids.is_empty(),
            Seen::Present(Subject::Event, _) | Seen::Gone(Subject::Event, _) | Seen::Listed(Subject::Event, _) => {}
        }
        if over && listed && !streams.any_open() {
            break;
        }
    }
    io::stdout().flush()?;
    Ok(0)
}

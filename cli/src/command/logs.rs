//! `trainyard logs`.

mod past;

use std::io::{self, Write as _};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use past::Past;

use crate::api::query;
use crate::arg::{Global, Target};
use crate::error::CliError;
use crate::follow::label::Label;
use crate::follow::observe::{Seen, Subject, observe};
use crate::follow::phase;
use crate::follow::screen::Screen;
use crate::follow::stream::{Choice, Delivered, Streams};
use crate::job;
use crate::resource::Discovery;
use crate::session::{self, Session};
use crate::target::{self, Found};

/// Lines waiting to be printed; readers wait when it is full.
const QUEUE: usize = 1024;

/// Print or follow the logs of a job, with its ranks told apart.
///
/// The lines of all pods are merged by time. On this machine logs stay when a job has ended, until it is deleted: also those of pods that
/// its `cleanPodPolicy` took away, for a week. On a cluster they go with their pods.
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
    /// Of the containers' run before the last restart, or of the pods before the last restart of all ranks
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Only the last lines, of what the other options leave
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
        let over = job::end(&found.object).is_some() && pods(session, &found).await?.is_empty();
        if args.follow && session.embedded.is_none() && !over {
            follow(session, &found, &args).await
        } else {
            // Without a control plane, or without pods, nothing can come.
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

async fn print(session: &Session, found: &Found, args: &Args) -> Result<u8, CliError> {
    let past = Past::of(session, found, args).await?;
    let screen = Screen::new();
    for line in past.tail(args.tail) {
        let text = if args.timestamps { format!("{} {}", line.time, line.text) } else { line.text.clone() };
        screen.log(&line.label, &text)?;
    }
    if past.lines.is_empty() {
        if let Some(error) = past.problem {
            return Err(not_yet(error, found.name()));
        }
        let why = if past.pods == 0 { "it has no pods" } else { "nothing was printed" };
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
    let choice = Choice { container: args.container.clone() };
    let screen = Screen::new();
    let mut read = Delivered::new();
    if args.tail.is_some() {
        // The last lines of these ranks: only who knows all lines can tell which they are.
        let past = Past::of(session, found, args).await?;
        past.tail(args.tail).iter().try_for_each(|line| screen.log(&line.label, &line.text))?;
        read = past.read;
    }
    let mut streams = Streams::new(session.api.clone(), found.name().to_owned(), choice, to).after(read);
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

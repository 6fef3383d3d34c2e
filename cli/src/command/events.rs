//! `trainyard events`.

use std::io::Write as _;

use futures::StreamExt as _;
use serde_json::Value;

use crate::api::Change;
use crate::arg::Global;
use crate::error::CliError;
use crate::output::duration;
use crate::output::object::{self, Markup};
use crate::output::table::Table;
use crate::resource::Discovery;
use crate::session::{self, Session};
use crate::target::{self, Found};

/// List what happened to a job and its pods, or in a namespace.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard events                 of the namespace, oldest first
  trainyard events wine-ddp        of one job and its pods
  trainyard events wine-ddp -w     and of what comes")]
pub(crate) struct Args {
    /// A job's name, or KIND NAME, or KIND/NAME
    #[arg(value_name = "[KIND] NAME", num_args = 0..=2)]
    words: Vec<String>,
    /// Only warnings
    #[arg(long)]
    warnings: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Print what comes, until stopped
    #[arg(short, long)]
    watch: bool,
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let scope = scope(session, &args).await?;
        let root = if args.all_namespaces {
            "/api/v1/events".to_owned()
        } else {
            format!("/api/v1/namespaces/{}/events", session.namespace)
        };
        let list = session.api.get(&root).await?;
        let wanted = |event: &Value| {
            scope.as_ref().is_none_or(|scope| scope.holds(event)) && (!args.warnings || event["type"] == "Warning")
        };
        let mut events: Vec<Value> =
            list["items"].as_array().into_iter().flatten().filter(|event| wanted(event)).cloned().collect();
        sort(&mut events);
        if let Some(markup) = args.output {
            let mut value = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": events});
            object::without_managed_fields(&mut value);
            object::print(&mut std::io::stdout().lock(), &value, markup)?;
            return Ok(0);
        }
        if events.is_empty() && !args.watch {
            writeln!(
                anstream::stderr(),
                "no events{}",
                scope.map_or_else(String::new, |scope| format!(" for {}", scope.title))
            )?;
            return Ok(0);
        }
        table(&events, args.all_namespaces).print(&mut std::io::stdout().lock(), true)?;
        if args.watch {
            let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let mut changes = session.api.watch(&format!("{root}?watch=true&resourceVersion={version}"), false).await?;
            while let Some(change) = changes.next().await {
                match change? {
                    Change::Present(event) if wanted(&event) => {
                        table(&[event], args.all_namespaces).print(&mut std::io::stdout().lock(), false)?;
                    }
                    Change::Present(_) | Change::Gone(_) | Change::Bookmark => {}
                    Change::Expired => break,
                }
            }
        }
        Ok(0)
    })
}

/// An object and its pods, to pick events by.
pub(crate) struct Scope {
    title: String,
    uids: Vec<String>,
}

impl Scope {
    /// The object itself, and the pods that belong to it.
    pub(crate) async fn of(session: &Session, found: &Found) -> Result<Self, CliError> {
        let mut uids = vec![found.uid().to_owned()];
        if found.resource.has_pods() {
            let selector = crate::api::query(&crate::job::pod_selector(found));
            let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace());
            let pods = session.api.get(&path).await?;
            let pods = pods["items"].as_array().into_iter().flatten();
            uids.extend(pods.filter_map(|pod| pod["metadata"]["uid"].as_str()).map(str::to_owned));
        }
        Ok(Self { title: found.title(), uids })
    }

    /// Whether an event is about one of them.
    pub(crate) fn holds(&self, event: &Value) -> bool {
        event["involvedObject"]["uid"].as_str().is_some_and(|uid| self.uids.iter().any(|known| known == uid))
    }
}

async fn scope(session: &Session, args: &Args) -> Result<Option<Scope>, CliError> {
    if args.words.is_empty() {
        return Ok(None);
    }
    let discovery = Discovery::of_session(session).await?;
    let found = target::find(session, &discovery, &crate::arg::Target { words: args.words.clone() }).await?;
    Scope::of(session, &found).await.map(Some)
}

/// When an event was last seen.
pub(crate) fn last_seen(event: &Value) -> &str {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}

/// Oldest first.
pub(crate) fn sort(events: &mut [Value]) {
    events.sort_by(|a, b| last_seen(a).cmp(last_seen(b)));
}

/// The table of kubectl's `events`.
pub(crate) fn table(events: &[Value], namespace: bool) -> Table {
    let head: &[&str] = if namespace {
        &["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    } else {
        &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    };
    let mut table = Table::new(head);
    for event in events {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["involvedObject"];
        let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
        let age = duration::age_of(Some(last_seen(event)));
        let first = event["firstTimestamp"].as_str();
        let seen = if count > 1 { format!("{age} (x{count} over {})", duration::age_of(first)) } else { age };
        let row = [
            seen,
            text(&event["type"]),
            text(&event["reason"]),
            format!("{}/{}", text(&object["kind"]), text(&object["name"])),
            text(&event["message"]).trim().to_owned(),
        ];
        let front = namespace.then(|| text(&event["metadata"]["namespace"]));
        table.rows.push(front.into_iter().chain(row).collect());
    }
    table
}

//! `trainyard describe`.

use std::io::{self, Write};

use serde_json::Value;

use crate::arg::{Global, Target};
use crate::command::events;
use crate::error::CliError;
use crate::job::{self, PodRanks};
use crate::output::duration;
use crate::output::table::Table;
use crate::resource::Discovery;
use crate::session;
use crate::target::{self, Found};

/// Show one object with its pods and events.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard describe wine-ddp
  trainyard describe pod wine-ddp-master-0
  trainyard describe node")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let found = target::find(session, &discovery, &args.target).await?;
        let mut pods = Vec::new();
        if found.resource.has_pods() {
            let selector = crate::api::query(&job::pod_selector(&found));
            let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace());
            let list = session.api.get(&path).await?;
            pods.extend(list["items"].as_array().into_iter().flatten().cloned());
        }
        let scope = events::Scope::of(session, &found).await?;
        let all = match found.namespace() {
            "" => session.api.get("/api/v1/events").await,
            namespace => session.api.get(&format!("/api/v1/namespaces/{namespace}/events")).await,
        };
        let all = match all {
            // The object can be shown without its events.
            Err(error) if error.code() == Some(403) => {
                writeln!(anstream::stderr(), "warning: no right to list events: {error}")?;
                Value::Null
            }
            other => other?,
        };
        let mut events: Vec<Value> =
            all["items"].as_array().into_iter().flatten().filter(|event| scope.holds(event)).cloned().collect();
        events::sort(&mut events);
        print(&mut io::stdout().lock(), &found, &pods, &events)?;
        Ok(0)
    })
}

fn print(out: &mut dyn Write, found: &Found, pods: &[Value], events: &[Value]) -> io::Result<()> {
    let metadata = &found.object["metadata"];
    field(out, "Name", found.name())?;
    if !found.namespace().is_empty() {
        field(out, "Namespace", found.namespace())?;
    }
    field(out, "Kind", &format!("{} ({})", found.resource.kind, found.resource.api_version()))?;
    let created = metadata["creationTimestamp"].as_str();
    field(out, "Created", &format!("{} ({} ago)", created.unwrap_or("-"), duration::age_of(created)))?;
    for (title, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
        pairs(out, title, &metadata[key])?;
    }
    if found.resource.is_job() {
        field(out, "State", &job::state(&found.object))?;
        if let Some(message) = job::message(&found.object) {
            field(out, "Message", message)?;
        }
    }
    for section in ["spec", "data", "status"] {
        let mut value = found.object[section].clone();
        if value.is_null() || found.resource.kind == "Secret" && section == "data" {
            continue;
        }
        let conditions =
            value.as_object_mut().filter(|_| section == "status").and_then(|status| status.remove("conditions"));
        writeln!(out, "{}:", title_case(section))?;
        tree(out, &value, 1)?;
        if let Some(conditions) = conditions {
            print_conditions(out, &conditions)?;
        }
    }
    if found.resource.kind == "Secret" {
        print_secret(out, &found.object)?;
    }
    if !pods.is_empty() {
        writeln!(out, "Pods:")?;
        indented(out, &pod_table(pods))?;
    }
    if events.is_empty() {
        return field(out, "Events", "<none>");
    }
    writeln!(out, "Events:")?;
    indented(out, &events::table(events, false))
}

fn field(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "{:<14}{value}", format!("{name}:"))
}

fn pairs(out: &mut dyn Write, title: &str, map: &Value) -> io::Result<()> {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    match pairs.split_first() {
        None => field(out, title, "<none>"),
        Some((first, rest)) => {
            field(out, title, first)?;
            rest.iter().try_for_each(|pair| writeln!(out, "{:<14}{pair}", ""))
        }
    }
}

/// A value as an indented outline, the way `kubectl describe` shows custom kinds.
fn tree(out: &mut dyn Write, value: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Object(inner) if inner.is_empty() => writeln!(out, "{indent}{key}: {{}}")?,
                    Value::Object(_) => {
                        writeln!(out, "{indent}{key}:")?;
                        tree(out, value, depth + 1)?;
                    }
                    Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
                        let items: Vec<String> = items.iter().map(scalar).collect();
                        writeln!(out, "{indent}{key}: {}", items.join(" "))?;
                    }
                    Value::Array(_) => {
                        writeln!(out, "{indent}{key}:")?;
                        tree(out, value, depth + 1)?;
                    }
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                        writeln!(out, "{indent}{key}: {}", scalar(value))?
                    }
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| {
            writeln!(out, "{indent}-")?;
            tree(out, item, depth + 1)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            writeln!(out, "{indent}{}", scalar(value))
        }
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.trim_end().replace('\n', "\\n"))
}

fn title_case(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn print_conditions(out: &mut dyn Write, conditions: &Value) -> io::Result<()> {
    let mut table = Table::new(&["TYPE", "STATUS", "AGE", "REASON", "MESSAGE"]);
    for condition in conditions.as_array().into_iter().flatten() {
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        let age = duration::age_of(condition["lastTransitionTime"].as_str());
        table.rows.push(vec![text("type"), text("status"), age, text("reason"), text("message")]);
    }
    writeln!(out, "Conditions:")?;
    indented(out, &table)
}

fn print_secret(out: &mut dyn Write, secret: &Value) -> io::Result<()> {
    writeln!(out, "Data:")?;
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        // Base64 makes four characters of three bytes; the value itself is not for the screen.
        let text = value.as_str().unwrap_or_default().trim_end_matches('=');
        writeln!(out, "  {key}: {} bytes", text.len() * 3 / 4)?;
    }
    Ok(())
}

fn pod_table(pods: &[Value]) -> Table {
    let mut table = Table::new(&["NAME", "RANKS", "STATUS", "RESTARTS", "EXIT CODE", "NODE"]);
    for pod in pods {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let ranks = PodRanks::of(pod);
        let ranks = match (ranks.node, ranks.procs) {
            (Some(node), Some(1)) => node.to_string(),
            (Some(node), Some(procs)) => format!("{}-{}", node * procs, (node + 1) * procs - 1),
            (_, _) => "-".to_owned(),
        };
        let statuses = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let restarts: i64 = statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
        let code = statuses.iter().find_map(|status| status["state"]["terminated"]["exitCode"].as_i64());
        table.rows.push(vec![
            text(&pod["metadata"]["name"]),
            ranks,
            pod_status(pod),
            restarts.to_string(),
            code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            text(&pod["spec"]["nodeName"]),
        ]);
    }
    table
}

fn pod_status(pod: &Value) -> String {
    let waiting = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|status| status["state"]["waiting"]["reason"].as_str());
    let phase = pod["status"]["phase"].as_str();
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    waiting.or(phase).unwrap_or("Unknown").to_owned()
}

fn indented(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    let mut text = Vec::new();
    table.print(&mut text, true)?;
    String::from_utf8_lossy(&text).lines().try_for_each(|line| writeln!(out, "  {line}"))
}

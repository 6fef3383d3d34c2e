//! `trainyard run --dry-run`: hops 1 to 6, with the plan printed and nothing started.

use std::io::{self, Write};

use serde_json::Value;
use trainyard_coordinator_core::gang;
use trainyard_coordinator_core::manifest::dialect_of;
use trainyard_coordinator_core::outset::{created, outset};
use trainyard_proto::plan::{Action, Plan, Reason};

use crate::arg::Global;
use crate::error::CliError;
use crate::exit_code;
use crate::job::PodRanks;
use crate::manifest::{self, Document};
use crate::output::style;
use crate::output::table::Table;
use crate::resource::Discovery;
use crate::session::{self, Session};
use crate::view;

pub(crate) fn run(global: &Global, documents: &[Document]) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let mut out = anstream::stdout().lock();
        let mut code = exit_code::SUCCESS;
        for document in documents {
            if dialect_of(&document.value).is_none() {
                let how = if manifest::is_runnable(document) { "created" } else { "applied" };
                writeln!(out, "{} {} would be {how}", document.kind(), document.name())?;
                continue;
            }
            let planned = plan(session, &discovery, document).await?;
            print(&mut out, document, &planned)?;
            if planned.job.reasons.iter().any(|reason| reason.code == "Invalid") {
                code = exit_code::BAD_INPUT;
            }
        }
        writeln!(anstream::stderr(), "nothing was started (--dry-run)")?;
        Ok(code)
    })
}

struct Planned {
    job: Plan,
    pods: Vec<Value>,
    placement: gang::Placement,
    now_ms: i64,
}

/// Plans the job as if it had just been created, then places its pods among those that are there.
async fn plan(session: &Session, discovery: &Discovery, document: &Document) -> Result<Planned, CliError> {
    let now = view::now_ms();
    let view = view::of_new_job(session, discovery, &document.value, now).await?;
    let begun = outset(&view, now).unwrap_or_default();
    let pods: Vec<Value> = begun.plan.actions.iter().filter_map(|action| created(action, "Pod")).cloned().collect();
    let mut gangs = view::of_gangs(session).await?;
    if gangs.nodes.is_empty() {
        tracing::debug!("this machine was never registered as a node: `trainyard up` or `run` does it");
    }
    gangs.pods.extend(begun.pods);
    let placement = gang::place(&gangs, now);
    Ok(Planned { job: begun.plan, pods, placement, now_ms: now })
}

fn print(out: &mut dyn Write, document: &Document, planned: &Planned) -> io::Result<()> {
    let strong = style::STRONG;
    writeln!(out, "{strong}{} {}{strong:#} would be created, and then:", document.kind(), document.name())?;
    for action in &planned.job.actions {
        if let Action::Create { object, .. } = action {
            writeln!(out, "  create {} {}", object.kind, object.name)?;
        }
    }
    let names: Vec<&str> = planned.pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    for action in &planned.placement.plan.actions {
        if let Action::Bind { pod, node, .. } = action
            && names.contains(&pod.name.as_str())
        {
            writeln!(out, "  start {} on node {node}", pod.name)?;
        }
    }
    writeln!(out)?;
    pods(out, &planned.pods)?;
    let ours = |reason: &&Reason| reason.subject.name.starts_with(document.name());
    for reason in planned.job.reasons.iter().chain(&planned.placement.plan.reasons).filter(ours) {
        writeln!(out, "{}: {}", reason.code, reason.message)?;
        if let Some(hint) = &reason.hint {
            writeln!(out, "  hint: {hint}")?;
        }
    }
    let mut waiting = planned.placement.waiting.iter();
    if let Some(gang) = waiting.find(|gang| gang.pods.iter().any(|pod| names.contains(&pod.as_str())))
        && let Some(when) = super::queue::starts(gang, planned.now_ms)
    {
        writeln!(out, "It would start {when}; position {} in its queue", gang.position + 1)?;
    }
    Ok(())
}

fn pods(out: &mut dyn Write, pods: &[Value]) -> io::Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["POD", "NODE RANK", "RANKS", "REQUESTS", "COMMAND"]);
    for pod in pods {
        let ranks = PodRanks::of(pod);
        let number = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let container = &pod["spec"]["containers"][0];
        let requests = container["resources"]["requests"].as_object().into_iter().flatten();
        let requests: Vec<String> =
            requests.map(|(name, amount)| format!("{name}={}", amount.as_str().unwrap_or_default())).collect();
        let words = ["command", "args"].into_iter().flat_map(|key| container[key].as_array().into_iter().flatten());
        let command: Vec<&str> = words.filter_map(Value::as_str).collect();
        table.rows.push(vec![
            pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            number(ranks.node),
            number(ranks.procs),
            if requests.is_empty() { "-".to_owned() } else { requests.join(",") },
            command.join(" "),
        ]);
    }
    table.print(out, true)
}

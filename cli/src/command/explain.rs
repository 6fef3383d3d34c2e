//! `trainyard explain`.

mod cluster;
mod field;

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};
use trainyard_coordinator_core::explain;
use trainyard_coordinator_core::gang::{self, GangView, Remedy, WaitingGang};
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::dialect_of;
use trainyard_proto::plan::Reason;

use crate::arg::{Global, Target};
use crate::command::{events, queue};
use crate::error::CliError;
use crate::follow::failure;
use crate::job;
use crate::output::object::{self, Markup};
use crate::output::style;
use crate::resource::Discovery;
use crate::session::{self, Place, Session};
use crate::target::{self, Found};
use crate::view;

/// The latest warnings are the ones that matter.
const MAX_WARNINGS: usize = 5;

/// Say why a job is where it is, or document the fields of a kind.
///
/// Asks the same decision code that runs the jobs, so the answer is the reason, not a guess: what a job waits for with numbers, what failed first, and what can be
/// done about it. On a cluster it is what scheduler, kubelet and operator wrote down. With a kind instead of a name (trainingjob, pytorchjob.spec), its fields are described.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard explain wine-ddp
  trainyard explain trainingjob.spec
  trainyard explain pod.spec.containers")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let found = match target::find(session, &discovery, &args.target).await {
            Ok(found) => found,
            Err(error @ CliError::NotFound { .. }) => {
                return match kind(&discovery, &args.target) {
                    Some((kind, path)) => field::print(&session.api, kind, &path).await,
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let Told { reasons, starts, remedies } = told(session, &discovery, &found).await?;
        let warnings = warnings(session, &found).await?;
        let flavors = flavors(&pods(session, &found).await?);
        let mut out = io::stdout().lock();
        match args.output {
            Some(markup) => {
                let mut value = json!({"subject": found.title(), "state": job::state(&found.object), "reasons": reasons, "starts": starts, "remedies": remedies, "warnings": warnings});
                if !flavors.is_empty() {
                    value["flavors"] = json!(flavors);
                }
                object::print(&mut out, &value, markup)?;
            }
            None => {
                let out = &mut anstream::stdout().lock();
                print(out, &found, &reasons, &remedies, &warnings)?;
                for flavor in flavors {
                    writeln!(out, "\n  Its pods were given {flavor}")?;
                }
            }
        }
        Ok(0)
    })
}

/// `pytorchjob.spec.runPolicy`: a kind, and a path in it.
fn kind<'a>(discovery: &'a Discovery, target: &Target) -> Option<(&'a crate::resource::Resource, Vec<String>)> {
    let [word] = target.words.as_slice() else { return None };
    let mut steps = word.split('.').map(str::to_owned);
    let kind = discovery.find(&steps.next()?)?;
    Some((kind, steps.collect()))
}

/// What the decision code says of an object.
#[derive(Default)]
struct Told {
    reasons: Vec<Reason>,
    /// When each gang of it that waits is expected to start.
    starts: Vec<WaitingGang>,
    /// What would let it start now.
    remedies: Vec<Remedy>,
}

async fn told(session: &Session, discovery: &Discovery, found: &Found) -> Result<Told, CliError> {
    if matches!(session.place, Place::Cluster(_)) {
        return on_cluster(session, found).await;
    }
    let gangs = view::of_gangs(session).await?;
    let now = view::now_ms();
    let placement = gang::place(&gangs, now);
    let mut reasons = if dialect_of(&found.object).is_some() {
        let view = view::of_job(session, discovery, &found.object).await?;
        explain::explain(&view, Some(&gangs), now)
    } else {
        placement.plan.reasons
    };
    let pods = pods(session, found).await?;
    let own: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    let is_own = |reason: &Reason| own.contains(reason.subject.name.as_str()) || reason.subject.name == found.name();
    reasons.retain(|reason| concerns(reason, found) && (!found.resource.has_pods() || is_own(reason)));
    let ours = |gang: &WaitingGang| {
        gang.namespace == found.namespace()
            && gang.pods.iter().any(|pod| reasons.iter().any(|one| one.subject.name == *pod))
    };
    let starts: Vec<WaitingGang> = placement.waiting.into_iter().filter(ours).collect();
    Ok(with_turns(&gangs, now, reasons, starts))
}

/// What was written down; and of pods at our gate also what the decision code says. It is asked only for those: it looks at all pods.
async fn on_cluster(session: &Session, found: &Found) -> Result<Told, CliError> {
    let pods = pods(session, found).await?;
    let reasons = cluster::reasons(found, &pods);
    let is_gated = |pod: &&Value| pod["spec"]["schedulingGates"][0].is_object();
    let gated: BTreeSet<&str> =
        pods.iter().filter(is_gated).filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    if gated.is_empty() {
        return Ok(Told { reasons, ..Told::default() });
    }
    // Not everybody may look at all of a cluster.
    let Ok(gangs) = view::of_gangs(session).await else { return Ok(Told { reasons, ..Told::default() }) };
    let now = view::now_ms();
    let ours = |gang: &WaitingGang| {
        gang.namespace == found.namespace() && gang.pods.iter().any(|pod| gated.contains(pod.as_str()))
    };
    let starts = gang::place(&gangs, now).waiting.into_iter().filter(ours).collect();
    Ok(with_turns(&gangs, now, reasons, starts))
}

/// Adds when each gang is expected to start, and what would let it start now.
fn with_turns(gangs: &GangView, now: i64, mut reasons: Vec<Reason>, starts: Vec<WaitingGang>) -> Told {
    let remedies = starts.iter().flat_map(|gang| gang::remedies(gangs, now, &gang.namespace, &gang.name)).collect();
    for gang in &starts {
        let when = queue::starts(gang, now).map(|when| format!("starts {when}"));
        let first = gang.pods.first().and_then(|pod| reasons.iter_mut().find(|reason| reason.subject.name == *pod));
        if let (Some(when), Some(reason)) = (when, first) {
            let turn = if gang.position == 0 { String::new() } else { format!("position {}, ", gang.position) };
            reason.message = format!("{}; {turn}{when}", reason.message);
        }
    }
    Told { reasons, starts, remedies }
}

/// The pods that an object stands for.
async fn pods(session: &Session, found: &Found) -> Result<Vec<Value>, CliError> {
    if found.resource.kind == "Pod" {
        return Ok(vec![found.object.clone()]);
    }
    if !found.resource.has_pods() {
        return Ok(Vec::new());
    }
    let selector = crate::api::query(&job::pod_selector(found));
    let list =
        session.api.get(&format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace())).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The flavors that pods were given, each once.
fn flavors(pods: &[Value]) -> BTreeSet<String> {
    let given = |pod: &Value| pod["metadata"]["annotations"][label::FLAVORS].as_str().map(str::to_owned);
    pods.iter().filter_map(given).collect()
}

/// Gangs of other jobs have reasons of their own. What has no pods itself may have them by something that is named after it.
fn concerns(reason: &Reason, found: &Found) -> bool {
    let subject = &reason.subject;
    let name = found.name();
    let part = subject.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    subject.namespace == found.namespace() && part
}

async fn warnings(session: &Session, found: &Found) -> Result<Vec<Value>, CliError> {
    if found.namespace().is_empty() {
        return Ok(Vec::new());
    }
    let scope = events::Scope::of(session, found).await?;
    let list = match session.api.get(&format!("/api/v1/namespaces/{}/events", found.namespace())).await {
        // The reasons stand without them.
        Err(error) if error.code() == Some(403) => Value::Null,
        other => other?,
    };
    let ours = |event: &&Value| scope.holds(event) && event["type"] == "Warning";
    let mut warnings: Vec<Value> = list["items"].as_array().into_iter().flatten().filter(ours).cloned().collect();
    events::sort(&mut warnings);
    let skip = warnings.len().saturating_sub(MAX_WARNINGS);
    let mut warnings = warnings.split_off(skip);
    warnings.iter_mut().for_each(object::without_managed_fields);
    Ok(warnings)
}

fn print(
    out: &mut dyn Write,
    found: &Found,
    reasons: &[Reason],
    remedies: &[Remedy],
    warnings: &[Value],
) -> io::Result<()> {
    let strong = style::STRONG;
    let state = match found.resource.kind.as_str() {
        "Pod" => found.object["status"]["phase"].as_str().unwrap_or("Unknown").to_owned(),
        _ => job::state(&found.object),
    };
    writeln!(out, "{strong}{}{strong:#} is {state}", found.title())?;
    let told = reasons.iter().any(|reason| job::message(&found.object) == Some(reason.message.as_str()));
    if let (Some(message), false) = (job::message(&found.object), told) {
        writeln!(out, "  {message}")?;
    }
    for reason in reasons {
        writeln!(out, "\n  {strong}{}{strong:#} {} {}", reason.code, reason.subject.kind, reason.subject.name)?;
        writeln!(out, "    {}", reason.message)?;
        if let Some(hint) = &reason.hint {
            let cyan = style::HINT;
            writeln!(out, "    {cyan}hint:{cyan:#} {hint}")?;
        }
    }
    if !remedies.is_empty() {
        writeln!(out, "\n  It would start now with one of these changes:")?;
        for remedy in remedies {
            writeln!(out, "    {}", remedy.message)?;
        }
    }
    if let Some(code) = found.object["status"]["exitCode"].as_i64().filter(|code| *code != 0) {
        writeln!(out, "\n  {}", failure::describe_code(code))?;
        if let Some(cure) = failure::cure(code, "") {
            writeln!(out, "    {cure}")?;
        }
    }
    if !warnings.is_empty() {
        writeln!(out, "\n  Warnings:")?;
        for event in warnings {
            let age = crate::output::duration::age_of(Some(events::last_seen(event)));
            let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
            writeln!(out, "    {age:>6}  {}: {}", text(&event["reason"]), text(&event["message"]))?;
        }
    }
    Ok(())
}

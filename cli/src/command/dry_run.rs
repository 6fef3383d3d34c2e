//! `trainyard run --dry-run`: hops 1 to 6, with the plan printed and nothing started.

use std::collections::BTreeSet;
use std::io::{self, Write};

use k8s_openapi::api::core::v1::{Node, Pod};

use serde_json::Value;
use trainyard_coordinator_core::gang::{self, GangView, WaitingGang};
use trainyard_coordinator_core::job::JobCode;
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::dialect_of;
use trainyard_coordinator_core::outset::{created, outset};
use trainyard_proto::plan::{Action, ObjectRef, Plan, Reason};
use trainyard_worker::agent::{AgentConfig, would_register};

use crate::arg::Global;
use crate::error::CliError;
use crate::exit_code;
use crate::job::PodRanks;
use crate::manifest::{self, Document};
use crate::output::style;
use crate::output::table::Table;
use crate::resource::Discovery;
use crate::session::{self, Place, Session};
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
    /// Which pods these are: namespace and name.
    names: BTreeSet<(String, String)>,
    /// What the gang scheduler says, if it is its business, and all that it looks at may be read.
    placement: Result<gang::Placement, &'static str>,
    now_ms: i64,
}

impl Planned {
    fn has(&self, object: &ObjectRef) -> bool {
        object.kind == "Pod" && self.names.contains(&(object.namespace.clone(), object.name.clone()))
    }

    fn starts(&self) -> impl Iterator<Item = (&str, &str)> {
        let actions = self.placement.iter().flat_map(|placement| &placement.plan.actions);
        actions.filter_map(move |action| {
            let Action::Bind { pod, node, .. } = action else { return None };
            self.has(pod).then_some((pod.name.as_str(), node.as_str()))
        })
    }

    /// Why it does not run yet, of the job and of its pods. Where all of them start now, that they have no node is no reason.
    fn reasons(&self) -> impl Iterator<Item = &Reason> {
        let all_start = self.starts().count() == self.names.len();
        let of_job = self.job.reasons.iter();
        let of_job = of_job.filter(move |reason| !all_start || reason.code != JobCode::WaitsForPlace.name());
        let of_pods = self.placement.iter().flat_map(|placement| &placement.plan.reasons);
        of_job.chain(of_pods.filter(move |reason| self.has(&reason.subject)))
    }

    fn waits(&self) -> Option<&WaitingGang> {
        let has = |gang: &WaitingGang, pod: &String| self.names.contains(&(gang.namespace.clone(), pod.clone()));
        self.placement.as_ref().ok()?.waiting.iter().find(|gang| gang.pods.iter().any(|pod| has(gang, pod)))
    }
}

/// Plans the job as if it had just been created, then places its pods among those that are there.
async fn plan(session: &Session, discovery: &Discovery, document: &Document) -> Result<Planned, CliError> {
    let now = view::now_ms();
    let mut view = view::of_new_job(session, discovery, &document.value, now).await?;
    // As the operator makes them: their gang is what is asked about.
    view.config.gangs |= matches!(session.place, Place::Cluster(_));
    let begun = outset(&view, now).unwrap_or_default();
    let pods: Vec<Value> = begun.plan.actions.iter().filter_map(|action| created(action, "Pod")).cloned().collect();
    let name =
        |pod: &Pod| (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default());
    let names: BTreeSet<_> = begun.pods.iter().map(name).collect();
    let placement = match gangs(session, &begun.pods).await? {
        Ok(mut gangs) => {
            // A job of that name that has ended is replaced.
            gangs.pods.retain(|pod| !names.contains(&name(pod)));
            gangs.pods.extend(begun.pods);
            Ok(gang::place(&gangs, now))
        }
        Err(why) => Err(why),
    };
    Ok(Planned { job: begun.plan, pods, names, placement, now_ms: now })
}

/// What the pods are placed among, or why nothing is said of that.
async fn gangs(session: &Session, pods: &[Pod]) -> Result<Result<GangView, &'static str>, CliError> {
    if let Place::InProcess { home } = &session.place {
        let mut gangs = view::of_gangs(session).await?;
        register(&mut gangs.nodes, would_register(&AgentConfig::for_home(home)));
        return Ok(Ok(gangs));
    }
    let is_ours = |pod: &Pod| {
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
        gates.into_iter().flatten().any(|gate| gate.name == label::GANG_GATE)
    };
    if matches!(session.place, Place::Cluster(_)) && !pods.iter().any(is_ours) {
        return Ok(Err("when and where its pods start is not for trainyard's scheduler to say"));
    }
    match view::of_gangs(session).await {
        Err(CliError::Refused { status: 403, .. }) => {
            Ok(Err("when and where it would start is not known: you may not read all nodes and pods"))
        }
        other => Ok(Ok(other?)),
    }
}

/// `run` registers this machine before it starts a job, or anew: what is on record of it otherwise stays.
fn register(nodes: &mut Vec<Node>, mut own: Node) {
    let Some(known) = nodes.iter_mut().find(|node| node.metadata.name == own.metadata.name) else {
        nodes.push(own);
        return;
    };
    known.metadata.labels.get_or_insert_default().append(own.metadata.labels.get_or_insert_default());
    known.status = own.status;
}

fn print(out: &mut dyn Write, document: &Document, planned: &Planned) -> io::Result<()> {
    let strong = style::STRONG;
    writeln!(out, "{strong}{} {}{strong:#} would be created, and then:", document.kind(), document.name())?;
    for action in &planned.job.actions {
        if let Action::Create { object, .. } = action {
            writeln!(out, "  create {} {}", object.kind, object.name)?;
        }
    }
    for (pod, node) in planned.starts() {
        writeln!(out, "  start {pod} on node {node}")?;
    }
    writeln!(out)?;
    pods(out, &planned.pods)?;
    for reason in planned.reasons() {
        writeln!(out, "{}: {}", reason.code, reason.message)?;
        if let Some(hint) = &reason.hint {
            writeln!(out, "  hint: {hint}")?;
        }
    }
    if let Some(gang) = planned.waits()
        && let Some(when) = super::queue::starts(gang, planned.now_ms)
    {
        let turn =
            if gang.position == 0 { String::new() } else { format!("; position {} in its queue", gang.position) };
        writeln!(out, "It would start {when}{turn}")?;
    }
    if let Err(why) = planned.placement {
        writeln!(out, "note: {why}")?;
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

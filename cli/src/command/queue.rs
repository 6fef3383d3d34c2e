//! `trainyard queue`.

use std::io::{self, Write};

use serde_json::json;
use trainyard_coordinator_core::gang::{self, GangView, QueueState, WaitingGang};
use trainyard_coordinator_core::schedule::Estimate;

use crate::arg::Global;
use crate::error::CliError;
use crate::output::duration::age;
use crate::output::object::{self, Markup};
use crate::output::table::Table;
use crate::session;
use crate::view;

/// Show what waits, in the order of its turns, and how the queues stand.
///
/// Asks the same decision code that starts the jobs. STARTS is when a job is expected to start if others run for as long as is
/// expected; "at the latest" is known if all that it waits for have run limits (activeDeadlineSeconds), and a promise if places are
/// set aside.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard queue
  trainyard queue team-a -o json")]
pub(crate) struct Args {
    /// Only this ClusterQueue
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let gangs = view::of_gangs(session).await?;
        let now_ms = view::now_ms();
        let (waiting, queues) = shown(&gangs, now_ms, args.queue.as_deref());
        let mut out = io::stdout().lock();
        match args.output {
            Some(markup) => object::print(&mut out, &json!({"waiting": waiting, "queues": queues}), markup)?,
            None => print(&mut out, &waiting, &queues, now_ms)?,
        }
        Ok(0)
    })
}

fn shown(gangs: &GangView, now_ms: i64, only: Option<&str>) -> (Vec<WaitingGang>, Vec<QueueState>) {
    let mut waiting = gang::place(gangs, now_ms).waiting;
    waiting.retain(|gang| only.is_none_or(|only| gang.queue == only));
    let mut queues = gang::queues(gangs, now_ms);
    queues.retain(|queue| only.map_or(!queue.name.is_empty(), |only| queue.name == only));
    (waiting, queues)
}

fn print(out: &mut dyn Write, waiting: &[WaitingGang], queues: &[QueueState], now_ms: i64) -> io::Result<()> {
    if waiting.is_empty() {
        writeln!(out, "Nothing waits.")?;
    } else {
        let mut table = Table::new(&["POSITION", "NAMESPACE", "NAME", "QUEUE", "PODS", "REASON", "STARTS"]);
        table.rows = waiting.iter().map(|gang| row(gang, now_ms)).collect();
        table.print(out, true)?;
    }
    if queues.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&["QUEUE", "COHORT", "WAITING", "RUNNING", "SHARE", "QUOTA", "USED", "FREE"]);
    for queue in queues {
        table.rows.extend(rows(queue));
    }
    table.print(out, true)
}

fn row(gang: &WaitingGang, now_ms: i64) -> Vec<String> {
    vec![
        position(gang.position),
        gang.namespace.clone(),
        gang.name.clone(),
        or_dash(&gang.queue),
        gang.pods.len().to_string(),
        gang.code.name().to_owned(),
        starts(gang, now_ms).unwrap_or_else(|| "-".to_owned()),
    ]
}

fn rows(queue: &QueueState) -> Vec<Vec<String>> {
    let share = format!("{:.1}%", queue.share_ppm as f64 / 10_000.0);
    let cohort = or_dash(queue.cohort.as_deref().unwrap_or_default());
    let head = [queue.name.clone(), cohort, queue.waiting.to_string(), queue.running.to_string(), share];
    let quota = queue.quota.iter().map(|quota| {
        let show = |amount: i64| gang::show(&quota.resource, amount);
        let flavor = quota.flavor.as_ref().map(|flavor| format!(" of flavor {flavor}")).unwrap_or_default();
        vec![show(quota.entitled) + &flavor, show(quota.used), show(quota.available)]
    });
    let mut quota: Vec<Vec<String>> = quota.collect();
    if quota.is_empty() {
        quota.push(vec!["-".to_owned(); 3]);
    }
    let blank = vec![String::new(); head.len()];
    let line = |(at, cells): (usize, Vec<String>)| {
        let left = if at == 0 { head.to_vec() } else { blank.clone() };
        left.into_iter().chain(cells).collect()
    };
    quota.into_iter().enumerate().map(line).collect()
}

pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// A place in a queue; none if it has no turn so far.
pub(crate) fn position(position: u32) -> String {
    if position == 0 { "-".to_owned() } else { position.to_string() }
}

/// When it is expected to start.
pub(crate) fn starts(gang: &WaitingGang, now_ms: i64) -> Option<String> {
    gang.estimate.map(|estimate| when(estimate, gang.reserved, now_ms))
}

/// The same of an estimate; it is a promise if places are set aside until a known moment.
pub(crate) fn when(estimate: Estimate, reserved: bool, now_ms: i64) -> String {
    let until = |at_ms: i64| age((at_ms - now_ms).max(0) / 1000);
    let expected = until(estimate.expected_ms);
    match estimate.latest_ms {
        Some(latest) if reserved => format!("in {} (promised)", until(latest)),
        Some(latest) if latest > estimate.expected_ms => format!("in {expected}, in {} at the latest", until(latest)),
        Some(latest) => format!("in {} at the latest", until(latest)),
        None => format!("in about {expected}"),
    }
}

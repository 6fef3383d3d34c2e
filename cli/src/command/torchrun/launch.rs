//! From a plan to the launcher: its arguments and its environment. This process becomes the launcher.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::plan::Plan;
use super::{meet, wrong};
use crate::error::CliError;
use crate::session::internal;

/// Set in a pod whose job has a coordinator: then that decides on nodes and restarts.
const RENDEZVOUS: &str = "TRAINYARD_RENDEZVOUS";
/// Set in every pod of a job.
const JOB: &str = "TRAINYARD_JOB";
const STOP_GRACE: &str = "TRAINYARD_STOP_GRACE_SECONDS";
/// How much earlier than its own grace ends the launcher kills the ranks.
const REPORT_SECONDS: i64 = 2;

/// What the launcher is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Call {
    arguments: Vec<String>,
    set: Vec<(&'static str, String)>,
    remove: Vec<&'static str>,
}

/// Starts the ranks. Returns only if that cannot be tried.
pub(super) fn launch(plan: &Plan) -> Result<ExitCode, CliError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let call = call(plan, variable).map_err(wrong)?;
    for words in &plan.without_effect {
        eprintln!("trainyard torchrun: no effect: {words}");
    }
    let own = std::env::current_exe().map_err(internal("the launcher cannot be started"))?;
    let mut command = Command::new(own);
    command.arg("launch").args(&call.arguments).arg("--").args(&plan.command);
    for name in &call.remove {
        command.env_remove(name);
    }
    command.envs(call.set);
    Err(internal("the launcher cannot be started")(command.exec()))
}

fn call(plan: &Plan, variable: impl Fn(&str) -> Option<String>) -> Result<Call, String> {
    let mut call = Call::default();
    let mut argument = |name: &str, value: String| call.arguments.extend([name.to_owned(), value]);
    argument("--nproc", plan.nproc_per_node.clone());
    argument("--grace", plan.shutdown_timeout.to_string());
    for (name, value) in [("--spares", &plan.spares), ("--on-hang", &plan.on_hang)] {
        if let Some(value) = value {
            argument(name, value.clone());
        }
    }
    let in_pod = variable(JOB).is_some();
    let led = variable(RENDEZVOUS).is_some();
    call.remove.extend(["PET_NPROC_PER_NODE", "PET_MAX_RESTARTS"]);
    if !led && (!in_pod || plan.max_restarts > 0) {
        call.set.push(("PET_MAX_RESTARTS", plan.max_restarts.to_string()));
    }
    if variable(STOP_GRACE).is_none() {
        call.set.push((STOP_GRACE, (plan.shutdown_timeout + REPORT_SECONDS).to_string()));
    }
    if !led {
        world(plan, in_pod, &mut call)?;
    }
    details(plan, &mut call);
    Ok(call)
}

/// The nodes, where no coordinator decides on them.
fn world(plan: &Plan, in_pod: bool, call: &mut Call) -> Result<(), String> {
    call.set.push(("PET_NNODES", plan.max_nodes.to_string()));
    call.remove.extend(["PET_MASTER_ADDR", "PET_MASTER_PORT", "MASTER_ADDR", "MASTER_PORT"]);
    // The pods of a job without a rendezvous have their places, and are started again by the job's controller.
    let is_fixed = in_pod && plan.rdzv_backend == "static" && plan.min_nodes == plan.max_nodes;
    if plan.max_nodes > 1 && !is_fixed {
        let meeting = meet::meeting(plan)?;
        let text =
            serde_json::to_string(&meeting).map_err(|error| format!("the meeting cannot be written: {error}"))?;
        call.set.push(("TRAINYARD_MEETING", text));
        call.set.push(("TRAINYARD_POD_UID", meet::own_name(&meeting)));
        call.set.push(("PET_NODE_RANK", "0".to_owned()));
        call.set.push(("PET_MASTER_ADDR", meet::own_address(plan, &meeting)));
        return Ok(());
    }
    let node_rank = if plan.rdzv_backend == "static" { plan.node_rank } else { 0 };
    call.set.push(("PET_NODE_RANK", node_rank.to_string()));
    if let Some((address, port)) = &plan.master {
        call.set.push(("PET_MASTER_ADDR", address.clone()));
        call.set.push(("PET_MASTER_PORT", port.to_string()));
    }
    Ok(())
}

/// What no pod of ours has, and torchrun can be told.
fn details(plan: &Plan, call: &mut Call) {
    if let Some(id) = &plan.run_id {
        call.set.push(("TRAINYARD_RUN_ID", id.clone()));
    }
    call.set.push(("TRAINYARD_ROLE", plan.role.clone()));
    call.set.push(("TRAINYARD_SIGNALS", plan.signals_to_handle.clone()));
    call.set.push(("TRAINYARD_LOCAL_RANK_MACRO", "1".to_owned()));
    if plan.virtual_local_rank {
        call.set.push(("TRAINYARD_VIRTUAL_LOCAL_RANK", "1".to_owned()));
    }
    if let Some(address) = &plan.local_addr {
        call.set.push(("TRAINYARD_POD_IP", address.clone()));
    }
    let logs = &plan.logs;
    if !logs.redirects.is_empty() || !logs.tee.is_empty() || logs.local_ranks_filter.is_some() {
        let text = serde_json::to_string(logs).expect("texts, numbers and lists can be written");
        call.set.push(("TRAINYARD_LOGS", text));
    }
}

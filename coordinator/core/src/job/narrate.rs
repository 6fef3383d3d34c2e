//! What the user is told about a job: what happened, where, and what to do next.

use k8s_openapi::api::core::v1::Pod;

use super::FailureCause;
use super::replica::{FirstFailure, Standing};
use super::subject::Subject;
use crate::model::JobModel;

/// Longest text of a container that is repeated in a status. Kubernetes keeps up to 4096 characters of it in the pod.
const MAX_QUOTE: usize = 400;

/// Why the pods of a job are ended by a limit.
pub(super) const fn limit(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Deadline => "the job was active for longer than activeDeadlineSeconds",
        FailureCause::BackoffLimit => "the job was started again more often than backoffLimit",
        FailureCause::Replica | FailureCause::Invalid => "the job has failed",
    }
}

/// Why the job failed.
pub(super) fn failure(
    subject: &Subject,
    model: &JobModel,
    cause: FailureCause,
    failure: Option<&FirstFailure>,
    restarts: u32,
) -> String {
    let title = format!("{} {}", subject.object.kind, subject.name);
    let first = failure.map(|failure| first(subject, model, failure)).unwrap_or_default();
    match cause {
        FailureCause::Deadline => {
            let seconds = model.policy.active_deadline_ms.unwrap_or(0) / 1000;
            format!(
                "{title} was active for longer than its activeDeadlineSeconds of {seconds}; raise it, or look at `{}`",
                logs(subject)
            )
        }
        FailureCause::BackoffLimit => {
            let limit = model.policy.backoff_limit.unwrap_or(0);
            format!("{title} has reached its backoffLimit of {limit} after {restarts} restarts{}", prefixed(&first))
        }
        FailureCause::Replica if first.is_empty() => {
            format!("{title} has failed: a pod was deleted while it ran; apply it again to start over")
        }
        FailureCause::Replica | FailureCause::Invalid => format!("{title} has failed{}", prefixed(&first)),
    }
}

/// Why the job starts again.
pub(super) fn restart(
    subject: &Subject,
    model: &JobModel,
    failure: Option<&FirstFailure>,
    restarts: u32,
    wanted: u32,
) -> String {
    let title = format!("{} {}", subject.object.kind, subject.name);
    let number = restarts + wanted;
    let of = model.policy.backoff_limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let first = failure.map_or_else(|| "a pod was deleted while it ran".to_owned(), |failure| what(model, failure));
    format!("{title} is restarting (restart {number}{of}): {first}")
}

fn prefixed(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn logs(subject: &Subject) -> String {
    if subject.object.namespace == "default" {
        format!("trainyard logs {}", subject.name)
    } else {
        format!("trainyard logs {} -n {}", subject.name, subject.object.namespace)
    }
}

/// What failed first, and what to do next.
fn first(subject: &Subject, model: &JobModel, failure: &FirstFailure) -> String {
    format!("{}; {}", what(model, failure), advice(subject, failure))
}

/// What failed first.
fn what(model: &JobModel, failure: &FirstFailure) -> String {
    let replica = model.replicas().map(|(_, replica)| replica).find(|replica| replica.name == failure.pod);
    let one_rank_each = model.ranks == u32::try_from(model.size()).ok();
    let place = match replica {
        Some(replica) if one_rank_each => format!("rank {} (pod {})", replica.node_rank, failure.pod),
        Some(_) | None => format!("pod {}", failure.pod),
    };
    let how = match (failure.exit_code, failure.reason.as_deref()) {
        (_, Some("OOMKilled")) => "ran out of memory".to_owned(),
        (None, Some("NodeLost")) => "was lost with its node".to_owned(),
        (None, Some(reason)) => format!("was ended ({reason})"),
        (Some(code), _) if code > 128 => format!("was ended by signal {} (exit code {code})", signal(code - 128)),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, None) => "failed".to_owned(),
    };
    match failure.message.as_deref() {
        Some(message) => format!("{place} failed first: it {how}: {}", quote(message)),
        None => format!("{place} failed first: it {how}"),
    }
}

/// The last part of what a container left to say, on one line.
fn quote(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(MAX_QUOTE);
    if skip == 0 { line } else { format!("…{}", line.chars().skip(skip).collect::<String>()) }
}

fn signal(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        other => return other.to_string(),
    };
    name.to_owned()
}

fn advice(subject: &Subject, failure: &FirstFailure) -> String {
    match (failure.exit_code, failure.reason.as_deref()) {
        (_, Some("OOMKilled")) => "raise its memory".to_owned(),
        (None, Some("NodeLost" | "Evicted")) => "set restartPolicy to OnFailure to start it again by itself".to_owned(),
        (Some(127), _) => "the program was not found: check the command and the PATH".to_owned(),
        (Some(126), _) => "the program could not be run: check that it is executable".to_owned(),
        (Some(_) | None, _) => format!("see `{}`", logs(subject)),
    }
}

/// What the pods wait for, if one of them says so.
pub(super) fn waiting<'pod>(pods: impl Iterator<Item = &'pod Pod>) -> Option<String> {
    pods.filter_map(waits).next()
}

fn waits(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unplaced = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(message) = unplaced.and_then(|condition| condition.message.clone()) {
        return Some(message);
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    waiting
        .filter(|wait| !matches!(wait.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing")))
        .map(|wait| {
            let reason = wait.reason.as_deref().unwrap_or_default();
            let message = wait.message.as_deref().map(|message| format!(": {}", quote(message))).unwrap_or_default();
            format!("pod {name}: {reason}{message}")
        })
        .next()
}

/// How many pods are how far.
pub(super) fn counts(model: &JobModel, standings: impl Iterator<Item = Option<Standing>>) -> String {
    let (mut placed, mut active, mut succeeded) = (0, 0, 0);
    for standing in standings.flatten() {
        match standing {
            Standing::Unbound => continue,
            Standing::Active => active += 1,
            Standing::Succeeded => succeeded += 1,
            Standing::Starting | Standing::Failed => {}
        }
        placed += 1;
    }
    format!("{placed} of {} pods have a node, {active} run, {succeeded} have succeeded", model.size())
}

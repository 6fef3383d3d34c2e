//! What the user is told about a job: what happened, where, and what to do next.

use k8s_openapi::api::core::v1::Pod;
use trainyard_proto::refusal::Refusal;

use super::FailureCause;
use super::replica::{FirstFailure, Standing};
use super::subject::Subject;
use crate::instant;
use crate::model::JobModel;
use crate::rendezvous::{Cause, LastFailure, RendezvousView, Stalled, Straggler};

/// Longest text of a container that is repeated in a status. Kubernetes keeps up to 4096 characters of it in the pod.
const MAX_QUOTE: usize = 400;

/// Names that are written out in a status.
const MAX_NAMES: usize = 8;

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
            format!("{}{}", backoff_limit(&title, model, restarts), prefixed(&first))
        }
        FailureCause::Replica if first.is_empty() => {
            format!("{title} has failed: a pod was deleted while it ran; apply it again to start over")
        }
        FailureCause::Replica | FailureCause::Invalid => format!("{title} has failed{}", prefixed(&first)),
    }
}

fn backoff_limit(title: &str, model: &JobModel, restarts: u32) -> String {
    let limit = model.policy.backoff_limit.unwrap_or(0);
    let plural = if restarts == 1 { "" } else { "s" };
    format!("{title} has reached its backoffLimit of {limit} after {restarts} restart{plural}")
}

/// Why the job failed, as its launchers say.
pub(super) fn released(
    subject: &Subject,
    model: &JobModel,
    cause: FailureCause,
    last: &LastFailure,
    restarts: u32,
) -> String {
    let title = format!("{} {}", subject.object.kind, subject.name);
    let head = match cause {
        FailureCause::BackoffLimit => backoff_limit(&title, model, restarts),
        FailureCause::Replica | FailureCause::Deadline | FailureCause::Invalid => format!("{title} has failed"),
    };
    let see = match last.rank.filter(|_| model.ranks != Some(1)) {
        Some(rank) => format!("see `{} --rank {rank}`", logs(subject)),
        None => format!("see `{}`", logs(subject)),
    };
    let advice = match last.cause {
        Cause::OutOfMemory => "raise its memory".to_owned(),
        Cause::Preflight => {
            format!(
                "mend it, keep the job away from it (nodeSelector), or run without the check (preflight: false); {see}"
            )
        }
        Cause::ImportError => "install the module where the job runs, or correct its PYTHONPATH".to_owned(),
        Cause::NodeLost if model.policy.backoff_limit != Some(0) && restarts == 0 => {
            "set restartPolicy to OnFailure to start it again by itself".to_owned()
        }
        Cause::ExitCode
        | Cause::Signal
        | Cause::Exception
        | Cause::RendezvousTimeout
        | Cause::Hang
        | Cause::NodeLost
        | Cause::GpuXid => see,
    };
    format!("{head}: {}; {advice}", what_failed(last, last.pod.as_deref()))
}

/// What failed, as the launchers say.
pub(super) fn what_failed(last: &LastFailure, pod: Option<&str>) -> String {
    let at = [pod.map(|pod| format!("pod {pod}")), last.host.as_ref().map(|host| format!("host {host}"))];
    let at: Vec<String> = at.into_iter().flatten().collect();
    let at = if at.is_empty() { String::new() } else { format!(" ({})", at.join(", ")) };
    let who = last.rank.map_or_else(|| format!("a launcher{at}"), |rank| format!("rank {rank}{at}"));
    let how = match last.cause {
        Cause::ExitCode => format!("ended with exit code {}", last.code),
        Cause::Signal if last.code > 128 => format!("was ended by signal {}", signal(last.code - 128)),
        Cause::Signal => "was ended by a signal".to_owned(),
        Cause::OutOfMemory => "ran out of memory".to_owned(),
        Cause::ImportError => "could not import a module".to_owned(),
        Cause::Exception => "raised an exception".to_owned(),
        Cause::RendezvousTimeout => "waited for the others in vain".to_owned(),
        Cause::Hang => "stood still".to_owned(),
        Cause::NodeLost => "was lost".to_owned(),
        Cause::GpuXid => "had an Xid error on its GPU".to_owned(),
        Cause::Preflight => "did not pass the check before the job".to_owned(),
    };
    // A launcher that knows no more than how it ended says just that.
    let said = |line: &&str| !["killed by ", "exit code "].iter().any(|known| line.starts_with(known));
    let line = last.message.lines().find(|line| !line.trim().is_empty()).map(str::trim).filter(said);
    format!("{who} {how}{}", line.map(|line| format!(": {}", shorten(line))).unwrap_or_default())
}

/// How a job came back.
pub(super) fn recovered(meeting: &RendezvousView, lost_steps: Option<i64>) -> Option<String> {
    let last = meeting.last_failure.as_ref()?;
    let took = last.recovered_ms.map(|ms| format!(" {} after", duration(ms)))?;
    let lost = match lost_steps {
        None | Some(0) => String::new(),
        Some(1) => "; 1 step was lost".to_owned(),
        Some(steps) => format!("; {steps} steps were lost"),
    };
    let (generation, ranks, what) = (meeting.generation, meeting.ranks, what_failed(last, None));
    Some(format!("generation {generation} of {ranks} ranks,{took} {what}{lost}"))
}

fn duration(ms: i64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) }
}

/// Whose launchers are awaited.
pub(super) fn unmet(missing: &[String]) -> Option<String> {
    let shown = missing.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = missing.len().saturating_sub(MAX_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!missing.is_empty()).then(|| format!("pods that have not joined: {shown}{more}"))
}

/// Which ranks stand still.
pub(super) fn stalled(stalled: &[Stalled]) -> Option<String> {
    // Whoever waits for others is not the one to look at, unless all do.
    let (victims, culprits): (Vec<&Stalled>, Vec<&Stalled>) = stalled.iter().partition(|rank| rank.in_collective);
    let (culprit, rest) = culprits.split_first().or_else(|| victims.split_first())?;
    let waits = if culprit.waits_in.is_empty() { String::new() } else { format!(" in {}", culprit.waits_in) };
    let since = instant::text(culprit.since_ms);
    let others = match (ranks(rest), ranks(&victims)) {
        (None, _) if culprits.is_empty() => String::new(),
        (Some((others, _)), _) if culprits.is_empty() => format!("; it and {others} wait for each other"),
        (None, None) => String::new(),
        (None, Some((victims, s))) => format!("; {victims} wait{s} for it"),
        (Some((others, s)), None) => format!("; {others} stand{s} still, too"),
        (Some((others, s)), Some((victims, v))) => {
            format!("; {others} stand{s} still, too; {victims} wait{v} for them")
        }
    };
    Some(format!("rank {} on {} has stood still{waits} since {since}{others}", culprit.rank, culprit.host))
}

/// Ranks, if there are any, and the ending of the verb that follows.
fn ranks(ranks: &[&Stalled]) -> Option<(String, &'static str)> {
    let shown = ranks.iter().take(MAX_NAMES).map(|rank| rank.rank.to_string()).collect::<Vec<_>>().join(", ");
    match ranks.len() {
        0 => None,
        1 => Some((format!("rank {shown}"), "s")),
        2..=MAX_NAMES => Some((format!("ranks {shown}"), "")),
        more => Some((format!("ranks {shown} and {} more", more - MAX_NAMES), "")),
    }
}

/// Which ranks make the others wait: the slowest is named.
pub(super) fn straggles(slow: &[Straggler]) -> Option<String> {
    let Straggler { rank, host, slow: slowest } = slow.iter().max_by_key(|straggler| straggler.slow.percent)?;
    let (times, since) = (slowest.times(), instant::text(slowest.since_ms));
    let others = match slow.len() - 1 {
        0 => String::new(),
        1 => "; 1 other rank is slow, too".to_owned(),
        more => format!("; {more} other ranks are slow, too"),
    };
    Some(format!(
        "rank {rank} on {host} makes the others wait: its steps have taken {times} times as long as theirs since {since}{others}"
    ))
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
    format!("{}; {}", what(model, failure), advice(subject, model, failure))
}

/// What failed first.
fn what(model: &JobModel, failure: &FirstFailure) -> String {
    let words = LastWords::read(failure.message.as_deref().unwrap_or_default());
    let place = match rank(model, failure) {
        Some(rank) => format!("rank {rank} (pod {})", failure.pod),
        None => format!("pod {}", failure.pod),
    };
    let how = words.how.map_or_else(|| how(failure), str::to_owned);
    match words.last {
        Some(last) => format!("{place} failed first: {how}: {}", shorten(last)),
        None => format!("{place} failed first: {how}"),
    }
}

/// The rank that failed first, if it is known: as the launcher says, or as the pod's place among pods of one rank each.
fn rank(model: &JobModel, failure: &FirstFailure) -> Option<u32> {
    let words = LastWords::read(failure.message.as_deref().unwrap_or_default());
    let one_rank_each = model.ranks == u32::try_from(model.size()).ok();
    let replica = || model.replicas().map(|(_, replica)| replica).find(|replica| replica.name == failure.pod);
    words.rank.or_else(|| replica().filter(|_| one_rank_each).map(|replica| replica.node_rank))
}

fn how(failure: &FirstFailure) -> String {
    match (failure.exit_code, failure.reason.as_deref()) {
        (_, Some("OOMKilled")) => "it ran out of memory".to_owned(),
        (None, Some(reason)) if Refusal::of(reason).is_some() => format!("its node cannot run it ({reason})"),
        (None, Some("NodeLost")) => "it was lost with its node".to_owned(),
        (None, Some(reason)) => format!("it was ended ({reason})"),
        (Some(code), _) if code > 128 => format!("it was ended by signal {} (exit code {code})", signal(code - 128)),
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, None) => "the pod failed".to_owned(),
    }
}

/// What the end of a container's output says. The launcher names the rank that failed first and repeats the end of its
/// output; of another program the last line counts, where for example Python names the exception.
#[derive(Debug, Default)]
struct LastWords<'text> {
    rank: Option<u32>,
    how: Option<&'text str>,
    last: Option<&'text str>,
}

impl<'text> LastWords<'text> {
    fn read(text: &'text str) -> Self {
        let lines = || text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty());
        let verdict = lines().find_map(|line| line.strip_prefix("trainyard: rank ")?.split_once(" failed first: "));
        let Some((rank, how)) = verdict else {
            return Self { last: lines().next_back().map(str::trim), ..Self::default() };
        };
        Self {
            rank: rank.parse().ok(),
            how: how.split(';').next(),
            last: lines().filter_map(|line| line.strip_prefix("  | ")).next_back().map(str::trim),
        }
    }
}

/// The last part of a line.
fn shorten(line: &str) -> String {
    let skip = line.chars().count().saturating_sub(MAX_QUOTE);
    if skip == 0 { line.to_owned() } else { format!("…{}", line.chars().skip(skip).collect::<String>()) }
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

fn advice(subject: &Subject, model: &JobModel, failure: &FirstFailure) -> String {
    match (failure.exit_code, failure.reason.as_deref()) {
        (_, Some("OOMKilled")) => "raise its memory".to_owned(),
        (None, Some(reason)) if Refusal::of(reason).is_some() => {
            "correct the manifest, delete the job, and apply it again".to_owned()
        }
        (None, Some("NodeLost" | "Evicted")) => "set restartPolicy to OnFailure to start it again by itself".to_owned(),
        (Some(127), _) => "check the command and the PATH: the program was not found".to_owned(),
        (Some(126), _) => "check that the program is executable".to_owned(),
        (Some(_) | None, _) => match rank(model, failure).filter(|_| model.ranks != Some(1)) {
            Some(rank) => format!("see `{} --rank {rank}`", logs(subject)),
            None => format!("see `{}`", logs(subject)),
        },
    }
}

/// What the pods wait for, if one of them says so.
pub(super) fn waiting<'pod>(pods: impl Iterator<Item = &'pod Pod>) -> Option<String> {
    pods.filter_map(waits).next()
}

fn waits(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    // A closed gate says only that the scheduler has not looked yet.
    let unplaced =
        status.conditions.iter().flatten().find(|c| {
            c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() != Some("SchedulingGated")
        });
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
            let message =
                wait.message.as_deref().map(|message| format!(": {}", shorten(message.trim()))).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::LastWords;

    #[test]
    fn last_words_of_the_launcher_and_of_other_programs() {
        let launcher = "step=1\ntrainyard: rank 2 failed first: exit code 1; the other ranks of this pod were stopped\n\
                        trainyard: its last words:\n  | Traceback\n  | ValueError: no such file\nhint: look\n";
        for (text, rank, how, last) in [
            (launcher, Some(2), Some("exit code 1"), Some("ValueError: no such file")),
            ("Traceback\nValueError: bad\n\n", None, None, Some("ValueError: bad")),
            ("", None, None, None),
        ] {
            let words = LastWords::read(text);
            assert_eq!((words.rank, words.how, words.last), (rank, how, last), "{text}");
        }
    }
}

//! Who failed first?

use serde_json::Value;

use super::label::Speaker;
use super::stream::statuses;
use crate::follow::label::Label;

/// The container that failed first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which run of which container.
    pub(crate) key: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) label: Label,
    pub(crate) code: i64,
    pub(crate) reason: String,
    pub(crate) message: String,
    finished_at: String,
    /// Its launcher says that the job failed at another one.
    elsewhere: bool,
}

/// The earliest failure among the last known states of a job's pods, now or before a restart in place.
pub(crate) fn first<'a>(pods: impl IntoIterator<Item = &'a Value>, job: &str, alone: bool) -> Option<Failure> {
    earliest(all(pods, job, alone))
}

/// The one that ended before the others, of those that do not say that it was another. Times are whole seconds: in one second,
/// what was ended by a signal was mostly ended because of the others.
pub(crate) fn earliest(failures: Vec<Failure>) -> Option<Failure> {
    failures
        .into_iter()
        .min_by(|a, b| (a.elsewhere, &a.finished_at, a.code > 128).cmp(&(b.elsewhere, &b.finished_at, b.code > 128)))
}

/// Every failure among the last known states of a job's pods.
pub(crate) fn all<'a>(pods: impl IntoIterator<Item = &'a Value>, job: &str, alone: bool) -> Vec<Failure> {
    let failures = pods.into_iter().flat_map(|pod| {
        statuses(pod).flat_map(move |status| {
            ["lastState", "state"]
                .into_iter()
                .filter_map(move |key| of(pod, status, &status[key]["terminated"], job, alone))
        })
    });
    failures.collect()
}

/// Names one run of a container, also when it is no longer the newest.
pub(crate) fn key(pod: &Value, container: &str, terminated: &Value) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    format!("{uid} {container} {} {}", terminated["containerID"], terminated["finishedAt"])
}

fn of(pod: &Value, status: &Value, terminated: &Value, job: &str, alone: bool) -> Option<Failure> {
    let code = terminated["exitCode"].as_i64().filter(|code| *code != 0)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = text(&status["name"]);
    let message = text(&terminated["message"]);
    let own = Speaker::new(pod, job, &container, alone).attribute("").0;
    // A launcher with many ranks says in its last message which of them it was.
    let label = message.lines().find_map(reported_rank).map_or(own, Label::Rank);
    let elsewhere = message.lines().any(|line| line.starts_with("trainyard: the job failed, not here: "));
    Some(Failure {
        key: key(pod, &container, terminated),
        pod: text(&pod["metadata"]["name"]),
        label,
        container,
        code,
        reason: text(&terminated["reason"]),
        message,
        finished_at: text(&terminated["finishedAt"]),
        elsewhere,
    })
}

/// The rank that the launcher's report names as the first that failed.
pub(crate) fn reported_rank(line: &str) -> Option<usize> {
    let (rank, rest) = line.strip_prefix("trainyard: rank ")?.split_once(' ')?;
    rest.starts_with("failed first").then(|| rank.parse().ok()).flatten()
}

/// What the launcher's report says after that: the last words of the rank, and maybe a hint.
pub(crate) fn reported_words(message: &str) -> Option<Vec<&str>> {
    let mut lines = message.lines().skip_while(|line| reported_rank(line).is_none());
    lines.next()?;
    let words: Vec<&str> = lines.map(|line| line.strip_prefix("trainyard: ").unwrap_or(line)).collect();
    // Termination messages are cut at a limit, which may leave only the heading.
    (words != ["its last words:"]).then_some(words)
}

/// `exit code 7`, or the signal's name for codes above 128.
pub(crate) fn describe_code(code: i64) -> String {
    let signal = i32::try_from(code - 128).ok().and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    match signal {
        Some(signal) => format!("exit code {code} ({})", signal.as_str()),
        None => format!("exit code {code}"),
    }
}

/// What a code usually means.
pub(crate) fn cure(code: i64, reason: &str) -> Option<&'static str> {
    match (reason, code) {
        ("OOMKilled", _) => Some("it was killed for memory: ask for more (resources.memory), or use a smaller batch"),
        (_, 127) => Some("the program was not found: check spec.command, and that it is on the PATH"),
        (_, 126) => Some("the program cannot be executed: is the file executable (chmod +x)?"),
        (_, 137) => Some("it was killed, often for memory: use fewer ranks or a smaller batch"),
        (_, 139) => Some("it touched memory that is not its own: look for native extensions of another version"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoever_was_stopped_in_the_same_second_is_not_to_blame() {
        let pod = |name: &str, code: i64| {
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": [
                {"name": "c", "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:02Z"}}},
            ]}})
        };
        let pods = [pod("master", 143), pod("worker", 3)];
        assert_eq!(first(&pods, "job", false).unwrap().code, 3);
        assert_eq!(first(pods.iter().rev(), "job", false).unwrap().code, 3);
    }

    #[test]
    fn whoever_says_that_it_was_another_is_not_to_blame() {
        let pod = |name: &str, at: &str, message: &str| {
            let terminated = json!({"exitCode": 3, "finishedAt": at, "message": message});
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": [
                {"name": "c", "state": {"terminated": terminated}},
            ]}})
        };
        let other = "hello\ntrainyard: the job failed, not here: rank 1: boom; exit code 3";
        let pods = [
            pod("a", "2026-01-01T00:00:02Z", other),
            pod("b", "2026-01-01T00:00:03Z", "trainyard: rank 1 failed first: 3"),
        ];
        assert_eq!(first(&pods, "job", false).unwrap().pod, "b");
        assert_eq!(first(&pods[..1], "job", false).unwrap().pod, "a", "the one that failed is gone");
    }

    #[test]
    fn the_earliest_failure_counts_also_if_it_was_restarted() {
        let pod = |name: &str, code: i64, at: &str, key: &str| {
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]},
                "status": {"containerStatuses": [{"name": "c", key: {"terminated": {"exitCode": code, "finishedAt": at}}}]}})
        };
        let pods = [
            pod("late", 1, "2026-01-01T00:00:09Z", "state"),
            pod("first", 7, "2026-01-01T00:00:02Z", "lastState"),
            pod("fine", 0, "2026-01-01T00:00:01Z", "state"),
        ];
        let failure = first(&pods, "job", false).unwrap();
        assert_eq!((failure.pod.as_str(), failure.code), ("first", 7));
        let report = "[rank 0] fine\ntrainyard: rank 12 failed first: exit code 7\ntrainyard: its last words:\n  | oh";
        assert_eq!(report.lines().find_map(reported_rank), Some(12));
        assert_eq!(reported_words(report), Some(vec!["its last words:", "  | oh"]));
        assert_eq!(reported_words("killed"), None);
        assert_eq!(describe_code(139), "exit code 139 (SIGSEGV)");
    }
}

//! Containers that end and are started again in their pods: what ended, what it said, and when it goes on.

use serde_json::Value;

use super::failure::{describe_code, key, reported_words};
use super::label::{Label, Speaker};
use super::stream::statuses;

/// Last words shown at each restart: enough for the end of a traceback.
const WORDS: usize = 5;

/// A run of a container that ended, and is or will be followed by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crash {
    /// Which run of which container.
    pub(super) key: String,
    pub(super) label: Label,
    pod: String,
    /// Which restart this leads to, counted from one.
    restart: i64,
    code: i64,
    /// Its own last words, where the node agent has them.
    message: String,
    /// The wait before the restart, as the node agent says it: `40s`.
    delay: Option<String>,
}

/// The newest crash of each container of a pod.
pub(super) fn of_pod(pod: &Value, job: &str, alone: bool) -> Vec<Crash> {
    statuses(pod).filter_map(|status| of_container(pod, status, job, alone)).collect()
}

/// Whether a container of the pod waits to be started again.
pub(super) fn waits(pod: &Value) -> bool {
    statuses(pod).any(|status| status["state"]["waiting"].is_object() && status["lastState"]["terminated"].is_object())
}

fn of_container(pod: &Value, status: &Value, job: &str, alone: bool) -> Option<Crash> {
    let (state, ended) = (&status["state"], &status["lastState"]["terminated"]);
    let code = ended["exitCode"].as_i64()?;
    if state["terminated"].is_object() {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = text(&status["name"]);
    let waits = state["waiting"].is_object();
    let message = state["waiting"]["message"].as_str().unwrap_or_default();
    let delay = message.strip_prefix("back-off ").and_then(|rest| rest.split_once(' ')).map(|(delay, _)| delay);
    Some(Crash {
        key: key(pod, &container, ended),
        label: Speaker::new(pod, job, &container, alone).attribute("").0,
        pod: text(&pod["metadata"]["name"]),
        // The count goes up when the next run begins.
        restart: status["restartCount"].as_i64().unwrap_or(0) + i64::from(waits),
        code,
        message: text(&ended["message"]),
        delay: delay.map(ToOwned::to_owned),
    })
}

impl Crash {
    /// What happened, in one line. `limit`: restarts that the job allows.
    pub(super) fn line(&self, limit: Option<i64>) -> String {
        let Self { label, pod, restart, code, delay, .. } = self;
        let of = limit.map_or_else(String::new, |limit| format!(", backoffLimit {limit}"));
        let when = delay.as_ref().map_or_else(String::new, |delay| format!(", in {delay}"));
        // A pod's short name says no more than its name.
        let who = match label {
            Label::Rank(_) | Label::Only => format!("{label} ({pod})"),
            Label::Named(_) => pod.clone(),
        };
        format!("{who} ended with {}: restart {restart} of this pod{of}{when}", describe_code(*code))
    }

    /// Its last words. `heard`: what was read of its log.
    pub(super) fn words(&self, heard: &[String]) -> Vec<String> {
        if let Some(words) = reported_words(&self.message) {
            return words.into_iter().map(ToOwned::to_owned).collect();
        }
        let said: Vec<&str> = match self.message.as_str() {
            "" => heard.iter().map(String::as_str).collect(),
            message => message.lines().collect(),
        };
        last_words(&said)
    }
}

/// The end of what was said, as it is shown.
pub(super) fn last_words(said: &[&str]) -> Vec<String> {
    let last = &said[said.len().saturating_sub(WORDS)..];
    last.iter().map(|line| format!("  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(restarts: i64, state: Value) -> Value {
        let ended = json!({"exitCode": 1, "containerID": "process://u/c/0", "finishedAt": "t", "message": "a\nb"});
        json!({"metadata": {"name": "job-worker-0", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses":
                [{"name": "c", "restartCount": restarts, "state": state, "lastState": {"terminated": ended}}]}})
    }

    #[test]
    fn a_crash_is_the_same_while_it_waits_and_when_it_runs_again() {
        let message = "back-off 40s restarting failed container=c pod=x";
        let waiting = pod(2, json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
        let running = pod(3, json!({"running": {}}));
        let (before, after) = (&of_pod(&waiting, "job", false)[0], &of_pod(&running, "job", false)[0]);
        assert_eq!(before.key, after.key);
        assert!(waits(&waiting) && !waits(&running));
        assert_eq!(before.line(None), "job-worker-0 ended with exit code 1: restart 3 of this pod, in 40s");
        assert_eq!(after.line(Some(5)), "job-worker-0 ended with exit code 1: restart 3 of this pod, backoffLimit 5");
        assert_eq!(before.words(&["not asked".to_owned()]), ["  | a", "  | b"]);
        let over = pod(3, json!({"terminated": {"exitCode": 1}}));
        assert_eq!(of_pod(&over, "job", false), [], "nothing follows");
    }

    #[test]
    fn a_silent_node_agent_is_helped_out_by_the_log() {
        let mut waiting = pod(0, json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        waiting["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"] = json!("");
        let heard: Vec<String> = (0..9).map(|line| line.to_string()).collect();
        let words = of_pod(&waiting, "job", false)[0].words(&heard);
        assert_eq!(words, ["  | 4", "  | 5", "  | 6", "  | 7", "  | 8"]);
    }
}

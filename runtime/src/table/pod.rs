//! Cells of pods. `STATUS` is not a field: it is what a person would say, and the order of questions is kubectl's.

use serde_json::{Value, json};

use super::age;
use super::cell::{items, text};

pub(super) fn cell(pod: &Value, column: &str, now_ms: i64) -> Option<Value> {
    let or_none = |value: &Value| Value::from(value.as_str().filter(|t| !t.is_empty()).unwrap_or("<none>"));
    Some(match column {
        "ready" => Value::from(ready(pod)),
        "status" => Value::from(status(pod)),
        "restarts" => Value::from(restarts(pod, now_ms)),
        "ip" => or_none(&pod["status"]["podIP"]),
        "node" => or_none(&pod["spec"]["nodeName"]),
        "nominated node" => or_none(&pod["status"]["nominatedNodeName"]),
        "readiness gates" => Value::from("<none>"),
        _ => return None,
    })
}

/// What a row says of a pod that is over.
pub(super) fn condition(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(&pod["status"]["phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

fn ready(pod: &Value) -> String {
    let is_ready = |container: &&Value| container["ready"] == true && container["state"]["running"].is_object();
    let ready = items(&pod["status"]["containerStatuses"]).filter(is_ready).count();
    format!("{ready}/{}", items(&pod["spec"]["containers"]).count())
}

fn restarts(pod: &Value, now_ms: i64) -> String {
    let all = || items(&pod["status"]["containerStatuses"]);
    let total: i64 = all().filter_map(|c| c["restartCount"].as_i64()).sum();
    let last = all().filter_map(|c| age::millis(text(&c["lastState"]["terminated"]["finishedAt"]))).max();
    match last {
        Some(last) if total > 0 => format!("{total} ({} ago)", age::human((now_ms - last) / 1000)),
        Some(_) | None => total.to_string(),
    }
}

/// The word for a terminated container.
fn reason_of_end(terminated: &Value) -> String {
    let reason = text(&terminated["reason"]);
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().filter(|signal| *signal != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// `None` when all init containers are done.
fn init_status(pod: &Value) -> Option<String> {
    let total = items(&pod["spec"]["initContainers"]).count();
    for (index, container) in items(&pod["status"]["initContainerStatuses"]).enumerate() {
        let state = &container["state"];
        let terminated = &state["terminated"];
        if terminated.is_object() {
            if terminated["exitCode"].as_i64() == Some(0) {
                continue;
            }
            return Some(format!("Init:{}", reason_of_end(terminated)));
        }
        let waiting = text(&state["waiting"]["reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

/// The word of the containers, and whether one of them runs.
fn container_status(pod: &Value) -> (Option<String>, bool) {
    let (mut word, mut running) = (None, false);
    let mut containers: Vec<&Value> = items(&pod["status"]["containerStatuses"]).collect();
    containers.reverse();
    for container in containers {
        let state = &container["state"];
        let waiting = text(&state["waiting"]["reason"]);
        if !waiting.is_empty() {
            word = Some(waiting.to_owned());
        } else if state["terminated"].is_object() {
            word = Some(reason_of_end(&state["terminated"]));
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
        }
    }
    (word, running)
}

fn status(pod: &Value) -> String {
    let status = &pod["status"];
    let condition = |name: &str| items(&status["conditions"]).find(|c| c["type"] == name);
    let own = text(&status["reason"]);
    let phase = text(&status["phase"]);
    let mut word = if own.is_empty() { phase.to_owned() } else { own.to_owned() };
    if condition("PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut word);
    }
    if let Some(init) = init_status(pod) {
        word = init;
    } else {
        let (containers, running) = container_status(pod);
        word = containers.unwrap_or(word);
        if word == "Completed" && running {
            let ready = condition("Ready").is_some_and(|c| c["status"] == "True");
            word = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    let over = matches!(phase, "Succeeded" | "Failed");
    if pod["metadata"]["deletionTimestamp"].is_string() && !over {
        word = if own == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_is_what_a_person_would_say() {
        let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]});
        let container = |state: Value| json!({"phase": "X", "containerStatuses": [{"ready": true, "state": state}]});
        let table = [
            (json!({"phase": "Pending"}), "Pending"),
            (gated, "SchedulingGated"),
            (container(json!({"running": {}})), "X"),
            (container(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "CrashLoopBackOff"),
            (container(json!({"terminated": {"exitCode": 3}})), "ExitCode:3"),
            (container(json!({"terminated": {"exitCode": 137, "signal": 9}})), "Signal:9"),
            (container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), "Completed"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}), "Init:0/1"),
        ];
        for (state, expected) in table {
            let pod = json!({"spec": {"initContainers": [{}]}, "status": state});
            assert_eq!(status(&pod), expected, "{pod}");
        }
        let leaving =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(status(&leaving), "Terminating");
    }

    #[test]
    fn restarts_say_when_the_last_was() {
        let last = json!({"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}});
        let pod = json!({"status": {"containerStatuses": [{"restartCount": 2, "lastState": last}]}});
        let now = age::millis("2026-01-01T00:00:30Z").expect("a time");
        assert_eq!(restarts(&pod, now), "2 (30s ago)");
        assert_eq!(restarts(&json!({}), now), "0");
    }
}

//! Cells of what makes pods: jobs, deployments, replica sets.

use serde_json::Value;

use super::age;
use super::cell::{count, items, join, selector, text};

pub(super) fn job(job: &Value, column: &str, now_ms: i64) -> Option<Value> {
    Some(match column {
        "status" => Value::from(job_status(job)),
        "completions" => Value::from(completions(job)),
        "duration" => Value::from(duration(job, now_ms)),
        _ => return template(job, column),
    })
}

pub(super) fn training_job(job: &Value, column: &str, now_ms: i64) -> Option<Value> {
    let progress = &job["status"]["progress"];
    Some(match column {
        "ready" => {
            let roles = job["status"]["replicaStatuses"].as_object();
            let active: i64 = roles.into_iter().flatten().map(|(_, role)| role["active"].as_i64().unwrap_or(0)).sum();
            Value::from(format!("{active}/{}", wanted(job)))
        }
        "progress" => Value::from(match (progress["step"].as_i64(), progress["totalSteps"].as_i64()) {
            (Some(step), Some(total)) => format!("{step}/{total}"),
            (Some(step), None) => step.to_string(),
            (None, _) => String::new(),
        }),
        "duration" => Value::from(duration(job, now_ms)),
        _ => return None,
    })
}

fn job_status(job: &Value) -> &'static str {
    let is = |name: &str| items(&job["status"]["conditions"]).any(|c| c["type"] == name && c["status"] == "True");
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if job["metadata"]["deletionTimestamp"].is_string() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = count(&job["status"]["succeeded"]);
    match (job["spec"]["completions"].as_i64(), job["spec"]["parallelism"].as_i64()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, Some(parallelism)) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now_ms: i64) -> String {
    let Some(start) = age::millis(text(&job["status"]["startTime"])) else { return String::new() };
    let end = age::millis(text(&job["status"]["completionTime"])).unwrap_or(now_ms);
    age::human((end - start) / 1000)
}

pub(super) fn deployment(deployment: &Value, column: &str) -> Option<Value> {
    let status = &deployment["status"];
    Some(match column {
        "ready" => Value::from(format!("{}/{}", count(&status["readyReplicas"]), wanted(deployment))),
        "up-to-date" => Value::from(count(&status["updatedReplicas"])),
        "available" => Value::from(count(&status["availableReplicas"])),
        _ => return template(deployment, column),
    })
}

pub(super) fn replica_set(set: &Value, column: &str) -> Option<Value> {
    Some(match column {
        "desired" => Value::from(wanted(set)),
        "current" => Value::from(count(&set["status"]["replicas"])),
        "ready" => Value::from(count(&set["status"]["readyReplicas"])),
        _ => return template(set, column),
    })
}

fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn template(object: &Value, column: &str) -> Option<Value> {
    let containers = || items(&object["spec"]["template"]["spec"]["containers"]);
    Some(match column {
        "containers" => join(containers().map(|c| text(&c["name"]))),
        "images" => join(containers().map(|c| text(&c["image"]))),
        "selector" => selector(&object["spec"]["selector"]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_says_how_far_it_is() {
        let done = json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:01:30Z", "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(job(&done, "status", 0), Some(json!("Complete")));
        assert_eq!(job(&done, "completions", 0), Some(json!("1/1")));
        assert_eq!(job(&done, "duration", 0), Some(json!("90s")));
        assert_eq!(job(&json!({"spec": {"parallelism": 3}}), "completions", 0), Some(json!("0/1 of 3")));
    }

    #[test]
    fn a_training_job_says_how_far_it_is() {
        let running = json!({"spec": {"replicas": 2}, "status": {"replicaStatuses": {"Worker": {"active": 2}},
            "progress": {"step": 30, "totalSteps": 120}}});
        assert_eq!(training_job(&running, "ready", 0), Some(json!("2/2")));
        assert_eq!(training_job(&running, "progress", 0), Some(json!("30/120")));
        assert_eq!(training_job(&json!({}), "progress", 0), Some(json!("")));
    }

    #[test]
    fn selectors_read_as_typed() {
        let set = json!({"spec": {"selector": {"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}}});
        assert_eq!(replica_set(&set, "selector"), Some(json!("a=b,c in (d,e)")));
    }
}

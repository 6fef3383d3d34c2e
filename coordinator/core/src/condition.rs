//! The condition list of `kubeflow.org/v1` statuses, and its rules.
//!
//! | rule | what |
//! |---|---|
//! | C-1 | after Failed=True nothing changes any more |
//! | C-2 | the same status with the same reason changes nothing |
//! | C-3 | a new condition goes to the end, and the old one of its type goes away |
//! | C-4 | Running and Restarting evict each other |
//! | C-5 | Succeeded and Failed turn Running to False where it stands |
//! | C-6 | the transition time changes only with the status |

use trainyard_proto::kubeflow::common::JobCondition;

use crate::instant;

/// Types that appear in the list.
pub const CREATED: &str = "Created";
/// Some replica runs.
pub const RUNNING: &str = "Running";
/// Replicas are started again.
pub const RESTARTING: &str = "Restarting";
/// The job ended with success.
pub const SUCCEEDED: &str = "Succeeded";
/// The job ended with failure.
pub const FAILED: &str = "Failed";
/// The job is stopped at the user's wish.
pub const SUSPENDED: &str = "Suspended";

/// Whether the list has this type with status True.
#[must_use]
pub fn is_true(conditions: &[JobCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Writes one condition into the list, by the rules above.
pub fn set(conditions: &mut Vec<JobCondition>, kind: &str, status: bool, reason: &str, message: &str, now_ms: i64) {
    let status = if status { "True" } else { "False" };
    if is_true(conditions, FAILED) {
        return;
    }
    let now = instant::time(now_ms);
    let current = conditions.iter().find(|condition| condition.type_ == kind);
    if current.is_some_and(|current| current.status == status && current.reason.as_deref() == Some(reason)) {
        return;
    }
    let transition = current.filter(|current| current.status == status).and_then(|c| c.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != kind && !evicts(kind, &condition.type_));
    if kind == SUCCEEDED || kind == FAILED {
        for condition in
            conditions.iter_mut().filter(|condition| condition.type_ == RUNNING && condition.status == "True")
        {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(now.clone());
            condition.last_update_time = Some(now.clone());
        }
    }
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(transition.unwrap_or(now)),
    });
}

fn evicts(new: &str, old: &str) -> bool {
    matches!((new, old), (RUNNING, RESTARTING) | (RESTARTING, RUNNING))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a script of `Type` (True) or `!Type` (False) and shows the list as `Type` / `!Type`.
    fn list(script: &[&str]) -> Vec<String> {
        let mut conditions = Vec::new();
        for (at, step) in script.iter().enumerate() {
            let (kind, status) = step.strip_prefix('!').map_or((*step, true), |kind| (kind, false));
            set(&mut conditions, kind, status, &format!("Job{step}"), "", i64::try_from(at).unwrap() * 1000);
        }
        conditions.iter().map(|c| format!("{}{}", if c.status == "True" { "" } else { "!" }, c.type_)).collect()
    }

    #[test]
    fn the_rules_as_a_table() {
        for (rule, script, expected) in [
            ("C-3", &["Created", "Running"][..], &["Created", "Running"][..]),
            ("C-3", &["Created", "Suspended", "!Suspended", "Running"], &["Created", "!Suspended", "Running"]),
            ("C-4", &["Created", "Running", "Restarting"], &["Created", "Restarting"]),
            ("C-4", &["Created", "Running", "Restarting", "Running"], &["Created", "Running"]),
            ("C-5", &["Created", "Running", "Succeeded"], &["Created", "!Running", "Succeeded"]),
            ("C-5", &["Created", "Running", "Failed"], &["Created", "!Running", "Failed"]),
            ("C-1", &["Created", "Failed", "Running", "Succeeded"], &["Created", "Failed"]),
        ] {
            assert_eq!(list(script), expected, "{rule} {script:?}");
        }
    }

    #[test]
    fn times_move_only_as_they_should() {
        let mut conditions = Vec::new();
        set(&mut conditions, RUNNING, true, "JobRunning", "first", 1000);
        set(&mut conditions, RUNNING, true, "JobRunning", "second", 2000);
        assert_eq!(conditions[0].message.as_deref(), Some("first"), "C-2");
        set(&mut conditions, RUNNING, true, "JobResumed", "third", 3000);
        let running = &conditions[0];
        assert_eq!(running.last_transition_time, Some(instant::time(1000)), "C-6");
        assert_eq!(running.last_update_time, Some(instant::time(3000)), "C-6");
        set(&mut conditions, RUNNING, false, "JobSuspended", "", 4000);
        assert_eq!(conditions[0].last_transition_time, Some(instant::time(4000)), "C-6");
    }
}

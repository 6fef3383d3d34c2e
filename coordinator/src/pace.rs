//! Steps of a job's beginning that are told together, where many jobs come and go.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use trainyard_proto::plan::{Action, Plan};
use trainyard_runtime::burst::Burst;

/// How long after a status the next step of a beginning is told: many jobs have ended by then, and their end is told at once.
const PAUSE_MS: i64 = 250;
/// What of a status says only how far its beginning is.
const STEPS: [&str; 3] = ["phase", "replicaStatuses", "generation"];

/// When the statuses of jobs that begin were last written.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    burst: Burst,
    /// By the job's uid.
    told_ms: Mutex<HashMap<String, i64>>,
}

impl Pace {
    /// The same plan, less a status that can wait a little.
    pub(crate) fn paced(&self, uid: &str, mut plan: Plan, now_ms: i64) -> Plan {
        let Some(patch) = plan.actions.iter().find_map(status) else { return plan };
        let is_step = plan.actions.len() == 1 && says_a_step(patch);
        let mut told = self.told_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let due_ms = told.get(uid).map(|told| told + PAUSE_MS).filter(|due| now_ms < *due);
        if let Some(due_ms) = due_ms.filter(|_| is_step && self.burst.is_on(now_ms)) {
            plan.actions.clear();
            plan.wake_at_ms = Some(plan.wake_at_ms.map_or(due_ms, |at| at.min(due_ms)));
            return plan;
        }
        self.burst.note(now_ms);
        // Who was told of longer ago waits for nothing.
        told.retain(|_, told| now_ms < *told + PAUSE_MS);
        told.insert(uid.to_owned(), now_ms);
        plan
    }
}

fn status(action: &Action) -> Option<&Value> {
    if let Action::PatchStatus { patch, .. } = action { patch.get("status") } else { None }
}

fn says_a_step(status: &Value) -> bool {
    let phase = status.get("phase").and_then(Value::as_str);
    let names = status.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    matches!(phase, None | Some("Starting")) && names.into_iter().all(|name| STEPS.contains(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trainyard_proto::plan::{Fence, ObjectRef};

    use super::*;

    fn plan(status: Value) -> Plan {
        let object = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Job".to_owned(),
            namespace: "n".to_owned(),
            name: "j".to_owned(),
        };
        let patch = json!({ "status": status });
        Plan { actions: vec![Action::PatchStatus { object, fence: Fence::default(), patch }], ..Plan::default() }
    }

    fn burst() -> Pace {
        let pace = Pace::default();
        (0..20).for_each(|job| drop(pace.paced(&format!("other-{job}"), plan(json!({"phase": "Pending"})), 0)));
        pace
    }

    #[test]
    fn in_a_burst_steps_of_a_beginning_wait_and_all_else_does_not() {
        let pace = burst();
        assert_eq!(pace.paced("j", plan(json!({"phase": "Starting"})), 10).actions.len(), 1, "the first is told");
        let step = pace.paced("j", plan(json!({"phase": "Starting", "replicaStatuses": {}})), 20);
        assert_eq!((step.actions.len(), step.wake_at_ms), (0, Some(10 + PAUSE_MS)));
        for status in [json!({"phase": "Succeeded"}), json!({"conditions": []}), json!({"phase": "Running"})] {
            assert_eq!(pace.paced("j", plan(status), 20).actions.len(), 1);
        }
        assert_eq!(pace.paced("j", plan(json!({"generation": 1})), 20 + PAUSE_MS).actions.len(), 1, "later it is");
        let mut more = plan(json!({"generation": 2}));
        more.actions.extend(plan(json!({})).actions);
        assert_eq!(pace.paced("j", more, 20 + PAUSE_MS).actions.len(), 2, "what goes with it is not held up");
    }

    #[test]
    fn where_few_jobs_come_all_is_told_at_once() {
        let pace = Pace::default();
        for at in 0..3 {
            assert_eq!(pace.paced("j", plan(json!({"phase": "Starting"})), at).actions.len(), 1);
        }
    }

    #[test]
    fn who_was_told_of_long_ago_is_forgotten() {
        let pace = burst();
        drop(pace.paced("j", plan(json!({"phase": "Pending"})), 10 * PAUSE_MS));
        assert_eq!(pace.told_ms.lock().map(|told| told.len()).ok(), Some(1));
    }
}

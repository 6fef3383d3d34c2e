//! What a failure cost: the steps that were done since the newest whole checkpoint, and are to be done again.

use serde_json::Value;

use crate::rendezvous::LastFailure;

/// What a rank said just before it died may be read this much after its death was told.
const SLACK_MS: i64 = 100;

/// What is known of a job's steps, in its status and since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'view> {
    pub(super) status: &'view Value,
    pub(super) progress: Option<&'view Value>,
    pub(super) checkpoint: Option<&'view Value>,
    /// Whether the job says where its checkpoints lie.
    pub(super) names_folder: bool,
}

/// A step, and when it was done or saved.
#[derive(Clone, Copy, Debug)]
struct At {
    step: i64,
    at_ms: i64,
}

impl At {
    fn read(value: &Value) -> Option<Self> {
        let at_ms = value.get("atMs").and_then(Value::as_i64).unwrap_or(i64::MIN);
        Some(Self { step: value.get("step")?.as_i64()?, at_ms })
    }
}

/// The steps that this failure cost; `None` where nobody knows. What is read later of the time before it is counted too;
/// what the ranks do after it is not.
pub(super) fn lost_steps(last: &LastFailure, known: Known<'_>) -> Option<i64> {
    let Known { status, progress, checkpoint, names_folder } = known;
    let until_ms = last.at_ms.saturating_add(SLACK_MS);
    let before = |value: &Value| At::read(value).filter(|at| at.at_ms <= until_ms);
    let told = status.get("lastFailure");
    let told_ms = told.and_then(|told| told.get("atMs")).and_then(Value::as_i64);
    let is_told = told_ms == Some(last.at_ms);
    let lost = told.filter(|_| is_told).and_then(|told| told.get("lostSteps")).and_then(Value::as_i64);
    // Without any checkpoint all is lost.
    let none_yet = |value: Option<&Value>| (names_folder && value.is_none()).then_some(At { step: 0, at_ms: i64::MIN });
    let saved_then = status.get("checkpoint").map_or_else(|| none_yet(None), before);
    let saved = [saved_then, checkpoint.and_then(before)].into_iter().flatten().max_by_key(|at| at.at_ms);
    let present = status.get("progress").and_then(At::read);
    // What is older than the last failure that was told, or was there when this one was, tells nothing about this one.
    let since_ms = if is_told { present.map(|at| at.at_ms) } else { told_ms };
    let is_new = |at: &At| since_ms.is_none_or(|since_ms| at.at_ms > since_ms);
    let from_status = status.get("progress").filter(|_| !is_told).and_then(before).filter(is_new);
    let done = [
        from_status.map(|at| at.step),
        progress.and_then(before).filter(is_new).map(|at| at.step),
        lost.zip(saved_then).map(|(lost, saved)| lost + saved.step),
    ];
    let done = done.into_iter().flatten().max();
    done.zip(saved).map(|(done, saved)| (done - saved.step).max(0)).or(lost)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rendezvous::Cause;

    fn failure(at_ms: i64) -> LastFailure {
        LastFailure {
            rank: Some(0),
            pod: None,
            place: crate::rendezvous::Place::default(),
            host: None,
            cause: Cause::Signal,
            code: 137,
            message: String::new(),
            generation: 1,
            at_ms,
            recovered_ms: None,
        }
    }

    fn lost(at_ms: i64, status: &Value, progress: &Value, checkpoint: &Value) -> Option<i64> {
        let known = Known {
            status,
            progress: Some(progress).filter(|value| !value.is_null()),
            checkpoint: Some(checkpoint).filter(|value| !value.is_null()),
            names_folder: true,
        };
        lost_steps(&failure(at_ms), known)
    }

    const NOTHING: Value = Value::Null;

    #[test]
    fn those_since_the_newest_checkpoint_are_lost() {
        let status = json!({"progress": {"step": 130, "atMs": 900}, "checkpoint": {"step": 100, "atMs": 700}});
        assert_eq!(lost(1000, &status, &NOTHING, &NOTHING), Some(30));
        let (progress, checkpoint) = (json!({"step": 140, "atMs": 990}), json!({"step": 135, "atMs": 980}));
        assert_eq!(lost(1000, &status, &progress, &checkpoint), Some(5), "both are newer than the status");
        assert_eq!(lost(1000, &json!({"progress": {"step": 7, "atMs": 1}}), &NOTHING, &NOTHING), Some(7), "all");
        assert_eq!(lost(1000, &json!({"checkpoint": {"step": 7, "atMs": 1}}), &NOTHING, &NOTHING), None);
    }

    #[test]
    fn what_the_ranks_do_afterwards_does_not_count() {
        let status = json!({"progress": {"step": 130, "atMs": 900}, "checkpoint": {"step": 100, "atMs": 700}});
        let (progress, checkpoint) = (json!({"step": 150, "atMs": 5000}), json!({"step": 150, "atMs": 5000}));
        assert_eq!(lost(1000, &status, &progress, &checkpoint), Some(30));
    }

    #[test]
    fn what_is_read_late_of_the_time_before_is_made_up_for() {
        let told = |lost: i64| {
            json!({
                "progress": {"step": 130, "atMs": 900},
                "checkpoint": {"step": 100, "atMs": 700},
                "lastFailure": {"atMs": 1000, "lostSteps": lost},
            })
        };
        assert_eq!(lost(1000, &told(30), &NOTHING, &NOTHING), Some(30), "as it was told");
        assert_eq!(lost(1000, &told(30), &json!({"step": 137, "atMs": 1050}), &NOTHING), Some(37));
        assert_eq!(lost(1000, &told(30), &NOTHING, &json!({"step": 120, "atMs": 950})), Some(10));
        let later = json!({"step": 121, "atMs": 3000});
        assert_eq!(lost(1000, &told(30), &later, &later), Some(30), "the ranks run again");
    }

    #[test]
    fn the_steps_before_an_earlier_failure_are_not_lost_twice() {
        let status = json!({
            "progress": {"step": 130, "atMs": 900},
            "checkpoint": {"step": 100, "atMs": 700},
            "lastFailure": {"atMs": 1000, "lostSteps": 30},
        });
        assert_eq!(lost(2000, &status, &NOTHING, &NOTHING), None, "nobody knows how far they were");
        assert_eq!(lost(2000, &status, &json!({"step": 104, "atMs": 1900}), &NOTHING), Some(4));
    }
}

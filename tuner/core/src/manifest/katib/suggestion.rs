//! What was suggested for an experiment, as Katib shows it.

use serde_json::{Value as Json, json};
use trainyard_proto::katib::{API_VERSION, EXPERIMENT, ExperimentSpec, NamedValue, SuggestionStatus, TrialAssignment};
use trainyard_proto::plan::{Action, Fence, ObjectRef};

use super::answer::{owner, patched};
use super::state::{Shown, Wanted, conditions, time};
use super::view::text;

/// So many suggestions are shown, the last ones: an object is not to grow with its experiment.
const SHOWN: usize = 500;

/// What is done about the Suggestion of an experiment that has this phase.
pub(super) fn actions(
    experiment: &Json,
    spec: &ExperimentSpec,
    trials: &[Shown<'_>],
    known: Option<&Json>,
    phase: &str,
    now_ms: i64,
) -> Vec<Action> {
    let (name, namespace) = (text(experiment, "/metadata/name"), text(experiment, "/metadata/namespace"));
    let object = ObjectRef {
        api_version: API_VERSION.to_owned(),
        kind: "Suggestion".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let requests = i32::try_from(trials.len()).unwrap_or(i32::MAX);
    let Some(known) = known else {
        let mut wanted =
            json!({"requests": requests, "resumePolicy": spec.resume_policy.as_deref().unwrap_or("Never")});
        if let Some(algorithm) = &spec.algorithm {
            wanted["algorithm"] = json!(algorithm);
        }
        if let Some(stopping) = &spec.early_stopping {
            wanted["earlyStopping"] = json!(stopping);
        }
        let body = json!({
            "apiVersion": API_VERSION, "kind": "Suggestion",
            "metadata": {
                "name": name, "namespace": namespace, "labels": {EXPERIMENT: name},
                "ownerReferences": [owner(experiment)],
            },
            "spec": wanted,
        });
        return vec![Action::Create { object, body }];
    };
    let mut actions = Vec::new();
    if known.pointer("/spec/requests").and_then(Json::as_i64) != Some(i64::from(requests)) {
        let uid = known.pointer("/metadata/uid").and_then(Json::as_str).map(str::to_owned);
        let fence = Fence { uid, resource_version: None };
        actions.push(Action::Patch { object, fence, patch: json!({"spec": {"requests": requests}}) });
    }
    actions.extend(patched(known, &status(known, trials, requests, phase, now_ms)));
    actions
}

fn status(known: &Json, trials: &[Shown<'_>], count: i32, phase: &str, now_ms: i64) -> SuggestionStatus {
    let old: SuggestionStatus =
        known.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let is_over = matches!(phase, "Succeeded" | "Failed");
    let mut wanted: Vec<Wanted> = vec![
        ("Created", true, "SuggestionCreated", "Suggestion is created".to_owned()),
        ("Running", !is_over, "SuggestionRunning", "Suggestion is running".to_owned()),
    ];
    match phase {
        "Succeeded" => wanted.push(("Succeeded", true, "SuggestionSucceeded", "Suggestion is succeeded".to_owned())),
        "Failed" => wanted.push(("Failed", true, "SuggestionFailed", "Suggestion is failed".to_owned())),
        _ => {}
    }
    let shown = trials.iter().skip(trials.len().saturating_sub(SHOWN)).map(|trial| {
        let given = trial.foreign.pointer("/spec/parameterAssignments").cloned();
        let given: Option<Vec<NamedValue>> = given.and_then(|given| serde_json::from_value(given).ok());
        TrialAssignment {
            name: Some(trial.name.to_owned()),
            parameter_assignments: given.unwrap_or_default(),
            labels: trial.foreign.pointer("/spec/labels").and_then(|it| serde_json::from_value(it.clone()).ok()),
            ..TrialAssignment::default()
        }
    });
    let mut new = SuggestionStatus {
        suggestion_count: Some(count),
        suggestions: Some(shown.collect()),
        start_time: old.start_time.clone().or_else(|| Some(time(now_ms))),
        completion_time: old.completion_time.clone().filter(|_| is_over),
        last_reconcile_time: old.last_reconcile_time.clone(),
        conditions: conditions(&old.conditions, wanted, now_ms),
        ..SuggestionStatus::default()
    };
    if is_over && new.completion_time.is_none() {
        new.completion_time = Some(time(now_ms));
    }
    if new != old {
        new.last_reconcile_time = Some(time(now_ms));
    }
    new
}

//! What an experiment does next.

use serde_json::{Map, Value as Json, json};
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_proto::tuning::{Best, ConfidenceInterval, EXPERIMENT, ExperimentStatus, TrialCounts};

use super::{API_VERSION, LONGEST_NAME, Setup, is_going, owner, reference, short, status, summary, table, text, time};
use crate::analysis::LEVEL;
use crate::search::{Proposal, Search, Stage, Winner};

/// At most so many trials are made in one plan.
const AT_ONCE: u64 = 64;

/// What is known of an experiment.
pub struct ExperimentView<'view> {
    /// The object.
    pub object: &'view Json,
    /// What it says, or what is wrong with it.
    pub setup: Result<&'view Setup, String>,
}

/// What an experiment does next. The search is asked for trials, and knows all that are stored. After the first one it is only asked
/// while there is to be `more`: where suggestions take long, trials that wait for nothing else are not held up by them.
pub fn experiment(
    view: &ExperimentView<'_>,
    search: Option<&mut Search>,
    more: &mut dyn FnMut() -> bool,
    now_ms: i64,
) -> Plan {
    let mut plan = Plan::default();
    let old: ExperimentStatus =
        view.object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    if is_going(view.object) {
        return plan;
    }
    let mut new = old.clone();
    match (&view.setup, search) {
        (Ok(setup), Some(search)) => {
            if !is_over(&old) {
                advance(view.object, setup, (search, more), &mut new, &mut plan, now_ms);
            }
            count(view.object, setup, search, &mut new);
            new.learned = search.unsaid().to_vec();
            // A later version may have another default, and an experiment that runs goes on as it began.
            let is_said = view.object.pointer("/spec/algorithm").is_some_and(|algorithm| !algorithm.is_null());
            new.algorithm = new.algorithm.or_else(|| Some(setup.algorithm.clone())).filter(|_| !is_said);
        }
        (Err(wrong), _) if !is_over(&old) => end(&mut new, "Failed", wrong.clone(), now_ms),
        (Err(_) | Ok(_), _) => {}
    }
    plan.actions.extend(status(view.object, &new));
    plan
}

fn is_over(status: &ExperimentStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn end(status: &mut ExperimentStatus, phase: &str, message: String, now_ms: i64) {
    status.phase = Some(phase.to_owned());
    status.message = Some(message);
    status.completion_time = Some(time(now_ms));
}

/// Makes trials, or ends the experiment.
fn advance(
    object: &Json,
    setup: &Setup,
    (search, more): (&mut Search, &mut dyn FnMut() -> bool),
    status: &mut ExperimentStatus,
    plan: &mut Plan,
    now_ms: i64,
) {
    let name = text(object, "/metadata/name");
    if name.len() > LONGEST_NAME {
        let message = format!("the name has {} bytes; give it at most {LONGEST_NAME}, for its trials", name.len());
        return end(status, "Failed", message, now_ms);
    }
    let start_ms = status.start_time.as_ref().map_or(now_ms, |start| start.0.as_millisecond());
    if let Some((phase, message)) = ending(setup, search, start_ms, now_ms) {
        return close(object, setup, search, status, plan, (phase, message), now_ms);
    }
    status.message = None;
    if is_paused(object, status, now_ms) {
        return;
    }
    let (counts, budget) = (search.counts(), &setup.budget);
    let is_late = budget.seconds.is_some_and(|seconds| now_ms >= late(start_ms, seconds));
    let left = budget.trials.map_or(u64::MAX, |trials| trials.saturating_sub(counts.started));
    let room = if is_late { 0 } else { budget.parallel.saturating_sub(counts.running).min(left).min(AT_ONCE) };
    let wanted = usize::try_from(room).unwrap_or(usize::MAX);
    let asked = search.ask(wanted, more);
    if let Err(reason) = &asked {
        if counts.running == 0 && search.asked().is_empty() {
            return close(object, setup, search, status, plan, ("Succeeded", reason.to_string()), now_ms);
        }
        status.message = Some(reason.to_string());
    }
    let asked_now = search.asked().iter().take(wanted);
    plan.actions.extend(asked_now.map(|(number, proposal)| made(object, *number, suggested(*number, proposal))));
    plan.wake_at_ms = budget.seconds.map(|seconds| late(start_ms, seconds)).filter(|at| *at > now_ms);
}

/// Whether it is suspended; if not, it runs.
fn is_paused(object: &Json, status: &mut ExperimentStatus, now_ms: i64) -> bool {
    if object.pointer("/spec/suspend").is_some_and(|suspend| suspend == true) {
        status.phase = Some("Suspended".to_owned());
        return true;
    }
    status.phase = Some("Running".to_owned());
    if status.start_time.is_none() {
        status.start_time = Some(time(now_ms));
    }
    false
}

/// Ends the experiment; before, the best trials are tried again if they are to be.
fn close(
    object: &Json,
    setup: &Setup,
    search: &mut Search,
    status: &mut ExperimentStatus,
    plan: &mut Plan,
    (phase, message): (&str, String),
    now_ms: i64,
) {
    let best = search.best();
    let Some(confirm) = setup.budget.confirm.filter(|_| phase == "Succeeded" && best.is_some()) else {
        return end(status, phase, message, now_ms);
    };
    search.ask_repeats(confirm);
    let (running, ended) = search.repeats();
    let asked = search.asked_repeats().count() as u64;
    if asked == 0 && running == 0 {
        let again = match search.winner(confirm) {
            Some(winner) => format!("the best were tried again, trial {} is the best of them", winner.number),
            None => "the best were tried again, and failed".to_owned(),
        };
        return end(status, phase, format!("{message}; {again}"), now_ms);
    }
    let all = asked + running + ended;
    status.message = Some(format!("{message}; the best are tried again, {ended} of {all} repeats have ended"));
    if is_paused(object, status, now_ms) {
        return;
    }
    let room = setup.budget.parallel.saturating_sub(search.counts().running + running).min(AT_ONCE);
    plan.actions.extend(search.asked_repeats().take(room as usize).filter_map(|(number, of)| {
        let spec = json!({"number": number, "parameters": parameters(&search.again(of)?), "repeats": of});
        Some(made(object, number, spec))
    }));
}

fn late(start_ms: i64, seconds: u64) -> i64 {
    start_ms.saturating_add(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
}

/// How the experiment ends now, if it does.
fn ending(setup: &Setup, search: &Search, start_ms: i64, now_ms: i64) -> Option<(&'static str, String)> {
    let (counts, budget) = (search.counts(), &setup.budget);
    if let Some(best) = search.best()
        && let Some(Stage::Succeeded(values)) = search.get(best).map(|trial| &trial.stage)
        && setup.objectives.iter().any(|objective| objective.target.is_some())
    {
        let mut aims = setup.objectives.iter().zip(values).filter(|(objective, _)| objective.target.is_some());
        if aims.all(|(objective, value)| objective.is_reached(*value)) {
            return Some((
                "Succeeded",
                format!("trial {best} has reached the target: {}", summary(&setup.objectives, values)),
            ));
        }
    }
    if let Some(message) = budget.given_up(counts.failed, counts.succeeded) {
        return Some(("Failed", message));
    }
    if counts.running > 0 {
        return None;
    }
    if budget.trials.is_some_and(|trials| counts.started >= trials) {
        let ended = ("Succeeded", format!("all {} trials have ended", counts.started));
        return Some(if counts.succeeded == 0 && counts.stopped == 0 && counts.started > 0 {
            ("Failed", format!("all {} trials failed", counts.failed))
        } else {
            ended
        });
    }
    let seconds = budget.seconds.filter(|seconds| now_ms >= late(start_ms, *seconds) && counts.started > 0)?;
    Some(("Succeeded", format!("its time of {seconds} s is over")))
}

fn count(object: &Json, setup: &Setup, search: &Search, status: &mut ExperimentStatus) {
    let counts = search.counts();
    status.trials = Some(TrialCounts {
        started: counts.started,
        running: counts.running,
        succeeded: counts.succeeded,
        failed: counts.failed,
        stopped: counts.stopped,
        next: search.next(),
    });
    let winner = setup.budget.confirm.and_then(|confirm| search.winner(confirm));
    let best = winner.map(|winner| winner.number).or_else(|| search.best());
    let best = best.and_then(|number| Some((number, search.get(number)?)));
    status.best = best.and_then(|(number, trial)| {
        let Stage::Succeeded(values) = &trial.stage else { return None };
        let values = winner.map_or_else(|| values.clone(), |winner| vec![winner.mean]);
        let interval = winner.and_then(|winner| winner.interval);
        Some(Best {
            trial: trial_name(object, number),
            values: table(search.objectives(), &values),
            repeats: winner.map(|winner| winner.repeats),
            interval: interval.map(|it| ConfidenceInterval { level: LEVEL, low: it.low, high: it.high }),
            parameters: match winner.and_then(|winner| search.again(winner.number)) {
                Some(again) => parameters(&again),
                None => parameters(&trial.parameters),
            },
            summary: summary(search.objectives(), &values) + &confidence(winner),
        })
    });
}

/// ` ± 0.006 (95 %)`.
fn confidence(winner: Option<Winner>) -> String {
    let interval = winner.and_then(|winner| winner.interval);
    let reach = interval.map(|interval| short((interval.high - interval.low) / 2.0));
    reach.map(|reach| format!(" ± {reach} ({:.0} %)", LEVEL * 100.0)).unwrap_or_default()
}

fn parameters(values: &std::collections::BTreeMap<String, crate::space::Value>) -> Map<String, Json> {
    values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

fn trial_name(experiment: &Json, number: u64) -> String {
    format!("{}-{number}", text(experiment, "/metadata/name"))
}

/// What a trial says that a sampler suggested.
fn suggested(number: u64, proposal: &Proposal) -> Json {
    let batch = json!({"first": proposal.batch.first, "trials": proposal.batch.trials});
    let mut spec = json!({"number": number, "parameters": parameters(&proposal.parameters), "batch": batch});
    if let Some(by) = &proposal.by {
        spec["suggestedBy"] = json!(by);
    }
    if !proposal.learned.is_empty() {
        spec["learned"] = json!(proposal.learned);
    }
    if let Some(first) = proposal.place.continues {
        spec["continues"] = json!(first);
    }
    if proposal.place.bracket > 0 {
        spec["bracket"] = json!(proposal.place.bracket);
    }
    spec
}

/// The creation of a trial.
fn made(experiment: &Json, number: u64, spec: Json) -> Action {
    let (name, namespace) = (trial_name(experiment, number), text(experiment, "/metadata/namespace"));
    let object = ObjectRef {
        api_version: API_VERSION.to_owned(),
        kind: "Trial".to_owned(),
        namespace: namespace.to_owned(),
        name: name.clone(),
    };
    let body = json!({
        "apiVersion": API_VERSION, "kind": "Trial",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {EXPERIMENT: reference(experiment).name},
            "ownerReferences": [owner(experiment)],
        },
        "spec": spec,
    });
    Action::Create { object, body }
}

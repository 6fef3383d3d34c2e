//! Where experiments and trials are, in Katib's words.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value as Json;
use trainyard_proto::katib::{
    Condition, ExperimentSpec, ExperimentStatus, Metric, NamedValue, Observation, OptimalTrial, TrialStatus,
};

use super::view::text;
use crate::log::Log;

/// Why an experiment has succeeded whose trials have all ended.
pub(super) const MAX_TRIALS: &str = "ExperimentMaxTrialsReached";

/// A trial as its experiment shows it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'view> {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'view str,
    /// Its spec and status, in Katib's words.
    pub foreign: &'view Json,
}

/// Where a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no job.
    Pending,
    /// Its job runs, or waits for its place.
    Running,
    /// It told its metrics.
    Succeeded,
    /// Its experiment ended first.
    Killed,
    /// Its job failed.
    Failed,
    /// Its job succeeded without having told the objective.
    MetricsUnavailable,
    /// It was not worth its while.
    EarlyStopped,
}

impl State {
    const ENDS: [(Self, &'static str, &'static str); 5] = [
        (Self::Succeeded, "Succeeded", "TrialSucceeded"),
        (Self::Killed, "Killed", "TrialKilled"),
        (Self::Failed, "Failed", "TrialFailed"),
        (Self::MetricsUnavailable, "MetricsUnavailable", "MetricsUnavailable"),
        (Self::EarlyStopped, "EarlyStopped", "TrialEarlyStopped"),
    ];

    /// Where a trial is, by its status.
    #[must_use]
    pub fn of(trial: &Json) -> Self {
        let conditions = trial.pointer("/status/conditions").and_then(Json::as_array).into_iter().flatten();
        let ended = conditions.filter(|condition| text(condition, "/status") == "True").find_map(|condition| {
            let kind = text(condition, "/type");
            Self::ENDS.into_iter().find(|(_, known, _)| *known == kind).map(|(state, _, _)| state)
        });
        ended.unwrap_or_else(|| match text(trial, "/status/trainyard/phase") {
            "Running" => Self::Running,
            _ => Self::Pending,
        })
    }
}

pub(super) fn time(ms: i64) -> Time {
    Time(Timestamp::from_second(ms.div_euclid(1000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A condition as it is wanted: type, whether it holds, reason and message.
pub(super) type Wanted = (&'static str, bool, &'static str, String);

/// The conditions; those that were there keep their times.
pub(super) fn conditions(old: &[Condition], wanted: Vec<Wanted>, now_ms: i64) -> Vec<Condition> {
    let one = |(kind, holds, reason, message): Wanted| {
        let status = if holds { "True" } else { "False" };
        let known = old.iter().find(|known| known.kind == kind);
        let same_status = known.filter(|known| known.status == status);
        let same = same_status.filter(|known| {
            known.message.as_deref() == Some(message.as_str()) && known.reason.as_deref() == Some(reason)
        });
        let now = || Some(time(now_ms));
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: same.map_or_else(now, |known| known.last_update_time.clone()),
            last_transition_time: same_status.map_or_else(now, |known| known.last_transition_time.clone()),
        }
    };
    wanted.into_iter().map(one).collect()
}

fn moment(own: &Json, name: &str) -> Option<Time> {
    own.get(name).and_then(|time| serde_json::from_value(time.clone()).ok())
}

fn status_of<T: serde::de::DeserializeOwned + Default>(object: &Json) -> T {
    object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default()
}

/// The status of an experiment of which our planner keeps this.
pub(super) fn experiment(
    object: &Json,
    spec: &ExperimentSpec,
    own: Json,
    trials: &[Shown<'_>],
    now_ms: i64,
) -> ExperimentStatus {
    let old: ExperimentStatus = status_of(object);
    let mut new = ExperimentStatus {
        start_time: moment(&own, "startTime"),
        completion_time: moment(&own, "completionTime"),
        current_optimal_trial: best(&own, trials).or_else(|| old.current_optimal_trial.clone()),
        last_reconcile_time: old.last_reconcile_time.clone(),
        ..ExperimentStatus::default()
    };
    for trial in trials {
        new.trials += 1;
        let (list, count) = match State::of(trial.foreign) {
            State::Pending => (&mut new.pending_trial_list, &mut new.trials_pending),
            State::Running => (&mut new.running_trial_list, &mut new.trials_running),
            State::Succeeded => (&mut new.succeeded_trial_list, &mut new.trials_succeeded),
            State::Killed => (&mut new.killed_trial_list, &mut new.trials_killed),
            State::Failed => (&mut new.failed_trial_list, &mut new.trials_failed),
            State::MetricsUnavailable => (&mut new.metrics_unavailable_trial_list, &mut new.trial_metrics_unavailable),
            State::EarlyStopped => (&mut new.early_stopped_trial_list, &mut new.trials_early_stopped),
        };
        list.push(trial.name.to_owned());
        *count += 1;
    }
    new.conditions = conditions(&old.conditions, experiment_conditions(&old, spec, &own), now_ms);
    new.trainyard = Some(own);
    if new != old {
        new.last_reconcile_time = Some(time(now_ms));
    }
    new
}

fn experiment_conditions(old: &ExperimentStatus, spec: &ExperimentSpec, own: &Json) -> Vec<Wanted> {
    let mut wanted = vec![("Created", true, "ExperimentCreated", "Experiment is created".to_owned())];
    let (phase, message) = (text(own, "/phase"), text(own, "/message"));
    let is_over = matches!(phase, "Succeeded" | "Failed");
    if phase.is_empty() {
        return wanted;
    }
    let has = |kind: &str| old.conditions.iter().any(|condition| condition.kind == kind);
    if has("Restarting") || has("Succeeded") && !is_over {
        wanted.push(("Restarting", !is_over, "ExperimentRestarting", "Experiment is restarting".to_owned()));
    }
    let running = if is_over || message.is_empty() { "Experiment is running" } else { message };
    // One that never began to run did not.
    if !is_over || has("Running") || own.get("startTime").is_some() {
        wanted.push(("Running", !is_over, "ExperimentRunning", running.to_owned()));
    }
    match phase {
        "Succeeded" => wanted.push(("Succeeded", true, success(spec, own), message.to_owned())),
        "Failed" => wanted.push(("Failed", true, "ExperimentFailed", message.to_owned())),
        _ => {}
    }
    wanted
}

/// Why an experiment has succeeded.
fn success(spec: &ExperimentSpec, own: &Json) -> &'static str {
    let best = spec.objective.as_ref().and_then(|objective| {
        let values = own.pointer("/best/values")?;
        Some((objective.goal?, values.get(&objective.objective_metric_name)?.as_f64()?, objective.kind == "minimize"))
    });
    let is_reached =
        best.is_some_and(|(goal, value, is_minimize)| if is_minimize { value <= goal } else { value >= goal });
    let started = own.pointer("/trials/started").and_then(Json::as_i64).unwrap_or(0);
    match spec.max_trial_count {
        _ if is_reached => "ExperimentGoalReached",
        Some(trials) if started >= i64::from(trials) => MAX_TRIALS,
        Some(_) | None => "ExperimentSuggestionEndReached",
    }
}

fn best(own: &Json, trials: &[Shown<'_>]) -> Option<OptimalTrial> {
    let name = own.pointer("/best/trial").and_then(Json::as_str)?;
    let trial = trials.iter().find(|trial| trial.name == name)?.foreign;
    let observation: Observation = serde_json::from_value(trial.pointer("/status/observation")?.clone()).ok()?;
    let assignments = trial.pointer("/spec/parameterAssignments")?.clone();
    let parameter_assignments: Vec<NamedValue> = serde_json::from_value(assignments).ok()?;
    Some(OptimalTrial { best_trial_name: Some(name.to_owned()), parameter_assignments, observation })
}

/// What a trial's status is made of, beside what our planner keeps of it.
pub(super) struct TrialFacts<'view> {
    /// Whether its experiment has ended.
    pub(super) is_killed: bool,
    /// Whether its job has succeeded.
    pub(super) has_run: bool,
    /// What it told.
    pub(super) log: Option<&'view Log>,
    /// The metrics that are kept, the objective first.
    pub(super) names: &'view [String],
}

/// The status of a trial of which our planner keeps this.
pub(super) fn trial(object: &Json, own: Json, facts: &TrialFacts<'_>, now_ms: i64) -> TrialStatus {
    let old: TrialStatus = status_of(object);
    let (phase, message) = (text(&own, "/phase"), text(&own, "/message"));
    let known = State::of(object);
    let end = match (phase, known) {
        // What has ended stays as it was.
        ("Succeeded" | "Failed" | "Stopped", State::Pending | State::Running) => Some(match phase {
            "Succeeded" => State::Succeeded,
            "Stopped" if facts.is_killed => State::Killed,
            "Stopped" => State::EarlyStopped,
            _ if facts.has_run => State::MetricsUnavailable,
            _ => State::Failed,
        }),
        ("Succeeded" | "Failed" | "Stopped", known) => Some(known),
        _ => None,
    };
    let mut wanted: Vec<Wanted> = vec![("Created", true, "TrialCreated", "Trial is created".to_owned())];
    if own.get("startTime").is_some() {
        let told = if end.is_some() || message.is_empty() { "Trial is running" } else { message };
        wanted.push(("Running", end.is_none(), "TrialRunning", told.to_owned()));
    }
    if let Some((_, kind, reason)) = end.and_then(|end| State::ENDS.into_iter().find(|(state, _, _)| *state == end)) {
        let told = if message.is_empty() { "Trial has succeeded" } else { message };
        wanted.push((kind, true, reason, told.to_owned()));
    }
    let observation = match end {
        Some(_) if old.observation.is_none() => observation(&own, facts),
        _ => old.observation.clone(),
    };
    let mut new = TrialStatus {
        start_time: moment(&own, "startTime"),
        completion_time: moment(&own, "completionTime"),
        last_reconcile_time: old.last_reconcile_time.clone(),
        conditions: conditions(&old.conditions, wanted, now_ms),
        observation,
        trainyard: Some(own),
    };
    if new != old {
        new.last_reconcile_time = Some(time(now_ms));
    }
    new
}

fn observation(own: &Json, facts: &TrialFacts<'_>) -> Option<Observation> {
    let metric = |name: &String| {
        let [min, max, latest] = facts.log?.range(name)?.texts().map(str::to_owned);
        Some(Metric { name: name.clone(), min, max, latest })
    };
    let metrics: Vec<Metric> = facts.names.iter().filter_map(metric).collect();
    if !metrics.is_empty() {
        return Some(Observation { metrics });
    }
    let values = own.get("values")?.as_object()?;
    let metric = |(name, value): (&String, &Json)| {
        let text = value.to_string();
        Metric { name: name.clone(), min: text.clone(), max: text.clone(), latest: text }
    };
    Some(Observation { metrics: values.iter().map(metric).collect() })
}

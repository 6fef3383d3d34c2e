//! What a trial does next.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_proto::tuning::{JobReference, TrialReport, TrialSpec, TrialStatus};

use super::{Keep, Setup, fence, is_going, job, owner, reference, status, summary, table, text, time};
use crate::objective::Objective;
use crate::observation::Observation;
use crate::search::{Stage, Stored};
use crate::space::{Configuration, Space, Value};
use crate::template::{Words, fill};

/// How long pods may be out of sight after their job has ended.
const LINGER_MS: i64 = 5_000;

/// What is known of a trial.
pub struct TrialView<'view> {
    /// The object.
    pub object: &'view Json,
    /// Its experiment, if it is there.
    pub experiment: Option<&'view Json>,
    /// What that says, if it can be read.
    pub setup: Option<&'view Setup>,
    /// The job, if it is there.
    pub job: Option<&'view Json>,
    /// What was seen of its pods.
    pub seen: Seen<'view>,
}

/// What was seen of a trial's pods.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'view> {
    /// No pod is there.
    Nothing,
    /// They are still writing, and told this so far.
    Part(&'view Observation),
    /// They have ended, and this is all that they told.
    Whole(&'view Observation),
}

impl Seen<'_> {
    fn observation(&self) -> Option<&Observation> {
        match self {
            Self::Nothing => None,
            Self::Part(observation) | Self::Whole(observation) => Some(observation),
        }
    }
}

/// What a trial does next.
#[must_use]
pub fn trial(view: &TrialView<'_>, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let old: TrialStatus =
        view.object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let Some(experiment) = view.experiment else { return plan };
    if is_going(view.object) || is_going(experiment) {
        return plan;
    }
    if is_over(old.phase.as_deref()) {
        plan.actions.extend(cleaned_up(view, view.setup, &old));
        return plan;
    }
    let mut new = old.clone();
    if matches!(text(experiment, "/status/phase"), "Succeeded" | "Failed") {
        end(&mut new, "Stopped", "the experiment had ended".to_owned(), now_ms);
        plan.actions.extend(status(view.object, &new));
        return plan;
    }
    // An experiment that cannot be read ends next.
    let Some(setup) = view.setup else { return plan };
    let is_suspended = experiment.pointer("/spec/suspend").is_some_and(|suspend| suspend == true);
    match view.job {
        None if old.job.is_some() => end(&mut new, "Failed", "its job was deleted".to_owned(), now_ms),
        // Said, so that whoever waits for it knows that no job will be made.
        None if is_suspended => new.phase = Some("Suspended".to_owned()),
        None => plan.actions.push(make(view, setup, &mut new, now_ms)),
        Some(found) => {
            if new.job.is_none() {
                begin(&mut new, found, now_ms);
            }
            follow(view, setup, found, is_suspended, &mut new, &mut plan, now_ms);
        }
    }
    plan.actions.extend(status(view.object, &new));
    plan
}

fn is_over(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed" | "Stopped"))
}

fn end(status: &mut TrialStatus, phase: &str, message: String, now_ms: i64) {
    status.phase = Some(phase.to_owned());
    status.message = Some(message).filter(|message| !message.is_empty());
    status.completion_time = Some(time(now_ms));
}

fn begin(status: &mut TrialStatus, job: &Json, now_ms: i64) {
    let ObjectRef { api_version, kind, name, .. } = reference(job);
    status.job = Some(JobReference { api_version, kind, name });
    status.phase = Some("Running".to_owned());
    status.start_time = Some(time(now_ms));
}

/// The job of a trial that has ended goes if it still runs, or if it is not to be kept.
fn cleaned_up(view: &TrialView<'_>, setup: Option<&Setup>, status: &TrialStatus) -> Option<Action> {
    let found = view.job.filter(|job| !is_going(job))?;
    let is_kept = match setup.map(|setup| setup.keep) {
        Some(Keep::All) | None => true,
        Some(Keep::Failed) => status.phase.as_deref() == Some("Failed"),
        Some(Keep::Nothing) => false,
    };
    let reason = match job::stage(found) {
        job::Stage::Active => "its trial has ended",
        job::Stage::Succeeded | job::Stage::Failed(_) if is_kept => return None,
        job::Stage::Succeeded | job::Stage::Failed(_) => "its trial has ended, and it is not to be kept",
    };
    Some(Action::Delete {
        object: reference(found),
        fence: fence(found),
        grace_seconds: None,
        reason: reason.to_owned(),
    })
}

/// The creation of the job.
fn make(view: &TrialView<'_>, setup: &Setup, status: &mut TrialStatus, now_ms: i64) -> Action {
    let experiment = view.experiment.map(|experiment| text(experiment, "/metadata/name")).unwrap_or_default();
    let number = view.object.pointer("/spec/number").and_then(Json::as_u64).unwrap_or_default();
    let all = view.experiment.and_then(|experiment| experiment.pointer("/spec/parameters")).and_then(Json::as_object);
    let names = all.into_iter().flatten().map(|(name, _)| name.as_str());
    let mut body = setup.job(experiment, text(view.object, "/metadata/name"), number, names, &given(view.object));
    body["metadata"]["namespace"] = Json::from(text(view.object, "/metadata/namespace"));
    body["metadata"]["ownerReferences"] = Json::Array(vec![owner(view.object)]);
    begin(status, &body, now_ms);
    Action::Create { object: reference(&body), body }
}

impl Setup {
    /// The job of a trial. Parameters that are not used have no value.
    fn job<'names>(
        &self,
        experiment: &str,
        trial: &str,
        number: u64,
        names: impl Iterator<Item = &'names str>,
        values: &BTreeMap<String, Value>,
    ) -> Json {
        let mut words: Words = names.map(|name| (name.to_owned(), None)).collect();
        words.extend(values.iter().map(|(name, value)| (name.clone(), Some(value.to_string()))));
        words.insert("trial.name".to_owned(), Some(trial.to_owned()));
        words.insert("trial.number".to_owned(), Some(number.to_string()));
        words.insert("trial.parameters".to_owned(), serde_json::to_string(values).ok());
        let mut body = fill(&self.job, &words);
        job::label(&mut body, experiment, trial);
        body["metadata"]["name"] = Json::from(trial);
        body
    }

    /// The job of an experiment's first trial, if that tried this.
    #[must_use]
    pub fn first_job(&self, experiment: &str, space: &Space, configuration: &Configuration) -> Json {
        let names = space.parameters().iter().map(|parameter| parameter.name.as_str());
        self.job(experiment, &format!("{experiment}-0"), 0, names, &configuration.named(space))
    }
}

fn given(object: &Json) -> BTreeMap<String, Value> {
    let spec: Option<TrialSpec> = object.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
    let parameters = spec.map(|spec| spec.parameters).unwrap_or_default();
    parameters.into_iter().filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?))).collect()
}

/// Looks after a job that is there.
fn follow(
    view: &TrialView<'_>,
    setup: &Setup,
    found: &Json,
    is_suspended: bool,
    status: &mut TrialStatus,
    plan: &mut Plan,
    now_ms: i64,
) {
    let objectives = &setup.objectives;
    match (job::stage(found), view.seen) {
        (job::Stage::Succeeded, Seen::Whole(observation)) => told(observation, objectives, status, now_ms),
        (job::Stage::Failed(message), _) => end(status, "Failed", message, now_ms),
        (job::Stage::Succeeded, seen) => {
            // Its pods may not have come into sight yet, or what they wrote has not been read to its end.
            let since = ended_ms(found).unwrap_or(now_ms);
            match seen {
                Seen::Nothing if now_ms >= since.saturating_add(LINGER_MS) => {
                    let message = "its pods are gone, and with them what they told".to_owned();
                    end(status, "Failed", message, now_ms);
                }
                Seen::Nothing => plan.wake_at_ms = Some(since.saturating_add(LINGER_MS)),
                Seen::Part(_) | Seen::Whole(_) => {}
            }
        }
        (job::Stage::Active, seen) => {
            if job::is_suspended(found) != is_suspended {
                let patch = job::suspended(found, is_suspended);
                plan.actions.push(Action::Patch { object: reference(found), fence: fence(found), patch });
            }
            status.phase = Some(if is_suspended { "Suspended" } else { "Running" }.to_owned());
            let seen = seen.observation();
            let doubt = seen.filter(|seen| seen.is_doubtful()).and_then(|seen| seen.missing(objectives));
            status.message = doubt.map(|doubt| format!("so far {doubt}"));
            report(seen, objectives, status);
        }
    }
}

fn ended_ms(job: &Json) -> Option<i64> {
    let time = text(job, "/status/completionTime").parse::<jiff::Timestamp>().ok()?;
    Some(time.as_millisecond())
}

fn report(seen: Option<&Observation>, objectives: &[Objective], status: &mut TrialStatus) {
    let last = seen.and_then(|seen| seen.reports().last());
    if let Some(last) = last {
        status.report = Some(TrialReport { step: last.step, values: table(objectives, &last.values) });
        status.summary = Some(summary(objectives, &last.values));
    }
}

/// Ends a trial whose job has succeeded.
fn told(observation: &Observation, objectives: &[Objective], status: &mut TrialStatus, now_ms: i64) {
    report(Some(observation), objectives, status);
    if let Some(missing) = observation.missing(objectives) {
        return end(status, "Failed", missing, now_ms);
    }
    let values: Vec<f64> = observation.values(objectives).into_iter().flatten().collect();
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return end(status, "Failed", format!("{} was {}", objectives[at].name, values[at]), now_ms);
    }
    status.values = Some(table(objectives, &values));
    status.summary = Some(summary(objectives, &values));
    end(status, "Succeeded", String::new(), now_ms);
}

/// A trial as a search takes it in: its number, and what is stored of it.
#[must_use]
pub fn stored(object: &Json, objectives: &[Objective]) -> Option<(u64, Stored)> {
    let spec: TrialSpec = serde_json::from_value(object.get("spec")?.clone()).ok()?;
    let status: TrialStatus =
        object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let numbers = |table: &Map<String, Json>| -> Option<Vec<f64>> {
        objectives.iter().map(|objective| table.get(&objective.name)?.as_f64()).collect()
    };
    let stage = match status.phase.as_deref() {
        Some("Succeeded") => status.values.as_ref().and_then(numbers).map_or(Stage::Failed, Stage::Succeeded),
        Some("Failed") => Stage::Failed,
        Some("Stopped") => {
            Stage::Stopped(status.report.and_then(|report| Some((report.step, numbers(&report.values)?))))
        }
        _ => Stage::Running,
    };
    let number = spec.number;
    Some((number, Stored { parameters: given(object), learned: spec.learned, repeats: spec.repeats, stage }))
}

//! What a trial does next.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_proto::tuning::{JobReference, TrialReport, TrialSpec, TrialStatus};

use super::{Keep, RECENT, Setup, fence, is_going, job, owner, reference, status, summary, table, text, time};
use crate::history::{Report, SoFar};
use crate::objective::Objective;
use crate::observation::Observation;
use crate::search::{Batch, Place, Stage, Stored};
use crate::space::{Space, Value};
use crate::stopping::{Verdict, thinned};
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
    /// Why its job is not made, if that is refused.
    pub refused: Option<&'view str>,
    /// Why it is to be ended, if it is.
    pub verdict: Option<&'view Verdict>,
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
    /// They have ended otherwise than well, and this is all that they told.
    Broken(&'view Observation),
}

impl Seen<'_> {
    /// What they told, if any was there.
    #[must_use]
    pub fn observation(&self) -> Option<&Observation> {
        match self {
            Self::Nothing => None,
            Self::Part(observation) | Self::Whole(observation) | Self::Broken(observation) => Some(observation),
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
        None if old.job.as_ref().is_some_and(|job| job.uid.is_some()) => {
            end(&mut new, "Failed", "its job was deleted".to_owned(), now_ms);
        }
        // Said, so that whoever waits for it knows that no job will be made.
        None if is_suspended => new.phase = Some("Suspended".to_owned()),
        None => match view.refused {
            Some(refused) => {
                new.job = None;
                end(&mut new, "Failed", format!("its job is refused: {refused}"), now_ms);
            }
            // One that was made and has not come into sight is made again, which changes nothing if it is there.
            None => plan.actions.extend(make(view, setup)),
        },
        Some(found) => {
            begin(&mut new, found, now_ms);
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
    status.job = Some(JobReference { api_version, kind, name, uid: fence(job).uid });
    status.phase = Some("Running".to_owned());
    status.start_time.get_or_insert_with(|| time(now_ms));
}

/// The job of a trial that has ended goes if it still runs, or if it is not to be kept. One that is kept gets what was held back.
fn cleaned_up(view: &TrialView<'_>, setup: Option<&Setup>, status: &TrialStatus) -> Option<Action> {
    let found = view.job.filter(|job| !is_going(job))?;
    let is_kept = match setup.map(|setup| setup.keep) {
        Some(Keep::All) | None => true,
        Some(Keep::Recent) => is_recent(view),
        Some(Keep::Failed) => status.phase.as_deref() == Some("Failed"),
        Some(Keep::Nothing) => false,
    };
    let reason = match job::stage(found) {
        job::Stage::Active => "its trial has ended",
        job::Stage::Succeeded | job::Stage::Failed(_) if is_kept => {
            let patch = job::released(found, &setup?.job)?;
            return Some(Action::Patch { object: reference(found), fence: fence(found), patch });
        }
        job::Stage::Succeeded | job::Stage::Failed(_) => "its trial has ended, and it is not to be kept",
    };
    Some(Action::Delete {
        object: reference(found),
        fence: fence(found),
        grace_seconds: None,
        reason: reason.to_owned(),
    })
}

/// Whether a trial is among the last ones of its experiment, or the best so far.
fn is_recent(view: &TrialView<'_>) -> bool {
    let Some(experiment) = view.experiment else { return true };
    let number = view.object.pointer("/spec/number").and_then(Json::as_u64).unwrap_or(u64::MAX);
    let next = experiment.pointer("/status/trials/next").and_then(Json::as_u64).unwrap_or(0);
    let is_best = text(experiment, "/status/best/trial") == text(view.object, "/metadata/name");
    number.saturating_add(RECENT) >= next || is_best
}

/// The creation of the job. The status names it once it is there: that it was made is known by its own name and owner.
fn make(view: &TrialView<'_>, setup: &Setup) -> Option<Action> {
    let experiment = view.experiment.map(|experiment| text(experiment, "/metadata/name")).unwrap_or_default();
    let number = view.object.pointer("/spec/number").and_then(Json::as_u64).unwrap_or_default();
    let all = view.experiment.and_then(|experiment| experiment.pointer("/spec/parameters")).and_then(Json::as_object);
    let names = all.into_iter().flatten().map(|(name, _)| name.as_str());
    let before = view.object.pointer("/spec/continues").and_then(Json::as_u64);
    let uid = view.experiment.map(|experiment| text(experiment, "/metadata/uid")).unwrap_or_default();
    // An experiment that replaces one of its name does not go on from its checkpoints.
    let folder = |of: u64| format!("{}/{experiment}-{}/{of}", setup.checkpoints, uid.get(..8).unwrap_or(uid));
    // Of several that go on from one trial none may change what that left.
    let (own, parent) = if setup.has_population { (number, before) } else { (before.unwrap_or(number), None) };
    let (checkpoint, parent) = (folder(own), parent.map(folder));
    let trial = text(view.object, "/metadata/name");
    let trial = Named { experiment, trial, number, checkpoint: &checkpoint, parent };
    let mut body = setup.job(&trial, names, &given(view.object));
    body["metadata"]["namespace"] = Json::from(text(view.object, "/metadata/namespace"));
    body["metadata"]["ownerReferences"] = Json::Array(vec![owner(view.object)]);
    Some(Action::Create { object: reference(&body), body })
}

impl Setup {
    /// The job of a trial. Parameters that are not used have no value.
    fn job<'names>(
        &self,
        of: &Named<'_>,
        names: impl Iterator<Item = &'names str>,
        values: &BTreeMap<String, Value>,
    ) -> Json {
        let mut words: Words = names.map(|name| (name.to_owned(), None)).collect();
        words.extend(values.iter().map(|(name, value)| (name.clone(), Some(value.to_string()))));
        words.insert("trial.name".to_owned(), Some(of.trial.to_owned()));
        words.insert("trial.number".to_owned(), Some(of.number.to_string()));
        words.insert("trial.checkpoint".to_owned(), Some(of.checkpoint.to_owned()));
        words.insert("trial.parent".to_owned(), of.parent.clone());
        words.insert("trial.parameters".to_owned(), serde_json::to_string(values).ok());
        let mut body = fill(&self.job, &words);
        job::label(&mut body, of.experiment, of.trial);
        job::hold(&mut body);
        body["metadata"]["name"] = Json::from(of.trial);
        body
    }

    /// The job of an experiment's first trial, if that tried this.
    #[must_use]
    pub fn first_job(&self, experiment: &str, space: &Space, values: &BTreeMap<String, Value>) -> Json {
        let names = space.parameters().iter().map(|parameter| parameter.name.as_str());
        let (trial, checkpoint) = (format!("{experiment}-0"), format!("{}/{experiment}/0", self.checkpoints));
        let named = Named { experiment, trial: &trial, number: 0, checkpoint: &checkpoint, parent: None };
        self.job(&named, names, values)
    }
}

/// What a trial's job is told of it besides its parameters.
struct Named<'view> {
    experiment: &'view str,
    trial: &'view str,
    number: u64,
    checkpoint: &'view str,
    /// The checkpoint that it goes on from, if it does from another trial's.
    parent: Option<String>,
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
        (job::Stage::Succeeded, Seen::Whole(observation)) => told(observation, setup, status, now_ms),
        (job::Stage::Failed(message), seen) => {
            keep_curve(seen.observation(), setup, status);
            end(status, "Failed", message, now_ms);
        }
        (job::Stage::Succeeded, seen) => {
            // Its pods may not have come into sight yet, or what they wrote has not been read to its end.
            let started = status.start_time.as_ref().map(|start| start.0.as_millisecond());
            let late = job::ended_ms(found).or(started).unwrap_or(0).saturating_add(LINGER_MS);
            let message = match seen {
                Seen::Part(_) | Seen::Whole(_) => return,
                Seen::Nothing => "its pods are gone, and with them what they told",
                Seen::Broken(_) => "its job succeeded, and the pod that tells for it did not",
            };
            if now_ms >= late {
                end(status, "Failed", message.to_owned(), now_ms);
            } else {
                plan.wake_at_ms = Some(late);
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
            // A log that is read anew tells again what is known.
            let known = status.report.as_ref().map_or(0, |known| known.step);
            let told = seen.filter(|seen| seen.reports().last().is_some_and(|last| last.step >= known));
            report(told, objectives, status);
            if let (Some(told), Some(stopping), None) = (told, &setup.stopping, view.verdict) {
                status.curve = rows(&stopping.to_keep(told.reports()));
            }
            if let (Some(verdict), Some(seen), false) = (view.verdict, seen, is_suspended) {
                judged(verdict, seen, setup, status, now_ms);
            }
        }
    }
}

/// Ends a trial that is not worth its while any more. Its job goes next.
fn judged(verdict: &Verdict, seen: &Observation, setup: &Setup, status: &mut TrialStatus, now_ms: i64) {
    match verdict {
        Verdict::Hopeless(why) => {
            keep_curve(Some(seen), setup, status);
            end(status, "Stopped", why.clone(), now_ms);
        }
        Verdict::Settled(why) if seen.missing(&setup.objectives).is_none() => {
            told(seen, setup, status, now_ms);
            status.message.get_or_insert_with(|| why.clone());
        }
        // Another metric may still come.
        Verdict::Settled(_) => {}
    }
}

/// What later trials are compared with.
fn keep_curve(seen: Option<&Observation>, setup: &Setup, status: &mut TrialStatus) {
    if setup.stopping.is_some() {
        let reports = seen.map(|seen| thinned(seen.reports())).unwrap_or_default();
        status.curve = rows(&reports);
    }
}

/// Each report as numbers: its step and values; where not all before it are there, also how many there were, and their means, lowest and
/// highest values.
fn rows(reports: &[Report]) -> Vec<Vec<f64>> {
    let row = |report: &Report| {
        let mut row = vec![report.step as f64];
        row.extend(&report.values);
        if let Some(so_far) = &report.so_far {
            row.push(so_far.reports as f64);
            row.extend(so_far.means.iter().chain(&so_far.lowest).chain(&so_far.highest));
        }
        row
    };
    reports.iter().map(row).collect()
}

fn of_row(row: &[f64], objectives: usize) -> Option<Report> {
    let (step, rest) = row.split_first()?;
    let (values, rest) = rest.split_at_checked(objectives)?;
    let so_far = match rest.split_first() {
        None => None,
        Some((reports, rest)) => {
            let mut parts = rest.chunks_exact(objectives.max(1)).map(<[f64]>::to_vec);
            let (means, lowest, highest) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Box::new(SoFar { reports: *reports as u64, means, lowest, highest }))
        }
    };
    Some(Report { step: *step as u64, values: values.to_vec(), so_far })
}

fn report(seen: Option<&Observation>, objectives: &[Objective], status: &mut TrialStatus) {
    let last = seen.and_then(|seen| seen.reports().last());
    if let Some(last) = last {
        status.report = Some(TrialReport { step: last.step, values: table(objectives, &last.values) });
        status.summary = Some(summary(objectives, &last.values));
    }
}

/// Ends a trial whose job has succeeded.
fn told(observation: &Observation, setup: &Setup, status: &mut TrialStatus, now_ms: i64) {
    let objectives = &setup.objectives;
    report(Some(observation), objectives, status);
    keep_curve(Some(observation), setup, status);
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
    let place = Place { continues: spec.continues, bracket: spec.bracket.unwrap_or(0) };
    let reports = status.curve.iter().filter_map(|row| of_row(row, objectives.len())).collect();
    Some((
        spec.number,
        Stored {
            parameters: given(object),
            learned: spec.learned,
            batch: spec.batch.map(|batch| Batch { first: batch.first, trials: batch.trials }),
            by: spec.suggested_by,
            place,
            reports,
            repeats: spec.repeats,
            stage,
        },
    ))
}

//! What is on record of an experiment: its object and those of its trials, read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value as Json};
use trainyard_proto::tuning::{ExperimentStatus, TrialSpec, TrialStatus};
use trainyard_tuner_core::analysis::{Analysis, Interval, interval};
use trainyard_tuner_core::fidelity::Ladder;
use trainyard_tuner_core::objective::{dominates, losses};
use trainyard_tuner_core::space::{Point, Value};

use crate::definition::Definition;

/// An experiment with its trials.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// What it says, as its object has it.
    pub spec: Map<String, Json>,
    /// The same, read.
    pub definition: Definition,
    /// How far it is.
    pub status: ExperimentStatus,
    /// Its trials, by number.
    pub trials: Vec<Tried>,
}

/// A trial.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// What it tried, by name.
    pub parameters: Map<String, Json>,
    /// What became of it.
    pub state: State,
    /// The values of the objectives, in their order, if it told all of them at its end.
    pub values: Option<Vec<f64>>,
    /// The number of the trial whose configuration it tries again, if it does.
    pub repeats: Option<u64>,
    /// How far it was when it last told something.
    pub step: Option<u64>,
    /// Why it failed or was stopped.
    pub message: Option<String>,
    /// When its job was made, in milliseconds since the epoch.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub ended_ms: Option<i64>,
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its job has not been made.
    Waiting,
    /// It has not ended.
    Running,
    /// It told its values.
    Succeeded,
    /// It told nothing of use.
    Failed,
    /// It was stopped early, or before it could go on.
    Stopped,
}

impl State {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Stopped => "Stopped",
        }
    }
}

impl Record {
    /// Reads the objects of an experiment and its trials. Trials of another experiment that had its name are left out.
    ///
    /// # Errors
    /// When the experiment makes no sense.
    pub fn read(experiment: &Json, trials: &[Json]) -> Result<Self, String> {
        let nothing = Map::new();
        let spec = experiment["spec"].as_object().unwrap_or(&nothing);
        let definition = Definition::of_spec(spec).map_err(|errors| {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            format!("it cannot be read: spec.{first}")
        })?;
        let uid = &experiment["metadata"]["uid"];
        let is_ours = |trial: &&Json| {
            let mut owners = trial["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            uid.is_null() || owners.any(|owner| owner["uid"] == *uid)
        };
        let mut trials: Vec<Tried> =
            trials.iter().filter(is_ours).filter_map(|trial| tried(trial, &definition)).collect();
        trials.sort_by_key(|trial| trial.number);
        let status = serde_json::from_value(experiment["status"].clone()).unwrap_or_default();
        let name = experiment["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { name, spec: spec.clone(), definition, status, trials })
    }

    /// The names of what its trials were given: its parameters, in the order of its file, and what they had more and more of.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.definition.space.parameters().iter().map(|parameter| parameter.name.as_str()).chain(self.resource())
    }

    /// The parameter of which trials have more and more, if there is one.
    fn resource(&self) -> Option<&str> {
        self.definition.ladder().and_then(Ladder::parameter)
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("Waiting")
    }

    /// The trials that told their values, with their losses in the order of the objectives; of those that had more and more of something,
    /// the ones that had the most. Repeats are not among them: they are there to
    /// measure, and the best of them is none the better for it.
    pub fn told(&self) -> impl Iterator<Item = (&Tried, Vec<f64>)> {
        let objectives = &self.definition.objectives;
        let loss = |values: &Vec<f64>| losses(objectives, values);
        let given =
            |trial: &Tried| self.resource().and_then(|name| trial.parameters.get(name)?.as_f64()).unwrap_or(0.0);
        let has_told = |trial: &&Tried| trial.repeats.is_none() && trial.values.is_some();
        let most = self.trials.iter().filter(has_told).map(given).fold(0.0, f64::max);
        let searched = self.trials.iter().filter(has_told).filter(move |trial| given(trial) >= most);
        searched.filter_map(move |trial| Some((trial, trial.values.as_ref().map(loss)?)))
    }

    /// The best trial: the one that the experiment names, which it may have chosen by its repeats; else the first that no other one beats.
    #[must_use]
    pub fn best(&self) -> Option<&Tried> {
        let named = self.status.best.as_ref().map(|best| best.trial.as_str());
        let named = named.and_then(|name| self.trials.iter().find(|trial| trial.name == name));
        named.or_else(|| self.front().first().copied())
    }

    /// The best of an objective, and its loss: where the best were tried again, the one that was chosen by that, and the mean of its repeats;
    /// what the luckiest trial told once says less.
    #[must_use]
    pub fn found(&self, objective: usize) -> Option<(&Tried, f64)> {
        let Some(best) = self.status.best.as_ref().filter(|best| best.repeats.is_some()) else {
            return self.records(objective).last().copied();
        };
        let wanted = self.definition.objectives.get(objective)?;
        let value = best.values.get(&wanted.name)?.as_f64()?;
        self.trials.iter().find(|trial| trial.name == best.trial).map(|trial| (trial, wanted.loss(value)))
    }

    /// The trials that were tried again, with what their repeats told of the first objective, and where their mean is: all of these
    /// intervals hold at once.
    #[must_use]
    pub fn repeated(&self) -> Vec<(&Tried, Vec<f64>, Option<Interval>)> {
        let mut again: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for trial in &self.trials {
            if let (Some(of), Some(values)) = (trial.repeats, &trial.values) {
                again.entry(of).or_default().extend(values.first());
            }
        }
        let among = again.len();
        let with = |(of, values): (u64, Vec<f64>)| {
            let trial = self.trials.iter().find(|trial| trial.number == of)?;
            let interval = interval(&values, among);
            Some((trial, values, interval))
        };
        again.into_iter().filter_map(with).collect()
    }

    /// The trials that no other one beats, by number: of one objective the first of the best, of several the Pareto front.
    #[must_use]
    pub fn front(&self) -> Vec<&Tried> {
        let mut front: Vec<(&Tried, Vec<f64>)> = Vec::new();
        for (trial, losses) in self.told() {
            if front.iter().all(|(_, known)| !dominates(known, &losses) && *known != losses) {
                front.retain(|(_, known)| !dominates(&losses, known));
                front.push((trial, losses));
            }
        }
        front.into_iter().map(|(trial, _)| trial).collect()
    }

    /// The trials that were better than all before them in an objective, with their losses.
    #[must_use]
    pub fn records(&self, objective: usize) -> Vec<(&Tried, f64)> {
        let mut records: Vec<(&Tried, f64)> = Vec::new();
        for (trial, losses) in self.told() {
            if let Some(loss) = losses.get(objective)
                && records.last().is_none_or(|(_, least)| loss < least)
            {
                records.push((trial, *loss));
            }
        }
        records
    }

    /// A trial as samplers see it. `None` where its values are not in the space.
    #[must_use]
    pub fn point(&self, trial: &Tried) -> Option<Point> {
        let value = |(name, value): (&String, &Json)| Some((name.clone(), serde_json::from_value(value.clone()).ok()?));
        let mut given: BTreeMap<String, Value> = trial.parameters.iter().filter_map(value).collect();
        self.resource().map(|name| given.remove(name));
        let space = &self.definition.space;
        space.read(&given).ok().map(|configuration| space.point(&configuration))
    }

    /// What the trials say of an objective together, where they are enough to say something.
    #[must_use]
    pub fn analysis(&self, objective: usize) -> Option<Analysis> {
        let points: Vec<(Point, f64)> =
            self.told().filter_map(|(trial, losses)| Some((self.point(trial)?, *losses.get(objective)?))).collect();
        let points: Vec<(&[f64], f64)> = points.iter().map(|(point, loss)| (point.as_slice(), *loss)).collect();
        Analysis::of(&self.definition.space, &points, self.definition.seed)
    }
}

fn tried(trial: &Json, definition: &Definition) -> Option<Tried> {
    let spec: TrialSpec = serde_json::from_value(trial.get("spec")?.clone()).ok()?;
    let status: TrialStatus =
        trial.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let number = |values: &Map<String, Json>| -> Option<Vec<f64>> {
        definition.objectives.iter().map(|objective| values.get(&objective.name)?.as_f64()).collect()
    };
    let values = status.values.as_ref().and_then(number);
    let state = match status.phase.as_deref() {
        // One whose values are not those of the experiment is of no use to it.
        Some("Succeeded") if values.is_some() => State::Succeeded,
        Some("Succeeded" | "Failed") => State::Failed,
        Some("Stopped") => State::Stopped,
        Some(_) if status.job.is_some() => State::Running,
        Some(_) | None => State::Waiting,
    };
    Some(Tried {
        number: spec.number,
        name: trial["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        parameters: spec.parameters,
        state,
        values: values.filter(|_| state == State::Succeeded),
        repeats: spec.repeats,
        step: status.report.map(|report| report.step),
        message: status.message,
        started_ms: status.start_time.as_ref().map(millis),
        ended_ms: status.completion_time.as_ref().map(millis),
    })
}

/// The moment of a time.
#[must_use]
pub fn millis(time: &Time) -> i64 {
    time.0.as_millisecond()
}

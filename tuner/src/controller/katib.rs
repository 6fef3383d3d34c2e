//! What our planner says, in Katib's words: what has to be looked at for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;
use trainyard_proto::plan::Plan;
use trainyard_runtime::driver::{Key, as_value};
use trainyard_tuner_core::control::Seen;
use trainyard_tuner_core::manifest::katib::{Collector, Shown, answer};
use trainyard_tuner_core::objective::Objective;
use trainyard_tuner_core::observation::Observation;

use super::{Tuner, owner};

/// How the metrics of a trial are found.
pub(super) struct Told {
    /// The uid of the trial.
    pub(super) uid: String,
    /// What finds them.
    pub(super) collector: Collector,
    /// What the experiment is after.
    pub(super) objectives: Vec<Objective>,
}

/// How the metrics of trials are found, while these run. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Collectors(Arc<Mutex<HashMap<Key, Arc<Told>>>>);

impl Collectors {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Told>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The collector of a trial of an experiment as it is viewed.
    pub(super) fn begin(&self, trial: &Key, uid: &str, experiment: &Json, objectives: &[Objective]) {
        if self.get(trial).is_some_and(|known| known.uid == uid) {
            return;
        }
        if let Some(collector) = experiment.get("foreign").and_then(Collector::of) {
            let told = Told { uid: uid.to_owned(), collector, objectives: objectives.to_vec() };
            self.lock().insert(trial.clone(), Arc::new(told));
        }
    }

    /// The collector of a trial, if it is of another system.
    pub(super) fn get(&self, trial: &Key) -> Option<Arc<Told>> {
        self.lock().get(trial).cloned()
    }

    /// The trial has ended, or is gone.
    pub(super) fn forget(&self, trial: &Key) -> Option<Arc<Told>> {
        self.lock().remove(trial)
    }
}

impl Tuner {
    /// What is done about an experiment of which our planner says this.
    pub(super) fn katib_experiment(&self, key: &Key, object: &Json, plan: Plan, now_ms: i64) -> Plan {
        let uid = object.pointer("/metadata/uid").and_then(Json::as_str).unwrap_or_default();
        let trials = self.trials.owned_by(uid);
        let shown = trials.iter().filter_map(|trial| {
            let number = trial.data.pointer("/spec/number").and_then(Json::as_u64)?;
            Some(Shown { number, name: trial.metadata.name.as_deref()?, foreign: trial.data.get("foreign")? })
        });
        let mut shown: Vec<Shown<'_>> = shown.collect();
        shown.sort_by_key(|trial| trial.number);
        let known = self.suggestions.as_ref().and_then(|all| all.get(key));
        let known = known.filter(|known| owner(&known.metadata).is_some_and(|(of, _)| of == uid));
        let known = known.map(|known| as_value(&known, self.dialect.api_version(), "Suggestion"));
        answer::experiment(object, &shown, known.as_ref(), plan, now_ms)
    }

    /// What is done about a trial of which our planner says this.
    pub(super) fn katib_trial(
        &self,
        key: &Key,
        trial: &Json,
        experiment: Option<&Json>,
        job: Option<&Json>,
        seen: &Seen<'_>,
        (plan, now_ms): (Plan, i64),
    ) -> Plan {
        let known = self.observer.collectors.get(key);
        let collector = known.as_ref().map(|known| &known.collector);
        let log = seen.observation().map(Observation::log);
        answer::trial(trial, experiment, job, collector, log, plan, now_ms)
    }
}

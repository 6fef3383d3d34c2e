//! The searches of experiments, kept between plans: a new one is shown all trials that are stored, and goes on the same way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::DynamicObject;
use serde_json::{Map, Value as Json};
use trainyard_runtime::driver::Cache;
use trainyard_tuner_core::control::{Setup, stored};
use trainyard_tuner_core::search::Search;

use crate::definition::{Definition, DefinitionError};

/// What is kept of an experiment.
struct Held {
    generation: i64,
    read: Result<Read, String>,
}

struct Read {
    definition: Definition,
    setup: Arc<Setup>,
    search: Search,
}

/// The searches, by the uid of their experiments. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Searches(Arc<Mutex<HashMap<String, Held>>>);

impl Searches {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with what an experiment says, and with its search.
    pub(super) fn with<T>(
        &self,
        experiment: &Json,
        trials: &Cache<DynamicObject>,
        act: impl FnOnce(Result<&Setup, String>, Option<&mut Search>) -> T,
    ) -> T {
        let mut all = self.lock();
        match &mut held(&mut all, experiment, trials).read {
            Ok(read) => act(Ok(&read.setup), Some(&mut read.search)),
            Err(wrong) => act(Err(wrong.clone()), None),
        }
    }

    /// What an experiment says, if it can be read.
    pub(super) fn setup(&self, experiment: &Json, trials: &Cache<DynamicObject>) -> Option<Arc<Setup>> {
        let mut all = self.lock();
        held(&mut all, experiment, trials).read.as_ref().ok().map(|read| Arc::clone(&read.setup))
    }

    /// Takes in a trial that has changed, or has gone.
    pub(super) fn observe(&self, experiment_uid: &str, trial: &DynamicObject, is_there: bool) {
        if let Some(Held { read: Ok(read), .. }) = self.lock().get_mut(experiment_uid) {
            show(read, trial, is_there);
        }
    }

    /// The experiment is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

fn show(read: &mut Read, trial: &DynamicObject, is_there: bool) {
    if let Some((number, trial)) = stored(&trial.data, &read.setup.objectives) {
        read.search.observe(number, is_there.then_some(trial));
    }
}

fn held<'all>(
    all: &'all mut HashMap<String, Held>,
    experiment: &Json,
    trials: &Cache<DynamicObject>,
) -> &'all mut Held {
    let uid = experiment.pointer("/metadata/uid").and_then(Json::as_str).unwrap_or_default();
    let generation = experiment.pointer("/metadata/generation").and_then(Json::as_i64).unwrap_or_default();
    let held = all.entry(uid.to_owned()).or_insert_with(|| Held { generation: -1, read: Err(String::new()) });
    if held.generation != generation {
        let known = std::mem::replace(&mut held.read, Err(String::new())).ok();
        held.read = read(experiment, known, || trials.owned_by(uid));
        held.generation = generation;
    }
    held
}

/// Reads what an experiment says. A search goes on where only budget or trial are other ones.
fn read(
    experiment: &Json,
    known: Option<Read>,
    trials: impl FnOnce() -> Vec<Arc<DynamicObject>>,
) -> Result<Read, String> {
    let nothing = Map::new();
    let spec = experiment.pointer("/spec").and_then(Json::as_object).unwrap_or(&nothing);
    let definition = Definition::of_spec(spec).map_err(|errors| words(&errors))?;
    let setup = definition.setup().ok_or("spec.trial is missing: say what a trial runs, command or job")?;
    let setup = Arc::new(setup);
    if let Some(known) = known {
        let same =
            Definition { budget: definition.budget, trial: definition.trial.clone(), ..known.definition.clone() };
        if same == definition {
            return Ok(Read { definition, setup, search: known.search });
        }
    }
    let search = Search::new(definition.experiment());
    let mut read = Read { definition, setup, search };
    trials().iter().for_each(|trial| show(&mut read, trial, true));
    Ok(read)
}

fn words(errors: &[DefinitionError]) -> String {
    let one = |error: &DefinitionError| match &error.hint {
        Some(hint) => format!("spec.{error} ({hint})"),
        None => format!("spec.{error}"),
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}

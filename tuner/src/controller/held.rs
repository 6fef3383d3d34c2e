//! The searches of experiments, kept between plans: a new one is shown all trials that are stored, and goes on the same way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use serde_json::Value as Json;
use trainyard_runtime::driver::{Cache, Key};
use trainyard_tuner_core::control::{Setup, stored};
use trainyard_tuner_core::history::Report;
use trainyard_tuner_core::objective::Objective;
use trainyard_tuner_core::search::{Search, Stage, Stored};
use trainyard_tuner_core::stopping::{Judge, Stopping, Verdict};

use crate::definition::{Definition, DefinitionError};

/// What is kept of an experiment. Each part has a lock of its own: suggestions may take long, and neither the trials that run nor
/// the watch wait for them.
#[derive(Default)]
struct Held {
    said: Mutex<Said>,
    search: Mutex<Option<Searched>>,
    judge: Mutex<Option<(Stopping, Judge)>>,
    /// When its status was last written.
    told: Mutex<Option<Instant>>,
    /// The trials that have changed since the search was last shown some.
    for_search: Inbox,
    /// And those that the judge has not seen.
    for_judge: Inbox,
}

/// Trials that have changed, by number.
type Inbox = Mutex<BTreeMap<u64, Key>>;

/// What an experiment says in a generation.
#[derive(Default)]
struct Said {
    generation: i64,
    read: Option<Result<Arc<Read>, String>>,
}

struct Read {
    definition: Definition,
    setup: Arc<Setup>,
}

struct Searched {
    definition: Definition,
    search: Search,
}

/// The searches, by the uid of their experiments. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Searches(Arc<Mutex<HashMap<String, Arc<Held>>>>);

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn uid_of(experiment: &Json) -> &str {
    experiment.pointer("/metadata/uid").and_then(Json::as_str).unwrap_or_default()
}

impl Searches {
    fn held(&self, uid: &str) -> Arc<Held> {
        Arc::clone(lock(&self.0).entry(uid.to_owned()).or_default())
    }

    /// Does something with what an experiment says, and with its search, which nobody else has meanwhile.
    pub(super) fn with<T>(
        &self,
        experiment: &Json,
        trials: &Cache<DynamicObject>,
        act: impl FnOnce(Result<&Setup, String>, Option<&mut Search>) -> T,
    ) -> T {
        let held = self.held(uid_of(experiment));
        let mut search = lock(&held.search);
        match held.read(experiment) {
            Ok(read) => act(Ok(&read.setup), Some(held.search(&mut search, &read, experiment, trials))),
            Err(wrong) => act(Err(wrong), None),
        }
    }

    /// How long the counts in an experiment's status are not written again. If that is over, it begins anew.
    pub(super) fn rests(&self, experiment: &Json, pace: Duration) -> Option<Duration> {
        let held = self.held(uid_of(experiment));
        let mut told = lock(&held.told);
        let left = told.map(|told| pace.saturating_sub(told.elapsed())).filter(|left| !left.is_zero());
        if left.is_none() {
            *told = Some(Instant::now());
        }
        left
    }

    /// What an experiment says, if it can be read.
    pub(super) fn setup(&self, experiment: &Json) -> Option<Arc<Setup>> {
        self.held(uid_of(experiment)).read(experiment).ok().map(|read| Arc::clone(&read.setup))
    }

    /// Why a trial that told this so far is to be ended, if it is.
    pub(super) fn judge(
        &self,
        experiment: &Json,
        trials: &Cache<DynamicObject>,
        number: u64,
        reports: &[Report],
    ) -> Option<Verdict> {
        let held = self.held(uid_of(experiment));
        let read = held.read(experiment).ok()?;
        let stopping = read.setup.stopping.as_ref()?;
        let mut judge = lock(&held.judge);
        held.judge(&mut judge, stopping, &read.setup.objectives, uid_of(experiment), trials).judge(number, reports)
    }

    /// A trial has changed, or has gone.
    pub(super) fn changed(&self, experiment_uid: &str, trial: &DynamicObject) {
        let number = trial.data.pointer("/spec/number").and_then(Json::as_u64);
        let held = lock(&self.0).get(experiment_uid).cloned();
        if let (Some(held), Some(number)) = (held, number) {
            lock(&held.for_search).insert(number, Key::from(&trial.metadata));
            lock(&held.for_judge).insert(number, Key::from(&trial.metadata));
        }
    }

    /// The experiment is gone.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.0).remove(uid);
    }
}

impl Held {
    fn read(&self, experiment: &Json) -> Result<Arc<Read>, String> {
        let generation = experiment.pointer("/metadata/generation").and_then(Json::as_i64).unwrap_or_default();
        let mut said = lock(&self.said);
        if said.generation != generation {
            *said = Said { generation, read: None };
        }
        said.read.get_or_insert_with(|| read(experiment).map(Arc::new)).clone()
    }

    /// The search, which knows all trials that are there. It goes on where only budget or trial are other ones than before.
    fn search<'search>(
        &self,
        kept: &'search mut Option<Searched>,
        read: &Read,
        experiment: &Json,
        trials: &Cache<DynamicObject>,
    ) -> &'search mut Search {
        let uid = uid_of(experiment);
        let wanted = &read.definition;
        let is_same = |known: &Searched| {
            let known = &known.definition;
            Definition { budget: wanted.budget, trial: wanted.trial.clone(), ..known.clone() } == *wanted
        };
        // Taken before the trials are looked at: what changes from now on is looked at again.
        let changed = std::mem::take(&mut *lock(&self.for_search));
        let objectives = &read.setup.objectives;
        if let Some(known) = kept.take_if(|known| is_same(known)) {
            let Searched { search, .. } = kept.insert(known);
            for (number, key) in changed {
                search.observe(number, now(trials, &key, uid, number, objectives));
            }
            return search;
        }
        let mut search = Search::new(wanted.experiment());
        let learned = experiment.pointer("/status/learned").and_then(Json::as_array);
        search.learned_before(learned.into_iter().flatten().filter_map(Json::as_u64).collect());
        for trial in trials.owned_by(uid) {
            if let Some((number, trial)) = stored(&trial.data, objectives) {
                search.observe(number, Some(trial));
            }
        }
        &mut kept.insert(Searched { definition: wanted.clone(), search }).search
    }
}

impl Held {
    /// The judge, who knows all trials that have ended.
    fn judge<'judge>(
        &self,
        kept: &'judge mut Option<(Stopping, Judge)>,
        stopping: &Stopping,
        objectives: &[Objective],
        uid: &str,
        trials: &Cache<DynamicObject>,
    ) -> &'judge mut Judge {
        let changed = std::mem::take(&mut *lock(&self.for_judge));
        if let Some(known) = kept.take_if(|(known, _)| known == stopping) {
            let (_, judge) = kept.insert(known);
            for (number, key) in changed {
                show(judge, number, now(trials, &key, uid, number, objectives));
            }
            return judge;
        }
        let mut judge = Judge::new(stopping.clone());
        for (number, trial) in trials.owned_by(uid).iter().filter_map(|trial| stored(&trial.data, objectives)) {
            show(&mut judge, number, Some(trial));
        }
        &mut kept.insert((stopping.clone(), judge)).1
    }
}

fn show(judge: &mut Judge, number: u64, trial: Option<Stored>) {
    match trial {
        None => judge.forget(number),
        // A repeat is neither stopped nor compared with: it is there to measure one trial again, and that is known already.
        Some(trial) if trial.repeats.is_some() => {}
        // What it tells now is shown when it tells it.
        Some(trial) if trial.stage == Stage::Running => judge.running(number, &trial.reports),
        Some(trial) => judge.ended(number, matches!(trial.stage, Stage::Succeeded(_)), &trial.reports),
    }
}

/// A trial of an experiment as it is stored now, if it is there.
fn now(trials: &Cache<DynamicObject>, key: &Key, uid: &str, number: u64, objectives: &[Objective]) -> Option<Stored> {
    let found = trials.get(key).filter(|trial| super::owner(&trial.metadata).is_some_and(|(of, _)| of == uid))?;
    stored(&found.data, objectives).filter(|(of, _)| *of == number).map(|(_, trial)| trial)
}

fn read(experiment: &Json) -> Result<Read, String> {
    let mut spec = experiment.pointer("/spec").and_then(Json::as_object).cloned().unwrap_or_default();
    // What was the default when it began.
    if let Some(algorithm) = experiment.pointer("/status/algorithm").filter(|_| !spec.contains_key("algorithm")) {
        spec.insert("algorithm".to_owned(), algorithm.clone());
    }
    let definition = Definition::of_spec(&spec).map_err(|errors| words(&errors))?;
    let setup = definition.setup().ok_or("spec.trial is missing: say what a trial runs, command or job")?;
    Ok(Read { definition, setup: Arc::new(setup) })
}

fn words(errors: &[DefinitionError]) -> String {
    let one = |error: &DefinitionError| match &error.hint {
        Some(hint) => format!("spec.{error} ({hint})"),
        None => format!("spec.{error}"),
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn experiment() -> Json {
        let spec = Definition::spec(
            "objective = {metric = 'loss', goal = 'minimize'}
             parameters.x = {type = 'float', min = 0, max = 1}
             trial = {command = ['train', '{x}']}",
        );
        json!({"metadata": {"name": "e", "namespace": "n", "uid": "e-uid", "generation": 1}, "spec": spec.unwrap()})
    }

    fn trial(number: u64, owner: &str) -> DynamicObject {
        let owner = json!([{"apiVersion": "v1", "kind": "Experiment", "name": "e", "uid": owner, "controller": true}]);
        let trial = json!({
            "metadata": {"name": format!("e-{number}"), "namespace": "n", "uid": format!("u-{number}"), "ownerReferences": owner},
            "spec": {"number": number, "parameters": {"x": 0.5}},
        });
        serde_json::from_value(trial).unwrap()
    }

    fn started(searches: &Searches, trials: &Cache<DynamicObject>) -> u64 {
        searches.with(&experiment(), trials, |_, search| search.unwrap().counts().started)
    }

    #[test]
    fn a_search_knows_the_trials_that_are_there() {
        let (searches, trials) = (Searches::default(), Cache::detached());
        let of = searches.clone();
        trials.subscribe(move |old, new| of.changed("e-uid", new.or(old).unwrap()));
        trials.observe(Event::Apply(trial(0, "e-uid")));
        assert_eq!(started(&searches, &trials), 1, "what was there before");
        trials.observe(Event::Apply(trial(1, "e-uid")));
        trials.observe(Event::Apply(trial(2, "another")));
        assert_eq!(started(&searches, &trials), 2);
        trials.observe(Event::Delete(trial(0, "e-uid")));
        assert_eq!(started(&searches, &trials), 1);
    }

    #[test]
    fn nobody_waits_for_suggestions_but_who_asks_for_them() {
        let (searches, trials) = (Searches::default(), Cache::detached());
        let other = json!({"metadata": {"uid": "other", "generation": 1}, "spec": experiment()["spec"]});
        // All within one thread: a lock that is held would never be free.
        searches.with(&experiment(), &trials, |_, _| {
            assert!(searches.setup(&experiment()).is_some(), "trials of the same experiment");
            searches.changed("e-uid", &trial(0, "e-uid"));
            searches.with(&other, &trials, |setup, _| assert!(setup.is_ok(), "another experiment"));
            searches.forget("e-uid");
        });
    }
}

//! The controllers of experiments and trials: they observe and carry out. What is done is decided in
//! `trainyard_tuner_core::control`.

mod dialect;
mod held;
mod katib;
mod manager;
mod observer;
mod refusal;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};
use kube::core::ObjectMeta;
use serde_json::Value as Json;
use tokio::runtime::RuntimeFlavor;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trainyard_proto::plan::{Action, Plan};
use trainyard_runtime::driver::apply::{FailedFn, Target};
use trainyard_runtime::driver::cache::Probe;
use trainyard_runtime::driver::{Cache, Controller, EventSink, Key, Probes, Queue, as_value, resource};
use trainyard_runtime::embedded::Guest;
use trainyard_tuner_core::control::{ExperimentView, RECENT, Seen, Setup, TrialView, experiment, trial};
use trainyard_tuner_core::manifest::katib::view;
use trainyard_tuner_core::stopping::Verdict;

use dialect::Dialect;
use held::Searches;
use manager::Journal;
use observer::Observer;
use refusal::Refusals;

/// After so long the trials that were suggested are started before more are suggested.
const BATCH: Duration = Duration::from_millis(50);
/// More trials than are made in the time in which counts are not written.
const SLACK: u64 = 64;
/// The counts in an experiment's status are written so often.
const COUNTS: Duration = Duration::from_millis(250);

/// The controllers, running. Dropping it stops them without waiting for them.
pub struct Handle {
    stop: CancellationToken,
    tuners: Vec<Tuner>,
    tasks: JoinSet<()>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Waits until what is created from now on is acted upon at once.
    pub async fn ready(&self) {
        for tuner in &self.tuners {
            tuner.ready().await;
        }
    }

    /// What other systems' clients ask about trials, answered at the address of the API.
    #[must_use]
    pub fn guests(&self) -> Vec<Guest> {
        let foreign = self.tuners.iter().filter(|tuner| tuner.dialect == Dialect::Katib);
        foreign.map(|tuner| manager::guest(tuner.trials.clone(), tuner.observer.clone())).collect()
    }

    /// Stops: actions in flight are finished, nothing new is begun. Jobs that run go on.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "controller ended badly");
            }
        }
        for tuner in &self.tuners {
            tuner.events.flush().await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the controllers of one dialect share.
#[derive(Clone)]
pub struct Tuner {
    dialect: Dialect,
    experiments: Cache<DynamicObject>,
    trials: Cache<DynamicObject>,
    /// What is shown of what was suggested, where the dialect has objects for it.
    suggestions: Option<Cache<DynamicObject>>,
    /// The jobs of trials, by kind.
    jobs: Arc<BTreeMap<&'static str, (&'static str, Cache<DynamicObject>)>>,
    /// The pods of trials.
    pods: Cache<Pod>,
    searches: Searches,
    observer: Observer,
    refusals: Refusals,
    client: kube::Client,
    probes: Probes,
    events: EventSink,
    experiment_queue: Queue,
    trial_queue: Queue,
}

impl Tuner {
    /// Starts the controllers of experiments and trials, in all dialects. They become active when their caches have been filled. What
    /// trials of other systems told on their way is kept in the records of that file.
    #[must_use]
    pub fn start(client: &kube::Client, workers: usize, records: Option<PathBuf>) -> Handle {
        Self::start_of(&Dialect::ALL, client, workers, records)
    }

    /// The same on a cluster, where other systems' experiments are left to these.
    #[must_use]
    pub fn start_on_cluster(client: &kube::Client, workers: usize) -> Handle {
        Self::start_of(&[Dialect::Own], client, workers, None)
    }

    fn start_of(dialects: &[Dialect], client: &kube::Client, workers: usize, records: Option<PathBuf>) -> Handle {
        let stop = CancellationToken::new();
        let journal = Journal::new(records);
        let tuners: Vec<Self> = dialects.iter().map(|dialect| Self::new(*dialect, client, &journal, &stop)).collect();
        let mut tasks = JoinSet::new();
        for tuner in &tuners {
            for controller in tuner.controllers() {
                let (tuner, stop) = (tuner.clone(), stop.clone());
                tasks.spawn(async move {
                    tokio::select! { () = tuner.ready() => {}, () = stop.cancelled() => return }
                    controller.run(workers, stop).await;
                });
            }
        }
        Handle { stop, tuners, tasks }
    }

    fn new(dialect: Dialect, client: &kube::Client, journal: &Journal, stop: &CancellationToken) -> Self {
        let mut probes: Vec<(String, String, Arc<dyn Probe>)> = Vec::new();
        let mut cache = |api_version: &str, kind: &str, label: Option<&str>, view: Option<fn(&mut DynamicObject)>| {
            let api = Api::all_with(client.clone(), &resource(api_version, kind));
            let cache = match view {
                Some(view) => Cache::start_viewed(api, view, stop.clone()),
                None => Cache::start_dynamic(api, label, stop.clone()),
            };
            probes.push((api_version.to_owned(), kind.to_owned(), Arc::new(cache.clone())));
            cache
        };
        let (version, label) = (dialect.api_version(), Some(dialect.trial_label()));
        let experiments = cache(version, "Experiment", None, dialect.view_experiment());
        let trials = cache(version, "Trial", None, dialect.view_trial());
        let suggestions = (dialect == Dialect::Katib).then(|| cache(version, "Suggestion", None, None));
        let jobs = dialect.jobs().iter().map(|(version, kind)| (*kind, (*version, cache(version, kind, label, None))));
        let jobs: BTreeMap<_, _> = jobs.collect();
        let pods = Cache::start_untyped(Api::all_with(client.clone(), &resource("v1", "Pod")), label, stop.clone());
        let trial_queue = Queue::default();
        let tuner = Self {
            dialect,
            searches: Searches::default(),
            observer: Observer::new(
                (dialect, journal),
                client.clone(),
                pods.clone(),
                trial_queue.clone(),
                stop.clone(),
            ),
            refusals: Refusals::default(),
            experiments,
            trials,
            suggestions,
            jobs: Arc::new(jobs),
            pods,
            client: client.clone(),
            probes: Probes::new(probes),
            events: EventSink::start(client.clone(), "trainyard-tuner"),
            experiment_queue: Queue::default(),
            trial_queue,
        };
        tuner.subscribe();
        tuner
    }

    fn subscribe(&self) {
        let this = self.clone();
        self.experiments.subscribe(move |old, new| {
            let Some(object) = new.or(old) else { return };
            this.experiment_queue.wake(Key::from(&object.metadata));
            let uid = object.metadata.uid.clone().unwrap_or_default();
            if new.is_none() {
                this.searches.forget(&uid);
            }
            if old.map(|old| turning(old)) != new.map(|new| turning(new)) {
                this.trials.owned_by(&uid).iter().for_each(|trial| this.trial_queue.wake(Key::from(&trial.metadata)));
            }
        });
        let this = self.clone();
        self.trials.subscribe(move |old, new| {
            let Some(object) = new.or(old) else { return };
            let own = Key::from(&object.metadata);
            if let Some((uid, experiment)) = owner(&object.metadata) {
                this.searches.changed(&uid, object);
                // The job of one that is not among the last ones any more may go. What is known of how many there are is a little old.
                let number = object.data.pointer("/spec/number").and_then(Json::as_u64).unwrap_or(0);
                let is_new = old.is_none() && this.dialect == Dialect::Own;
                if let Some(old) = number.checked_sub(RECENT + SLACK).filter(|_| is_new) {
                    this.trial_queue.wake(Key::new(own.namespace.clone(), format!("{experiment}-{old}")));
                }
                this.experiment_queue.wake(Key::new(own.namespace.clone(), experiment));
            }
            if new.is_none() {
                this.observer.forget(&own);
                this.refusals.forget(&own);
            }
            this.trial_queue.wake(own);
        });
        if let Some(suggestions) = &self.suggestions {
            let queue = self.experiment_queue.clone();
            suggestions.subscribe(move |old, new| {
                if let Some(object) = new.or(old) {
                    queue.wake(Key::from(&object.metadata));
                }
            });
        }
        for (_, jobs) in self.jobs.values() {
            let queue = self.trial_queue.clone();
            jobs.subscribe(move |old, new| {
                let Some(object) = new.or(old) else { return };
                if let Some((_, trial)) = owner(&object.metadata) {
                    queue.wake(Key::new(object.metadata.namespace.clone().unwrap_or_default(), trial));
                }
            });
        }
        let observer = self.observer.clone();
        self.pods.subscribe(move |old, new| observer.pod(old, new));
    }

    async fn ready(&self) {
        self.experiments.ready().await;
        self.trials.ready().await;
        if let Some(suggestions) = &self.suggestions {
            suggestions.ready().await;
        }
        for (_, jobs) in self.jobs.values() {
            jobs.ready().await;
        }
        self.pods.ready().await;
    }

    fn controllers(&self) -> [Controller; 2] {
        let (experiments, trials) = (self.clone(), self.clone());
        let [of_experiments, of_trials] = self.dialect.controllers();
        [
            Controller {
                name: of_experiments,
                plan: Arc::new(move |key, now_ms| experiments.plan_experiment(key, now_ms)),
                trace: Arc::new(|_, _| None),
                target: self.target(of_experiments, None),
                queue: self.experiment_queue.clone(),
            },
            Controller {
                name: of_trials,
                plan: Arc::new(move |key, now_ms| trials.plan_trial(key, now_ms)),
                trace: Arc::new(|_, _| None),
                target: self.target(of_trials, Some(self.refusals.hearer(&self.trials))),
                queue: self.trial_queue.clone(),
            },
        ]
    }

    fn target(&self, controller: &'static str, failed: Option<FailedFn>) -> Target {
        Target {
            client: self.client.clone(),
            probes: self.probes.clone(),
            events: self.events.clone(),
            controller,
            reads_back: true,
            failed,
        }
    }

    fn plan_experiment(&self, key: &Key, now_ms: i64) -> Option<Plan> {
        let object = as_value(&*self.experiments.get(key)?, self.dialect.api_version(), "Experiment");
        let wrong = match self.dialect {
            Dialect::Own => None,
            Dialect::Katib => object.get("wrong").and_then(Json::as_str),
        };
        let plan = apart(|| {
            if let Some(wrong) = wrong {
                let view = ExperimentView { object: &object, setup: Err(wrong.to_owned()) };
                return experiment(&view, None, &mut || false, now_ms);
            }
            self.searches.with(&object, &self.trials, |setup, search| {
                let began = Instant::now();
                let mut more = || began.elapsed() < BATCH;
                experiment(&ExperimentView { object: &object, setup }, search, &mut more, now_ms)
            })
        });
        Some(match self.dialect {
            Dialect::Own => self.paced(&object, plan, now_ms),
            Dialect::Katib => self.katib_experiment(key, &object, plan, now_ms),
        })
    }

    /// The same, where the counts of an experiment that goes on were written a moment ago: they change with each trial, and are written again
    /// when that is over.
    fn paced(&self, object: &Json, mut plan: Plan, now_ms: i64) -> Plan {
        // What only a status says is written at once.
        let said = ["/status/phase", "/status/learned"].map(|place| (place, object.pointer(place)));
        let goes_on = |action: &Action| {
            let Action::PatchStatus { patch, .. } = action else { return false };
            said[0].1.is_some_and(|phase| phase == "Running")
                && said.iter().all(|(place, known)| patch.pointer(place) == *known)
        };
        if plan.actions.iter().any(goes_on)
            && let Some(left) = self.searches.rests(object, COUNTS)
        {
            plan.actions.retain(|action| !goes_on(action));
            let due = now_ms.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
            plan.wake_at_ms = Some(plan.wake_at_ms.map_or(due, |at| at.min(due)));
        }
        plan
    }

    fn plan_trial(&self, key: &Key, now_ms: i64) -> Option<Plan> {
        let found = self.trials.get(key)?;
        let object = as_value(&found, self.dialect.api_version(), "Trial");
        let (uid, name) = owner(&found.metadata)?;
        let experiment = self.experiments.get(&Key::new(key.namespace.clone(), name));
        let experiment = experiment.filter(|experiment| experiment.metadata.uid.as_ref() == Some(&uid))?;
        let experiment = as_value(&experiment, self.dialect.api_version(), "Experiment");
        let mut setup = self.searches.setup(&experiment);
        if self.dialect == Dialect::Katib {
            setup = setup.map(|setup| Arc::new(view::setup(&setup, &object)));
            if let Some(setup) = setup.as_ref().filter(|_| !is_over(&object)) {
                let uid = found.metadata.uid.as_deref().unwrap_or_default();
                self.observer.collectors.begin(key, uid, &experiment, &setup.objectives);
            }
        }
        let made = object.pointer("/status/job/kind").and_then(Json::as_str);
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        // One that is not named yet may be of any kind: the experiment may say another one now than when it was made.
        let job = match made {
            Some(kind) => self.job(key, kind, uid),
            None => self.jobs.keys().find_map(|kind| self.job(key, kind, uid)),
        };
        let job = match self.dialect {
            Dialect::Own => job,
            Dialect::Katib => job.map(|job| view::job(&job, &object)),
        };
        let refused = self.refusals.of(key, uid);
        let plan = |seen: Seen<'_>| {
            let (experiment, setup) = (Some(&experiment), setup.as_deref());
            let refused = refused.as_deref();
            let verdict = self.verdict(&object, experiment, setup, &seen);
            let (job, verdict) = (job.as_ref(), verdict.as_ref());
            let plan = trial(&TrialView { object: &object, experiment, setup, job, seen, refused, verdict }, now_ms);
            match self.dialect {
                Dialect::Own => plan,
                Dialect::Katib => self.katib_trial(key, &object, experiment, job, &seen, (plan, now_ms)),
            }
        };
        let job_uid = job.as_ref().and_then(|job| job.pointer("/metadata/uid")).and_then(Json::as_str);
        Some(match setup.as_ref().filter(|_| !is_over(&object)) {
            Some(setup) => self.observer.with(key, job_uid, &setup.objectives, plan),
            None => {
                let plan = plan(Seen::Nothing);
                self.observer.forget(key);
                self.refusals.forget(key);
                plan
            }
        })
    }

    /// Why a trial that runs is to be ended, if it is. A repeat is not: those that were left would all be lucky ones. Nor is one whose log is
    /// being read anew, until it has told as much as was known of it.
    fn verdict(
        &self,
        trial: &Json,
        experiment: Option<&Json>,
        setup: Option<&Setup>,
        seen: &Seen<'_>,
    ) -> Option<Verdict> {
        let (experiment, Seen::Part(told)) = (experiment?, seen) else { return None };
        let number = trial.pointer("/spec/number").and_then(Json::as_u64)?;
        let is_repeat = trial.pointer("/spec/repeats").is_some_and(|of| !of.is_null());
        let known = trial.pointer("/status/report/step").and_then(Json::as_u64).unwrap_or(0);
        let is_all = told.reports().last().is_some_and(|last| last.step >= known);
        let is_judged = setup?.stopping.is_some() && is_all && !is_repeat;
        is_judged.then(|| self.searches.judge(experiment, &self.trials, number, told.reports()))?
    }

    /// The job of a trial.
    fn job(&self, key: &Key, kind: &str, trial_uid: &str) -> Option<Json> {
        let (kind, (api_version, jobs)) = self.jobs.get_key_value(kind)?;
        let found = jobs.get(key)?;
        let is_ours = owner(&found.metadata).is_some_and(|(uid, _)| uid == trial_uid);
        is_ours.then(|| as_value(&found, api_version, kind))
    }
}

/// What takes its time holds up nobody else on its thread.
fn apart<T>(act: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(act) } else { act() }
}

fn is_over(trial: &Json) -> bool {
    matches!(trial.pointer("/status/phase").and_then(Json::as_str), Some("Succeeded" | "Failed" | "Stopped"))
}

/// What of an experiment its trials go by.
fn turning(experiment: &DynamicObject) -> (Option<&Json>, Option<&Json>, Option<i64>) {
    let data = &experiment.data;
    (data.pointer("/spec/suspend"), data.pointer("/status/phase"), experiment.metadata.generation)
}

/// Who controls an object: uid and name.
fn owner(meta: &ObjectMeta) -> Option<(String, String)> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some((owner.uid.clone(), owner.name.clone()))
}

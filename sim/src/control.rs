//! The controllers' process: stale caches, keys to plan, plans half carried out. A crash throws all of it away.
//!
//! It follows the real driver: a change wakes the object's own key and its controller's; a key is not planned again
//! before the caches show what its last plan wrote; a failed action ends its plan and the key comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::{dialect, dialects};
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_runtime_core::store::{ChangeKind, Key, Object, Part, Resource, StoreError};

use crate::Cores;
use crate::api::{Api, at};
use crate::cache::Caches;

/// Which controller plans which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// A job of any dialect, or an object of a stand-in's kind.
    Object {
        /// `trainyard.dev/v1alpha1`, …
        api_version: String,
        /// `TrainingJob`, …
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All gangs.
    Gangs,
}

/// What a cache has to show before a key is planned again.
#[derive(Clone, Debug)]
enum Expectation {
    Seen { resource: Resource, version: u64 },
    Left { key: Key, uid: String },
}

/// A plan that is being carried out.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) work: Work,
    pub(crate) actions: VecDeque<Action>,
    expectations: Vec<Expectation>,
}

/// One life of the coordinator.
pub(crate) struct Process {
    positions: BTreeMap<Resource, usize>,
    seen: BTreeMap<Resource, u64>,
    caches: Caches,
    pub(crate) dirty: BTreeSet<Work>,
    pub(crate) timers: BTreeMap<Work, i64>,
    waiting: BTreeMap<Work, Vec<Expectation>>,
    pub(crate) flights: Vec<Flight>,
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

fn controller(value: &Value) -> Option<(&str, &str, &str, &str)> {
    let owners = at(value, &["metadata", "ownerReferences"])?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["apiVersion"].as_str()?, owner["kind"].as_str()?, owner["name"].as_str()?, owner["uid"].as_str()?))
}

fn scheduled(value: &Value) -> Option<&Value> {
    let conditions = at(value, &["status", "conditions"])?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == "PodScheduled" || condition["type"] == "Ready")
}

/// Annotations of pods that the gang scheduler looks at.
const PLACING: [&str; 4] = [label::PREEMPTED, label::RESERVATION, label::PRIORITY, label::PRIORITY_CLASS];

/// Kinds of which every change is of interest to the gang scheduler.
const SETTING: [&str; 6] = ["ClusterQueue", "LocalQueue", "Cohort", "Topology", "ResourceFlavor", "PriorityClass"];

/// Whether the two mean the same to the gang scheduler, which is then not woken.
fn places_alike(before: &Object, after: &Object) -> bool {
    let (a, b) = (before.value(), after.value());
    let same = |path: &[&str]| at(a, path) == at(b, path);
    before.uid() == after.uid()
        && same(&["metadata", "deletionTimestamp"])
        && same(&["spec"])
        && same(&["status", "phase"])
        && scheduled(a) == scheduled(b)
        && PLACING.iter().all(|name| before.annotation(name) == after.annotation(name))
        && before.label(label::QUEUE_NAME) == after.label(label::QUEUE_NAME)
}

fn is_planned(api_version: &str, kind: &str) -> bool {
    dialect(api_version, kind).is_some()
        || matches!((api_version, kind), ("batch/v1", "Job") | ("apps/v1", "ReplicaSet" | "Deployment"))
}

impl Process {
    /// Start (again): everything is listed afresh, and everything is planned once.
    pub(crate) fn start(api: &Api, is_cluster: bool) -> Self {
        let mut this = Self {
            positions: api.logs.iter().map(|(resource, log)| (resource.clone(), log.len())).collect(),
            seen: BTreeMap::new(),
            caches: Caches::new(is_cluster),
            dirty: BTreeSet::from([Work::Gangs]),
            timers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            flights: Vec::new(),
        };
        for resource in api.logs.keys() {
            this.seen.insert(resource.clone(), api.store.resource_version());
        }
        for object in api.store.objects() {
            this.wake_for(object, false);
            this.caches.put(object);
        }
        this
    }

    /// Watches that are behind.
    pub(crate) fn lagging(&self, api: &Api) -> Vec<Resource> {
        let behind =
            |(resource, log): &(&Resource, &Vec<_>)| self.positions.get(*resource).copied().unwrap_or(0) < log.len();
        api.logs.iter().filter(behind).map(|(resource, _)| resource.clone()).collect()
    }

    /// Let the next change of one watch arrive.
    pub(crate) fn deliver(&mut self, api: &Api, resource: &Resource) {
        let position = self.positions.entry(resource.clone()).or_insert(0);
        let Some(change) = api.logs.get(resource).and_then(|log| log.get(*position)) else { return };
        *position += 1;
        self.seen.insert(resource.clone(), change.resource_version);
        match change.kind {
            ChangeKind::Put => self.learn(&change.object),
            ChangeKind::Delete => self.forget(&change.object),
        }
    }

    fn learn(&mut self, object: &Arc<Object>) {
        let alike = self.caches.get(object.key()).is_some_and(|before| places_alike(before, object));
        self.wake_for(object, alike);
        self.caches.put(object);
    }

    fn forget(&mut self, object: &Object) {
        self.wake_for(object, false);
        self.caches.remove(object.key());
        // `Recreate` waits for pods to vanish, which no set's status shows.
        if let Some((_, "ReplicaSet", name, _)) = controller(object.value()) {
            let of_pod = |set: &&Arc<Object>| &*set.key().name == name && *set.key().resource.plural == *"replicasets";
            let sets: Vec<Arc<Object>> = self.caches.objects().filter(of_pod).cloned().collect();
            for set in sets {
                self.wake_owner(set.value());
            }
        }
    }

    /// The watch of one resource was cut off for so long that it cannot go on: its objects are listed again. What is gone by now is gone
    /// without an event of its own, and what happened in between is never seen.
    pub(crate) fn list_again(&mut self, api: &Api, resource: &Resource) {
        self.positions.insert(resource.clone(), api.logs.get(resource).map_or(0, Vec::len));
        self.seen.insert(resource.clone(), api.store.resource_version());
        let known = self.caches.objects().filter(|object| object.key().resource == *resource).cloned();
        let gone: Vec<Arc<Object>> =
            known.filter(|object| api.store.get(object.key()).is_none_or(|now| now.uid() != object.uid())).collect();
        for object in gone {
            self.forget(&object);
        }
        for object in api.store.objects().filter(|object| object.key().resource == *resource) {
            self.learn(object);
        }
    }

    /// The last change of one watch arrives once more.
    pub(crate) fn deliver_again(&mut self, api: &Api, resource: &Resource) {
        if let Some(position) = self.positions.get_mut(resource).filter(|position| **position > 0) {
            *position -= 1;
            self.deliver(api, resource);
        }
    }

    /// Nothing to deliver, to plan or to carry out.
    pub(crate) fn is_idle(&self, api: &Api) -> bool {
        let current = |(resource, log): (&Resource, &Vec<_>)| self.positions.get(resource) == Some(&log.len());
        self.flights.is_empty() && self.dirty.is_empty() && self.waiting.is_empty() && api.logs.iter().all(current)
    }

    fn wake_for(&mut self, object: &Object, places_alike: bool) {
        let value = object.value();
        let (api_version, kind) = (text(value, &["apiVersion"]), text(value, &["kind"]));
        if is_planned(api_version, kind) {
            self.dirty.insert(Work::Object {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: text(value, &["metadata", "namespace"]).to_owned(),
                name: text(value, &["metadata", "name"]).to_owned(),
            });
        }
        if ((kind == "Pod" || kind == "Node") && !places_alike) || SETTING.contains(&kind) {
            self.dirty.insert(Work::Gangs);
        }
        self.wake_owner(value);
    }

    fn wake_owner(&mut self, value: &Value) {
        if let Some((api_version, kind, name, _)) = controller(value)
            && is_planned(api_version, kind)
        {
            self.dirty.insert(Work::Object {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: text(value, &["metadata", "namespace"]).to_owned(),
                name: name.to_owned(),
            });
        }
    }

    /// Timers that are due become keys to plan.
    pub(crate) fn ring(&mut self, now_ms: i64) {
        let due: Vec<Work> =
            self.timers.iter().filter(|(_, at)| **at <= now_ms).map(|(work, _)| work.clone()).collect();
        for work in due {
            self.timers.remove(&work);
            self.dirty.insert(work);
        }
    }

    /// Keys that may be planned now.
    pub(crate) fn plannable(&mut self) -> Vec<Work> {
        let (seen, caches) = (&self.seen, &self.caches);
        let met = |expectation: &Expectation| match expectation {
            Expectation::Seen { resource, version } => seen.get(resource).is_some_and(|seen| seen >= version),
            Expectation::Left { key, uid } => {
                caches.get(key).is_none_or(|known| **known.uid() != **uid || known.is_deleting())
            }
        };
        self.waiting.retain(|_, expectations| {
            expectations.retain(|expectation| !met(expectation));
            !expectations.is_empty()
        });
        let busy =
            |work: &Work| self.flights.iter().any(|flight| flight.work == *work) || self.waiting.contains_key(work);
        self.dirty.iter().filter(|work| !busy(work)).cloned().collect()
    }

    /// Plan one key and begin to carry the plan out.
    pub(crate) fn plan(&mut self, cores: &Cores, work: &Work, now_ms: i64) -> Option<Plan> {
        self.dirty.remove(work);
        let plan = self.decide(cores, work, now_ms)?;
        if let Some(at) = plan.wake_at_ms {
            let at = at.max(now_ms + 1);
            let timer = self.timers.entry(work.clone()).or_insert(at);
            *timer = at.min(*timer);
        }
        let actions: VecDeque<Action> =
            plan.actions.iter().filter(|action| !matches!(action, Action::Event { .. })).cloned().collect();
        if !actions.is_empty() {
            self.flights.push(Flight { work: work.clone(), actions, expectations: Vec::new() });
        }
        Some(plan)
    }

    /// What the core says about one key, from what the caches show.
    pub(crate) fn decide(&self, cores: &Cores, work: &Work, now_ms: i64) -> Option<Plan> {
        self.caches.decide(cores, work, now_ms)
    }

    pub(crate) fn pods(&self) -> &[Pod] {
        self.caches.pods()
    }

    /// Carry out one action of a flight; neighbours that join each other go in any order, as they do in parallel.
    /// Returns what was done, and whether it worked. `fault` makes it fail before or after it took effect.
    pub(crate) fn act(
        &mut self,
        api: &mut Api,
        flight: usize,
        roll: usize,
        fault: Fault,
        now_ms: i64,
        telling: bool,
    ) -> Acted {
        let actions = &mut self.flights[flight].actions;
        let batch = 1 + actions.iter().skip(1).take_while(|action| action.joins(&actions[0])).count();
        let Some(action) = actions.remove(roll % batch) else {
            self.flights.remove(flight);
            return Acted::default();
        };
        let made_pod = matches!(&action, Action::Create { object, .. } if object.kind == "Pod");
        let said = if telling { describe(&action) } else { String::new() };
        let work = self.flights[flight].work.clone();
        let result = if fault == Fault::Refused { Err(()) } else { apply(api, action, now_ms) };
        if result.is_err() || fault != Fault::None {
            // What was on its way at the same time still lands or not: here it does not.
            self.flights[flight].actions.clear();
            self.dirty.insert(work.clone());
        }
        // Where the answer was lost, the object is looked at, and the caches have to show what was found.
        if let Ok(expectation) = result {
            self.flights[flight].expectations.extend(expectation);
        }
        if self.flights[flight].actions.is_empty() {
            let done = self.flights.remove(flight);
            if !done.expectations.is_empty() {
                self.waiting.insert(work.clone(), done.expectations);
            }
            self.dirty.insert(work);
        }
        Acted { said, made_pod: made_pod && fault != Fault::Refused }
    }
}

/// What became of an action.
#[derive(Debug, Default)]
pub(crate) struct Acted {
    /// In words, if they were asked for.
    pub(crate) said: String,
    /// It created a pod.
    pub(crate) made_pod: bool,
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is refused, as by a conflict.
    Refused,
    /// It takes effect, but the answer is lost.
    AnswerLost,
}

fn describe(action: &Action) -> String {
    match action {
        Action::Create { object, .. } => format!("create {} {}", object.kind, object.name),
        Action::Delete { object, reason, .. } => format!("delete {} {}: {reason}", object.kind, object.name),
        Action::Patch { object, patch, .. } => format!("patch {} {} {patch}", object.kind, object.name),
        Action::PatchStatus { object, patch, .. } => format!("status of {} {} {patch}", object.kind, object.name),
        Action::Bind { pod, node, .. } => format!("bind {} to {node}", pod.name),
        Action::Event { reason, .. } => format!("event {reason}"),
    }
}

/// As `runtime::driver::apply` does. The error is only that there was one: then the rest is not tried.
fn apply(api: &mut Api, action: Action, now_ms: i64) -> Result<Option<Expectation>, ()> {
    let key_of = |api: &Api, object: &ObjectRef| api.kinds.key(object).ok_or(());
    let seen = |object: &Object| {
        Some(Expectation::Seen { resource: object.key().resource.clone(), version: object.resource_version() })
    };
    match action {
        Action::Create { object, body } => {
            let key = key_of(api, &object)?;
            let owner = controller(&body).map(|(_, _, _, uid)| uid.to_owned());
            match api.create(now_ms, &object, body) {
                Ok(made) => Ok(seen(&made)),
                Err(StoreError::AlreadyExists { .. }) => {
                    let found = api.store.get(&key).ok_or(())?;
                    let ours = controller(found.value()).map(|(_, _, _, uid)| uid.to_owned()) == owner;
                    if ours && !found.is_deleting() { Ok(seen(found)) } else { Err(()) }
                }
                Err(_) => Err(()),
            }
        }
        Action::Delete { object, fence, grace_seconds, .. } => {
            let key = key_of(api, &object)?;
            let uid = fence.uid.as_deref();
            let left = || uid.map(|uid| Expectation::Left { key: key.clone(), uid: uid.to_owned() });
            match api.delete(now_ms, &key, uid, fence.resource_version.as_deref(), grace_seconds) {
                Ok(_) => Ok(left()),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(_) if uid.is_some() && api.store.get(&key).is_none_or(|found| Some(&**found.uid()) != uid) => {
                    Ok(left())
                }
                Err(_) => Err(()),
            }
        }
        Action::Patch { object, fence, patch } => {
            let key = key_of(api, &object)?;
            let patch = fenced(patch, fence.uid, fence.resource_version);
            api.patch(now_ms, &key, &patch, Part::Main).map(|object| seen(&object)).map_err(|_| ())
        }
        Action::PatchStatus { object, fence, patch } => {
            let key = key_of(api, &object)?;
            let patch = fenced(patch, fence.uid, fence.resource_version);
            api.patch(now_ms, &key, &patch, Part::Status).map(|object| seen(&object)).map_err(|_| ())
        }
        Action::Bind { pod, fence, node } => {
            let key = key_of(api, &pod)?;
            api.bind(now_ms, &key, fence.uid.as_deref(), &node).map(|object| seen(&object)).map_err(|_| ())
        }
        Action::Event { .. } => Ok(None),
    }
}

fn fenced(mut patch: Value, uid: Option<String>, resource_version: Option<String>) -> Value {
    if let Some(uid) = uid {
        patch["metadata"]["uid"] = Value::from(uid);
    }
    if let Some(version) = resource_version {
        patch["metadata"]["resourceVersion"] = Value::from(version);
    }
    patch
}

/// Every key that a quiet world should have nothing to do for.
pub(crate) fn every_work(api: &Api) -> Vec<Work> {
    let mut all = vec![Work::Gangs];
    let kinds = dialects().iter().map(|dialect| (dialect.info().api_version, dialect.info().kind));
    for (api_version, kind) in kinds.chain([("batch/v1", "Job"), ("apps/v1", "ReplicaSet"), ("apps/v1", "Deployment")])
    {
        all.extend(api.of_kind(api_version, kind).map(|object| Work::Object {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: object.key().namespace.to_string(),
            name: object.key().name.to_string(),
        }));
    }
    all
}

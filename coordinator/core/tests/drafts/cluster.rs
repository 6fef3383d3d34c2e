//! An API server with its watches, and the controllers' process behind them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use trainyard_coordinator_core::gang::GangView;
use trainyard_coordinator_core::gang::cluster::{ClusterView, Draft, Owner, is_as_decided, place_on_cluster};
use trainyard_coordinator_core::view::{Config, JobView};
use trainyard_coordinator_core::{instant, job as planner, label};
use trainyard_proto::plan::{Action, Fence, ObjectRef};

pub const PATIENCE_MS: i64 = 60_000;
const START_MS: i64 = 1_767_225_600_000;
const HOSTNAME: &str = "kubernetes.io/hostname";

/// A TrainingJob whose pods ask for a CPU each.
pub fn job(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "creationTimestamp": instant::text(START_MS)},
        "spec": {"replicas": replicas, "image": "x", "command": ["train"], "restartPolicy": "OnFailure", "backoffLimit": 1000,
                 "resources": {"cpu": "1"}},
    })
}

/// Who plans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Gangs,
    Job(String),
}

#[derive(Clone, Default)]
struct State {
    jobs: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    services: BTreeMap<String, Value>,
}

/// A draft, with the version of its job that it was made for.
type Known = (Option<String>, Arc<Draft>);

struct Flight {
    who: Controller,
    actions: Vec<Action>,
}

pub struct Cluster {
    pub nodes: Vec<Value>,
    /// All that was written, in order.
    pub writes: Vec<String>,
    /// A pod of this name is not taken.
    pub refuse: Option<String>,
    /// The state after each write.
    history: Vec<State>,
    /// How far the watches of jobs and of pods are.
    seen: (usize, usize),
    flights: Vec<Flight>,
    dirty: BTreeSet<Controller>,
    /// What the watches have to show before somebody plans again.
    waits: BTreeMap<Controller, usize>,
    timers: BTreeMap<Controller, i64>,
    /// Drafts by the uid of their job, with the version of it that they were made for.
    drafts: RefCell<BTreeMap<String, Known>>,
    /// What the last decision saw of decisions before it, by the uid of their job.
    placed_ms: RefCell<BTreeMap<String, i64>>,
    now_ms: i64,
    next: u64,
    decisions: usize,
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

impl Cluster {
    pub fn new(cpus: &[u32], jobs: Vec<Value>) -> Self {
        let node = |(at, cpus): (usize, &u32)| {
            let name = format!("node-{at}");
            json!({
                "metadata": {"name": name, "labels": {HOSTNAME: name}},
                "status": {"allocatable": {"cpu": cpus.to_string(), "memory": "64Gi", "pods": "50"},
                           "conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let mut this = Self {
            nodes: cpus.iter().enumerate().map(node).collect(),
            writes: Vec::new(),
            refuse: None,
            history: vec![State::default()],
            seen: (0, 0),
            flights: Vec::new(),
            dirty: BTreeSet::new(),
            waits: BTreeMap::new(),
            timers: BTreeMap::new(),
            drafts: RefCell::default(),
            placed_ms: RefCell::default(),
            now_ms: START_MS,
            next: 0,
            decisions: 0,
        };
        for job in jobs {
            let name = job["metadata"]["name"].as_str().unwrap().to_owned();
            this.change(|state, version| {
                state.jobs.insert(name, job);
                state.jobs.values_mut().last().unwrap()["metadata"]["resourceVersion"] = version;
            });
        }
        this.crash();
        this
    }

    fn state(&self) -> &State {
        self.history.last().unwrap()
    }

    pub fn jobs(&self) -> &BTreeMap<String, Value> {
        &self.state().jobs
    }

    pub fn pods<'a>(&'a self, job: &'a str) -> impl Iterator<Item = &'a Value> {
        let uid = format!("{job}-uid");
        self.state().pods.values().filter(move |pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid)
    }

    /// How many pods of a job have a node, and how many it has.
    pub fn placed(&self, job: &str) -> (usize, usize) {
        (self.pods(job).filter(|pod| pod["spec"]["nodeName"].is_string()).count(), self.pods(job).count())
    }

    pub fn intent(&self, job: &str) -> Value {
        let text = self.jobs()[job]["metadata"]["annotations"]["trainyard.dev/placement"].as_str().unwrap_or("null");
        serde_json::from_str(text).unwrap()
    }

    fn change(&mut self, how: impl FnOnce(&mut State, Value)) {
        let mut state = self.state().clone();
        how(&mut state, json!(self.history.len().to_string()));
        self.history.push(state);
    }

    pub fn wake(&mut self, who: Controller) {
        self.dirty.insert(who);
    }

    fn wake_all(&mut self) {
        self.wake_jobs();
        self.dirty.insert(Controller::Gangs);
    }

    fn wake_jobs(&mut self) {
        let jobs: Vec<Controller> = self.jobs().keys().cloned().map(Controller::Job).collect();
        self.dirty.extend(jobs);
    }

    /// Wakes whom the last change wakes: gangs are not decided anew for a pod that is there as it was decided.
    fn wake_by_change(&mut self) {
        self.wake_jobs();
        let [.., before, after] = self.history.as_slice() else { return };
        let read = |pod: &Value| serde_json::from_value::<Pod>(pod.clone()).unwrap();
        let names: BTreeSet<&String> = before.pods.keys().chain(after.pods.keys()).collect();
        let of_pods = names.into_iter().any(|name| {
            let (old, new) = (before.pods.get(name), after.pods.get(name));
            let (old_pod, new_pod) = (old.map(read), new.map(read));
            let placed_ms = |uid: &str| self.placed_ms.borrow().get(uid).copied();
            old != new && !is_as_decided(old_pod.as_ref(), new_pod.as_ref(), placed_ms)
        });
        let of_jobs = after.jobs.iter().any(|(name, job)| {
            let placement = |job: &Value| job["metadata"]["annotations"][label::PLACEMENT].clone();
            let old = before.jobs.get(name).unwrap_or(&Value::Null);
            old != job && (self.pods(name).next().is_none() || placement(old) != placement(job))
        });
        if of_pods || of_jobs {
            self.dirty.insert(Controller::Gangs);
        }
    }

    /// Everything that only the process knew is gone; the next one lists everything.
    pub fn crash(&mut self) {
        self.flights.clear();
        self.waits.clear();
        self.timers.clear();
        self.drafts.borrow_mut().clear();
        self.placed_ms.borrow_mut().clear();
        let now = self.history.len() - 1;
        self.seen = (now, now);
        self.wake_all();
    }

    pub fn sleep(&mut self, ms: i64) {
        self.now_ms += ms;
        let due: Vec<Controller> =
            self.timers.iter().filter(|(_, at)| **at <= self.now_ms).map(|(who, _)| who.clone()).collect();
        for who in due {
            self.timers.remove(&who);
            self.dirty.insert(who);
        }
    }

    fn view(&self, name: &str) -> Option<JobView> {
        let (jobs, rest) = (&self.history[self.seen.0], &self.history[self.seen.1]);
        let read = |object: &Value| serde_json::from_value(object.clone()).unwrap();
        let near = |key: &String| key.starts_with(&format!("{name}-"));
        Some(JobView {
            job: jobs.jobs.get(name)?.clone(),
            pods: rest.pods.iter().filter(|(key, _)| near(key)).map(|(_, pod)| read(pod)).collect(),
            services: rest
                .services
                .iter()
                .filter(|(key, _)| near(key))
                .map(|(_, one)| serde_json::from_value::<Service>(one.clone()).unwrap())
                .collect(),
            extras: Vec::new(),
            related: Vec::new(),
            busy_ports: BTreeSet::new(),
            silent_nodes: BTreeSet::new(),
            rendezvous: None,
            config: Config { gangs: true, binds: true, ..Config::cluster() },
        })
    }

    fn gangs(&self) -> ClusterView {
        let (jobs, rest) = (&self.history[self.seen.0], &self.history[self.seen.1]);
        let nodes = self.nodes.iter().map(|node| serde_json::from_value::<Node>(node.clone()).unwrap()).collect();
        let pods = rest.pods.values().map(|pod| serde_json::from_value::<Pod>(pod.clone()).unwrap()).collect();
        let (mut owners, mut drafts) = (BTreeMap::new(), BTreeMap::new());
        for (name, job) in &jobs.jobs {
            let uid = job["metadata"]["uid"].as_str().unwrap().to_owned();
            let object = ObjectRef {
                api_version: "trainyard.dev/v1alpha1".to_owned(),
                kind: "TrainingJob".to_owned(),
                namespace: "team".to_owned(),
                name: name.clone(),
            };
            let annotations = serde_json::from_value(job["metadata"]["annotations"].clone()).unwrap_or_default();
            let version = job["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            owners.insert(uid.clone(), Owner::read(object, version.clone(), Some(&annotations)));
            // As long as the job stays as it is, so does its draft: its pods may be on their way.
            let known =
                self.drafts.borrow().get(&uid).filter(|(of, _)| *of == version).map(|(_, draft)| Arc::clone(draft));
            let fresh = || self.view(name).and_then(|view| planner::draft(&view, self.now_ms)).map(Arc::new);
            if let Some(draft) = known.or_else(fresh) {
                self.drafts.borrow_mut().insert(uid.clone(), (version, Arc::clone(&draft)));
                drafts.insert(uid, draft);
            }
        }
        let placed =
            owners.iter().filter_map(|(uid, owner): (&String, &Owner)| Some((uid.clone(), owner.placed_ms()?)));
        *self.placed_ms.borrow_mut() = placed.collect();
        let gangs = GangView { nodes, pods, ..GangView::default() };
        ClusterView { gangs, owners, drafts, patience_ms: PATIENCE_MS }
    }

    fn actions(&self, who: &Controller) -> (Vec<Action>, Option<i64>) {
        let plan = match who {
            Controller::Gangs => place_on_cluster(&self.gangs(), self.now_ms).plan,
            Controller::Job(name) => match self.view(name) {
                Some(view) => planner::plan(&view, self.now_ms),
                None => return (Vec::new(), None),
            },
        };
        let is_write = |action: &Action| !matches!(action, Action::Event { .. });
        (plan.actions.into_iter().filter(is_write).collect(), plan.wake_at_ms)
    }

    fn plan(&mut self, who: Controller) {
        self.dirty.remove(&who);
        self.decisions += usize::from(who == Controller::Gangs);
        let (actions, wake) = self.actions(&who);
        if let Some(at) = wake {
            let timer = self.timers.entry(who.clone()).or_insert(at);
            *timer = at.min(*timer);
        }
        if !actions.is_empty() {
            self.flights.push(Flight { who, actions });
        }
    }

    fn plannable(&mut self) -> Vec<Controller> {
        let shown = self.seen.0.min(self.seen.1);
        self.waits.retain(|_, version| *version > shown);
        let busy =
            |who: &&Controller| self.waits.contains_key(who) || self.flights.iter().any(|flight| flight.who == **who);
        self.dirty.iter().filter(|who| !busy(who)).cloned().collect()
    }

    /// Carries out one action of a flight: any of those that go at the same time.
    fn act(&mut self, flight: usize, roll: usize) -> bool {
        let actions = &mut self.flights[flight].actions;
        let batch = 1 + actions.iter().skip(1).take_while(|action| action.joins(&actions[0])).count();
        let action = actions.remove(roll % batch);
        let done = self.carry_out(&action);
        let flight_done = !done || self.flights[flight].actions.is_empty();
        if flight_done {
            let flight = self.flights.remove(flight);
            self.waits.insert(flight.who.clone(), self.history.len() - 1);
            self.dirty.insert(flight.who);
        }
        done
    }

    fn table<'a>(state: &'a mut State, kind: &str) -> &'a mut BTreeMap<String, Value> {
        match kind {
            "Pod" => &mut state.pods,
            "Service" => &mut state.services,
            _ => &mut state.jobs,
        }
    }

    fn is_meant(&self, object: &ObjectRef, fence: &Fence) -> bool {
        let mut state = self.state().clone();
        let Some(there) = Self::table(&mut state, &object.kind).get(&object.name) else { return false };
        let same = |field: &str, wanted: &Option<String>| {
            wanted.is_none() || there["metadata"][field].as_str() == wanted.as_deref()
        };
        same("uid", &fence.uid) && same("resourceVersion", &fence.resource_version)
    }

    fn carry_out(&mut self, action: &Action) -> bool {
        let (said, done) = match action {
            Action::Create { object, body } => {
                let mut state = self.state().clone();
                if let Some(there) = Self::table(&mut state, &object.kind).get(&object.name) {
                    return there["metadata"]["ownerReferences"] == body["metadata"]["ownerReferences"];
                }
                if self.refuse.as_deref() == Some(&object.name) {
                    return false;
                }
                self.next += 1;
                let (uid, now, mut made) = (self.next, self.now_ms, body.clone());
                self.change(|state, version| {
                    made["metadata"]["uid"] = json!(format!("uid-{uid}"));
                    made["metadata"]["creationTimestamp"] = json!(instant::text(now));
                    made["metadata"]["resourceVersion"] = version;
                    if object.kind == "Pod" {
                        made["status"]["phase"] = json!("Pending");
                    }
                    Self::table(state, &object.kind).insert(object.name.clone(), made);
                });
                (format!("create {} {}", object.kind, object.name), true)
            }
            Action::Delete { object, fence, .. } => {
                let there = self.is_meant(object, fence);
                if there {
                    self.change(|state, _| drop(Self::table(state, &object.kind).remove(&object.name)));
                }
                (format!("delete {} {}", object.kind, object.name), true)
            }
            Action::Patch { object, fence, patch } | Action::PatchStatus { object, fence, patch } => {
                let there = self.is_meant(object, fence);
                if there {
                    self.change(|state, version| {
                        let target = Self::table(state, &object.kind).get_mut(&object.name).unwrap();
                        merge(target, patch);
                        target["metadata"]["resourceVersion"] = version;
                    });
                }
                let is_status = matches!(action, Action::PatchStatus { .. });
                let verb = if is_status { "status" } else { "patch" };
                (format!("{verb} {} {}", object.kind, object.name), there)
            }
            Action::Bind { pod, fence, node } => {
                let there = self.is_meant(pod, fence) && self.state().pods[&pod.name]["spec"]["nodeName"].is_null();
                if there {
                    self.change(|state, version| {
                        let target = state.pods.get_mut(&pod.name).unwrap();
                        target["spec"]["nodeName"] = json!(node);
                        target["metadata"]["resourceVersion"] = version;
                    });
                }
                (format!("bind {}", pod.name), there)
            }
            Action::Event { .. } => return true,
        };
        if done {
            self.writes.push(said);
        }
        self.wake_by_change();
        done
    }

    /// How often gangs were decided.
    pub fn decisions(&self) -> usize {
        self.decisions
    }

    pub fn remove(&mut self, pod: &str) {
        self.writes.push(format!("# {pod} is removed"));
        self.change(|state, _| drop(state.pods.remove(pod)));
        self.wake_by_change();
    }

    fn set_phase(&mut self, pod: &str, phase: &str) {
        self.writes.push(format!("# {pod}: {phase}"));
        self.change(|state, version| {
            let pod = state.pods.get_mut(pod).unwrap();
            pod["status"]["phase"] = json!(phase);
            pod["metadata"]["resourceVersion"] = version;
        });
        self.wake_by_change();
    }

    fn on_nodes(&self, of: impl Fn(&Value) -> bool) -> Vec<String> {
        let pods = self.state().pods.iter();
        pods.filter(|(_, pod)| pod["spec"]["nodeName"].is_string() && of(pod)).map(|(name, _)| name.clone()).collect()
    }

    /// All pods with a node run.
    pub fn run_all(&mut self) {
        for pod in self.on_nodes(|pod| pod["status"]["phase"] == "Pending") {
            self.set_phase(&pod, "Running");
        }
    }

    /// All pods of a job end well.
    pub fn end(&mut self, job: &str) {
        let uid = format!("{job}-uid");
        for pod in self.on_nodes(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid) {
            self.set_phase(&pod, "Succeeded");
        }
    }

    fn watch(&mut self) {
        let now = self.history.len() - 1;
        self.seen = (now, now);
    }

    /// Nothing lags and nothing fails, but what is refused, until there is nothing to do without time.
    pub fn settle(&mut self) {
        self.settle_until(|_| false);
    }

    pub fn settle_until(&mut self, enough: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if enough(self) {
                return;
            }
            self.watch();
            if !self.flights.is_empty() {
                if !self.act(0, 0) {
                    // What is refused is tried again later.
                    self.dirty.clear();
                    self.wake(Controller::Gangs);
                }
            } else if let Some(who) = self.plannable().first().cloned() {
                self.plan(who);
            } else {
                return;
            }
            self.check(0);
        }
        panic!("never comes to rest: {:?}", &self.writes[self.writes.len() - 20..]);
    }

    /// No node holds more than it has, but for pods of an attempt that was taken back, or suspended, while they were made: they go next.
    fn check(&self, seed: u64) {
        for node in &self.nodes {
            let taken_back = |pod: &Value| {
                let job = pod["metadata"]["ownerReferences"][0]["name"].as_str().unwrap();
                let placed = &pod["metadata"]["annotations"][label::PLACED];
                let intent = self.intent(job);
                let suspended = self.jobs()[job]["spec"]["suspend"] == true;
                placed.is_string()
                    && (suspended || intent["notBeforeMs"].is_number() || *placed != json!(intent["atMs"].to_string()))
            };
            let on_it =
                |pod: &&Value| pod["spec"]["nodeName"] == node["metadata"]["name"] && !is_over(pod) && !taken_back(pod);
            let used = self.state().pods.values().filter(on_it).count();
            let has: usize = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
            assert!(used <= has, "seed {seed}: {used} pods on {}: {:#?}", node["metadata"]["name"], self.writes);
        }
    }

    /// Of no gang that has not started has only a part nodes. A pod that one which runs has lost may wait alone.
    fn check_whole(&self, seed: u64) {
        for (name, job) in self.jobs() {
            let (placed, size) = (self.placed(name).0, job["spec"]["replicas"].as_u64().unwrap());
            let started = self.pods(name).any(|pod| pod["status"]["phase"] != "Pending");
            let whole = placed == usize::try_from(size).unwrap();
            assert!(placed == 0 || whole || started, "seed {seed}: {name} has {placed} of {size}: {:#?}", self.writes);
        }
    }
}

/// Numbers that look random, the same for a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

impl Cluster {
    fn rough_step(&mut self, dice: &mut Dice) {
        let now = self.history.len() - 1;
        match dice.roll(100) {
            0..20 => self.seen.0 = (self.seen.0 + 1 + dice.roll(4)).min(now),
            20..40 => self.seen.1 = (self.seen.1 + 1 + dice.roll(4)).min(now),
            40..75 if !self.flights.is_empty() => {
                let flight = dice.roll(self.flights.len());
                if dice.roll(30) == 0 {
                    // Refused.
                    let who = self.flights.remove(flight).who;
                    self.waits.insert(who.clone(), now);
                    self.dirty.insert(who);
                } else {
                    let roll = dice.roll(64);
                    self.act(flight, roll);
                }
            }
            75..90 => {
                let all = self.plannable();
                if !all.is_empty() {
                    self.plan(all[dice.roll(all.len())].clone());
                }
            }
            90 => {
                self.writes.push("# crash".to_owned());
                self.crash();
            }
            91 => self.sleep(i64::try_from(dice.roll(20_000)).unwrap()),
            92 | 93 => self.run_all(),
            94 => {
                let running = self.on_nodes(|pod| pod["status"]["phase"] == "Running");
                if !running.is_empty() {
                    let phase = if dice.roll(4) == 0 { "Failed" } else { "Succeeded" };
                    self.set_phase(&running[dice.roll(running.len())].clone(), phase);
                }
            }
            95 => {
                // Whoever removes a pod that has ended from a gang that has not started yet has it made anew in its old place.
                let there = self.state().pods.iter().filter(|(_, pod)| !is_over(pod));
                let all: Vec<String> = there.map(|(name, _)| name.clone()).collect();
                if !all.is_empty() && dice.roll(3) == 0 {
                    self.remove(&all[dice.roll(all.len())].clone());
                }
            }
            96 => {
                let node = dice.roll(self.nodes.len());
                let ready = if dice.roll(3) == 0 { "False" } else { "True" };
                self.nodes[node]["status"]["conditions"][0]["status"] = json!(ready);
                self.writes.push(format!("# node-{node} ready: {ready}"));
                self.wake(Controller::Gangs);
            }
            97 => {
                let suspend = dice.roll(3) == 0;
                self.writes.push(format!("# suspend: {suspend}"));
                let all: Vec<String> = self.jobs().keys().cloned().collect();
                let name = all[dice.roll(all.len())].clone();
                self.change(|state, version| {
                    let job = state.jobs.get_mut(&name).unwrap();
                    job["spec"]["suspend"] = json!(suspend);
                    job["metadata"]["resourceVersion"] = version;
                });
                self.wake_all();
            }
            _ => {}
        }
    }

    fn calm_down(&mut self) {
        for node in &mut self.nodes {
            node["status"]["conditions"][0]["status"] = json!("True");
        }
        let names: Vec<String> = self.jobs().keys().cloned().collect();
        for name in names {
            self.change(|state, version| {
                let job = state.jobs.get_mut(&name).unwrap();
                job["spec"]["suspend"] = json!(false);
                job["metadata"]["resourceVersion"] = version;
            });
        }
        self.wake_all();
    }
}

pub fn random(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678);
    let jobs = (0..2 + dice.roll(4)).map(|at| job(&format!("job{at}"), 1 + dice.roll(5))).collect();
    let mut cluster = Cluster::new(&[3, 3, 2], jobs);
    for _ in 0..400 {
        cluster.rough_step(&mut dice);
        cluster.check(seed);
    }
    cluster.calm_down();
    // Every job ends once nothing breaks any more.
    for _ in 0..200 {
        cluster.settle();
        cluster.check_whole(seed);
        cluster.run_all();
        cluster.settle();
        for pod in cluster.on_nodes(|pod| pod["status"]["phase"] == "Running") {
            cluster.set_phase(&pod, "Succeeded");
        }
        cluster.settle();
        cluster.sleep(60_000);
    }
    for (name, job) in cluster.jobs() {
        let phase = job["status"]["phase"].as_str().unwrap_or_default();
        assert!(
            matches!(phase, "Succeeded" | "Failed"),
            "seed {seed}: {name} is {}: {:#?}",
            job["status"],
            cluster.writes
        );
    }
}

//! Queues, and what jobs say of them: two or three ClusterQueues of one cohort, the ways to them, and classes of priority.
//!
//! All of it is drawn from a generator of its own, so that worlds without queues stay as they are.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_coordinator_core::gang::QUEUE_API_VERSION;
use trainyard_coordinator_core::label;
use trainyard_proto::plan::ObjectRef;
use trainyard_runtime_core::store::{Key, Part};

use crate::Worlds;
use crate::workload::{NODE_CPU, NODE_GPU, object_ref, pick};
use crate::world::World;

/// Version of PriorityClass.
pub(crate) const CLASS_VERSION: &str = "scheduling.k8s.io/v1";
/// Most jobs of a world with queues.
const MOST_JOBS: u64 = 10;
/// Names of the classes. Users may also name one that is not there.
const CLASSES: [&str; 2] = ["low", "high"];
/// What quota is about. Of each, every queue can get what the largest job asks for: one node of it.
const RESOURCES: [(&str, i64); 2] = [("cpu", NODE_CPU), ("nvidia.com/gpu", NODE_GPU)];

/// What a world has beside jobs and nodes.
pub(crate) struct Estate {
    pub(crate) rng: ChaCha8Rng,
    /// Names of the LocalQueues; none in a world without queues.
    locals: Vec<String>,
    /// Whether a scheduler of the cluster binds what is let go.
    pub(crate) is_cluster: bool,
    /// Pods that it never binds while things break, by uid.
    pub(crate) stuck: BTreeMap<String, bool>,
}

/// The limits of one queue for one resource.
#[derive(Clone, Copy, Debug)]
struct Limits {
    nominal: i64,
    borrowing: Option<i64>,
    lending: Option<i64>,
}

impl Limits {
    fn draw(rng: &mut ChaCha8Rng, most: i64) -> Self {
        // Little enough that jobs are in each other's way.
        let nominal = rng.random_range(0..=most / 2);
        let mut maybe = |most: i64| (rng.random_range(0..3) == 0).then(|| rng.random_range(0..=most));
        Self { nominal, borrowing: maybe(most), lending: maybe(nominal) }
    }

    fn lent(&self) -> i64 {
        self.lending.map_or(self.nominal, |limit| limit.min(self.nominal))
    }
}

impl Estate {
    pub(crate) fn draw(seed: u64, worlds: Worlds) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(!seed.rotate_left(32));
        let drawn = rng.random_range(0..2) == 0;
        let on_cluster = rng.random_range(0..3) == 0;
        let (is_queued, is_cluster) = match worlds {
            Worlds::Drawn => (drawn, on_cluster),
            Worlds::Plain => (false, false),
            Worlds::Queued => (true, false),
            Worlds::Cluster => (drawn, true),
        };
        let locals = if is_queued { vec!["lq-0".to_owned(), "lq-1".to_owned()] } else { Vec::new() };
        Self { rng, locals, is_cluster, stuck: BTreeMap::new() }
    }

    pub(crate) const fn is_queued(&self) -> bool {
        !self.locals.is_empty()
    }

    /// Most milliseconds that pass at once. A gang that began is left alone for a minute: where nothing lasts longer, nobody would ever
    /// have to make room.
    pub(crate) const fn most_wait_ms(&self) -> i64 {
        if self.is_queued() { 60_000 } else { 5_000 }
    }

    /// Most milliseconds that a process lasts.
    pub(crate) const fn most_run_ms(&self) -> i64 {
        if self.is_queued() { 600_000 } else { 30_000 }
    }

    /// The queues of the world, and all that belongs to them.
    pub(crate) fn objects(&mut self) -> Vec<(ObjectRef, Value)> {
        if !self.is_queued() {
            return Vec::new();
        }
        let rng = &mut self.rng;
        let queues = rng.random_range(2..=3);
        let covered: &[(&str, i64)] = match rng.random_range(0..4) {
            0 => &RESOURCES[..1],
            1 => &RESOURCES[1..],
            _ => &RESOURCES,
        };
        let (cohort, mut quotas) = quotas(rng, queues, covered);
        let has_annex = queues > 2 && rng.random_range(0..3) == 0;
        let mut objects = Vec::new();
        if has_annex || cohort.iter().any(|nominal| *nominal > 0) {
            let groups: Vec<Value> = covered
                .iter()
                .zip(&cohort)
                .map(|((name, _), nominal)| json!({"name": name, "nominalQuota": nominal.to_string()}))
                .collect();
            objects.push(object("Cohort", "", "lab", &json!({"resourceGroups": group(covered, groups)})));
        }
        if has_annex {
            objects.push(object("Cohort", "", "annex", &json!({"parentName": "lab"})));
        }
        for (at, limits) in quotas.drain(..).enumerate() {
            let cohort = if has_annex && at == 2 { "annex" } else { "lab" };
            let name = format!("cq-{at}");
            let spec = queue(rng, cohort, covered, &limits);
            objects.push(object("ClusterQueue", "", &name, &spec));
            let local = format!("lq-{at}");
            objects.push(object("LocalQueue", "default", &local, &json!({"clusterQueue": name})));
        }
        for (at, name) in (0..).zip(CLASSES) {
            objects.push(class(name, at * 10));
        }
        self.locals = (0..queues).map(|at| format!("lq-{at}")).collect();
        objects
    }

    /// Puts a new job into a queue, and says how important it is.
    pub(crate) fn enlist(&mut self, body: &mut Value) {
        if self.is_cluster && body["kind"] == "TrainingJob" {
            body["spec"]["image"] = json!("trainer");
        }
        if !self.is_queued() {
            return;
        }
        let rng = &mut self.rng;
        let queue = (rng.random_range(0..6) > 0).then(|| self.locals[rng.random_range(0..self.locals.len())].clone());
        let class = pick(rng, &["low", "high", "none"]);
        let number = rng.random_range(-1..=1) * 5;
        let (is_ranked, by_number, by_label) =
            (rng.random_range(0..3) > 0, rng.random_range(0..2) == 0, rng.random_range(0..3) == 0);
        match body["kind"].as_str() {
            Some("TrainingJob") => {
                if is_ranked {
                    body["spec"]["priority"] = if by_number { json!(number) } else { json!(class) };
                }
                if let Some(queue) = queue {
                    let place = if by_label {
                        &mut body["metadata"]["labels"][label::QUEUE_NAME]
                    } else {
                        &mut body["spec"]["queue"]
                    };
                    *place = json!(queue);
                }
            }
            Some("PyTorchJob") => {
                // Of two replicas at least, whatever users make of it later.
                let is_elastic = body["spec"]["pytorchReplicaSpecs"].get("Worker").is_some() && by_number;
                let policy = &mut body["spec"]["runPolicy"]["schedulingPolicy"];
                if is_ranked {
                    policy["priorityClass"] = json!(class);
                }
                if is_elastic {
                    policy["minAvailable"] = json!(rng.random_range(1..=2));
                }
                if let Some(queue) = queue {
                    policy["queue"] = json!(queue);
                }
            }
            Some("Job") => {
                let template = &mut body["spec"]["template"];
                if is_ranked {
                    template["spec"]["priorityClassName"] = json!(class);
                }
                if let Some(queue) = queue {
                    template["metadata"]["labels"][label::QUEUE_NAME] = json!(queue);
                    if self.is_cluster {
                        template["spec"]["schedulingGates"] = json!([{"name": label::GANG_GATE}]);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What the cohort has of its own, and the limits of its queues: such that each queue can get what the largest job asks for.
fn quotas(rng: &mut ChaCha8Rng, queues: usize, covered: &[(&str, i64)]) -> (Vec<i64>, Vec<Vec<Limits>>) {
    let of_cohort = rng.random_range(0..4) == 0;
    let cohort: Vec<i64> =
        covered.iter().map(|(_, most)| if of_cohort { rng.random_range(0..=*most) } else { 0 }).collect();
    let mut all: Vec<Vec<Limits>> =
        (0..queues).map(|_| covered.iter().map(|(_, most)| Limits::draw(rng, *most)).collect()).collect();
    for (at, (_, most)) in covered.iter().enumerate() {
        for queue in 0..queues {
            let lent: i64 = (0..queues).filter(|other| *other != queue).map(|other| all[other][at].lent()).sum();
            let limits = &mut all[queue][at];
            let borrowed = limits.borrowing.map_or(lent + cohort[at], |limit| limit.min(lent + cohort[at]));
            limits.nominal = limits.nominal.max(most - borrowed);
        }
    }
    (cohort, all)
}

fn group(covered: &[(&str, i64)], resources: Vec<Value>) -> Value {
    let names: Vec<&str> = covered.iter().map(|(name, _)| *name).collect();
    json!([{"coveredResources": names, "flavors": [{"name": "default", "resources": resources}]}])
}

fn queue(rng: &mut ChaCha8Rng, cohort: &str, covered: &[(&str, i64)], limits: &[Limits]) -> Value {
    let resources = covered.iter().zip(limits).map(|((name, _), limits)| {
        let mut one = json!({"name": name, "nominalQuota": limits.nominal.to_string()});
        for (field, limit) in [("borrowingLimit", limits.borrowing), ("lendingLimit", limits.lending)] {
            if let Some(limit) = limit {
                one[field] = json!(limit.to_string());
            }
        }
        one
    });
    let resources = resources.collect();
    let mut spec = json!({
        "cohort": cohort, "resourceGroups": group(covered, resources), "preemption": preemption(rng),
        "queueingStrategy": pick(rng, &["BestEffortFIFO", "BestEffortFIFO", "StrictFIFO"]),
    });
    if rng.random_range(0..3) == 0 {
        spec["fairSharing"] = json!({"weight": rng.random_range(1..=4).to_string()});
    }
    spec
}

fn preemption(rng: &mut ChaCha8Rng) -> Value {
    json!({
        "reclaimWithinCohort": pick(rng, &["Never", "LowerPriority", "Any"]),
        "withinClusterQueue": pick(rng, &["Never", "LowerPriority", "LowerOrNewerEqualPriority"]),
    })
}

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> (ObjectRef, Value) {
    let mut metadata = json!({"name": name});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    let body = json!({"apiVersion": QUEUE_API_VERSION, "kind": kind, "metadata": metadata, "spec": spec});
    (object_ref(QUEUE_API_VERSION, kind, namespace, name), body)
}

fn class(name: &str, value: i64) -> (ObjectRef, Value) {
    let body =
        json!({"apiVersion": CLASS_VERSION, "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
    (object_ref(CLASS_VERSION, "PriorityClass", "", name), body)
}

impl World {
    /// Now and then, in the rough part, whoever runs the queues changes something. Quota is only ever given: where it is taken away, what
    /// runs already is more than there is.
    pub(crate) fn tend(&mut self) {
        if !self.estate.is_queued() || self.estate.rng.random_range(0..20) > 0 {
            return;
        }
        self.memory.happened();
        match self.estate.rng.random_range(0..12) {
            0 => self.stop_a_queue(),
            1 => self.change_preemption(),
            2 => self.raise_a_quota(),
            3 => self.change_a_class(),
            4 | 5 => self.move_a_job(),
            _ if self.report.jobs < MOST_JOBS => self.create_job(),
            _ => {}
        }
    }

    fn a_queue(&mut self, kinds: &[&'static str]) -> Option<Key> {
        let kind = pick(&mut self.estate.rng, kinds);
        let keys: Vec<Key> = self.api.of_kind(QUEUE_API_VERSION, kind).map(|one| one.key().clone()).collect();
        (!keys.is_empty()).then(|| keys[self.estate.rng.random_range(0..keys.len())].clone())
    }

    fn stop_a_queue(&mut self) {
        let Some(key) = self.a_queue(&["ClusterQueue", "LocalQueue"]) else { return };
        let policy = pick(&mut self.estate.rng, &["None", "None", "Hold", "HoldAndDrain"]);
        self.patch(&key, &json!({"spec": {"stopPolicy": policy}}));
    }

    fn change_preemption(&mut self) {
        let Some(key) = self.a_queue(&["ClusterQueue"]) else { return };
        let preemption = preemption(&mut self.estate.rng);
        self.patch(&key, &json!({"spec": {"preemption": preemption}}));
    }

    fn raise_a_quota(&mut self) {
        let Some(key) = self.a_queue(&["ClusterQueue"]) else { return };
        let Some(queue) = self.api.store.get(&key) else { return };
        let mut groups = queue.value()["spec"]["resourceGroups"].clone();
        let Some(resources) = groups[0]["flavors"][0]["resources"].as_array_mut() else { return };
        for one in resources {
            let nominal: i64 = one["nominalQuota"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            one["nominalQuota"] = json!((nominal + self.estate.rng.random_range(0..=2)).to_string());
        }
        self.patch(&key, &json!({"spec": {"resourceGroups": groups}}));
    }

    /// A class cannot be changed: it is deleted, and made anew.
    fn change_a_class(&mut self) {
        let name = pick(&mut self.estate.rng, &CLASSES);
        let (object, body) = class(name, self.estate.rng.random_range(-1..=2) * 10);
        let key = self.api.kinds.key(&object);
        let gone = key.is_some_and(|key| self.api.delete(self.now_ms, &key, None, None, None).is_ok());
        let made = self.api.create(self.now_ms, &object, body).is_ok();
        self.say(|| format!("priority class {name} is deleted: {gone}, and made: {made}"));
    }

    fn move_a_job(&mut self) {
        let of_kind = |kind| self.api.of_kind("trainyard.dev/v1alpha1", kind).map(|job| job.key().clone());
        let keys: Vec<Key> = of_kind("TrainingJob").collect();
        if keys.is_empty() {
            return;
        }
        let rng = &mut self.estate.rng;
        let key = keys[rng.random_range(0..keys.len())].clone();
        let locals = &self.estate.locals;
        let patch = if rng.random_range(0..2) == 0 {
            json!({"spec": {"queue": locals[rng.random_range(0..locals.len())]}})
        } else {
            json!({"spec": {"priority": rng.random_range(-2..=2) * 5}})
        };
        self.patch(&key, &patch);
    }

    /// Nothing stays stopped.
    pub(crate) fn open_queues(&mut self) {
        for kind in ["ClusterQueue", "LocalQueue"] {
            let keys: Vec<Key> = self.api.of_kind(QUEUE_API_VERSION, kind).map(|one| one.key().clone()).collect();
            for key in keys {
                let patch = json!({"spec": {"stopPolicy": null}});
                let opened = self.api.patch(self.now_ms, &key, &patch, Part::Main);
                opened.expect("a queue that is there takes a patch of its spec");
            }
        }
    }
}

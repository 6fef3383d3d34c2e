//! Where gangs wait: queues, cohorts and the topology, by Kueue's kinds and fields.
//!
//! Flavors are added up: quota is by resource. What does not read is told in the object's `Active` condition, and counts as if it
//! were not there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::quantity;

use super::gather::{annotation, pod_label};
use super::reason::Wait;
use super::scene::Kind;
use super::{GangView, WaitCode};
use crate::label;
use crate::schedule::{self, ClusterQueue, Cohort, Level, Policy, PreemptionPolicy, QueueingStrategy, Quota};

/// Group and version of the kinds.
pub const API_VERSION: &str = "kueue.x-k8s.io/v1beta1";
/// The kinds that are read, with their plurals, and whether they are in a namespace.
pub const KINDS: [(&str, &str, bool); 4] = [
    ("ClusterQueue", "clusterqueues", false),
    ("LocalQueue", "localqueues", true),
    ("Cohort", "cohorts", false),
    ("Topology", "topologies", false),
];

/// Levels of the topology where nobody says: zone, block, rack, NVLink domain.
const LEVELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "cloud.provider.com/topology-block",
    "cloud.provider.com/topology-rack",
    "nvidia.com/gpu.clique",
];
/// After so long without use, what a queue used counts for half.
const HALF_LIFE_MS: i64 = 86_400_000;

/// Quota by the names of the resources.
type Quotas = BTreeMap<String, Limits>;

#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    nominal: i64,
    borrowing: Option<i64>,
    lending: Option<i64>,
}

/// What a queue uses, and used, as it is written down whenever that changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    /// As of when.
    pub(super) at_ms: i64,
    /// What it has used since.
    pub(super) used: BTreeMap<String, i64>,
    /// What it used before, decayed.
    pub(super) decayed: BTreeMap<String, i64>,
}

#[derive(Clone, Debug)]
struct NamedQueue {
    queue: ClusterQueue,
    cohort: Option<String>,
    quotas: Quotas,
    usage: Usage,
}

#[derive(Clone, Debug)]
struct NamedCohort {
    name: String,
    parent: Option<String>,
    quotas: Quotas,
    weight_milli: u32,
}

/// Queues, cohorts and the topology, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Setting {
    pub(super) levels: Vec<Level>,
    /// The implicit one first: of what names no queue.
    queues: Vec<NamedQueue>,
    cohorts: Vec<NamedCohort>,
    /// By namespace and name: the position of the queue, and whether nothing new may start.
    local: BTreeMap<(String, String), (Option<u32>, bool)>,
    /// Whether there is any queue object.
    some: bool,
    /// What is wrong with an object, by its position among the view's.
    pub(super) problems: BTreeMap<usize, Vec<String>>,
}

/// One object while it is being read.
struct Reader<'a> {
    object: &'a Value,
    problems: Vec<String>,
}

impl Setting {
    pub(super) fn read(view: &GangView, now_ms: i64) -> Self {
        let mut setting = Self::default();
        let implicit = ClusterQueue { weight_milli: 1000, ..ClusterQueue::default() };
        setting.queues.push(NamedQueue {
            queue: implicit,
            cohort: None,
            quotas: Quotas::new(),
            usage: Usage::default(),
        });
        let of = |kind: &'static str| view.queues.iter().enumerate().filter(move |(_, object)| object["kind"] == kind);
        let mut labels: Vec<String> = Vec::new();
        for (at, object) in of("Topology") {
            let mut reader = Reader::new(object);
            let levels = object.pointer("/spec/levels").and_then(Value::as_array).into_iter().flatten();
            let found: Vec<String> =
                levels.filter_map(|level| level["nodeLabel"].as_str().map(str::to_owned)).collect();
            if found.is_empty() {
                reader.problems.push("spec.levels names no nodeLabel".to_owned());
            }
            labels.extend(found.into_iter().filter(|label| !labels.contains(label)).collect::<Vec<_>>());
            setting.note(at, reader);
        }
        for (at, object) in of("Cohort") {
            let mut reader = Reader::new(object);
            let cohort = NamedCohort {
                name: reader.name(),
                parent: reader.text(&["parentName", "parent"]),
                quotas: reader.quotas(),
                weight_milli: reader.weight(),
            };
            setting.cohorts.push(cohort);
            setting.note(at, reader);
        }
        for (at, object) in of("ClusterQueue") {
            setting.some = true;
            let mut reader = Reader::new(object);
            let queue = reader.queue(now_ms);
            setting.queues.push(queue);
            setting.note(at, reader);
        }
        setting.name_cohorts();
        for (at, object) in of("LocalQueue") {
            setting.some = true;
            let mut reader = Reader::new(object);
            setting.read_local(&mut reader);
            setting.note(at, reader);
        }
        setting.levels = levels(view, labels);
        setting
    }

    fn note(&mut self, at: usize, reader: Reader<'_>) {
        self.problems.insert(at, reader.problems);
    }

    /// A cohort need not be an object.
    fn name_cohorts(&mut self) {
        let known: BTreeSet<String> = self.cohorts.iter().map(|cohort| cohort.name.clone()).collect();
        let named = self.queues.iter().filter_map(|queue| queue.cohort.clone());
        let named: BTreeSet<String> = named.chain(self.cohorts.iter().filter_map(|one| one.parent.clone())).collect();
        let bare =
            |name: &String| NamedCohort { name: name.clone(), parent: None, quotas: Quotas::new(), weight_milli: 1000 };
        self.cohorts.extend(named.difference(&known).map(bare));
    }

    fn read_local(&mut self, reader: &mut Reader<'_>) {
        let namespace = reader.object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
        let wanted = reader.text(&["clusterQueue"]).unwrap_or_default();
        let found = self.queues.iter().skip(1).position(|queue| queue.queue.name == wanted);
        if found.is_none() {
            reader.problems.push(format!("there is no ClusterQueue {wanted:?}"));
        }
        let stopped = reader.stopped();
        let at = found.and_then(|at| u32::try_from(at + 1).ok());
        self.local.insert((namespace.to_owned(), reader.name()), (at, stopped));
    }

    /// The queue that a pod's gang waits in. What runs already, and what a gang lacks that runs, is not stopped.
    pub(super) fn queue_of(&self, pod: &Pod, kind: Kind) -> Result<u32, Wait> {
        let name = annotation(pod, label::QUEUE).or_else(|| pod_label(pod, label::QUEUE_NAME));
        let Some(name) = name.filter(|_| self.some) else { return Ok(0) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let wait = |code, message, hint: &str| Err(Wait { code, message, hint: Some(hint.to_owned()) });
        match self.local.get(&(namespace.to_owned(), name.to_owned())) {
            None => {
                let message = format!("there is no LocalQueue {name} in namespace {namespace}");
                wait(WaitCode::NoQueue, message, "create it, or name another (`trainyard get localqueues`)")
            }
            Some((None, _)) => {
                let message = format!("LocalQueue {name} leads to a ClusterQueue that does not exist");
                wait(WaitCode::NoQueue, message, "create that ClusterQueue, or correct the LocalQueue")
            }
            Some((Some(queue), stopped)) => {
                let held = self.queues[*queue as usize].queue.stopped;
                match kind {
                    Kind::Whole | Kind::Spare if *stopped => {
                        let message = format!("LocalQueue {name} is stopped");
                        wait(
                            WaitCode::QueueStopped,
                            message,
                            "whoever runs the queue has to set its stopPolicy to None",
                        )
                    }
                    Kind::Missing if held => Ok(0),
                    Kind::Whole | Kind::Spare | Kind::Missing | Kind::Runs | Kind::Leaves => Ok(*queue),
                }
            }
        }
    }

    /// The resources that quota is about.
    pub(super) fn resources(&self) -> impl Iterator<Item = &str> {
        let queues = self.queues.iter().flat_map(|queue| queue.quotas.keys());
        queues.chain(self.cohorts.iter().flat_map(|cohort| cohort.quotas.keys())).map(String::as_str)
    }

    /// Cohorts and queues, with positions of resources.
    pub(super) fn tree(&self, resources: &BTreeMap<String, usize>) -> (Vec<Cohort>, Vec<ClusterQueue>) {
        let at = |name: &Option<String>| {
            let at = self.cohorts.iter().position(|cohort| Some(&cohort.name) == name.as_ref())?;
            u32::try_from(at).ok()
        };
        let quotas = |quotas: &Quotas| {
            let quota = |(name, limits): (&String, &Limits)| Quota {
                resource: u32::try_from(resources[name]).unwrap_or(u32::MAX),
                nominal: limits.nominal,
                borrowing_limit: limits.borrowing,
                lending_limit: limits.lending,
            };
            quotas.iter().map(quota).collect::<Vec<_>>()
        };
        let cohort = |one: &NamedCohort| Cohort {
            name: one.name.clone(),
            parent: at(&one.parent),
            quotas: quotas(&one.quotas),
            weight_milli: one.weight_milli,
        };
        let queue = |one: &NamedQueue| {
            let mut history = vec![0; resources.len()];
            for (name, amount) in &one.usage.decayed {
                if let Some(at) = resources.get(name) {
                    history[*at] = *amount;
                }
            }
            let mut queue = one.queue.clone();
            (queue.cohort, queue.quotas, queue.history) = (at(&one.cohort), quotas(&one.quotas), history);
            queue
        };
        (self.cohorts.iter().map(cohort).collect(), self.queues.iter().map(queue).collect())
    }

    /// A queue's name for people.
    pub(super) fn title(&self, queue: u32) -> String {
        match self.queues.get(queue as usize).filter(|_| queue > 0) {
            Some(queue) => format!("ClusterQueue {}", queue.queue.name),
            None => "the queue".to_owned(),
        }
    }

    /// Position of a ClusterQueue, and what it used as of now.
    pub(super) fn usage_of(&self, name: &str) -> Option<(u32, &Usage)> {
        let at = self.queues.iter().skip(1).position(|queue| queue.queue.name == name)? + 1;
        Some((u32::try_from(at).ok()?, &self.queues[at].usage))
    }
}

/// The levels, outermost first; one that no node is labelled with is none.
fn levels(view: &GangView, named: Vec<String>) -> Vec<Level> {
    let policy = Policy::default();
    let labels = if named.is_empty() { LEVELS.map(str::to_owned).to_vec() } else { named };
    let has = |node: &Node, label: &str| node.metadata.labels.as_ref().is_some_and(|all| all.contains_key(label));
    let used = |label: &String| view.nodes.iter().any(|node| has(node, label));
    let level =
        |label: String| Level { label, bytes_per_s: policy.cluster_bytes_per_s, latency_ns: policy.cluster_latency_ns };
    labels.into_iter().filter(used).map(level).collect()
}

impl<'a> Reader<'a> {
    const fn new(object: &'a Value) -> Self {
        Self { object, problems: Vec::new() }
    }

    fn name(&self) -> String {
        self.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn spec(&self) -> &'a Value {
        &self.object["spec"]
    }

    /// The first of these fields that is there.
    fn text(&self, fields: &[&str]) -> Option<String> {
        let found = fields.iter().find_map(|field| self.spec()[*field].as_str());
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// One of some words, the first if there is none.
    fn word<T: Copy>(&mut self, path: &str, words: &[(&str, T)]) -> T {
        let found = self.spec().pointer(path).filter(|value| !value.is_null());
        let known = found.and_then(|value| words.iter().find(|(word, _)| value == *word));
        if let (Some(value), None) = (found, known) {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let path = path.trim_start_matches('/').replace('/', ".");
            self.problems.push(format!("spec.{path} is {value}, not one of {}", all.join(", ")));
        }
        known.map_or(words[0].1, |(_, value)| *value)
    }

    fn stopped(&mut self) -> bool {
        self.word("/stopPolicy", &[("None", false), ("Hold", true), ("HoldAndDrain", true)])
    }

    fn amount(&mut self, resource: &str, field: &str, value: &Value) -> Option<i64> {
        if value.is_null() {
            return None;
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match quantity::amount(resource, &text) {
            Ok(amount) if amount >= 0 => Some(amount),
            Ok(_) => {
                self.problems.push(format!("{field} of {resource} is negative"));
                None
            }
            Err(error) => {
                self.problems.push(format!("{field} of {resource}: {error}"));
                None
            }
        }
    }

    fn quotas(&mut self) -> Quotas {
        let mut quotas = Quotas::new();
        let groups = self.spec()["resourceGroups"].as_array().into_iter().flatten();
        let flavors = groups.flat_map(|group| group["flavors"].as_array().into_iter().flatten());
        for one in flavors.flat_map(|flavor| flavor["resources"].as_array().into_iter().flatten()) {
            let Some(name) = one["name"].as_str() else {
                self.problems.push("a quota names no resource".to_owned());
                continue;
            };
            let nominal = self.amount(name, "nominalQuota", &one["nominalQuota"]).unwrap_or(0);
            let borrowing = self.amount(name, "borrowingLimit", &one["borrowingLimit"]);
            let lending = self.amount(name, "lendingLimit", &one["lendingLimit"]);
            // Of several flavors there is a limit if each has one.
            let sum = |a: Option<i64>, b: Option<i64>| Some(a?.saturating_add(b?));
            let limits = quotas.get(name).map_or(Limits { nominal, borrowing, lending }, |before: &Limits| Limits {
                nominal: before.nominal.saturating_add(nominal),
                borrowing: sum(before.borrowing, borrowing),
                lending: sum(before.lending, lending),
            });
            quotas.insert(name.to_owned(), limits);
        }
        quotas
    }

    fn weight(&mut self) -> u32 {
        let value = self.spec().pointer("/fairSharing/weight").cloned().unwrap_or_default();
        // As CPUs are counted: in thousandths.
        let weight = self.amount("cpu", "fairSharing.weight", &value).unwrap_or(1000);
        u32::try_from(weight).unwrap_or(u32::MAX)
    }

    fn queue(&mut self, now_ms: i64) -> NamedQueue {
        let (never, lower) = (PreemptionPolicy::Never, PreemptionPolicy::LowerPriority);
        let within = [
            ("Never", never),
            ("LowerPriority", lower),
            ("LowerOrNewerEqualPriority", PreemptionPolicy::LowerPriority),
        ];
        let reclaim = [("Never", never), ("LowerPriority", lower), ("Any", PreemptionPolicy::Any)];
        let order =
            [("BestEffortFIFO", QueueingStrategy::BestEffortFifo), ("StrictFIFO", QueueingStrategy::StrictFifo)];
        let queue = ClusterQueue {
            name: self.name(),
            weight_milli: self.weight(),
            queueing_strategy: self.word("/queueingStrategy", &order),
            within_cluster_queue: self.word("/preemption/withinClusterQueue", &within),
            reclaim_within_cohort: self.word("/preemption/reclaimWithinCohort", &reclaim),
            stopped: self.stopped(),
            ..ClusterQueue::default()
        };
        let noted = self.object.pointer("/metadata/annotations").and_then(|all| all[label::USAGE].as_str());
        let noted: Usage = noted.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let cohort = self.text(&["cohortName", "cohort"]);
        NamedQueue { queue, cohort, quotas: self.quotas(), usage: noted.as_of(now_ms) }
    }
}

impl Usage {
    /// The same, later.
    pub(super) fn as_of(&self, now_ms: i64) -> Self {
        let names: Vec<&String> =
            self.used.keys().chain(self.decayed.keys()).collect::<BTreeSet<_>>().into_iter().collect();
        let row = |amounts: &BTreeMap<String, i64>| -> Vec<i64> {
            names.iter().map(|name| amounts.get(*name).copied().unwrap_or(0)).collect()
        };
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let decayed = schedule::decay(&row(&self.decayed), &row(&self.used), elapsed_ms, HALF_LIFE_MS);
        let decayed = names.iter().map(|name| (*name).clone()).zip(decayed).filter(|(_, amount)| *amount > 0).collect();
        Self { at_ms: now_ms, used: self.used.clone(), decayed }
    }
}

//! Where gangs wait: queues, cohorts and the topology, by Kueue's kinds and fields.
//!
//! Quota is by flavor and resource, see [`super::flavor`]. What does not read is told in the object's `Active` condition, and counts as if it were not there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::quantity;

use super::flavor::{self, Assigned, Flavors, Group};
use super::gather::{annotation, pod_label};
use super::network::Links;
use super::reason::Wait;
use super::scene::Kind;
use super::{GangView, WaitCode, rule};
use crate::label;
use crate::schedule::{
    self, ClusterQueue, Cohort, Fungibility, Level, Operator, PreemptionPolicy, QueueingStrategy, Quota, Requirement,
    Toleration,
};

/// Group and version of the kinds.
pub const API_VERSION: &str = "kueue.x-k8s.io/v1beta1";
/// The kinds that are read, with their plurals, and whether they are in a namespace.
pub const KINDS: [(&str, &str, bool); 5] = [
    ("ClusterQueue", "clusterqueues", false),
    ("LocalQueue", "localqueues", true),
    ("Cohort", "cohorts", false),
    ("Topology", "topologies", false),
    ("ResourceFlavor", "resourceflavors", false),
];

/// Levels of the topology where nobody says: zone, block, rack, NVLink domain.
const LEVELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "cloud.provider.com/topology-block",
    "cloud.provider.com/topology-rack",
    "nvidia.com/gpu.clique",
];
/// The label by which a namespace is selected by its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// After so long without use, what a queue used counts for half.
const HALF_LIFE_MS: i64 = 86_400_000;

/// Quota by the names of the resource and of its flavor.
type Quotas = BTreeMap<(String, String), Limits>;

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
    /// Whether what runs is stopped as well.
    drained: bool,
    /// What holds of the labels of namespaces whose gangs may begin here; `None`: any namespace.
    namespaces: Option<Vec<Requirement>>,
    groups: Vec<Group>,
    cohort: Option<String>,
    quotas: Quotas,
    usage: Usage,
}

/// A LocalQueue.
#[derive(Clone, Debug)]
struct Way {
    /// Position of the queue that it leads to.
    queue: Option<u32>,
    stop: Stop,
}

/// A `stopPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    None,
    Hold,
    Drain,
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
    /// How fast nodes reach each other, as the Topologies say.
    pub(super) links: Links,
    /// The implicit one first: of what names no queue.
    queues: Vec<NamedQueue>,
    cohorts: Vec<NamedCohort>,
    /// By namespace and name.
    local: BTreeMap<(String, String), Way>,
    pub(super) flavors: Flavors,
    /// Resources of which several flavors are named.
    flavored: BTreeSet<String>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
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
        let mut setting = Self { namespaces: view.namespaces.clone(), ..Self::default() };
        let implicit = ClusterQueue { weight_milli: 1000, ..ClusterQueue::default() };
        setting.queues.push(NamedQueue {
            queue: implicit,
            drained: false,
            namespaces: None,
            groups: Vec::new(),
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
            reader.problems.extend(setting.links.read(object, &found));
            labels.extend(found.into_iter().filter(|label| !labels.contains(label)).collect::<Vec<_>>());
            setting.note(at, reader);
        }
        setting.flavors = flavor::read(of("ResourceFlavor").map(|(_, object)| object));
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
        setting.find_flavored();
        for (at, object) in of("LocalQueue") {
            setting.some = true;
            let mut reader = Reader::new(object);
            setting.read_local(&mut reader);
            setting.note(at, reader);
        }
        setting.levels = setting.links.levels(levels(view, labels));
        setting
    }

    fn note(&mut self, at: usize, reader: Reader<'_>) {
        self.problems.insert(at, reader.problems);
    }

    fn quotas(&self) -> impl Iterator<Item = &(String, String)> {
        let queues = self.queues.iter().flat_map(|queue| queue.quotas.keys());
        queues.chain(self.cohorts.iter().flat_map(|cohort| cohort.quotas.keys()))
    }

    fn find_flavored(&mut self) {
        let mut flavors: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for (resource, flavor) in self.quotas() {
            flavors.entry(resource).or_default().insert(flavor);
        }
        let several = flavors.into_iter().filter(|(_, flavors)| flavors.len() > 1);
        self.flavored = several.map(|(resource, _)| resource.clone()).collect();
    }

    /// What the engine calls a resource that is of a flavor.
    fn name_of(&self, resource: &str, flavor: &str) -> String {
        if self.flavored.contains(resource) { flavor::named(resource, flavor) } else { resource.to_owned() }
    }

    /// Resources of which several flavors are named.
    pub(super) const fn flavored(&self) -> &BTreeSet<String> {
        &self.flavored
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
        let way = Way { queue: found.and_then(|at| u32::try_from(at + 1).ok()), stop: reader.stop() };
        self.local.insert((namespace.to_owned(), reader.name()), way);
    }

    /// The LocalQueue that a pod names, if queues are looked at.
    fn named<'pod>(&self, pod: &'pod Pod) -> Option<(&'pod str, &'pod str, Option<&Way>)> {
        let name = annotation(pod, label::QUEUE).or_else(|| pod_label(pod, label::QUEUE_NAME)).filter(|_| self.some)?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        Some((namespace, name, self.local.get(&(namespace.to_owned(), name.to_owned()))))
    }

    /// The queue that a pod's gang waits in. What runs already, and what a gang lacks that runs, is not stopped.
    pub(super) fn queue_of(&self, pod: &Pod, kind: Kind) -> Result<u32, Wait> {
        let Some((namespace, name, way)) = self.named(pod) else { return Ok(0) };
        let wait = |code, message, hint: &str| Err(Wait { code, message, hint: Some(hint.to_owned()) });
        let Some(way) = way else {
            let message = format!("there is no LocalQueue {name} in namespace {namespace}");
            return wait(WaitCode::NoQueue, message, "create it, or name another (`trainyard get localqueues`)");
        };
        let Some(at) = way.queue else {
            let message = format!("LocalQueue {name} leads to a ClusterQueue that does not exist");
            return wait(WaitCode::NoQueue, message, "create that ClusterQueue, or correct the LocalQueue");
        };
        let queue = &self.queues[at as usize];
        let begins = matches!(kind, Kind::Whole | Kind::Spare);
        if begins && way.stop != Stop::None {
            let message = format!("LocalQueue {name} is stopped");
            return wait(WaitCode::QueueStopped, message, "whoever runs the queue has to set its stopPolicy to None");
        }
        if begins && !self.takes(queue, namespace) {
            let message = format!("ClusterQueue {} takes nothing of namespace {namespace}", queue.queue.name);
            return wait(WaitCode::NoQueue, message, "its namespaceSelector has to match the namespace's labels");
        }
        let is_let_go = kind == Kind::Missing && queue.queue.stopped && !queue.drained && way.stop != Stop::Drain;
        Ok(if is_let_go { 0 } else { at })
    }

    fn takes(&self, queue: &NamedQueue, namespace: &str) -> bool {
        let labels = self.namespaces.get(namespace);
        let value = |key: &str| match labels.and_then(|labels| labels.get(key)) {
            None if key == NAMESPACE_NAME => Some(namespace),
            value => value.map(String::as_str),
        };
        let all = |wanted: &Vec<Requirement>| wanted.iter().all(|one| schedule::holds(one, value(&one.key)));
        queue.namespaces.as_ref().is_none_or(all)
    }

    fn groups(&self, queue: u32) -> &[Group] {
        self.queues.get(queue as usize).map(|queue| queue.groups.as_slice()).unwrap_or_default()
    }

    /// Whether pods of a queue are given flavors at all.
    pub(super) fn gives_flavors(&self, queue: u32) -> bool {
        !self.groups(queue).is_empty()
    }

    /// The ways in which pods of a queue that ask for these resources and tolerate so much can be given flavors.
    pub(super) fn ways<'a>(
        &self,
        queue: u32,
        asked: impl Iterator<Item = &'a String>,
        tolerations: &[Toleration],
    ) -> Result<Vec<Assigned>, Wait> {
        let asked: BTreeSet<&String> = asked.collect();
        flavor::ways(self.groups(queue), &asked, tolerations, &self.flavors).map_err(|why| Wait {
            code: WaitCode::NoMatchingNode,
            message: format!("of {}, {why}", self.title(queue)),
            hint: Some("add a toleration to the pods, or to the ResourceFlavor".to_owned()),
        })
    }

    /// The flavors of a pod that has a node, by resource of which there are several.
    pub(super) fn flavors_of(
        &self,
        queue: u32,
        asked: &BTreeSet<&String>,
        pod: &Pod,
        node: Option<&Node>,
    ) -> BTreeMap<String, String> {
        let asked = asked.iter().copied().filter(|resource| self.flavored.contains(*resource)).collect();
        flavor::used(self.groups(queue), &asked, pod, node, &self.flavors)
    }

    /// What pods ask for of the flavors that they are given.
    pub(super) fn of_flavors(
        &self,
        amounts: &BTreeMap<String, i64>,
        flavors: &BTreeMap<String, String>,
    ) -> BTreeMap<String, i64> {
        let several = flavors.iter().filter(|(resource, _)| self.flavored.contains(*resource));
        several
            .filter_map(|(resource, flavor)| Some((flavor::named(resource, flavor), *amounts.get(resource)?)))
            .collect()
    }

    /// The labels of the nodes of a queue's flavors, for people.
    pub(super) fn flavor_labels(&self, queue: u32) -> Vec<String> {
        self.groups(queue).iter().flat_map(|group| group.labels(&self.flavors)).collect()
    }

    /// The queue on whose account what a pod's gang runs is to be stopped.
    pub(super) fn drained(&self, pod: &Pod) -> Option<String> {
        let (_, name, way) = self.named(pod)?;
        let way = way?;
        if way.stop == Stop::Drain {
            return Some(format!("LocalQueue {name}"));
        }
        let at = way.queue.filter(|at| self.queues[*at as usize].drained)?;
        Some(self.title(at))
    }

    /// The resources that quota is about.
    pub(super) fn resources(&self) -> impl Iterator<Item = String> {
        self.quotas().map(|(resource, flavor)| self.name_of(resource, flavor))
    }

    /// Cohorts and queues, with positions of resources.
    pub(super) fn tree(&self, resources: &BTreeMap<String, usize>) -> (Vec<Cohort>, Vec<ClusterQueue>) {
        let at = |name: &Option<String>| {
            let at = self.cohorts.iter().position(|cohort| Some(&cohort.name) == name.as_ref())?;
            u32::try_from(at).ok()
        };
        let quotas = |quotas: &Quotas| {
            let quota = |((resource, flavor), limits): (&(String, String), &Limits)| Quota {
                resource: u32::try_from(resources[&self.name_of(resource, flavor)]).unwrap_or(u32::MAX),
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
fn levels(view: &GangView, named: Vec<String>) -> Vec<String> {
    let labels = if named.is_empty() { LEVELS.map(str::to_owned).to_vec() } else { named };
    let has = |node: &Node, label: &str| node.metadata.labels.as_ref().is_some_and(|all| all.contains_key(label));
    let used = |label: &String| view.nodes.iter().any(|node| has(node, label));
    labels.into_iter().filter(used).collect()
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

    fn stop(&mut self) -> Stop {
        self.word("/stopPolicy", &[("None", Stop::None), ("Hold", Stop::Hold), ("HoldAndDrain", Stop::Drain)])
    }

    /// One that does not read selects nothing.
    fn namespaces(&mut self) -> Option<Vec<Requirement>> {
        let given = self.spec().get("namespaceSelector").filter(|given| !given.is_null())?;
        match serde_json::from_value(given.clone()) {
            Ok(selector) => Some(rule::selected(&selector)),
            Err(error) => {
                self.problems.push(format!("spec.namespaceSelector: {error}"));
                Some(vec![Requirement {
                    key: NAMESPACE_NAME.to_owned(),
                    operator: Operator::DoesNotExist,
                    values: Vec::new(),
                }])
            }
        }
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
        for flavor in groups.flat_map(|group| group["flavors"].as_array().into_iter().flatten()) {
            let of = flavor["name"].as_str().unwrap_or_default();
            for one in flavor["resources"].as_array().into_iter().flatten() {
                let Some(name) = one["name"].as_str() else {
                    self.problems.push("a quota names no resource".to_owned());
                    continue;
                };
                let limits = Limits {
                    nominal: self.amount(name, "nominalQuota", &one["nominalQuota"]).unwrap_or(0),
                    borrowing: self.amount(name, "borrowingLimit", &one["borrowingLimit"]),
                    lending: self.amount(name, "lendingLimit", &one["lendingLimit"]),
                };
                if quotas.insert((name.to_owned(), of.to_owned()), limits).is_some() {
                    self.problems.push(format!("there are two quotas for {name} of flavor {of}"));
                }
            }
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
        let stop = self.stop();
        // Kueue's older words are told by the same.
        let borrow = [("Borrow", false), ("MayStopSearch", false), ("TryNextFlavor", true)];
        let preempt = [("TryNextFlavor", false), ("Preempt", true), ("MayStopSearch", true)];
        let fungibility = Fungibility {
            spare_cohort: self.word("/flavorFungibility/whenCanBorrow", &borrow),
            preempt_first: self.word("/flavorFungibility/whenCanPreempt", &preempt),
        };
        let queue = ClusterQueue {
            fungibility,
            name: self.name(),
            weight_milli: self.weight(),
            queueing_strategy: self.word("/queueingStrategy", &order),
            within_cluster_queue: self.word("/preemption/withinClusterQueue", &within),
            reclaim_within_cohort: self.word("/preemption/reclaimWithinCohort", &reclaim),
            stopped: stop != Stop::None,
            ..ClusterQueue::default()
        };
        let noted = self.object.pointer("/metadata/annotations").and_then(|all| all[label::USAGE].as_str());
        let noted: Usage = noted.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let cohort = self.text(&["cohortName", "cohort"]);
        NamedQueue {
            queue,
            drained: stop == Stop::Drain,
            namespaces: self.namespaces(),
            groups: flavor::groups(self.spec()),
            cohort,
            quotas: self.quotas(),
            usage: noted.as_of(now_ms),
        }
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

//! Small clusters, queues and gangs from a seed, and what happens to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::schedule::{
    Closeness, ClusterQueue, Cohort, Effect, Gang, Level, Node, NodeRules, Operator, Phase, PodTerm, Policy,
    PreemptionPolicy, QueueingStrategy, Quota, Requirement, Role, Shape, Slice, Taint, Toleration, View,
};

pub(super) const CPU: usize = 0;
pub(super) const GPU: usize = 1;
pub(super) const START_MS: i64 = 1_000_000_000;

/// SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % sides
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.roll(at as u64 + 1)).unwrap());
        }
    }
}

pub(super) fn node(name: &str, cpu: i64, gpu: i64, labels: &[(&str, &str)]) -> Node {
    let mut labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    labels.insert("host".to_owned(), name.to_owned());
    Node { name: name.to_owned(), labels, capacity: vec![cpu, gpu], ..Node::default() }
}

pub(super) fn role(name: &str, count: u32, cpu: i64, gpu: i64) -> Role {
    let labels = BTreeMap::from([("role".to_owned(), name.to_owned())]);
    Role { name: name.to_owned(), count, min: count, requests: vec![cpu, gpu], labels, ..Role::default() }
}

pub(super) fn gang(name: &str, roles: Vec<Role>) -> Gang {
    Gang {
        name: name.to_owned(),
        queue: 0,
        priority: 0,
        submitted_ms: START_MS,
        shape: Arc::new(Shape { roles, ..Shape::default() }),
        options: Vec::new(),
        run_limit_ms: None,
        expected_ms: None,
        preemptible: true,
        phase: Phase::Waiting { reservation: None },
        leaving: Vec::new(),
    }
}

pub(super) fn queue(name: &str) -> ClusterQueue {
    ClusterQueue { name: name.to_owned(), weight_milli: 1_000, ..ClusterQueue::default() }
}

pub(super) fn view(nodes: Vec<Node>, gangs: Vec<Gang>) -> View {
    let level = |label: &str, rate| Level { label: label.to_owned(), bytes_per_s: rate, latency_ns: 5_000 };
    let levels = vec![level("zone", 10_000_000_000), level("rack", 50_000_000_000)];
    View {
        resources: vec!["cpu".to_owned(), "nvidia.com/gpu".to_owned()],
        nodes,
        cohorts: Vec::new(),
        queues: vec![queue("main")],
        gangs,
        policy: Policy { levels, scarce: Some(1), ..Policy::default() },
    }
}

/// What kinds of things a world has.
#[derive(Clone, Copy)]
pub(super) struct Flavour {
    pub(super) limits: bool,
    pub(super) preemption: bool,
    pub(super) terms: bool,
    pub(super) priorities: bool,
    /// Gangs that may start in one of several shapes.
    pub(super) options: bool,
}

pub(super) const EVERYTHING: Flavour =
    Flavour { limits: false, preemption: true, terms: true, priorities: true, options: true };

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) view: View,
    pub(super) now_ms: i64,
    flavour: Flavour,
    born: u32,
    /// When each running gang ends, by name; nobody tells the engine.
    ends: BTreeMap<String, i64>,
}

impl World {
    pub(super) fn new(seed: u64, flavour: Flavour) -> Self {
        let mut dice = Dice(seed);
        let nodes = (0..1 + dice.roll(7)).map(|at| random_node(&mut dice, at)).collect();
        let mut view = view(nodes, Vec::new());
        view.policy.min_run_ms = dice.pick(&[0, 60_000]);
        view.policy.hold_after_ms = dice.pick(&[0, 600_000]);
        view.policy.age_after_ms = dice.pick(&[3_600_000, 86_400_000]);
        view.policy.reservations = u32::try_from(dice.roll(4)).unwrap();
        queues(&mut dice, &mut view, flavour);
        let mut world = Self { dice, view, now_ms: START_MS, flavour, born: 0, ends: BTreeMap::new() };
        for _ in 0..1 + world.dice.roll(8) {
            world.submit();
        }
        world
    }

    pub(super) fn submit(&mut self) {
        let dice = &mut self.dice;
        let mut shape = Shape { namespace: dice.pick(&["a", "b"]).to_owned(), ..Shape::default() };
        for at in 0..1 + dice.roll(2) + dice.roll(2) {
            shape.roles.push(random_role(dice, at, self.flavour));
        }
        if dice.chance(30) {
            let level = Some(dice.pick(&["zone", "rack"]).to_owned());
            if dice.chance(50) {
                shape.closeness = Closeness { required: level, preferred: None };
            } else {
                shape.closeness = Closeness { required: None, preferred: level };
            }
        }
        shape.all_reduce_bytes = dice.pick(&[0, 1_000_000]);
        let run = i64::try_from(1 + dice.roll(100)).unwrap() * 60_000;
        let limited = self.flavour.limits || dice.chance(50);
        let queue = u32::try_from(dice.roll(self.view.queues.len() as u64)).unwrap();
        let slack = dice.pick(&[1, 1, 2]);
        let options = if self.flavour.options && dice.chance(30) { options(dice, &shape) } else { Vec::new() };
        let gang = Gang {
            queue,
            priority: if self.flavour.priorities { dice.pick(&[0, 0, 0, 10, 20]) } else { 0 },
            submitted_ms: self.now_ms,
            shape: Arc::new(shape),
            options,
            run_limit_ms: limited.then_some(run * slack),
            expected_ms: dice.chance(50).then_some(run),
            preemptible: dice.chance(90),
            ..gang(&format!("g{:03}", self.born), Vec::new())
        };
        self.born += 1;
        self.ends.insert(gang.name.clone(), run);
        self.view.gangs.push(gang);
    }

    /// Time goes on to the next event: an end, or the moment to wake; gangs that are at their end go.
    pub(super) fn advance(&mut self, wake_at_ms: Option<i64>) {
        let end = |gang: &Gang, runs: &BTreeMap<String, i64>| match gang.phase {
            Phase::Running { since_ms, .. } => Some(since_ms + runs[&gang.name]),
            Phase::Waiting { .. } => None,
        };
        let ends = self.view.gangs.iter().filter_map(|gang| end(gang, &self.ends));
        let next = ends.chain(wake_at_ms).filter(|at| *at > self.now_ms).min();
        self.now_ms = next.unwrap_or(self.now_ms + 60_000);
        let (now, runs) = (self.now_ms, &self.ends);
        self.view.gangs.retain(|gang| end(gang, runs).is_none_or(|end| end > now));
        for gang in &mut self.view.gangs {
            if self.dice.chance(60) {
                gang.leaving.clear();
            }
            if let Phase::Running { saved_ms, .. } = &mut gang.phase
                && self.dice.chance(20)
            {
                *saved_ms = now;
            }
        }
    }
}

fn random_node(dice: &mut Dice, at: u64) -> Node {
    let mut labels = vec![("kind", dice.pick(&["big", "small"]))];
    if dice.chance(90) {
        labels.push(("zone", dice.pick(&["z1", "z1", "z2"])));
        if dice.chance(90) {
            labels.push(("rack", dice.pick(&["r1", "r2"])));
        }
    }
    let mut node = node(&format!("n{at}"), dice.pick(&[4, 8, 16]), dice.pick(&[0, 2, 4, 8]), &labels);
    if dice.chance(15) {
        let effect = dice.pick(&[Effect::NoSchedule, Effect::PreferNoSchedule]);
        node.taints.push(Taint { key: "only".to_owned(), value: "me".to_owned(), effect });
    }
    node.unschedulable = dice.chance(5);
    node
}

fn random_role(dice: &mut Dice, at: u64, flavour: Flavour) -> Role {
    let count = u32::try_from(1 + dice.roll(4)).unwrap();
    let mut role = role(&format!("r{at}"), count, dice.pick(&[0, 1, 2, 4]), dice.pick(&[0, 1, 1, 2, 4]));
    role.labels.insert("role".to_owned(), dice.pick(&["x", "y"]).to_owned());
    if dice.chance(30) {
        role.min = 1 + u32::try_from(dice.roll(u64::from(count))).unwrap();
    }
    if dice.chance(10) {
        let requirement =
            Requirement { key: "kind".to_owned(), operator: Operator::In, values: vec!["big".to_owned()] };
        role.rules = NodeRules { any_of: vec![vec![requirement]], ..NodeRules::default() };
    }
    if dice.chance(20) {
        role.rules.tolerations.push(Toleration { key: Some("only".to_owned()), ..Toleration::default() });
    }
    if dice.chance(10) {
        role.host_ports = vec![dice.pick(&[80, 81])];
    }
    if dice.chance(10) {
        role.slice = Some(Slice { size: 2, level: "rack".to_owned() });
    }
    if flavour.terms && dice.chance(12) {
        let pods = vec![Requirement {
            key: "role".to_owned(),
            operator: Operator::In,
            values: vec![dice.pick(&["x", "y"]).to_owned()],
        }];
        let term = PodTerm { pods, topology_key: dice.pick(&["host", "rack"]).to_owned() };
        if dice.chance(60) {
            role.anti_affinity.push(term);
        } else {
            role.affinity.push(term);
        }
    }
    role
}

/// A shape, and others that ask for something else of other nodes, in some order.
fn options(dice: &mut Dice, shape: &Shape) -> Vec<Arc<Shape>> {
    let mut all = vec![Arc::new(shape.clone())];
    for kind in ["big", "small"] {
        let mut other = shape.clone();
        for role in &mut other.roles {
            role.requests[GPU] = if kind == "big" { 0 } else { role.requests[GPU].min(1) };
            role.requests[CPU] += 1;
            let requirement =
                Requirement { key: "kind".to_owned(), operator: Operator::In, values: vec![kind.to_owned()] };
            role.rules.any_of = vec![vec![requirement]];
        }
        all.push(Arc::new(other));
    }
    dice.shuffle(&mut all);
    all.truncate(2);
    all
}

fn queues(dice: &mut Dice, view: &mut View, flavour: Flavour) {
    let cohorts = dice.roll(3);
    for at in 0..cohorts {
        let parent = (at > 0 && dice.chance(60)).then_some(0);
        let quotas = if dice.chance(40) { vec![quota(dice)] } else { Vec::new() };
        view.cohorts.push(Cohort { name: format!("c{at}"), parent, quotas, weight_milli: dice.pick(&[1_000, 2_000]) });
    }
    let policies =
        [PreemptionPolicy::Never, PreemptionPolicy::LowerPriority, PreemptionPolicy::Any, PreemptionPolicy::Any];
    view.queues = (0..1 + dice.roll(4))
        .map(|at| {
            let mut queue = queue(&format!("q{at}"));
            queue.cohort = (cohorts > 0 && dice.chance(80)).then(|| u32::try_from(dice.roll(cohorts)).unwrap());
            if dice.chance(70) {
                queue.quotas.push(quota(dice));
            }
            queue.weight_milli = dice.pick(&[500, 1_000, 3_000]);
            queue.history = vec![0, i64::try_from(dice.roll(5)).unwrap()];
            if dice.chance(20) {
                queue.queueing_strategy = QueueingStrategy::StrictFifo;
            }
            if flavour.preemption {
                queue.within_cluster_queue = dice.pick(&policies);
                queue.reclaim_within_cohort = dice.pick(&policies);
            }
            queue.stopped = dice.chance(3);
            queue
        })
        .collect();
}

fn quota(dice: &mut Dice) -> Quota {
    Quota {
        resource: u32::try_from(GPU).unwrap(),
        nominal: dice.pick(&[0, 4, 8, 16]),
        borrowing_limit: dice.chance(30).then(|| dice.pick(&[0, 2, 8])),
        lending_limit: dice.chance(30).then(|| dice.pick(&[0, 2, 8])),
    }
}

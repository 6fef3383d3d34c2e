//! Nodes, pods and queues as the engine sees them.
//!
//! A gang of the API becomes up to three of the engine's: what of it runs, what of it makes room, and what of it waits. What waits
//! beside a part that runs is placed like a gang of its own, in the domains of the others: survivors are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::demand::{self, Amounts};
use super::flavor::{self, Assigned};
use super::gather::{self, Gang, annotation, node_name};
use super::queue::Setting;
use super::reason::Wait;
use super::rule::{self, Asked};
use super::{GangView, WaitCode};
use crate::label;
use crate::schedule::{
    Closeness, Gang as Member, Node, Operator, Phase, Place, Policy, Requirement, Reservation, Role, Shape, View,
};

mod catalogue;
mod way;

use catalogue::{Catalogue, Group};
use way::Flavored;

/// What is reduced in the all-reduce of which the time is predicted, where nobody says: 1 GiB.
pub(super) const ALL_REDUCE_BYTES: u64 = 1 << 30;
/// A queue that is not there: what belongs to it has no turn.
const NO_QUEUE: u32 = u32::MAX;
/// An estimate that has been wrong for so long holds no places any more; a new one is made.
pub(super) const OVERDUE_MS: i64 = 600_000;
/// Beyond every gang that waits.
const NEVER_MS: i64 = i64::MAX / 4;

/// What of a gang one of the engine's stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pods that have their places.
    Runs,
    /// Pods that make room for others.
    Leaves,
    /// A gang of which nothing has a place.
    Whole,
    /// Pods without which a gang of which others have places is not whole.
    Missing,
    /// Pods that a gang may have more.
    Spare,
}

/// Some pods of a gang.
pub(super) struct Part<'view> {
    /// Position of the gang.
    pub(super) gang: usize,
    pub(super) kind: Kind,
    /// Pods of each role, by index.
    pub(super) pods: Vec<Vec<&'view Pod>>,
    /// The flavors that the pods of each role are given, for each of the ways that it may start in.
    pub(super) ways: Vec<Vec<Assigned>>,
    /// What was set aside as of an earlier decision.
    pub(super) noted: Option<Note>,
}

/// A reservation as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    pub(super) start_ms: i64,
    pub(super) promised: bool,
    /// (role, node, pods)
    pub(super) places: Vec<(u32, String, u32)>,
    /// The flavors of each role, if the gang may be given some or others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) flavors: Vec<String>,
}

/// Everything, and what it was made from.
pub(super) struct Scene<'view> {
    pub(super) view: View,
    pub(super) gangs: Vec<Gang<'view>>,
    /// By position in the engine's view.
    pub(super) parts: Vec<Part<'view>>,
    /// Gangs that cannot have a turn, and why.
    pub(super) early: Vec<(usize, Wait)>,
    /// Whether each node is ready.
    pub(super) ready: Vec<bool>,
    /// Where each gang waits, as its user named it.
    pub(super) setting: Setting,
}

/// A part while it is being made.
struct Draft<'view> {
    part: Part<'view>,
    roles: Vec<Drafted>,
    member: Member,
    closeness: Closeness,
}

/// A role while its part is being made: what its pods ask for in each of the ways that it may start in, how many there are, and how many
/// there have to be at least.
struct Drafted {
    asked: Vec<Arc<Asked>>,
    count: u32,
    min: u32,
}

/// Shapes by their roles (where the [`Asked`] of each is, and its counts), closeness, namespace and bytes.
type Shapes = BTreeMap<(Vec<(usize, u32, u32)>, Closeness, String, u64), Arc<Shape>>;

struct Maker<'view> {
    shown: &'view GangView,
    now_ms: i64,
    keys: BTreeSet<&'view str>,
    nodes: BTreeMap<&'view str, u32>,
    setting: Setting,
    catalogue: Catalogue<'view>,
    flavored: Flavored,
    drafts: Vec<Draft<'view>>,
    early: Vec<(usize, Wait)>,
    /// What pods that are no part of any gang hold, by node.
    lost: Vec<(u32, Amounts)>,
}

impl<'view> Scene<'view> {
    pub(super) fn new(shown: &'view GangView, now_ms: i64) -> Self {
        let gangs = gather::gangs(shown);
        let names = shown.nodes.iter().map(|node| node.metadata.name.as_deref().unwrap_or_default());
        let mut maker = Maker {
            shown,
            now_ms,
            keys: rule::term_keys(shown.pods.iter()),
            nodes: names.zip(0..).collect(),
            setting: Setting::read(shown, now_ms),
            catalogue: Catalogue::default(),
            flavored: Flavored::default(),
            drafts: Vec::new(),
            early: Vec::new(),
            lost: Vec::new(),
        };
        for (at, gang) in gangs.iter().enumerate() {
            maker.add(at, gang);
        }
        maker.finish(gangs)
    }

    /// What a part asks for in one of the ways that it may start in.
    pub(super) fn shape(&self, part: usize, option: u32) -> &Shape {
        let gang = &self.view.gangs[part];
        gang.options.get(option as usize).unwrap_or(&gang.shape)
    }

    /// The gang that a part is of.
    pub(super) fn gang_of(&self, part: u32) -> &Gang<'view> {
        &self.gangs[self.parts[part as usize].gang]
    }
}

impl<'view> Maker<'view> {
    fn add(&mut self, at: usize, gang: &Gang<'view>) {
        for pod in &gang.going {
            let node = node_name(pod).and_then(|node| self.nodes.get(node)).copied();
            self.lost.extend(node.map(|node| (node, demand::of_pod(pod).unwrap_or_default())));
        }
        if !gang.held.is_empty() {
            let phase = self.running(gang);
            self.placed(at, gang, Kind::Runs, &gang.held, phase);
        }
        if !gang.leaving.is_empty() {
            self.placed(at, gang, Kind::Leaves, &gang.leaving, Phase::Waiting { reservation: None });
        }
        if !gang.waiting.is_empty()
            && let Err(wait) = self.waiting(at, gang)
        {
            self.early.push((at, wait));
        }
    }

    fn running(&self, gang: &Gang<'view>) -> Phase {
        let began: Vec<i64> = gang.held.iter().map(|pod| gather::began_ms(pod)).collect();
        // What has a node and has not come to life there has used up nothing of its run limit.
        let since_ms = gang.held.iter().filter_map(|pod| gather::started_ms(pod)).min().unwrap_or(self.now_ms);
        let changed_ms = began.iter().copied().max().unwrap_or(self.now_ms);
        let saved = gang.held.iter().filter_map(|pod| {
            let told: serde_json::Value = serde_json::from_str(annotation(pod, label::CHECKPOINT)?).ok()?;
            told.get("atMs")?.as_i64()
        });
        Phase::Running {
            since_ms,
            changed_ms,
            saved_ms: saved.max().unwrap_or(since_ms).max(since_ms),
            places: Vec::new(),
        }
    }

    /// Pods that are on their nodes.
    fn placed(&mut self, at: usize, gang: &Gang<'view>, kind: Kind, pods: &[&'view Pod], phase: Phase) {
        let mut groups = self.catalogue.group(pods, &self.keys, true).unwrap_or_default();
        let mut member = self.member(gang, kind, pods);
        if kind == Kind::Runs && self.setting.gives_flavors(member.queue) && !self.setting.flavored().is_empty() {
            groups = groups.into_iter().flat_map(|group| self.by_flavor(member.queue, group)).collect();
        }
        let least = if kind == Kind::Runs { gang.least() } else { pods.len() };
        let places = self.places(&groups, least < pods.len());
        match phase {
            Phase::Running { since_ms, changed_ms, saved_ms, .. } => {
                member.phase = Phase::Running { since_ms, changed_ms, saved_ms, places };
            }
            Phase::Waiting { .. } => (member.queue, member.leaving) = (NO_QUEUE, places),
        }
        let mins = lowest(&groups, pods, least);
        self.push(at, kind, groups, &mins, member, Closeness::default());
    }

    /// Where pods are. Those of a gang that may shrink in the order of their indices: the last of them are the first to go.
    fn places(&self, groups: &[Group<'view>], in_order: bool) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (role, group) in (0..).zip(groups) {
            let mut nodes: Vec<u32> =
                group.pods.iter().filter_map(|pod| self.nodes.get(node_name(pod)?)).copied().collect();
            if !in_order {
                nodes.sort_unstable();
            }
            let runs = nodes.chunk_by(|one, next| one == next);
            places.extend(runs.map(|run| Place { role, node: run[0], count: len(run.len()) }));
        }
        places
    }

    fn waiting(&mut self, at: usize, gang: &Gang<'view>) -> Result<(), Wait> {
        let present = gang.waiting.len() + gang.placed;
        if present < gang.size {
            return Err(incomplete(present, gang.size));
        }
        if let Some(gate) = gang.waiting.iter().find_map(|pod| foreign_gate(pod)) {
            return Err(Wait {
                code: WaitCode::Gated,
                message: format!("the scheduling gate {gate} is closed"),
                hint: Some(format!("whoever set the gate {gate} has to take it off")),
            });
        }
        let mut groups = self.catalogue.group(&gang.waiting, &self.keys, false).map_err(bad_request)?;
        let (kind, least) = match gang.placed {
            0 => (Kind::Whole, gang.size),
            placed if placed < gang.size => (Kind::Missing, gang.size - placed),
            _ => (Kind::Spare, 1),
        };
        let mins = lowest(&groups, &gang.waiting, least);
        let closeness = closeness(&gang.waiting);
        if matches!(kind, Kind::Missing | Kind::Spare) {
            for group in &mut groups {
                self.keep_near(gang, &closeness, &mut Arc::make_mut(&mut group.asked).role);
            }
        }
        let mut member = self.member(gang, kind, &gang.waiting);
        member.queue = self.setting.queue_of(gang.waiting[0], kind)?;
        let ways = self.ways(&member, gang, kind, &groups)?;
        match kind {
            // What a gang lost comes before everything else.
            Kind::Missing => member.submitted_ms = 0,
            // What it may have more comes last, and takes nothing from anybody.
            Kind::Spare => (member.submitted_ms, member.priority) = (NEVER_MS, i32::MIN),
            Kind::Whole | Kind::Runs | Kind::Leaves => {}
        }
        self.push(at, kind, groups, &mins, member, closeness);
        if let (Some(ways), Some(draft)) = (ways, self.drafts.last_mut()) {
            for (role, at) in draft.roles.iter_mut().zip(0..) {
                role.asked = ways.iter().map(|way| Arc::clone(&way[at].1)).collect();
            }
            draft.part.ways = ways.into_iter().map(|way| way.into_iter().map(|(given, _)| given).collect()).collect();
        }
        Ok(())
    }

    /// A pod that joins others is placed in their domains.
    fn keep_near(&self, gang: &Gang<'view>, closeness: &Closeness, role: &mut Role) {
        let node = gang.held.iter().find_map(|pod| self.nodes.get(node_name(pod)?));
        let Some(labels) = node.and_then(|at| self.shown.nodes[*at as usize].metadata.labels.as_ref()) else { return };
        for level in self.setting.levels.iter().map(|level| &level.label) {
            let Some(value) = labels.get(level) else { continue };
            let here = vec![Requirement { key: level.clone(), operator: Operator::In, values: vec![value.clone()] }];
            role.rules.preferred.push((1, here));
        }
        if let Some((level, value)) = closeness.required.as_ref().and_then(|level| labels.get_key_value(level)) {
            role.rules.selector.entry(level.clone()).or_insert_with(|| value.clone());
        }
    }

    fn member(&self, gang: &Gang<'view>, kind: Kind, pods: &[&'view Pod]) -> Member {
        let suffix = match kind {
            Kind::Whole => "",
            Kind::Runs => "#runs",
            Kind::Leaves => "#leaves",
            Kind::Missing => "#missing",
            Kind::Spare => "#spare",
        };
        let priority = match kind {
            Kind::Runs | Kind::Leaves => gang.held_priority(&self.shown.priority_classes),
            Kind::Whole | Kind::Missing | Kind::Spare => gang.priority,
        };
        // Below all others are the pods that gangs may have more.
        let priority = priority.clamp(i64::from(i32::MIN) + 1, i64::from(i32::MAX));
        Member {
            name: format!("{}/{}/{}{suffix}", gang.namespace, gang.name, gang.owner),
            queue: pods.first().and_then(|pod| self.setting.queue_of(pod, Kind::Runs).ok()).unwrap_or(0),
            priority: i32::try_from(priority).unwrap_or(0),
            submitted_ms: gang.since_ms,
            shape: Arc::default(),
            options: Vec::new(),
            run_limit_ms: run_limit_ms(pods),
            expected_ms: None,
            preemptible: true,
            phase: Phase::Waiting { reservation: None },
            leaving: Vec::new(),
        }
    }

    fn push(
        &mut self,
        at: usize,
        kind: Kind,
        groups: Vec<Group<'view>>,
        mins: &[u32],
        member: Member,
        closeness: Closeness,
    ) {
        let mut draft = Draft {
            part: Part { gang: at, kind, pods: Vec::new(), ways: Vec::new(), noted: None },
            roles: Vec::new(),
            member,
            closeness,
        };
        for (Group { asked, pods }, min) in groups.into_iter().zip(mins) {
            draft.roles.push(Drafted { asked: vec![asked], count: len(pods.len()), min: *min });
            draft.part.pods.push(pods);
        }
        if matches!(kind, Kind::Whole | Kind::Missing) {
            let first = draft.part.pods.iter().flatten().find_map(|pod| annotation(pod, label::RESERVATION));
            draft.part.noted = first.and_then(|text| serde_json::from_str(text).ok());
        }
        self.drafts.push(draft);
    }

    fn finish(mut self, gangs: Vec<Gang<'view>>) -> Scene<'view> {
        let asked = distinct(&self.drafts);
        let (resources, at) = resources(&asked, &self.setting);
        let mut keys: BTreeSet<String> = self.setting.levels.iter().map(|level| level.label.clone()).collect();
        keys.extend(asked.iter().flat_map(|asked| rule::node_keys(&asked.role)).map(str::to_owned));
        // What is asked for by name is a level, too.
        for draft in &self.drafts {
            let slices =
                draft.roles.iter().filter_map(|role| role.asked[0].role.slice.as_ref()).map(|slice| &slice.level);
            for label in draft.closeness.required.iter().chain(&draft.closeness.preferred).chain(slices) {
                if !self.setting.levels.iter().any(|level| level.label == *label) {
                    let level = self.setting.links.level(label.clone(), 0);
                    self.setting.levels.push(level);
                    keys.insert(label.clone());
                }
            }
        }
        let ready: Vec<bool> = self.shown.nodes.iter().map(demand::is_ready).collect();
        let nodes = self.nodes(&at, &keys, &ready);
        // While a gang that runs lacks pods, nothing that is only an estimate keeps it from the room: others may wait for it to end.
        let hurry = self.drafts.iter().any(|draft| draft.part.kind == Kind::Missing);
        let mut policy =
            Policy { levels: self.setting.levels.clone(), scarce: scarce(&resources, &nodes), ..Policy::default() };
        self.setting.links.complete(&mut policy);
        if hurry {
            policy.hold_after_ms = i64::MAX;
        }
        policy.uncounted = self.setting.flavored().iter().filter_map(|name| Some(len(*at.get(name)?))).collect();
        let (cohorts, queues) = self.setting.tree(&at);
        let mut view = View { resources, nodes, cohorts, queues, gangs: Vec::new(), policy };
        let mut parts = Vec::new();
        let mut shapes = Shapes::new();
        for draft in std::mem::take(&mut self.drafts) {
            let (member, part) = self.close(draft, &at, &mut shapes, hurry);
            view.gangs.push(member);
            parts.push(part);
        }
        settle(&mut view);
        Scene { view, gangs, parts, early: self.early, ready, setting: self.setting }
    }

    /// Puts positions where there were names.
    fn close(
        &self,
        mut draft: Draft<'view>,
        at: &BTreeMap<String, usize>,
        shapes: &mut Shapes,
        hurry: bool,
    ) -> (Member, Part<'view>) {
        let lasts = |note: &&Note| !hurry && self.now_ms < note.start_ms.saturating_add(OVERDUE_MS);
        let reservation = draft.part.noted.as_ref().filter(|note| note.promised || lasts(note));
        if let (Phase::Waiting { reservation: kept }, Some(note)) = (&mut draft.member.phase, reservation) {
            let known = |(role, node, count): &(u32, String, u32)| {
                let node = *self.nodes.get(node.as_str())?;
                Some(Place { role: *role, node, count: *count })
                    .filter(|place| (*role as usize) < draft.roles.len() && place.count > 0)
            };
            let places: Option<Vec<Place>> = note.places.iter().map(known).collect();
            let option = draft.part.way_of(&note.flavors);
            *kept = places.zip(option).map(|(places, option)| Reservation {
                start_ms: note.start_ms,
                promised: note.promised,
                places,
                option,
            });
        }
        let pods: u32 = draft.roles.iter().map(|role| role.count).sum();
        let places = matches!(draft.part.kind, Kind::Runs | Kind::Leaves);
        let bytes = if pods > 1 && !places { ALL_REDUCE_BYTES } else { 0 };
        let namespace = self.namespace(&draft.part);
        let ways = draft.roles.iter().map(|role| role.asked.len()).min().unwrap_or(1);
        let shape = |way: usize| {
            // All that is asked for is alive until the last draft is closed, so that each has a place of its own.
            let address = |role: &Drafted| (Arc::as_ptr(&role.asked[way]).addr(), role.count, role.min);
            let key = draft.roles.iter().map(address).collect();
            let shape = shapes.entry((key, draft.closeness.clone(), namespace.clone(), bytes));
            let make = |(_, closeness, namespace, bytes): &(_, Closeness, String, u64)| {
                let role = |one: &Drafted| Role {
                    count: one.count,
                    min: one.min,
                    requests: row(&one.asked[way].amounts, at),
                    ..one.asked[way].role.clone()
                };
                let roles = draft.roles.iter().map(role).collect();
                Arc::new(Shape {
                    namespace: namespace.clone(),
                    roles,
                    closeness: closeness.clone(),
                    all_reduce_bytes: *bytes,
                })
            };
            Arc::clone(shape.or_insert_with_key(make))
        };
        let all: Vec<Arc<Shape>> = (0..ways).map(shape).collect();
        draft.member.shape = Arc::clone(&all[0]);
        if all.len() > 1 {
            draft.member.options = all;
        }
        (draft.member, draft.part)
    }

    /// Pod terms see pods of the same namespace; where there are none, shapes are alike in all namespaces.
    fn namespace(&self, part: &Part<'view>) -> String {
        let pod = part.pods.iter().flatten().next().filter(|_| !self.keys.is_empty());
        pod.and_then(|pod| pod.metadata.namespace.clone()).unwrap_or_default()
    }

    fn nodes(&self, at: &BTreeMap<String, usize>, keys: &BTreeSet<String>, ready: &[bool]) -> Vec<Node> {
        let make = |(node, ready): (&k8s_openapi::api::core::v1::Node, &bool)| {
            let name = node.metadata.name.clone().unwrap_or_default();
            let given = node.metadata.labels.iter().flatten().filter(|(key, _)| keys.contains(*key));
            let mut labels: BTreeMap<String, String> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
            if keys.contains(rule::NODE_NAME) {
                labels.insert(rule::NODE_NAME.to_owned(), name.clone());
            }
            let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
            Node {
                name,
                labels,
                taints: rule::taints(node),
                unschedulable: cordoned || !ready,
                capacity: self.row_of(node, at),
            }
        };
        let mut nodes: Vec<Node> = self.shown.nodes.iter().zip(ready).map(make).collect();
        for (node, amounts) in &self.lost {
            let held = row(amounts, at);
            nodes[*node as usize].capacity.iter_mut().zip(held).for_each(|(capacity, held)| *capacity -= held);
        }
        nodes
    }
}

/// How many pods of each group a gang cannot do without: with fewer pods than all, those of the lowest index, which hold the leader.
fn lowest(groups: &[Group<'_>], pods: &[&Pod], least: usize) -> Vec<u32> {
    if least >= pods.len() {
        return groups.iter().map(|group| len(group.pods.len())).collect();
    }
    let first: BTreeSet<Option<&str>> = pods.iter().take(least).map(|pod| pod.metadata.uid.as_deref()).collect();
    let needed = |pod: &&&Pod| first.contains(&pod.metadata.uid.as_deref());
    groups.iter().map(|group| len(group.pods.iter().filter(needed).count())).collect()
}

fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Reservations never overlap; where they do, since only some of them could be written, the later ones are none.
fn settle(view: &mut View) {
    let mut holders: Vec<(bool, i64, usize)> = Vec::new();
    for (at, gang) in view.gangs.iter().enumerate() {
        if let Phase::Waiting { reservation: Some(held) } = &gang.phase {
            holders.push((!held.promised, held.start_ms, at));
        }
    }
    holders.sort_by(|a, b| (a.0, a.1, &view.gangs[a.2].name).cmp(&(b.0, b.1, &view.gangs[b.2].name)));
    let mut free: Vec<Vec<i64>> =
        if holders.is_empty() { Vec::new() } else { view.nodes.iter().map(|node| node.capacity.clone()).collect() };
    for (_, _, at) in holders {
        let gang = &mut view.gangs[at];
        let Phase::Waiting { reservation: Some(held) } = &gang.phase else { continue };
        let before = free.clone();
        for place in &held.places {
            let shape = gang.options.get(held.option as usize).unwrap_or(&gang.shape);
            let asked = &shape.roles[place.role as usize].requests;
            let row = &mut free[place.node as usize];
            row.iter_mut().zip(asked).for_each(|(free, asked)| *free -= asked * i64::from(place.count));
        }
        if held.places.iter().any(|place| free[place.node as usize].iter().any(|free| *free < 0)) {
            free = before;
            gang.phase = Phase::Waiting { reservation: None };
        }
    }
}

/// Amounts by position; what has none is not asked for by anybody.
fn row(amounts: &Amounts, at: &BTreeMap<String, usize>) -> Vec<i64> {
    let mut row = vec![0; at.len()];
    for (name, amount) in amounts {
        if let Some(at) = at.get(name) {
            row[*at] = *amount;
        }
    }
    row
}

/// The resources that somebody asks for, the scarcer first: extended ones, such as GPUs, before CPUs, and those before memory.
fn resources(asked: &[Arc<Asked>], setting: &Setting) -> (Vec<String>, BTreeMap<String, usize>) {
    let asked = asked.iter().flat_map(|asked| asked.amounts.keys().cloned());
    let names: BTreeSet<String> = asked.chain(setting.resources()).collect();
    let mut names: Vec<String> = names.into_iter().collect();
    let plain = ["cpu", "memory", "ephemeral-storage", demand::PODS];
    // Flavors come last: where both are lacking, it is the resource that is told.
    let of_flavor = |name: &String| flavor::split(name).1.is_some();
    names.sort_by_key(|name| (of_flavor(name), plain.iter().position(|one| one == name).map_or(0, |at| at + 1)));
    let at = names.iter().cloned().zip(0..).collect();
    (names, at)
}

/// The resource that estimates look at: the accelerators, or the CPUs where there are none.
fn scarce(resources: &[String], nodes: &[Node]) -> Option<u32> {
    let there = |at: usize| nodes.iter().any(|node| node.capacity[at] > 0);
    let known =
        ["nvidia.com/gpu", "amd.com/gpu"].iter().filter_map(|name| resources.iter().position(|one| one == name));
    let is_whole = |at: &usize| flavor::split(&resources[*at]).1.is_none();
    let extended = (0..resources.len()).filter(is_whole).filter(|at| resources[*at].contains('/'));
    let found = known.chain(extended).find(|at| there(*at));
    found.or_else(|| resources.iter().position(|name| name == "cpu")).map(len)
}

fn role_name(pod: &Pod) -> &str {
    gather::pod_label(pod, label::REPLICA_TYPE).unwrap_or_default()
}

/// What is asked for by anybody, each once.
fn distinct(drafts: &[Draft<'_>]) -> Vec<Arc<Asked>> {
    let mut seen = BTreeSet::new();
    let all = drafts.iter().flat_map(|draft| &draft.roles).flat_map(|role| &role.asked);
    all.filter(|asked| seen.insert(Arc::as_ptr(asked).addr())).cloned().collect()
}

fn closeness(pods: &[&Pod]) -> Closeness {
    let find = |name: &str| pods.iter().find_map(|pod| annotation(pod, name)).map(str::to_owned);
    Closeness { required: find(label::REQUIRED_TOPOLOGY), preferred: find(label::PREFERRED_TOPOLOGY) }
}

/// How long pods run at most; none if one of them has no limit.
fn run_limit_ms(pods: &[&Pod]) -> Option<i64> {
    let of = |pod: &&Pod| {
        let own = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let job = annotation(pod, label::RUN_LIMIT).and_then(|text| text.parse().ok());
        own.into_iter().chain(job).min().map(|seconds: i64| seconds.saturating_mul(1000))
    };
    let limits: Option<Vec<i64>> = pods.iter().map(of).collect();
    limits?.into_iter().max()
}

pub(super) fn incomplete(present: usize, size: usize) -> Wait {
    Wait { code: WaitCode::GangIncomplete, message: format!("{present} of {size} pods of the gang exist"), hint: None }
}

fn bad_request(error: String) -> Wait {
    Wait { code: WaitCode::BadRequest, message: error, hint: Some("correct the container's resources".to_owned()) }
}

/// The first scheduling gate that is not ours.
fn foreign_gate(pod: &Pod) -> Option<&str> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    gates.iter().map(|gate| gate.name.as_str()).find(|name| *name != label::GANG_GATE)
}

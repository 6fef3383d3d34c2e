//! What would let a gang that waits start now: found by asking the engine again with one thing changed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::flavor::{self, Assigned};
use super::reason::show;
use super::scene::{Kind, Scene};
use super::{GangView, demand};
use crate::schedule::{self, Phase, Quota, Reason, Requirement, Shape, View};

/// Nodes that are added, at most.
const NODES: i64 = 32;
/// Memory is counted in steps of this.
const MEMORY_STEP: i64 = 256 << 20;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Its run time is limited.
    RunLimit,
    /// It asks for less.
    SmallerPods,
    /// It has fewer pods.
    FewerPods,
    /// It may be in several domains of the topology.
    AnyDomain,
    /// It may run on nodes that it rules out.
    AnyNode,
    /// It has a higher priority.
    HigherPriority,
    /// Its queue has more quota.
    MoreQuota,
    /// There are more nodes.
    MoreNodes,
}

/// A change with which the gang would start now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// What is changed.
    pub change: Change,
    /// The same in one sentence, with numbers.
    pub message: String,
}

/// A gang that waits, in the engine's view.
struct Case<'a> {
    view: &'a View,
    now_ms: i64,
    at: usize,
    /// For each of the ways that it may start in, by role, what its queue asks of the nodes.
    kept: Vec<Vec<Vec<Vec<Requirement>>>>,
}

/// What the flavors of a role ask of its nodes.
fn kept(given: &Assigned) -> Vec<Vec<Requirement>> {
    let mut any_of = Vec::new();
    given.terms.iter().for_each(|terms| flavor::both(&mut any_of, terms));
    any_of
}

/// The smallest change of each kind that would let a gang start now, those first that its user can make.
#[must_use]
pub fn remedies(view: &GangView, now_ms: i64, namespace: &str, name: &str) -> Vec<Remedy> {
    let scene = Scene::new(view, now_ms);
    let wanted = |kind: Kind| matches!(kind, Kind::Whole | Kind::Missing | Kind::Spare);
    let found = scene.parts.iter().position(|part| {
        let gang = &scene.gangs[part.gang];
        wanted(part.kind) && gang.namespace == namespace && gang.name == name
    });
    let Some(at) = found else { return Vec::new() };
    let decision = schedule::decide(&scene.view, now_ms);
    let waiting = decision.waiting.iter().find(|waiting| waiting.gang as usize == at);
    let Some(waiting) = waiting else { return Vec::new() };
    let kept = scene.parts[at].ways.iter().map(|way| way.iter().map(kept).collect()).collect();
    let case = Case { view: &scene.view, now_ms, at, kept };
    let limit = case.run_limit(
        decision.waiting.iter().filter_map(|other| other.reservation.as_ref()).map(|one| one.start_ms).min(),
    );
    let mut all: Vec<Remedy> = limit.into_iter().collect();
    all.extend(case.smaller());
    all.extend(case.fewer());
    all.extend(case.any_domain());
    all.extend(case.any_node());
    all.extend(case.priority());
    all.extend(case.quota(&waiting.reason));
    all.extend(case.nodes());
    all
}

/// The least number up to `most` for which something holds that goes on holding.
fn least(most: i64, holds: impl Fn(i64) -> bool) -> Option<i64> {
    if most < 1 || !holds(most) {
        return None;
    }
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    Some(high)
}

impl Case<'_> {
    /// Whether the gang starts in a view with something changed.
    fn starts(&self, change: impl FnOnce(&mut View)) -> bool {
        let mut view = self.view.clone();
        change(&mut view);
        schedule::decide(&view, self.now_ms).admissions.iter().any(|one| one.gang as usize == self.at)
    }

    /// Whether it starts with a change of its shape, in whichever way.
    fn shaped(&self, change: impl Fn(&mut Shape)) -> bool {
        self.reshaped(|_, shape| change(shape))
    }

    /// As [`shaped`](Self::shaped), of a change that looks at which way it is.
    fn reshaped(&self, change: impl Fn(usize, &mut Shape)) -> bool {
        self.starts(|view| {
            let gang = &mut view.gangs[self.at];
            change(0, Arc::make_mut(&mut gang.shape));
            gang.options.iter_mut().enumerate().for_each(|(way, shape)| change(way, Arc::make_mut(shape)));
        })
    }

    fn shape(&self) -> &Shape {
        &self.view.gangs[self.at].shape
    }

    fn run_limit(&self, reserved_ms: Option<i64>) -> Option<Remedy> {
        let limit = reserved_ms?.saturating_sub(self.now_ms);
        let holds = limit > 0 && self.starts(|view| view.gangs[self.at].run_limit_ms = Some(limit));
        let message = format!("limit its run time (activeDeadlineSeconds) to {} s", limit / 1000);
        holds.then_some(Remedy { change: Change::RunLimit, message })
    }

    /// Less of one resource, of all roles that ask for as much.
    fn smaller(&self) -> Vec<Remedy> {
        let names = || self.view.resources.iter().enumerate();
        let one = |(at, name): (usize, &String)| {
            // Of a flavor as much is asked for as of its resource.
            let flavors: Vec<usize> =
                names().filter(|(_, other)| flavor::split(other).0 == name).map(|(at, _)| at).collect();
            let most = self.shape().roles.iter().map(|role| role.request(at)).max()?;
            let step = match name.as_str() {
                demand::PODS => return None,
                "cpu" if most > 1000 => 1000,
                "cpu" => 100,
                "memory" | "ephemeral-storage" => MEMORY_STEP,
                _ => 1,
            };
            let steps = most.div_euclid(step) - i64::from(most % step == 0);
            let amount = |less: i64| (steps + 1 - less) * step;
            let lower = |shape: &mut Shape, amount: i64| {
                for role in shape.roles.iter_mut().filter(|role| role.request(at) > 0) {
                    for at in flavors.iter().copied().filter(|at| role.request(*at) > 0).collect::<Vec<usize>>() {
                        role.requests[at] = role.requests[at].min(amount);
                    }
                }
            };
            let less = least(steps, |less| self.shaped(|shape| lower(shape, amount(less))))?;
            let message = format!("ask for {} a pod instead of {}", show(name, amount(less)), show(name, most));
            Some(Remedy { change: Change::SmallerPods, message })
        };
        names().filter(|(_, name)| flavor::split(name).1.is_none()).filter_map(one).collect()
    }

    fn fewer(&self) -> Option<Remedy> {
        let roles = &self.shape().roles;
        let (at, role) = roles.iter().enumerate().max_by_key(|(_, role)| role.min)?;
        let pods = i64::from(role.min);
        let keep = |fewer: i64| u32::try_from(pods - fewer).unwrap_or(1);
        let less = least(pods - 1, |fewer| {
            self.shaped(|shape| (shape.roles[at].count, shape.roles[at].min) = (keep(fewer), keep(fewer)))
        })?;
        let all: u32 = roles.iter().map(|role| role.min).sum();
        let left = i64::from(all) - less;
        Some(Remedy { change: Change::FewerPods, message: format!("use {left} pods instead of {all}") })
    }

    fn any_domain(&self) -> Option<Remedy> {
        let level = self.shape().closeness.required.clone()?;
        let holds = self.shaped(|shape| shape.closeness.required = None);
        let message = format!("prefer one domain of {level} instead of requiring it");
        holds.then_some(Remedy { change: Change::AnyDomain, message })
    }

    fn any_node(&self) -> Option<Remedy> {
        let kept =
            |way: usize, role: usize| self.kept.get(way).and_then(|way| way.get(role)).cloned().unwrap_or_default();
        let mut roles = self.shape().roles.iter().enumerate();
        let holds = roles.any(|(at, role)| !role.rules.selector.is_empty() || role.rules.any_of != kept(0, at))
            && self.reshaped(|way, shape| {
                for (at, role) in shape.roles.iter_mut().enumerate() {
                    role.rules.selector.clear();
                    role.rules.any_of = kept(way, at);
                }
            });
        let message = "leave out its nodeSelector and required node affinity".to_owned();
        holds.then_some(Remedy { change: Change::AnyNode, message })
    }

    /// The priorities that make a difference are those just above another gang's.
    fn priority(&self) -> Option<Remedy> {
        let own = self.view.gangs[self.at].priority;
        let mut above: Vec<i32> = self.view.gangs.iter().map(|gang| gang.priority).filter(|one| *one >= own).collect();
        above.sort_unstable();
        above.dedup();
        let raised = |at: i64| above[usize::try_from(at - 1).unwrap_or(0)].saturating_add(1);
        let most = i64::try_from(above.len()).unwrap_or(0);
        let found = raised(least(most, |at| self.starts(|view| view.gangs[self.at].priority = raised(at)))?);
        let message = format!("raise its priority from {own} to {found}");
        Some(Remedy { change: Change::HigherPriority, message })
    }

    fn quota(&self, reason: &Reason) -> Option<Remedy> {
        let (resource, more) = match reason {
            Reason::QuotaUsed { resource, asked, available } => (*resource, asked - available),
            Reason::AboveQuota { resource, asked, limit } => (*resource, asked - limit),
            Reason::Invalid
            | Reason::QueueStopped
            | Reason::BehindHead { .. }
            | Reason::NoMatchingNode { .. }
            | Reason::TooLarge { .. }
            | Reason::NoRoom { .. }
            | Reason::Reserved { .. } => return None,
        };
        let queue = self.view.gangs[self.at].queue as usize;
        let holds = self.starts(|view| {
            let quotas = &mut view.queues[queue].quotas;
            match quotas.iter_mut().find(|quota| quota.resource == resource) {
                Some(quota) => quota.nominal += more,
                None => quotas.push(Quota { resource, nominal: more, ..Quota::default() }),
            }
        });
        let (name, amount) = (&self.view.queues[queue].name, show(&self.view.resources[resource as usize], more));
        let message = format!("raise the nominalQuota of ClusterQueue {name} by {amount}");
        holds.then_some(Remedy { change: Change::MoreQuota, message })
    }

    fn nodes(&self) -> Option<Remedy> {
        let scarce = self.view.policy.scarce.map_or(0, |at| at as usize);
        let usable = |node: &&schedule::Node| !node.unschedulable;
        let like = self
            .view
            .nodes
            .iter()
            .filter(usable)
            .max_by_key(|node| (node.capacity.get(scarce).copied(), &node.name))?;
        let count = least(NODES, |count| {
            self.starts(|view| {
                view.nodes.extend(
                    (0..count).map(|at| schedule::Node { name: format!("{}+{at}", like.name), ..like.clone() }),
                );
            })
        })?;
        let noun = if count == 1 { "node" } else { "nodes" };
        let message = format!("add {count} {noun} like {}", like.name);
        Some(Remedy { change: Change::MoreNodes, message })
    }
}

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueState {
    /// Its name; empty for what names no queue.
    pub name: String,
    /// Its cohort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cohort: Option<String>,
    /// Gangs that wait.
    pub waiting: usize,
    /// Gangs that have their places.
    pub running: usize,
    /// What it uses, and used, beyond what it is entitled to, by weight, in parts of the cluster: the least has its turn first.
    pub share_ppm: u64,
    /// By resource that is limited for it.
    pub quota: Vec<QuotaState>,
}

/// How a queue stands with a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaState {
    /// Its name.
    pub resource: String,
    /// The flavor that this is about, if there are several of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// What is used: thousandths of `cpu`, units of all others.
    pub used: i64,
    /// What the queue is entitled to.
    pub entitled: i64,
    /// What it may use more now, its own or borrowed.
    pub available: i64,
}

/// How every queue stands.
#[must_use]
pub fn queues(view: &GangView, now_ms: i64) -> Vec<QueueState> {
    let scene = Scene::new(view, now_ms);
    let standings = schedule::standings(&scene.view, now_ms);
    let state = |(at, (queue, standing)): (u32, (&schedule::ClusterQueue, schedule::Standing))| {
        let mine = || scene.view.gangs.iter().filter(|gang| gang.queue == at);
        let quota = |stake: &schedule::Stake| {
            let (resource, flavor) = flavor::split(&scene.view.resources[stake.resource as usize]);
            QuotaState {
                resource: resource.to_owned(),
                flavor: flavor.map(str::to_owned),
                used: stake.used,
                entitled: stake.entitled,
                available: stake.available,
            }
        };
        QueueState {
            name: queue.name.clone(),
            cohort: queue.cohort.map(|at| scene.view.cohorts[at as usize].name.clone()),
            waiting: mine().filter(|gang| matches!(gang.phase, Phase::Waiting { .. })).count(),
            running: mine().filter(|gang| matches!(gang.phase, Phase::Running { .. })).count(),
            share_ppm: standing.share_ppm,
            quota: standing.stakes.iter().map(quota).collect(),
        }
    };
    (0..).zip(scene.view.queues.iter().zip(standings)).map(state).collect()
}

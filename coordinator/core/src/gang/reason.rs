//! Why a gang waits, with numbers.

use std::collections::BTreeMap;

use super::demand;
use super::flavor;
use super::scene::Scene;
use super::{WaitCode, answer};
use crate::schedule::{Decision, Misfit, Reason, Role, Shape};

/// A verdict in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) code: WaitCode,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What is free on each node when a decision has been carried out.
pub(super) struct Free(Vec<Vec<i64>>);

impl Free {
    pub(super) fn after(scene: &Scene<'_>, decision: &Decision) -> Self {
        let mut free: Vec<Vec<i64>> = scene.view.nodes.iter().map(|node| node.capacity.clone()).collect();
        let mut take = |shape: &Shape, places: &[crate::schedule::Place]| {
            for place in places {
                let Some(role) = shape.roles.get(place.role as usize) else { continue };
                let row = &mut free[place.node as usize];
                row.iter_mut().zip(&role.requests).for_each(|(free, asked)| *free -= asked * i64::from(place.count));
            }
        };
        for gang in &scene.view.gangs {
            if let crate::schedule::Phase::Running { places, .. } = &gang.phase {
                take(&gang.shape, places);
            }
            take(&gang.shape, &gang.leaving);
        }
        for admission in &decision.admissions {
            take(scene.shape(admission.gang as usize, admission.option), &admission.places);
        }
        Self(free)
    }
}

/// What is explained: a part of the view, or what is left of one.
pub(super) struct Case<'a> {
    pub(super) scene: &'a Scene<'a>,
    pub(super) free: &'a Free,
    /// Position of the part.
    pub(super) part: usize,
    /// The way in which it may start that is spoken of.
    pub(super) option: u32,
    /// How many pods of each role have to have a place.
    pub(super) least: Vec<u32>,
    /// Pods that wait.
    pub(super) whole: usize,
}

impl Case<'_> {
    /// The engine's reason in words.
    pub(super) fn explain(&self, reason: &Reason) -> Wait {
        let plain =
            |code: WaitCode, message: String, hint: Option<&str>| Wait { code, message, hint: hint.map(str::to_owned) };
        match reason {
            Reason::Invalid => plain(
                WaitCode::Invalid,
                "the topology or the slices that it asks for make no sense".to_owned(),
                Some("look at its kueue.x-k8s.io/podset-… annotations"),
            ),
            Reason::QueueStopped => plain(
                WaitCode::QueueStopped,
                format!("{} is stopped", self.queue()),
                Some("whoever runs the queue has to set its stopPolicy to None"),
            ),
            Reason::BehindHead { head } => plain(
                WaitCode::BehindHead,
                format!("{} keeps strictly to its order, and {} waits before it", self.queue(), self.name(*head)),
                None,
            ),
            Reason::AboveQuota { resource, asked, limit } => {
                let (asked, limit) = (self.show(*resource, *asked), self.show(*resource, *limit));
                let message = format!(
                    "it asks for {asked}, {} may use {limit} at most, with all that it may borrow",
                    self.queue()
                );
                plain(WaitCode::AboveQuota, message, Some("ask for less, or have the queue's quota raised"))
            }
            Reason::QuotaUsed { resource, asked, available } => {
                let (asked, free) = (self.show(*resource, *asked), self.show(*resource, *available));
                let message =
                    format!("it asks for {asked}, of the quota of {} {free} {} left", self.queue(), be(&free));
                plain(
                    WaitCode::QuotaUsed,
                    message,
                    Some("wait until others of the queue have ended (`trainyard queue`)"),
                )
            }
            Reason::Reserved { holder } => plain(
                WaitCode::Reserved,
                format!("there is room, but it is set aside for {}, whose turn is before", self.name(*holder)),
                Some("a job with a run limit (activeDeadlineSeconds) that ends before then may start at once"),
            ),
            Reason::NoMatchingNode { role, .. } => self.no_node(*role as usize),
            Reason::TooLarge { role, largest, .. } => self.shortage(*role as usize, true, *largest),
            Reason::NoRoom { role, best_domain, .. } => self.shortage(*role as usize, false, *best_domain),
        }
    }

    /// As for a gang for which there is no room.
    pub(super) fn lacks_room(&self) -> Wait {
        self.shortage(0, false, 0)
    }

    fn queue(&self) -> String {
        self.scene.setting.title(self.scene.view.gangs[self.part].queue)
    }

    fn name(&self, gang: u32) -> String {
        answer::title(self.scene.gang_of(gang))
    }

    fn show(&self, resource: u32, amount: i64) -> String {
        show(&self.scene.view.resources[resource as usize], amount)
    }

    fn roles(&self) -> &[Role] {
        &self.scene.shape(self.part, self.option).roles
    }

    /// The wait of a role for which every node is out of the question.
    fn no_node(&self, role: usize) -> Wait {
        let Scene { view, ready, .. } = self.scene;
        let Some(first) = view.nodes.first().map(|node| &node.name) else {
            return Wait {
                code: WaitCode::NoNodes,
                message: "there is no node".to_owned(),
                hint: Some("start one with `trainyard up`".to_owned()),
            };
        };
        let rules = &self.roles()[role].rules;
        let mut counts: BTreeMap<Option<Misfit>, usize> = BTreeMap::new();
        for (node, ready) in view.nodes.iter().zip(ready) {
            *counts.entry(rules.misfit(node).filter(|_| *ready)).or_default() += 1;
        }
        let parts: Vec<String> =
            counts.iter().map(|(misfit, count)| format!("{count} {}", misfit_text(*misfit))).collect();
        let selector =
            Some(&rules.selector).filter(|all| !all.is_empty() && counts.contains_key(&Some(Misfit::Labels)));
        let wanted = selector.map(|selector| {
            let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!(" (nodeSelector {})", pairs.join(","))
        });
        let flavors = self.scene.setting.flavor_labels(view.gangs[self.part].queue);
        let hint = match counts.keys().flatten().next() {
            Some(Misfit::Labels) if !flavors.is_empty() => format!(
                "the flavors of {} are of nodes with {}, and the pods may ask for others",
                self.queue(),
                flavors.join(" or ")
            ),
            Some(Misfit::Labels) => {
                format!("remove the nodeSelector or affinity, or label a node: `kubectl label node {first} KEY=VALUE`")
            }
            Some(Misfit::Taint) => "add a toleration, or remove the taint from a node".to_owned(),
            Some(Misfit::Unschedulable) => format!("let a node take pods again: `kubectl uncordon {first}`"),
            None => "wait until a node is ready, or look at `trainyard describe node`".to_owned(),
        };
        let code = if counts.keys().all(Option::is_none) { WaitCode::NoNodes } else { WaitCode::NoMatchingNode };
        let message =
            format!("0/{} nodes can take it: {}{}", view.nodes.len(), parts.join(", "), wanted.unwrap_or_default());
        Wait { code, message, hint: Some(hint) }
    }

    /// The wait of a gang that asks for more of something than there is, or than is free.
    fn shortage(&self, role: usize, never: bool, best_domain: u32) -> Wait {
        let view = &self.scene.view;
        // Only nodes that some pod of the gang could use count.
        let asking = || self.roles().iter().zip(&self.least).filter(|(_, count)| **count > 0);
        let usable: Vec<usize> = (0..view.nodes.len())
            .filter(|at| asking().any(|(role, _)| role.rules.misfit(&view.nodes[*at]).is_none()))
            .collect();
        let place = match usable.as_slice() {
            [one] => format!("node {}", view.nodes[*one].name),
            many => format!("{} nodes", many.len()),
        };
        let verb = if usable.len() == 1 { "has" } else { "have" };
        let pods: u32 = self.least.iter().sum();
        let who = match (pods, self.whole) {
            (_, 1) => "it needs".to_owned(),
            (1, _) => "one more pod needs".to_owned(),
            (pods, _) => format!("its {pods} pods need"),
        };
        let mut parts = Vec::new();
        let mut hints = Vec::new();
        // Nodes have as much of a flavor as of its resource.
        for (at, name) in view.resources.iter().enumerate().filter(|(_, name)| flavor::split(name).1.is_none()) {
            let needed: i64 = asking().map(|(role, count)| role.request(at) * i64::from(*count)).sum();
            let allocatable: i64 = usable.iter().map(|node| view.nodes[*node].capacity[at].max(0)).sum();
            let free: i64 = usable.iter().map(|node| self.free.0[*node][at].max(0)).sum();
            let short = needed > if never { allocatable } else { free };
            if short {
                let (need, have, left) = (show(name, needed), show(name, allocatable), show(name, free));
                parts.push(format!(
                    "{who} {need}, {place} {verb} {have} allocatable of which {left} {} free",
                    be(&left)
                ));
                hints.push(field(name));
            }
        }
        if parts.is_empty() {
            let (part, hint) = self.piece(role, &usable, &place, never, best_domain);
            parts.push(part);
            hints.push(hint);
        }
        let lower = format!("lower {}", hints.join(" and "));
        let hint = if never {
            format!("{lower}, or use fewer replicas: it can never start here as it is")
        } else {
            format!("{lower}, or wait until other pods have ended (`trainyard get pods -A`)")
        };
        let code = if never { WaitCode::TooLarge } else { WaitCode::InsufficientResources };
        Wait { code, message: parts.join("; "), hint: Some(hint) }
    }

    /// The sum is there, but not in one piece: on no node, in no domain, or not where other pods leave it.
    fn piece(&self, role: usize, usable: &[usize], place: &str, never: bool, best_domain: u32) -> (String, String) {
        let view = &self.scene.view;
        let best = |at: usize| {
            let amount =
                |node: &usize| if never { view.nodes[*node].capacity[at] } else { self.free.0[*node][at] }.max(0);
            usable.iter().map(amount).max().unwrap_or(0)
        };
        let asking = self.roles().iter().zip(&self.least).filter(|(_, count)| **count > 0);
        let whole = |at: usize| flavor::split(&view.resources[at]).1.is_none();
        let asks = asking.flat_map(|(role, _)| role.requests.iter().copied().enumerate());
        let asks = asks.filter(|(at, amount)| *amount > 0 && whole(*at));
        let worst = asks.min_by_key(|(at, amount)| (best(*at) / amount, *at));
        if let Some((at, amount)) = worst.filter(|(at, amount)| best(*at) < *amount) {
            let (need, roomiest) = (show(&view.resources[at], amount), show(&view.resources[at], best(at)));
            let message = format!("one pod needs {need}, the roomiest of {place} has {roomiest}");
            return (message, field(&view.resources[at]));
        }
        let asked = self.least.get(role).copied().unwrap_or(0);
        if let Some(level) = &self.scene.shape(self.part, self.option).closeness.required {
            let message = format!(
                "{asked} of its pods have to be in one domain of {level}, the roomiest has room for {best_domain}"
            );
            return (message, "the number of replicas".to_owned());
        }
        let Some((at, amount)) = worst else { return ("its pods find no place".to_owned(), "its requests".to_owned()) };
        let (need, roomiest) = (show(&view.resources[at], amount), show(&view.resources[at], best(at)));
        let apart = self
            .roles()
            .iter()
            .any(|role| !role.affinity.is_empty() || !role.anti_affinity.is_empty() || !role.host_ports.is_empty());
        let message = if apart {
            "its pod affinity, anti-affinity or host ports leave no place beside the pods that are there".to_owned()
        } else {
            format!("one pod needs {need}, the roomiest of {place} has {roomiest}, and not enough of them have room")
        };
        (message, field(&view.resources[at]))
    }
}

const fn misfit_text(misfit: Option<Misfit>) -> &'static str {
    match misfit {
        None => "not ready",
        Some(Misfit::Unschedulable) => "cordoned",
        Some(Misfit::Labels) => "without the labels asked for",
        Some(Misfit::Taint) => "with a taint that is not tolerated",
    }
}

fn be(text: &str) -> &'static str {
    if text.starts_with("1 ") { "is" } else { "are" }
}

/// The field of the manifest that asks for a resource.
fn field(name: &str) -> String {
    match name {
        "nvidia.com/gpu" => "resources.gpu (nvidia.com/gpu)".to_owned(),
        demand::PODS => "the number of replicas".to_owned(),
        other => format!("resources.{other}"),
    }
}

/// An amount for people.
#[must_use]
pub fn show(name: &str, amount: i64) -> String {
    if let (resource, Some(flavor)) = flavor::split(name) {
        return format!("{} of flavor {flavor}", show(resource, amount));
    }
    let noun = |singular: &str, number: &str| if number == "1" { singular.to_owned() } else { format!("{singular}s") };
    match name {
        "cpu" => {
            let number = if amount % 1000 == 0 { (amount / 1000).to_string() } else { decimal(amount) };
            format!("{number} {}", noun("CPU", &number))
        }
        "memory" | "ephemeral-storage" => {
            let units = [("Ti", 1_i64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
            let unit = units.iter().find(|(_, size)| amount >= *size);
            let number =
                unit.map_or_else(|| amount.to_string(), |(suffix, size)| format!("{}{suffix}", tenths(amount, *size)));
            format!("{number} of {name}")
        }
        "nvidia.com/gpu" => format!("{amount} {}", noun("GPU", &amount.to_string())),
        demand::PODS => format!("{amount} {}", noun("pod slot", &amount.to_string())),
        other => format!("{amount} of {other}"),
    }
}

fn decimal(thousandths: i64) -> String {
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000).trim_end_matches('0').to_owned()
}

fn tenths(amount: i64, size: i64) -> String {
    let tenths = i128::from(amount) * 10 / i128::from(size);
    if tenths % 10 == 0 { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

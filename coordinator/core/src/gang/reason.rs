//! Why a gang waits, with numbers.

use std::collections::BTreeMap;

use super::WaitCode;
use super::demand::{self, Amounts, Misfit};
use super::fit::Shape;
use super::gather::Site;

/// A verdict in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) code: WaitCode,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Why the shapes of a gang have no place.
pub(super) fn explain(shapes: &[Shape<'_>], sites: &[Site<'_>], whole: usize) -> Wait {
    if sites.is_empty() {
        return Wait {
            code: WaitCode::NoNodes,
            message: "there is no node".to_owned(),
            hint: Some("start one with `trainyard up`".to_owned()),
        };
    }
    if let Some(wait) = shapes.iter().find_map(|shape| no_node(shape, sites)) {
        return wait;
    }
    let mut empty: Vec<Site<'_>> = sites.to_vec();
    for site in &mut empty {
        site.free = site.allocatable.clone();
    }
    let never = super::fit::place(shapes, &mut empty).is_none();
    shortage(shapes, sites, never, whole)
}

/// The wait of a shape for which every node is out of the question.
fn no_node(shape: &Shape<'_>, sites: &[Site<'_>]) -> Option<Wait> {
    if shape.misfits.iter().any(Option::is_none) {
        return None;
    }
    let mut counts: BTreeMap<Misfit, usize> = BTreeMap::new();
    for misfit in shape.misfits.iter().flatten() {
        *counts.entry(*misfit).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(misfit, count)| format!("{count} {}", misfit_text(*misfit))).collect();
    let spec = shape.pods.first().and_then(|pod| pod.spec.as_ref());
    let selector = spec.and_then(|spec| spec.node_selector.as_ref()).filter(|_| counts.contains_key(&Misfit::Selector));
    let wanted = selector.map(|selector| {
        let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!(" (nodeSelector {})", pairs.join(","))
    });
    let node = sites.first().map(|site| site.name).unwrap_or_default();
    let hint = match counts.keys().next() {
        Some(Misfit::Selector) => {
            format!("remove the nodeSelector or affinity, or label a node: `kubectl label node {node} KEY=VALUE`")
        }
        Some(Misfit::Taint) => "add a toleration, or remove the taint from a node".to_owned(),
        Some(Misfit::Unschedulable) => format!("let a node take pods again: `kubectl uncordon {node}`"),
        Some(Misfit::NotReady) | None => "wait until a node is ready, or look at `trainyard describe node`".to_owned(),
    };
    let code = if counts.keys().all(|misfit| *misfit == Misfit::NotReady) {
        WaitCode::NoNodes
    } else {
        WaitCode::NoMatchingNode
    };
    let message = format!("0/{} nodes can take it: {}{}", sites.len(), parts.join(", "), wanted.unwrap_or_default());
    Some(Wait { code, message, hint: Some(hint) })
}

const fn misfit_text(misfit: Misfit) -> &'static str {
    match misfit {
        Misfit::NotReady => "not ready",
        Misfit::Unschedulable => "cordoned",
        Misfit::Selector => "without the labels asked for",
        Misfit::Taint => "with a taint that is not tolerated",
    }
}

/// The wait of a gang that asks for more of something than there is.
fn shortage(shapes: &[Shape<'_>], sites: &[Site<'_>], never: bool, whole: usize) -> Wait {
    let mut wanted = Amounts::new();
    for shape in shapes {
        for _ in &shape.pods {
            demand::add(&mut wanted, &shape.demand);
        }
    }
    // Only nodes that some pod of the gang could use count.
    let usable: Vec<&Site<'_>> = sites
        .iter()
        .enumerate()
        .filter(|(at, _)| shapes.iter().any(|shape| shape.misfits.get(*at).is_some_and(Option::is_none)))
        .map(|(_, site)| site)
        .collect();
    let amount = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0).max(0);
    let place = match usable.as_slice() {
        [one] => format!("node {}", one.name),
        many => format!("{} nodes", many.len()),
    };
    let verb = if usable.len() == 1 { "has" } else { "have" };
    let pods: usize = shapes.iter().map(|shape| shape.pods.len()).sum();
    let who = if whole > 1 { format!("its {pods} pods need") } else { "it needs".to_owned() };
    let mut parts = Vec::new();
    let mut hints = Vec::new();
    for (name, needed) in &wanted {
        let allocatable: i64 = usable.iter().map(|site| amount(&site.allocatable, name)).sum();
        let free: i64 = usable.iter().map(|site| amount(&site.free, name)).sum();
        let short = if never { *needed > allocatable } else { *needed > free };
        if short {
            let (need, have, left) = (show(name, *needed), show(name, allocatable), show(name, free));
            parts.push(format!("{who} {need}, {place} {verb} {have} allocatable of which {left} {} free", be(&left)));
            hints.push(field(name));
        }
    }
    if parts.is_empty() {
        // The sum is there, but no node has a piece that is large enough.
        let (name, need, best) = fragment(shapes, &usable, never);
        parts.push(format!("one pod needs {need}, the roomiest of {place} has {best}"));
        hints.push(field(&name));
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

/// The resource of which no node has enough in one piece.
fn fragment(shapes: &[Shape<'_>], usable: &[&Site<'_>], never: bool) -> (String, String, String) {
    let best = |name: &str| {
        let amount = |site: &&Site<'_>| {
            if never { &site.allocatable } else { &site.free }.get(name).copied().unwrap_or(0).max(0)
        };
        usable.iter().map(amount).max().unwrap_or(0)
    };
    let candidates = shapes.iter().flat_map(|shape| &shape.demand);
    let worst = candidates.min_by_key(|(name, amount)| (best(name) / (**amount).max(1), (*name).clone()));
    worst.map_or_else(Default::default, |(name, amount)| (name.clone(), show(name, *amount), show(name, best(name))))
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
pub(super) fn show(name: &str, amount: i64) -> String {
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

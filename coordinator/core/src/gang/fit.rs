//! Finding places for a whole gang.
//!
//! Pods that ask for the same are one shape, and a node's room for a shape is a number; so the work grows with shapes times
//! nodes, not with pods times nodes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::affinity;
use super::demand::{self, Amounts, Misfit};
use super::gather::Site;

/// Pods of one gang that ask for the same.
#[derive(Clone, Debug)]
pub(super) struct Shape<'view> {
    pub(super) demand: Amounts,
    pub(super) pods: Vec<&'view Pod>,
    /// For each node, why it is out of the question, if it is.
    pub(super) misfits: Vec<Option<Misfit>>,
    /// For each node, how much the pods would like it.
    preferences: Vec<i64>,
}

/// The shapes of some pods, the most demanding first, so that small pods fill the gaps that large ones leave.
pub(super) fn shapes<'view>(pods: &[&'view Pod], sites: &[Site<'_>]) -> Result<Vec<Shape<'view>>, String> {
    let mut shapes: BTreeMap<String, Shape<'view>> = BTreeMap::new();
    for pod in pods {
        let demand = demand::of_pod(pod)?;
        let key = format!("{demand:?}{}", constraints(pod));
        if let Some(shape) = shapes.get_mut(&key) {
            shape.pods.push(pod);
            continue;
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let misfits = sites.iter().map(|site| demand::misfit(site.node, &spec)).collect();
        let preferences = sites.iter().map(|site| affinity::preference(site.node, &spec)).collect();
        shapes.insert(key, Shape { demand, pods: vec![pod], misfits, preferences });
    }
    let mut shapes: Vec<Shape<'view>> = shapes.into_values().collect();
    shapes.sort_by_key(|shape| Reverse(weight(&shape.demand)));
    Ok(shapes)
}

/// What of a pod decides on which nodes it may run.
fn constraints(pod: &Pod) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    format!(
        "{:?}{:?}{:?}",
        spec.node_selector,
        spec.tolerations,
        spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref())
    )
}

/// Extended resources, such as GPUs, count before CPUs, and CPUs before memory.
fn weight(demand: &Amounts) -> (i64, i64, i64) {
    let plain = ["cpu", "memory", "ephemeral-storage", demand::PODS];
    let extended = demand.iter().filter(|(name, _)| !plain.contains(&name.as_str())).map(|(_, amount)| *amount).sum();
    (extended, demand.get("cpu").copied().unwrap_or(0), demand.get("memory").copied().unwrap_or(0))
}

/// A place for each pod, as (pod, position of the node); what they take is subtracted from `sites`. `None`, and `sites`
/// untouched, if one of them has none.
pub(super) fn place<'view>(shapes: &[Shape<'view>], sites: &mut [Site<'_>]) -> Option<Vec<(&'view Pod, usize)>> {
    let mut free: Vec<Amounts> = sites.iter().map(|site| site.free.clone()).collect();
    let mut places = Vec::new();
    for shape in shapes {
        place_shape(shape, &mut free, &mut places)?;
    }
    for (site, free) in sites.iter_mut().zip(free) {
        site.free = free;
    }
    Some(places)
}

fn place_shape<'view>(shape: &Shape<'view>, free: &mut [Amounts], places: &mut Vec<(&'view Pod, usize)>) -> Option<()> {
    let mut left = i64::try_from(shape.pods.len()).ok()?;
    let allowed = |at: &usize| shape.misfits.get(*at).is_some_and(Option::is_none);
    let liking = |at: usize| shape.preferences.get(at).copied().unwrap_or(0);
    let mut rooms: Vec<(i64, usize)> = (0..free.len())
        .filter(allowed)
        .map(|at| (demand::fits(&free[at], &shape.demand), at))
        .filter(|(room, _)| *room > 0)
        .collect();
    // Those that the pods would like best first. Among them the roomiest, for the fewest nodes; among nodes of the same room
    // the first by name.
    rooms.sort_by_key(|(room, at)| (Reverse(liking(*at)), Reverse(*room), *at));
    let mut pods = shape.pods.iter();
    while left > 0 {
        // A node that takes all that is left is best when it is the tightest such node.
        let best = liking(rooms.first()?.1);
        let alike = rooms.iter().take_while(|(_, at)| liking(*at) == best).count();
        let tightest =
            rooms[..alike].iter().rposition(|(room, _)| *room >= left).map(|last| first_equal(&rooms[..alike], last));
        let chosen = tightest.unwrap_or(0);
        let (room, at) = rooms.remove(chosen);
        let taken = room.min(left);
        demand::subtract(&mut free[at], &shape.demand, taken);
        places.extend(pods.by_ref().take(usize::try_from(taken).ok()?).map(|pod| (*pod, at)));
        left -= taken;
    }
    Some(())
}

/// The first of the nodes with the same room as the one at `last`.
fn first_equal(rooms: &[(i64, usize)], last: usize) -> usize {
    let room = rooms[last].0;
    rooms.iter().position(|(other, _)| *other == room).unwrap_or(last)
}

//! How long an all-reduce over a layout takes.
//!
//! The model is hierarchical, as NCCL's trees and rings come near to it: inside each node first, then between the nodes of the
//! innermost domains, then between those domains, and so on out, each time a ring. What crosses a level was reduced to one
//! copy per group before and is spread over the nodes of the group; the group with the fewest nodes is the slowest. So
//!
//! `time = Σ levels 2·(m−1)/m · bytes / (nodes of the smallest group · bytes per second) + 2·(m−1) · latency`
//!
//! where m is the number of groups that meet in one domain of the level, at most.

use super::cluster::{Cluster, NONE};
use super::view::{Place, View};

/// Nodes that are done with each other.
#[derive(Clone, Copy)]
struct Group {
    /// One of them.
    node: u32,
    nodes: u64,
}

/// Nanoseconds of one all-reduce of `bytes`.
pub(super) fn all_reduce_ns(places: &[Place], bytes: u64, cluster: &Cluster) -> u64 {
    let policy = &cluster.network;
    let mut pods: Vec<(u32, u64)> = places.iter().map(|place| (place.node, u64::from(place.count))).collect();
    pods.sort_unstable();
    pods.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 += if same { next.1 } else { 0 };
        same
    });
    let most = pods.iter().map(|(_, pods)| *pods).max().unwrap_or(0);
    let mut time = ring(most, bytes, policy.node_bytes_per_s, 0);
    let mut groups: Vec<Group> = pods.iter().map(|(node, _)| Group { node: *node, nodes: 1 }).collect();
    for level in (0..=policy.levels.len()).rev() {
        // The last time round, what is left meets in the cluster as a whole.
        let inside = level.checked_sub(1).and_then(|at| Some((policy.levels.get(at)?, cluster.tiers.get(at)?)));
        let (rate, latency) = inside.map_or((policy.cluster_bytes_per_s, policy.cluster_latency_ns), |(link, _)| {
            (link.bytes_per_s, link.latency_ns)
        });
        let domain = |node: u32| inside.map_or(0, |(_, tier)| tier.of.get(node as usize).copied().unwrap_or(NONE));
        let mut slowest = 0;
        let mut met: Vec<Group> = Vec::new();
        let mut rest = groups.as_slice();
        while let Some(first) = rest.first() {
            let here = domain(first.node);
            let alike = rest.iter().take_while(|group| here != NONE && domain(group.node) == here).count().max(1);
            let (these, others) = rest.split_at(alike);
            let least = these.iter().map(|group| group.nodes).min().unwrap_or(1);
            slowest = slowest.max(ring(alike as u64, bytes / least.max(1), rate, latency));
            met.push(Group { node: first.node, nodes: these.iter().map(|group| group.nodes).sum() });
            rest = others;
        }
        time = time.saturating_add(slowest);
        groups = met;
    }
    time
}

/// Nanoseconds of one all-reduce of `bytes` over each of these layouts.
#[must_use]
pub fn all_reduce_times<'a>(view: &View, layouts: impl Iterator<Item = &'a [Place]>, bytes: u64) -> Vec<u64> {
    let cluster = Cluster::new(view, &[]);
    let known = |place: &Place| Some(Place { node: *cluster.from_view.get(place.node as usize)?, ..*place });
    layouts
        .map(|places| all_reduce_ns(&places.iter().filter_map(known).collect::<Vec<Place>>(), bytes, &cluster))
        .collect()
}

fn ring(members: u64, bytes: u64, bytes_per_s: u64, latency_ns: u64) -> u64 {
    if members < 2 {
        return 0;
    }
    let steps = u128::from(2 * (members - 1));
    let moved = steps * u128::from(bytes) * 1_000_000_000 / u128::from(members) / u128::from(bytes_per_s.max(1));
    u64::try_from(moved + steps * u128::from(latency_ns)).unwrap_or(u64::MAX)
}

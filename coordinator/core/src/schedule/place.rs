//! Places for a whole gang: in one domain as close as there is, on as few nodes as need be, and so that little is left in pieces.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cluster::{Cluster, Grid, NONE, Span, len, room};
use super::exact;
use super::fragment::{Demand, Growths};
use super::network::all_reduce_ns;
use super::shape::{Class, Classes, Part};
use super::view::Place;

/// Domains of one level that are tried with all roles, at most.
const TRIES: usize = 8;
/// Domains beside the best one whose layouts are compared with its, at most.
const COMPARED: usize = 2;
/// A layout is clearly faster than another one if it is by more than this part of its time: for less nothing is broken into pieces.
const CLEARLY: u64 = 16;

/// What is free, for the roles of one class.
#[derive(Clone)]
pub(super) struct Ground<'a> {
    pub(super) free: &'a Grid,
    /// Room for pods of each role on each node.
    pub(super) caps: Vec<&'a [u32]>,
    pub(super) cluster: &'a Cluster,
    pub(super) classes: &'a Classes,
    pub(super) demand: &'a Demand,
}

impl Ground<'_> {
    /// How much pods of a role would like each node, if they care.
    fn liking(&self, class: &Class, part: usize) -> Option<&[i32]> {
        self.classes.allowed[self.classes.kinds[class.parts[part].kind].rules].liking.as_deref()
    }
}

/// The levels in which a class may lie, the closest first, each with the span of every domain of it. Slices, and a level that is required, are
/// labels: what lies in no domain of theirs is out. Nodes by themselves only with `single`.
pub(super) fn scopes(class: &Class, cluster: &Cluster, single: bool) -> Vec<(usize, Vec<Span>)> {
    let nodes = cluster.tiers.len();
    let inner = class.parts.iter().filter_map(|part| part.slice).map(|(_, level)| level).min().unwrap_or(nodes);
    let outer = class.required.unwrap_or(0);
    let within = |span: &Span| class.required.is_none_or(|level| cluster.tiers[level].of[span.lo] != NONE);
    let mut scopes: Vec<(usize, Vec<Span>)> = Vec::new();
    if class.close {
        for level in (outer..=inner.max(outer)).rev().filter(|level| single || *level < nodes) {
            let spans = cluster.tiers.get(level).map_or_else(|| cluster.nodes(), |tier| tier.spans.clone());
            scopes.push((level, spans.into_iter().filter(within).collect()));
        }
    }
    if class.required.is_none() {
        scopes.push((0, vec![cluster.all()]));
    }
    scopes
}

/// Whether there are places for `counts` pods of each role, where that can be told without looking for them: pods of one role,
/// without slices, fit wherever there is room for so many.
pub(super) fn possible(cluster: &Cluster, class: &Class, caps: &[&[u32]], counts: &[u32]) -> Option<bool> {
    let mut asked = (0..counts.len()).filter(|part| counts[*part] > 0);
    let part = asked.next().filter(|part| class.parts[*part].slice.is_none() && !class.terms)?;
    if asked.next().is_some() {
        return None;
    }
    let room = |span: &Span| {
        let pods = caps[part][span.lo..span.hi].iter().map(|cap| u64::from(*cap)).sum::<u64>();
        pods >= u64::from(counts[part])
    };
    Some(match class.required {
        Some(level) => cluster.tiers[level].spans.iter().any(room),
        None => room(&cluster.all()),
    })
}

/// Places for `counts` pods of each role, or none.
pub(super) fn place(ground: &Ground<'_>, class: &Class, counts: &[u32]) -> Option<Vec<Place>> {
    if counts.iter().zip(&ground.caps).any(|(count, caps)| *count > 0 && caps.is_empty()) {
        return None;
    }
    if possible(ground.cluster, class, &ground.caps, counts) == Some(false) {
        return None;
    }
    let asked: Vec<usize> = class.order.iter().copied().filter(|part| counts[*part] > 0).collect();
    if let Some(places) = on_one_node(ground, class, counts, &asked) {
        return Some(places);
    }
    let mut sums: Vec<Vec<u64>> = vec![Vec::new(); counts.len()];
    asked.iter().for_each(|at| sums[*at] = self::sums(ground.cluster, &class.parts[*at], ground.caps[*at]));
    let leftover = |span: &Span| {
        let mut least = None;
        for part in &asked {
            let room = sums[*part][span.hi] - sums[*part][span.lo];
            let left = room.checked_sub(rounded(&class.parts[*part], counts[*part]))?;
            least.get_or_insert(left);
        }
        least
    };
    for (level, spans) in scopes(class, ground.cluster, false) {
        let mut fitting: Vec<(u64, Span)> = spans.iter().filter_map(|span| Some((leftover(span)?, *span))).collect();
        if fitting.len() > TRIES {
            fitting.select_nth_unstable(TRIES);
        }
        fitting.truncate(TRIES);
        fitting.sort_unstable();
        let spans = fitting.into_iter().map(|(_, span)| span);
        if let Some(places) = fastest(ground, class, level, spans, counts) {
            return Some(places);
        }
    }
    None
}

/// The layout of the first of these domains, which come in the order in which they are liked, unless another one is clearly faster.
fn fastest(
    ground: &Ground<'_>,
    class: &Class,
    level: usize,
    spans: impl Iterator<Item = Span>,
    counts: &[u32],
) -> Option<Vec<Place>> {
    let bytes = class.shape.all_reduce_bytes;
    let mut layouts = spans.filter_map(|span| Filling::new(ground, class, span).fill(level, counts));
    let first = layouts.next()?;
    // On as few nodes as there can be within one domain of the innermost level nothing is faster.
    if bytes == 0 || !class.close || (level + 1 >= ground.cluster.tiers.len() && is_dense(ground, counts, &first)) {
        return Some(first);
    }
    let timed = |places: Vec<Place>| (all_reduce_ns(&places, bytes, ground.cluster), places);
    let mut best = timed(first);
    for other in layouts.take(COMPARED).map(timed) {
        if other.0.saturating_add(other.0 / CLEARLY) < best.0 {
            best = other;
        }
    }
    Some(best.1)
}

/// Whether no layout of so many pods can be on fewer nodes.
fn is_dense(ground: &Ground<'_>, counts: &[u32], places: &[Place]) -> bool {
    let least = |(caps, count): (&&[u32], &u32)| {
        let most = caps.iter().copied().max().unwrap_or(0).max(1);
        count.div_ceil(most) as usize
    };
    let mut nodes: Vec<u32> = places.iter().map(|place| place.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    ground
        .caps
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(least)
        .max()
        .is_some_and(|least| nodes.len() <= least)
}

/// The whole gang on the node where the least is left over, for gangs that want to be close.
fn on_one_node(ground: &Ground<'_>, class: &Class, counts: &[u32], asked: &[usize]) -> Option<Vec<Place>> {
    let sliced = class.parts.iter().any(|part| part.slice.is_some());
    let first = *asked.first()?;
    if !class.close || sliced {
        return None;
    }
    let within = |at: usize| class.required.is_none_or(|level| ground.cluster.tiers[level].of[at] != NONE);
    // Most often no node has room for all of one role, which is told by a look at that role alone.
    let has_first = (0..).zip(ground.caps[first]).filter(|(_, cap)| **cap >= counts[first]);
    let mut nodes: Vec<usize> = has_first.map(|(at, _)| at).collect();
    nodes.retain(|at| asked.iter().all(|part| ground.caps[*part][*at] >= counts[*part]) && within(*at));
    // What pods prefer comes before how close they are.
    let liking: Vec<&[i32]> = asked.iter().filter_map(|part| ground.liking(class, *part)).collect();
    if !(liking.is_empty() || nodes.is_empty()) {
        let liked = |at: usize| liking.iter().map(|liking| i64::from(liking[at])).sum::<i64>();
        let some = |at: &usize| asked.iter().any(|part| ground.caps[*part][*at] > 0) && within(*at);
        let best = (0..ground.cluster.len()).filter(some).map(liked).max();
        nodes.retain(|at| Some(liked(*at)) == best);
    }
    let tightest = |at: &usize| (ground.caps[first][*at], *at);
    if nodes.len() > TRIES {
        nodes.select_nth_unstable_by_key(TRIES, tightest);
        nodes.truncate(TRIES);
    }
    nodes.sort_unstable_by_key(tightest);
    let inner = ground.cluster.tiers.len();
    let fill = |at: usize| Filling::new(ground, class, Span { lo: at, hi: at + 1 }).fill(inner, counts);
    nodes.into_iter().find_map(fill)
}

/// Whole slices: the last one, which may have fewer pods, counts as one too.
fn rounded(part: &Part, count: u32) -> u64 {
    part.slice.map_or(u64::from(count), |(size, _)| u64::from(count.div_ceil(size)) * u64::from(size))
}

/// The room before each node. With slices, only whole slices within their domains count, at the first node of the domain.
pub(super) fn sums(cluster: &Cluster, part: &Part, caps: &[u32]) -> Vec<u64> {
    let mut sums = Vec::with_capacity(caps.len() + 1);
    let mut sum = 0;
    sums.push(sum);
    let Some((size, level)) = part.slice else {
        for cap in caps {
            sum += u64::from(*cap);
            sums.push(sum);
        }
        return sums;
    };
    let size = u64::from(size);
    for at in 0..caps.len() {
        let domain = cluster.tiers[level].of[at] as usize;
        if let Some(span) = cluster.tiers[level].spans.get(domain).filter(|span| span.lo == at) {
            let pods: u64 = caps[span.lo..span.hi].iter().map(|cap| u64::from(*cap)).sum();
            sum += pods / size * size;
        }
        sums.push(sum);
    }
    sums
}

/// A domain that is being filled with a gang.
pub(super) struct Filling<'a> {
    ground: &'a Ground<'a>,
    class: &'a Class,
    span: Span,
    /// Room for pods of each role on each node of the span.
    pub(super) caps: Vec<Vec<u32>>,
    /// What is free on the nodes that took pods.
    rows: BTreeMap<usize, Vec<i64>>,
}

impl<'a> Filling<'a> {
    pub(super) fn new(ground: &'a Ground<'a>, class: &'a Class, span: Span) -> Self {
        let caps = ground.caps.iter().map(|caps| caps[span.lo..span.hi].to_vec()).collect();
        Self { ground, class, span, caps, rows: BTreeMap::new() }
    }

    fn fill(mut self, level: usize, counts: &[u32]) -> Option<Vec<Place>> {
        let mut places = Vec::new();
        for part in self.class.order.iter().copied().filter(|part| counts[*part] > 0) {
            let Some(found) = self.add(part, level, counts[part]) else {
                let roles = counts.iter().filter(|count| **count > 0).count();
                return if roles > 1 { exact::place(self.ground, self.class, self.span, counts) } else { None };
            };
            places.extend(found);
        }
        places.sort_unstable();
        Some(places)
    }

    /// Places for pods of one role, which are taken.
    pub(super) fn add(&mut self, part: usize, level: usize, count: u32) -> Option<Vec<Place>> {
        let mut found = Vec::new();
        let spread = Spread { filling: self, part: &self.class.parts[part], caps: &self.caps[part] };
        if !spread.spread(self.span, level, count, &mut found) {
            return None;
        }
        found.sort_unstable();
        let needs = &self.ground.classes.kinds[self.class.parts[part].kind].needs;
        for (node, pods) in &found {
            let row = self.rows.entry(*node).or_insert_with(|| self.ground.free.row(*node).to_vec());
            needs.iter().for_each(|(resource, amount)| row[*resource] -= amount * i64::from(*pods));
            for (other, caps) in self.class.parts.iter().zip(&mut self.caps) {
                let cap = &mut caps[node - self.span.lo];
                *cap = (*cap).min(room(row, &self.ground.classes.kinds[other.kind].needs));
            }
        }
        let role = len(part);
        Some(found.into_iter().map(|(node, count)| Place { role, node: len(node), count }).collect())
    }
}

/// Pods of one role on their way to nodes.
struct Spread<'a> {
    filling: &'a Filling<'a>,
    part: &'a Part,
    caps: &'a [u32],
}

impl Spread<'_> {
    /// Spreads pods over a span whose cells are of `level`: whole cells, the largest first, and the rest in the tightest
    /// cell that takes it.
    fn spread(&self, span: Span, level: usize, mut left: u32, found: &mut Vec<(usize, u32)>) -> bool {
        let cluster = self.filling.ground.cluster;
        let kind = &self.filling.ground.classes.kinds[self.part.kind];
        let cares = self.filling.ground.classes.allowed[kind.rules].liking.is_some();
        // Pods that need not be close, and care for certain nodes, are not led to a domain first.
        let anywhere = cares && !self.filling.class.close && self.part.slice.is_none();
        if level >= cluster.tiers.len() || anywhere {
            return self.over_nodes(span, left, found);
        }
        let mut cells: Vec<(u32, Span)> =
            cluster.cells(span, level).into_iter().map(|cell| (self.room(cell, level), cell)).collect();
        cells.retain(|(room, _)| *room > 0);
        // Gangs that need not be close fill what is nearly full.
        let sign = |room: u32| if self.filling.class.close { i64::from(room) } else { -i64::from(room) };
        cells.sort_unstable_by_key(|(room, cell)| (Reverse(sign(*room)), *cell));
        let mut at = 0;
        while left > 0 {
            let rest = &cells[at.min(cells.len())..];
            let tightest =
                rest.iter().enumerate().filter(|(_, (room, _))| *room >= left).min_by_key(|(_, cell)| **cell);
            let chosen = if self.filling.class.close { tightest.map_or(0, |(chosen, _)| chosen) } else { 0 };
            let Some((room, cell)) = rest.get(chosen).copied() else { return false };
            let pods = room.min(left);
            if !self.spread(cell, level + 1, pods, found) {
                return false;
            }
            left -= pods;
            at += chosen + 1;
        }
        true
    }

    /// Room in a cell, whole slices if it is not inside of one.
    fn room(&self, cell: Span, level: usize) -> u32 {
        let base = self.filling.span.lo;
        let pods = |span: Span| {
            self.caps[span.lo - base..span.hi - base].iter().fold(0_u32, |sum, cap| sum.saturating_add(*cap))
        };
        let Some((size, within)) = self.part.slice.filter(|(_, within)| level <= *within) else { return pods(cell) };
        let tier = &self.filling.ground.cluster.tiers[within];
        let mut sum = 0_u32;
        let mut at = cell.lo;
        while at < cell.hi {
            let Some(span) = tier.spans.get(tier.of[at] as usize) else {
                at += 1;
                continue;
            };
            sum = sum.saturating_add(pods(*span) / size * size);
            at = span.hi;
        }
        sum
    }

    fn over_nodes(&self, span: Span, mut left: u32, found: &mut Vec<(usize, u32)>) -> bool {
        let base = self.filling.span.lo;
        let kind = &self.filling.ground.classes.kinds[self.part.kind];
        let liking = self.filling.ground.classes.allowed[kind.rules].liking.as_deref();
        let liked = |node: usize| Reverse(liking.map_or(0, |liking| liking[node]));
        let caps = &self.caps[span.lo - base..span.hi - base];
        let mut nodes: Vec<(u32, usize)> =
            (span.lo..).zip(caps).filter(|(_, cap)| **cap > 0).map(|(at, cap)| (*cap, at)).collect();
        let close = self.filling.class.close;
        let sign = |cap: u32| if close { i64::from(cap) } else { -i64::from(cap) };
        if left > 1 {
            nodes.sort_unstable_by_key(|(cap, at)| (liked(*at), Reverse(sign(*cap)), *at));
        }
        if left == 0 {
            return true;
        }
        // The most room that a node from here on has.
        let mut most: Vec<u32> = nodes.iter().map(|(cap, _)| *cap).collect();
        for at in (1..most.len()).rev() {
            most[at - 1] = most[at - 1].max(most[at]);
        }
        for (next, (cap, at)) in nodes.iter().enumerate() {
            // All that is left, where the fewest pieces are made; a gang that need not be close does so with its last pod only.
            if most[next] >= left && (close || left == 1) {
                let mut growths = Growths::new(self.filling.ground.demand, &kind.needs, left);
                let mut growth = |(cap, at): &(u32, usize)| {
                    let row =
                        self.filling.rows.get(at).map_or_else(|| self.filling.ground.free.row(*at), Vec::as_slice);
                    (liked(*at), growths.of(row), *cap, *at)
                };
                // On one of the nodes that are liked best, of those that are left.
                let best = nodes[next..].iter().map(|(_, at)| liked(*at)).min();
                let fits = |(cap, at): &&(u32, usize)| *cap >= left && Some(liked(*at)) == best;
                if let Some((.., at)) = nodes[next..].iter().filter(fits).map(&mut growth).min() {
                    found.push((at, left));
                    return true;
                }
            }
            let pods = left.min(*cap);
            found.push((*at, pods));
            left -= pods;
            if left == 0 {
                return true;
            }
        }
        false
    }
}

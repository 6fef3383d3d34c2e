//! What is free now, and what will be free when set-aside places are due.
//!
//! A slot is a moment: now, and the start of each reservation. In a slot's grid is free what no gang uses that may still run
//! then, and no reservation holds that is due by then. A gang that may run until `end` has to fit into every slot before
//! `end`; so a slot also keeps the least of all slots up to it, and what fits there fits into all of them.

use super::cluster::{Cluster, Grid, room};
use super::quota::{Tree, Usage};
use super::shape::{Class, Classes, Kind};
use super::view::Place;

/// Never.
pub(super) const FOREVER: i64 = i64::MAX;

/// Room for a kind of pod on each node, kept up as nodes change.
#[derive(Clone, Debug)]
pub(super) struct Caps {
    pub(super) of: Vec<u32>,
    pub(super) total: u64,
    seen: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) at_ms: i64,
    pub(super) free: Grid,
    pub(super) least: Grid,
    pub(super) usage: Usage,
    /// Nodes whose least changed, in order.
    log: Vec<u32>,
    caps: Vec<Option<Caps>>,
}

/// Someone who takes room for a time: a gang that runs, or a reservation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    pub(super) places: &'a [Place],
    pub(super) class: &'a Class,
    pub(super) queue: usize,
    /// What the places take of each resource.
    pub(super) uses: &'a [i64],
    pub(super) from_ms: i64,
    pub(super) until_ms: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    pub(super) slots: Vec<Slot>,
}

impl Slot {
    pub(super) fn new(at_ms: i64, cluster: &Cluster, tree: &Tree, kinds: usize) -> Self {
        Self {
            at_ms,
            free: cluster.capacity.clone(),
            least: Grid::default(),
            usage: tree.none(),
            log: Vec::new(),
            caps: vec![None; kinds],
        }
    }

    /// Adds or takes away a claim; the least of the slots is not touched.
    pub(super) fn shift(&mut self, claim: &Claim<'_>, kinds: &[Kind], tree: &Tree, sign: i64) {
        for place in claim.places {
            let Some(part) = claim.class.parts.get(place.role as usize) else { continue };
            self.free.add(place.node as usize, &kinds[part.kind].needs, i64::from(place.count) * -sign);
        }
        tree.add(&mut self.usage, claim.queue, claim.uses, sign);
    }
}

/// What places take of each resource.
pub(super) fn uses(class: &Class, places: &[Place], resources: usize) -> Vec<i64> {
    let mut counts = vec![0; class.parts.len()];
    for place in places {
        if let Some(count) = counts.get_mut(place.role as usize) {
            *count += place.count;
        }
    }
    class.amounts(&counts, resources)
}

impl Timeline {
    /// The last slot that a gang that ends at `until_ms` has to fit into.
    pub(super) fn last_before(&self, until_ms: i64) -> usize {
        self.slots.iter().rposition(|slot| slot.at_ms < until_ms).unwrap_or(0)
    }

    /// A claim begins (`sign` 1) or ends (-1).
    pub(super) fn shift(&mut self, claim: &Claim<'_>, kinds: &[Kind], tree: &Tree, sign: i64) {
        let mut first = None;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.at_ms >= claim.from_ms && (slot.at_ms < claim.until_ms || at == 0) {
                slot.shift(claim, kinds, tree, sign);
                first.get_or_insert(at);
            }
        }
        let Some(first) = first else { return };
        for place in claim.places {
            self.settle(first, place.node as usize);
        }
    }

    /// Finds the least of a node anew, in the slots from `first` on.
    fn settle(&mut self, first: usize, node: usize) {
        for at in first..self.slots.len() {
            let (before, rest) = self.slots.split_at_mut(at);
            let slot = &mut rest[0];
            let row = slot.least.row_mut(node);
            row.copy_from_slice(slot.free.row(node));
            if let Some(before) = before.last() {
                row.iter_mut().zip(before.least.row(node)).for_each(|(cell, other)| *cell = (*cell).min(*other));
            }
            slot.log.push(u32::try_from(node).unwrap_or(u32::MAX));
        }
    }

    /// Puts a slot in its place in time.
    pub(super) fn insert(&mut self, slot: Slot) {
        let at = self.slots.iter().position(|other| other.at_ms > slot.at_ms).unwrap_or(self.slots.len());
        self.slots.insert(at, slot);
        for at in at..self.slots.len() {
            let (before, rest) = self.slots.split_at_mut(at);
            let slot = &mut rest[0];
            slot.least.clone_from(&slot.free);
            if let Some(before) = before.last() {
                slot.least.lower_to(&before.least);
            }
            slot.caps.iter_mut().for_each(|caps| *caps = None);
            slot.log.clear();
        }
    }

    /// Room for pods of a kind in all slots up to this one.
    pub(super) fn caps(&mut self, slot: usize, kind: usize, classes: &Classes) -> &Caps {
        let slot = &mut self.slots[slot];
        let least = &slot.least;
        let end = slot.log.len();
        let caps = slot.caps[kind].get_or_insert_with(|| {
            let mut caps = fresh(least, kind, classes);
            caps.seen = end;
            caps
        });
        let allowed = &classes.allowed[classes.kinds[kind].rules].nodes;
        for node in &slot.log[caps.seen..] {
            let node = *node as usize;
            if allowed.get(node) {
                let now = room(least.row(node), &classes.kinds[kind].needs);
                caps.total = caps.total - u64::from(caps.of[node]) + u64::from(now);
                caps.of[node] = now;
            }
        }
        caps.seen = end;
        caps
    }

    /// What [`caps`](Self::caps) brought up to date before.
    pub(super) fn known_caps(&self, slot: usize, kind: usize) -> &[u32] {
        self.slots[slot].caps[kind].as_ref().map_or(&[], |caps| &caps.of)
    }
}

/// Room for pods of a kind in a grid.
pub(super) fn fresh(grid: &Grid, kind: usize, classes: &Classes) -> Caps {
    let kind = &classes.kinds[kind];
    let allowed = &classes.allowed[kind.rules].nodes;
    let nodes = grid_len(grid, allowed);
    // Nodes often have as much free as their neighbour, and comparing is cheaper than dividing.
    let mut last: (&[i64], u32) = (&[], room(&[], &[]));
    let mut cap = |node: usize| {
        if !allowed.get(node) {
            return 0;
        }
        let row = grid.row(node);
        if last.0 != row {
            last = (row, room(row, &kind.needs));
        }
        last.1
    };
    let of: Vec<u32> = (0..nodes).map(&mut cap).collect();
    let total = of.iter().map(|cap| u64::from(*cap)).sum();
    Caps { of, total, seen: 0 }
}

fn grid_len(grid: &Grid, allowed: &super::bits::Bits) -> usize {
    grid.rows().min(allowed.len())
}

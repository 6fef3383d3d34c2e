//! The search that misses nothing, for gangs of several roles on a handful of nodes: filling role by role may miss a place that there is.

use super::cluster::{NONE, Span, len, room};
use super::place::Ground;
use super::shape::Class;
use super::view::Place;

/// Nodes that are searched, at most.
const NODES: usize = 12;
/// Steps, at most.
const STEPS: u32 = 20_000;

/// Pods of a role in slices.
#[derive(Clone, Copy)]
struct Slices {
    part: usize,
    size: u32,
    level: usize,
    /// Pods in the domain that is being filled.
    here: u32,
    /// Pods of the last slice, if it has fewer than the others and has no domain yet.
    odd: u32,
}

struct Search<'a> {
    ground: &'a Ground<'a>,
    class: &'a Class,
    rows: Vec<Vec<i64>>,
    left: Vec<u32>,
    /// Room for each role on each node and those after it, if it were alone.
    rest: Vec<Vec<u64>>,
    slices: Vec<Slices>,
    places: Vec<Place>,
    steps: u32,
    lo: usize,
}

pub(super) fn place(ground: &Ground<'_>, class: &Class, span: Span, counts: &[u32]) -> Option<Vec<Place>> {
    if span.hi - span.lo > NODES {
        return None;
    }
    let rows = (span.lo..span.hi).map(|at| ground.free.row(at).to_vec()).collect();
    let rest = |part: usize| {
        let mut rest = vec![0; span.hi - span.lo + 1];
        for at in (span.lo..span.hi).rev() {
            rest[at - span.lo] = rest[at - span.lo + 1] + u64::from(ground.caps[part].get(at).copied().unwrap_or(0));
        }
        rest
    };
    let slices = class.parts.iter().enumerate().filter_map(|(part, of)| {
        let (size, level) = of.slice?;
        Some(Slices { part, size, level, here: 0, odd: counts[part] % size })
    });
    let mut search = Search {
        ground,
        class,
        rows,
        left: counts.to_vec(),
        rest: (0..counts.len()).map(rest).collect(),
        slices: slices.collect(),
        places: Vec::new(),
        steps: STEPS,
        lo: span.lo,
    };
    if !search.fill(0, 0) {
        return None;
    }
    search.places.sort_unstable();
    Some(search.places)
}

impl Search<'_> {
    /// Decides how many pods of a role go to a node, then of the next role, then on the next node.
    fn fill(&mut self, node: usize, at: usize) -> bool {
        if self.left.iter().all(|left| *left == 0) {
            return self.slices.iter().copied().all(|mut slices| slices.close());
        }
        let Some(part) = self.class.order.get(at).copied() else { return self.go_on(node) };
        if node >= self.rows.len() || self.steps == 0 {
            return false;
        }
        self.steps -= 1;
        let kind = self.class.parts[part].kind;
        let needs = &self.ground.classes.kinds[kind].needs;
        let most = if self.allows(node, part) { room(&self.rows[node], needs).min(self.left[part]) } else { 0 };
        // What the nodes after this one cannot take has to go here.
        let least = u64::from(self.left[part]).saturating_sub(self.rest[part][node + 1]);
        for pods in (0..=most).rev().take_while(|pods| u64::from(*pods) >= least) {
            self.shift(node, part, pods, -1);
            let place = Place { role: len(part), node: len(self.lo + node), count: pods };
            if pods > 0 {
                self.places.push(place);
            }
            self.left[part] -= pods;
            self.here(part).into_iter().for_each(|slices| slices.here += pods);
            if self.fill(node, at + 1) {
                return true;
            }
            self.here(part).into_iter().for_each(|slices| slices.here -= pods);
            self.left[part] += pods;
            if pods > 0 {
                self.places.pop();
            }
            self.shift(node, part, pods, 1);
        }
        false
    }

    /// Goes on to the next node; where a domain ends, its slices have to be whole.
    fn go_on(&mut self, node: usize) -> bool {
        if self.slices.is_empty() {
            return self.fill(node + 1, 0);
        }
        let before = self.slices.clone();
        let (cluster, at) = (self.ground.cluster, self.lo + node);
        let ends = |level: usize| cluster.tiers[level].of.get(at + 1) != Some(&cluster.tiers[level].of[at]);
        let whole = self.slices.iter_mut().filter(|slices| ends(slices.level)).all(Slices::close);
        if whole && self.fill(node + 1, 0) {
            return true;
        }
        self.slices = before;
        false
    }

    fn allows(&self, node: usize, part: usize) -> bool {
        let at = self.lo + node;
        let inside =
            self.class.parts[part].slice.is_none_or(|(_, level)| self.ground.cluster.tiers[level].of[at] != NONE);
        inside && self.ground.caps[part].get(at).is_some_and(|cap| *cap > 0)
    }

    fn here(&mut self, part: usize) -> Option<&mut Slices> {
        self.slices.iter_mut().find(|slices| slices.part == part)
    }

    fn shift(&mut self, node: usize, part: usize, pods: u32, sign: i64) {
        for (resource, amount) in &self.ground.classes.kinds[self.class.parts[part].kind].needs {
            self.rows[node][*resource] += amount * i64::from(pods) * sign;
        }
    }
}

impl Slices {
    /// The domain is full: whether it has whole slices, but for the one that is not.
    fn close(&mut self) -> bool {
        let over = std::mem::take(&mut self.here) % self.size;
        if over != 0 && over == self.odd {
            self.odd = 0;
            return true;
        }
        over == 0
    }
}

//! The search that misses nothing, for gangs of several roles on a handful of nodes: filling role by role may miss a place that there is.

use super::cluster::{Span, len, room};
use super::place::Ground;
use super::shape::Class;
use super::view::Place;

/// Nodes that are searched, at most.
const NODES: usize = 12;
/// Steps, at most.
const STEPS: u32 = 20_000;

struct Search<'a> {
    ground: &'a Ground<'a>,
    class: &'a Class,
    rows: Vec<Vec<i64>>,
    left: Vec<u32>,
    places: Vec<Place>,
    steps: u32,
    lo: usize,
}

pub(super) fn place(ground: &Ground<'_>, class: &Class, span: Span, counts: &[u32]) -> Option<Vec<Place>> {
    if span.hi - span.lo > NODES || class.parts.iter().any(|part| part.slice.is_some()) {
        return None;
    }
    let rows = (span.lo..span.hi).map(|at| ground.free.row(at).to_vec()).collect();
    let mut search =
        Search { ground, class, rows, left: counts.to_vec(), places: Vec::new(), steps: STEPS, lo: span.lo };
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
            return true;
        }
        let Some(part) = self.class.order.get(at).copied() else { return self.fill(node + 1, 0) };
        if node >= self.rows.len() || self.steps == 0 {
            return false;
        }
        self.steps -= 1;
        let kind = self.class.parts[part].kind;
        let allowed = self.ground.caps[part].get(self.lo + node).is_some_and(|cap| *cap > 0);
        let needs = &self.ground.classes.kinds[kind].needs;
        let most = if allowed { room(&self.rows[node], needs).min(self.left[part]) } else { 0 };
        for pods in (0..=most).rev() {
            self.shift(node, part, pods, -1);
            let place = Place { role: len(part), node: len(self.lo + node), count: pods };
            if pods > 0 {
                self.places.push(place);
            }
            self.left[part] -= pods;
            if self.fill(node, at + 1) {
                return true;
            }
            self.left[part] += pods;
            if pods > 0 {
                self.places.pop();
            }
            self.shift(node, part, pods, 1);
        }
        false
    }

    fn shift(&mut self, node: usize, part: usize, pods: u32, sign: i64) {
        for (resource, amount) in &self.ground.classes.kinds[self.class.parts[part].kind].needs {
            self.rows[node][*resource] += amount * i64::from(pods) * sign;
        }
    }
}

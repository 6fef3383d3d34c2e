//! How much of the scarce resource lies in pieces that nobody can use.
//!
//! After Weng et al., "Beware of Fragmentation" (ATC'23): a node's fragment, seen by a kind of pod, is what is free of the
//! scarce resource and left over when as many pods of that kind as possible were there; everything that is free if not one
//! fits. The fragment of a node is the mean over the kinds of pods that there are, each by the scarce resource that it asks for.
//! A pod goes where this grows least.

use super::cluster::room;
use super::shape::{Classes, Kind};
use super::table::hash;
use super::view::View;

/// Kinds that are looked at, at most.
const KINDS: usize = 16;
/// Nodes of which the growth is kept at a time.
const KNOWN: usize = 64;
/// Sum of the weights.
const WHOLE: i64 = 1_000;

/// The kinds of pods there are, and how much of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    scarce: usize,
    kinds: Vec<(Kind, i64)>,
}

impl Demand {
    pub(super) fn new(view: &View, classes: &Classes) -> Self {
        let Some(scarce) = view.policy.scarce.map(|scarce| scarce as usize) else { return Self::default() };
        let mut gangs = vec![0_i64; classes.classes.len()];
        for (at, class) in (0..).zip(&classes.of) {
            // Whatever it started in, so that starting changes nothing here.
            let first = classes.options_of(at).first().unwrap_or(class);
            gangs[*first as usize] += 1;
        }
        let mut sums = vec![0_i64; classes.kinds.len()];
        for (class, gangs) in classes.classes.iter().zip(gangs) {
            for (part, role) in class.parts.iter().zip(&class.shape.roles) {
                sums[part.kind] += role.request(scarce).max(0) * i64::from(part.count) * gangs;
            }
        }
        let mut found: Vec<(i64, &Kind)> =
            sums.iter().zip(&classes.kinds).filter(|(sum, _)| **sum > 0).map(|(sum, kind)| (*sum, kind)).collect();
        // By what it is, not by where it stands, so that the order of the view does not matter.
        found.sort_by(|a, b| (b.0, &b.1.needs).cmp(&(a.0, &a.1.needs)));
        found.truncate(KINDS);
        let whole: i64 = found.iter().map(|(sum, _)| sum).sum();
        let share = |sum: i64| i64::try_from(i128::from(sum) * i128::from(WHOLE) / i128::from(whole.max(1)));
        let kinds = found.into_iter().map(|(sum, kind)| (kind.clone(), share(sum).unwrap_or(0))).collect();
        Self { scarce, kinds }
    }

    /// The fragment of a node with this much free, in thousandths.
    pub(super) fn fragment(&self, row: &[i64]) -> i64 {
        let free = row.get(self.scarce).copied().unwrap_or(0).max(0);
        if free == 0 {
            return 0;
        }
        let left = |kind: &Kind| {
            let need = kind.needs.first().map_or(0, |(_, amount)| *amount);
            free - i64::from(room(row, &kind.needs)) * need
        };
        self.kinds.iter().map(|(kind, weight)| left(kind) * weight).sum()
    }
}

/// How much the fragments of nodes grow if so many pods with these needs go there.
pub(super) struct Growths<'a> {
    demand: &'a Demand,
    needs: &'a [(usize, i64)],
    pods: u32,
    after: Vec<i64>,
    /// What was found before: many nodes have the same free.
    known: Vec<Option<(&'a [i64], i64)>>,
}

impl<'a> Growths<'a> {
    pub(super) fn new(demand: &'a Demand, needs: &'a [(usize, i64)], pods: u32) -> Self {
        Self { demand, needs, pods, after: Vec::new(), known: vec![None; KNOWN] }
    }

    /// Of a node with this much free.
    pub(super) fn of(&mut self, row: &'a [i64]) -> i64 {
        if self.demand.kinds.is_empty() {
            return 0;
        }
        let cell = usize::try_from(hash(row) >> 32).unwrap_or(0) % KNOWN;
        if let Some((_, growth)) = self.known[cell].filter(|(known, _)| *known == row) {
            return growth;
        }
        self.after.clear();
        self.after.extend_from_slice(row);
        for (resource, amount) in self.needs {
            self.after[*resource] -= amount * i64::from(self.pods);
        }
        let growth = self.demand.fragment(&self.after) - self.demand.fragment(row);
        self.known[cell] = Some((row, growth));
        growth
    }
}

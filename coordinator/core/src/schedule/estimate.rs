//! When gangs that wait are expected to start.
//!
//! An estimate lets gangs start in the order of their turns, as soon as what they ask for is free: of each resource the cluster as one pool,
//! of the quota what their queue and each cohort above it may use. Nobody overtakes there. Each pool and each quota is looked at by itself,
//! as a [`Chain`] of all that ask for some of it; and in its queue a gang starts no sooner than those before it that ask for nothing that it
//! does not ask for too. So one more gang that waits never makes another's estimate earlier: whoever is in a chain only ever makes those
//! behind start later. It knows nothing of fragments and topology. A reservation says it exactly.
//!
//! The latest start is said where it is certain: of what is promised, and of the first few where everybody else has a run limit and nobody
//! can be stopped for another. While a gang waits somebody runs, for it would start if nobody did: so it starts at the latest when all that
//! may be before it have had their time one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::Line;
use super::chain::{Chain, Ground, Hold, Turns, mask};
use super::decision::{Estimate, Reason};
use super::engine::Engine;
use super::timeline::FOREVER;
use super::view::{PreemptionPolicy, QueueingStrategy};

/// Gangs that are looked at, the first in the order of turns: so what is spent on them does not grow with how many wait.
const MOST: usize = 256;

/// Gangs that may be before one of which the latest start is told. With more of them it would be too late to be of use.
const MOST_BEFORE: usize = 16;

/// Everything that gangs wait for.
struct Outlook<'e> {
    engine: &'e Engine<'e>,
    /// Who runs, and when each is expected to end, the soonest first.
    running: Vec<(i64, usize)>,
    /// The same below each queue and cohort.
    below: BTreeMap<usize, Vec<(i64, usize)>>,
    ground: Ground,
    /// For whom places are set aside.
    holds: Vec<Hold>,
    pools: BTreeMap<usize, Chain>,
    quotas: BTreeMap<(usize, usize), Chain>,
    /// By queue, those that ask for the same resources.
    turns: BTreeMap<usize, Vec<Turns>>,
}

impl Engine<'_> {
    /// An estimate for each of these gangs, which wait for these reasons, in this order.
    pub(super) fn estimates(&self, sequence: &[Line], reasons: &[Reason]) -> Vec<Option<Estimate>> {
        let front = sequence.len().min(MOST);
        let waits = self.waits(sequence, reasons);
        let waits = |at: &usize| waits[*at];
        let ids: Vec<usize> = (0..front).filter(waits).map(|at| sequence[at].id).collect();
        let hold = |at: usize| {
            let one = &sequence[at];
            let from_ms = self.members[one.id].held.as_ref().filter(|_| one.holds)?.start_ms.max(self.now_ms);
            let to_ms = self.members[one.id].expected_ms.map_or(FOREVER, |run_ms| from_ms.saturating_add(run_ms));
            Some(Hold { id: one.id, from_ms, to_ms })
        };
        let holds = (0..front).filter(waits).filter_map(hold).collect();
        let mut outlook = Outlook::new(self, &ids, holds);
        let mut estimates = vec![None; sequence.len()];
        for at in (0..front).filter(waits) {
            let one = &sequence[at];
            let held = self.members[one.id].held.as_ref().filter(|_| one.holds);
            let start = match held {
                Some(held) => Some(held.start_ms.max(self.now_ms)),
                None => outlook.start(one.id),
            };
            let latest = match held {
                Some(held) => start.filter(|_| held.promised),
                None => self.latest(sequence, &waits, at),
            };
            estimates[at] = start
                .map(|expected_ms| Estimate { expected_ms, latest_ms: latest.map(|latest| latest.max(expected_ms)) });
        }
        estimates
    }

    /// Who will start some day, as things are: not whoever is in a strict queue behind one that never will.
    fn waits(&self, sequence: &[Line], reasons: &[Reason]) -> Vec<bool> {
        let mut stuck = BTreeSet::new();
        let mut one = |(one, reason): (&Line, &Reason)| {
            if !reason.ends_by_itself() && self.is_strict(one.queue) {
                stuck.insert(one.queue);
            }
            reason.ends_by_itself() && !stuck.contains(&one.queue)
        };
        sequence.iter().zip(reasons).map(&mut one).collect()
    }

    fn is_strict(&self, queue: usize) -> bool {
        let queue = self.view.queues.get(queue);
        queue.is_some_and(|queue| queue.queueing_strategy == QueueingStrategy::StrictFifo)
    }

    /// When the gang at a position has certainly started, if that is known.
    fn latest(&self, sequence: &[Line], waits: &dyn Fn(&usize) -> bool, at: usize) -> Option<i64> {
        if at > MOST_BEFORE || self.may_stop_any(sequence) || !self.leaving.is_empty() {
            return None;
        }
        let own = &sequence[at];
        if self.class(own.id).terms || !self.classes.options_of(own.at).is_empty() {
            return None;
        }
        // By age one that never starts may become the head of a strict queue.
        let never = |(other, one): (usize, &Line)| one.queue == own.queue && !waits(&other);
        if self.is_strict(own.queue) && sequence.iter().enumerate().any(never) {
            return None;
        }
        let ends = self.running.iter().map(|id| self.members[*id].ends_ms);
        let mut latest = ends.max().unwrap_or(self.now_ms);
        let mut before = 0;
        for (other, one) in sequence.iter().enumerate().filter(|(other, _)| waits(other)) {
            if other == at || (other > at && self.stays_behind(one, own)) {
                continue;
            }
            before += 1;
            if before > MOST_BEFORE || latest == FOREVER || one.ends_ms == FOREVER {
                return None;
            }
            latest = latest.saturating_add(one.ends_ms - self.now_ms);
        }
        Some(latest).filter(|latest| *latest < FOREVER)
    }

    /// Whether a gang that is behind another never passes it: wherever it fits the other fits too, which has its turn before.
    fn stays_behind(&self, one: &Line, other: &Line) -> bool {
        let (behind, before) = (&self.members[one.id], &self.members[other.id]);
        !one.holds
            && (behind.class, behind.queue) == (before.class, before.queue)
            && behind.priority <= before.priority
            && behind.submitted_ms >= before.submitted_ms
            && behind.ends_ms >= before.ends_ms
            && self.classes.options_of(one.at).is_empty()
    }

    /// Whether somebody could be stopped for another: it would begin again, and nobody knows when.
    fn may_stop_any(&self, sequence: &[Line]) -> bool {
        let policies =
            || self.view.queues.iter().flat_map(|queue| [queue.within_cluster_queue, queue.reclaim_within_cohort]);
        let ids = || self.running.iter().copied().chain(sequence.iter().map(|one| one.id));
        let priorities = || ids().map(|id| self.members[id].priority);
        policies().any(|policy| policy == PreemptionPolicy::Any)
            || policies().any(|policy| policy != PreemptionPolicy::Never) && priorities().min() != priorities().max()
    }
}

impl<'e> Outlook<'e> {
    /// What these gangs, of which each could start if it were alone, wait for.
    fn new(engine: &'e Engine<'e>, waiting: &[usize], holds: Vec<Hold>) -> Self {
        let mut running: Vec<(i64, usize)> =
            engine.running.iter().map(|id| (engine.expected_end(&engine.members[*id]), *id)).collect();
        running.sort_unstable();
        let mut below: BTreeMap<usize, Vec<(i64, usize)>> = BTreeMap::new();
        for (end, id) in &running {
            let path = engine.tree.path(engine.members[*id].queue);
            path.for_each(|at| below.entry(at).or_default().push((*end, *id)));
        }
        let ground = Ground::new(engine, &running, waiting);
        let (pools, quotas, turns) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut outlook = Self { engine, running, below, ground, holds, pools, quotas, turns };
        for id in waiting {
            outlook.list(engine.members[*id].queue, mask(&engine.class(*id).asks));
        }
        outlook
    }

    /// Gangs of a queue that ask for these resources: all of them are known before the first one starts.
    fn list(&mut self, queue: usize, mask: u64) {
        let lists = self.turns.entry(queue).or_default();
        if lists.iter().all(|turns| turns.mask != mask) {
            let here = self.below.get(&queue).map(Vec::as_slice).unwrap_or_default();
            lists.push(Turns::new(self.engine, here, &self.holds, (queue, mask)));
        }
    }

    /// When a gang starts for which no places are set aside, and whose turn is after all that were asked about before.
    fn start(&mut self, id: usize) -> Option<i64> {
        let from_ms = self.provided(id);
        let engine = self.engine;
        let (queue, mask) = (engine.members[id].queue, mask(&engine.class(id).asks));
        let here = self.below.get(&queue).map(Vec::as_slice).unwrap_or_default();
        let lists = self.turns.entry(queue).or_default();
        let own = lists.iter_mut().find(|turns| turns.mask == mask);
        let start = own.zip(from_ms).and_then(|(own, from_ms)| own.start(engine, (&self.ground, here), id, from_ms));
        for turns in lists.iter_mut().filter(|turns| mask & !turns.mask == 0) {
            turns.begin(engine, (&self.ground, here), id, start);
        }
        start
    }

    /// When the cluster, its queue and its cohorts each have what it asks for.
    fn provided(&mut self, id: usize) -> Option<i64> {
        let (engine, tree) = (self.engine, &self.engine.tree);
        let member = &engine.members[id];
        let (queue, run_ms) = (member.queue, member.expected_ms);
        let mut latest = Some(engine.now_ms);
        let mut not_before = |other: Option<i64>| latest = latest.zip(other).map(|(one, other)| one.max(other));
        for (resource, amount) in engine.class(id).asks.iter().enumerate().filter(|(_, amount)| **amount > 0) {
            if self.ground.contested.contains(&resource) {
                let begun = || Chain::pool(engine, &self.running, &self.holds, resource);
                let pool = self.pools.entry(resource).or_insert_with(begun);
                not_before(pool.start(tree, (queue, *amount), run_ms));
            }
            for at in tree.path(queue).filter(|_| tree.is_limited(queue, resource)) {
                let Some(limit) = tree.limit(at, resource) else { continue };
                let running = self.below.get(&at).map(Vec::as_slice).unwrap_or_default();
                let begun = || Chain::quota(engine, running, &self.holds, (resource, at), limit);
                let quota = self.quotas.entry((at, resource)).or_insert_with(begun);
                not_before(quota.start(tree, (queue, *amount), run_ms));
            }
        }
        latest
    }
}

//! Making room: who may be stopped for whom, and who is.
//!
//! Of its own queue a gang may take from gangs of a lower priority (`withinClusterQueue`). Of other queues of its cohorts it may take what they use
//! beyond what they are entitled to, if its own queue stays within what it is entitled to (`reclaimWithinCohort`): of gangs of a
//! lower priority, or, with `Any`, of the same one; never of a higher one. Whatever is taken has to raise the potential of
//! docs/scheduling.md, so that preemptions come to an end.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::Span;
use super::decision::subtract;
use super::engine::{Engine, Likeness, Member};
use super::view::{Phase, Place, PreemptionPolicy};

/// Searches in one pass, at most.
pub(super) const TRIES: u32 = 3;
/// Domains in which room is sought, at most.
const SPANS: usize = 4;

/// Steps in which an elastic gang shrinks, at most.
const PIECES: usize = 4;
/// Tests of what may be given back, at most.
const TESTS: u32 = 48;

/// Who may be taken from, as of a change.
#[derive(Debug, Default)]
pub(super) struct Prey {
    stamp: u64,
    /// The lowest priority that runs in each queue.
    lowest: Vec<i32>,
    /// The lowest that runs in a queue which uses more than it is entitled to.
    lowest_over: i32,
}

/// Something that may be taken.
#[derive(Clone, Debug)]
struct Item {
    victim: usize,
    places: Vec<Place>,
    stops: bool,
    priority: i32,
    lost_pod_ms: i64,
}

/// What is taken, as positions of items, and where the gang goes then.
struct Way {
    chosen: Vec<usize>,
    places: Vec<Place>,
    cost: (i32, i64, usize),
}

impl Engine<'_> {
    /// Takes room from others for the smallest size of a gang, if that is right and enough; gives the gang's places.
    pub(super) fn make_room(&mut self, id: usize) -> Option<Vec<Place>> {
        let likeness = self.likeness(id);
        let (class, queue, priority, _) = likeness;
        if self.searches == 0 || self.is_spared(&likeness) || !self.may_take_any(class, queue, priority) {
            return None;
        }
        self.searches -= 1;
        let refused = self.gains_too_little(class, queue, priority);
        // What is not looked for would not have been found: every test of the engine checks it.
        let items = if refused && cfg!(not(debug_assertions)) { Vec::new() } else { self.items(id) };
        let slot = self.timeline.last_before(self.members[id].ends_ms);
        let found = if items.is_empty() { None } else { self.search(id, slot, &items) };
        debug_assert!(!(refused && found.is_some()), "room is found that was said to be refused");
        let Some(way) = found else {
            self.is_in_vain(likeness);
            return None;
        };
        for (victim, (places, stops, lost)) in self.merged(&items, &way.chosen) {
            let until = self.members[victim].ends_ms;
            self.shift(victim, &places, self.now_ms, until, -1);
            self.take(victim, id, &places, stops, lost);
        }
        Some(way.places)
    }

    /// Remembers that no room is found for such a gang until something changes.
    fn is_in_vain(&mut self, likeness: Likeness) {
        if self.spared.0 != self.changes {
            self.spared = (self.changes, Vec::new());
        }
        self.spared.1.push(likeness);
    }

    /// Whether a gang could take of its own priority only, and [`raises`](Self::raises) would refuse whatever that is: even if nobody lost anything
    /// of what they are entitled to, its own queue would not gain enough of it.
    fn gains_too_little(&self, class: usize, queue: usize, priority: i32) -> bool {
        if self.prey.lowest[queue] < priority || self.prey.lowest_over < priority {
            return false;
        }
        let mut before = vec![0; self.tree.total.len()];
        for member in self.running.iter().map(|id| &self.members[*id]) {
            if member.queue == queue && member.priority >= priority {
                add(&mut before, &member.uses, 1);
            }
        }
        let mut after = before.clone();
        add(&mut after, &self.classes.classes[class].asks, 1);
        self.nearer(queue, &before, &after) <= i128::from(self.view.policy.hysteresis_ppm)
    }

    /// Whether there is anybody of whom a gang of a class, a queue and a priority might take.
    pub(super) fn may_take_any(&mut self, class: usize, queue: usize, priority: i32) -> bool {
        self.find_prey();
        let policy = &self.view.queues[queue];
        let never = PreemptionPolicy::Never;
        if policy.within_cluster_queue == never && policy.reclaim_within_cohort == never {
            return false;
        }
        let (own, over) = (self.prey.lowest[queue], self.prey.lowest_over);
        own < priority || (over <= priority && self.stays_entitled(class, queue))
    }

    fn find_prey(&mut self) {
        if self.prey.stamp == self.changes {
            return;
        }
        let mut prey =
            Prey { stamp: self.changes, lowest: vec![i32::MAX; self.view.queues.len()], lowest_over: i32::MAX };
        for member in self.running.iter().map(|id| &self.members[*id]) {
            if !member.fixed && member.gang.preemptible && member.valid {
                let lowest = &mut prey.lowest[member.queue];
                *lowest = (*lowest).min(member.priority);
            }
        }
        for (queue, lowest) in prey.lowest.iter().enumerate().filter(|(_, lowest)| **lowest < i32::MAX) {
            if *lowest < prey.lowest_over && self.is_over(queue) {
                prey.lowest_over = *lowest;
            }
        }
        self.prey = prey;
    }

    /// Everything that may be taken, the cheapest first: pods that elastic gangs can do without, then whole gangs, the lower priority
    /// and the less lost work first.
    fn items(&self, id: usize) -> Vec<Item> {
        let entitled = self.stays_entitled(self.members[id].class, self.members[id].queue);
        let mut over: BTreeMap<usize, bool> = BTreeMap::new();
        let mut items = Vec::new();
        for victim in &self.running {
            let other = &self.members[*victim];
            if *victim == id || other.fixed || !other.gang.preemptible || !self.may_take(id, other, entitled) {
                continue;
            }
            if other.queue != self.members[id].queue
                && !*over.entry(other.queue).or_insert_with(|| self.is_over(other.queue))
            {
                continue;
            }
            self.items_of(*victim, &mut items);
        }
        let since = |item: &Item| match self.members[item.victim].gang.phase {
            Phase::Running { since_ms, .. } => since_ms,
            Phase::Waiting { .. } => self.now_ms,
        };
        items.sort_by_key(|item| (item.stops, item.priority, item.lost_pod_ms, -since(item), item.victim));
        items
    }

    fn may_take(&self, id: usize, other: &Member<'_>, entitled: bool) -> bool {
        let member = &self.members[id];
        let queue = &self.view.queues[member.queue];
        let lower = other.priority < member.priority;
        if other.queue == member.queue {
            return lower && queue.within_cluster_queue != PreemptionPolicy::Never;
        }
        let same = other.priority == member.priority;
        let allowed = match queue.reclaim_within_cohort {
            PreemptionPolicy::Never => false,
            PreemptionPolicy::LowerPriority => lower,
            PreemptionPolicy::Any => lower || same,
        };
        allowed && entitled && self.tree.related(member.queue, other.queue)
    }

    /// Whether a queue stays within what it is entitled to if a gang of a class runs.
    fn stays_entitled(&self, class: usize, queue: usize) -> bool {
        let amounts = &self.classes.classes[class].asks;
        let usage = &self.timeline.slots[0].usage;
        let within = |(at, amount): (usize, &i64)| {
            *amount == 0 || self.tree.used(usage, queue, at) + amount <= self.tree.entitled(queue, at)
        };
        amounts.iter().enumerate().all(within)
    }

    fn is_over(&self, queue: usize) -> bool {
        let usage = &self.timeline.slots[0].usage;
        (0..self.tree.total.len()).any(|at| self.tree.used(usage, queue, at) > self.tree.entitled(queue, at))
    }

    fn items_of(&self, victim: usize, items: &mut Vec<Item>) {
        let member = &self.members[victim];
        let class = self.class(victim);
        let Phase::Running { saved_ms, .. } = member.gang.phase else { return };
        let lost = |places: &[Place]| {
            let pods: i64 = places.iter().map(|place| i64::from(place.count)).sum();
            pods.saturating_mul(self.now_ms.saturating_sub(saved_ms).max(0))
        };
        let mut spare: Vec<Place> = Vec::new();
        for (role, part) in class.parts.iter().enumerate() {
            let of_role = || member.places.iter().filter(|place| place.role as usize == role);
            let mut more = of_role().map(|place| place.count).sum::<u32>().saturating_sub(part.min);
            for place in of_role().rev() {
                let count = more.min(place.count);
                more -= count;
                spare.extend((0..count).map(|_| Place { count: 1, ..*place }));
            }
        }
        let mut rest = member.places.clone();
        spare.iter().for_each(|place| subtract(&mut rest, *place));
        let item = |places: Vec<Place>, stops: bool| Item {
            victim,
            lost_pod_ms: lost(&places),
            places,
            stops,
            priority: member.priority,
        };
        let piece = spare.len().div_ceil(PIECES).max(1);
        // The last pods first: the smallest piece is theirs, so that it is not dearer than those before it.
        items.extend(spare.rchunks(piece).rev().map(|pods| item(pods.to_vec(), false)));
        items.push(item(rest, true));
    }

    /// The cheapest way there is, over domains where the gang has to be in one.
    fn search(&mut self, id: usize, slot: usize, items: &[Item]) -> Option<Way> {
        let all: Vec<usize> = (0..items.len()).collect();
        let Some(level) = self.level_of_room(id) else { return self.way(id, slot, items, &all) };
        self.free(items, &all, -1);
        let possible = self.fits_least(id, slot);
        let spans = if possible { self.spans(id, slot, level) } else { Vec::new() };
        self.free(items, &all, 1);
        if !possible {
            return None;
        }
        let mut ways = Vec::new();
        for span in spans {
            let inside =
                |at: &usize| items[*at].places.iter().any(|place| (span.lo..span.hi).contains(&(place.node as usize)));
            let here: Vec<usize> = all.iter().copied().filter(inside).collect();
            ways.extend(self.way(id, slot, items, &here));
        }
        if ways.is_empty() {
            ways.extend(self.way(id, slot, items, &all));
        }
        ways.into_iter().min_by(|a, b| a.cost.cmp(&b.cost).then(a.chosen.cmp(&b.chosen)))
    }

    /// The level in whose domains room is sought one by one: nodes for a single pod, the required level for others.
    fn level_of_room(&self, id: usize) -> Option<usize> {
        let class = self.class(id);
        let single = class.least.iter().sum::<u32>() == 1;
        class.required.or_else(|| single.then_some(self.cluster.tiers.len()))
    }

    /// Domains that would have room if everything were taken. Those with the most room are tried.
    fn spans(&self, id: usize, slot: usize, level: usize) -> Vec<Span> {
        let class = self.class(id);
        let sums: Vec<(Vec<u64>, u32)> = class
            .parts
            .iter()
            .zip(&class.least)
            .map(|(part, count)| {
                (super::place::sums(&self.cluster, part, self.timeline.known_caps(slot, part.kind)), *count)
            })
            .collect();
        let spans = self.cluster.tiers.get(level).map_or_else(|| self.cluster.nodes(), |tier| tier.spans.clone());
        let room = |span: &Span| {
            let fits = |(sums, count): &(Vec<u64>, u32)| (sums[span.hi] - sums[span.lo]).checked_sub(u64::from(*count));
            sums.iter().map(fits).collect::<Option<Vec<u64>>>().map(|left| left.into_iter().min().unwrap_or(0))
        };
        let mut found: Vec<(std::cmp::Reverse<u64>, Span)> =
            spans.into_iter().filter_map(|span| Some((std::cmp::Reverse(room(&span)?), span))).collect();
        found.sort_unstable();
        found.truncate(SPANS);
        found.into_iter().map(|(_, span)| span).collect()
    }

    /// Takes items until the gang fits, then gives back what was not needed, the dearest first. The timeline is as before then.
    fn way(&mut self, id: usize, slot: usize, items: &[Item], order: &[usize]) -> Option<Way> {
        let mut taken: Vec<usize> = Vec::new();
        let mut fits = false;
        let mut batch = 1;
        while !fits && taken.len() < order.len() {
            let more = &order[taken.len()..order.len().min(taken.len() + batch)];
            self.free(items, more, -1);
            taken.extend_from_slice(more);
            batch *= 2;
            fits = self.fits_least(id, slot);
        }
        if fits {
            self.spare(id, slot, items, &mut taken);
        }
        let counts = self.class(id).least.clone();
        let places = if fits { self.place_in(id, slot, &counts) } else { None };
        self.free(items, &taken, 1);
        let places = places?;
        let merged = self.merged(items, &taken);
        if !self.raises(id, &merged) {
            return None;
        }
        let stops = merged.values().filter(|(_, stops, _)| *stops).count();
        let priority =
            taken.iter().filter(|at| items[**at].stops).map(|at| items[*at].priority).max().unwrap_or(i32::MIN);
        let lost = merged.values().map(|(_, _, lost)| lost).sum();
        Some(Way { chosen: taken, places, cost: (priority, lost, stops) })
    }

    /// Gives back what is not needed, the dearest first: halves, then quarters, and so on.
    fn spare(&mut self, id: usize, slot: usize, items: &[Item], taken: &mut Vec<usize>) {
        let mut tests = TESTS;
        let mut chunk = taken.len() / 2;
        while chunk > 0 {
            let mut end = taken.len();
            while end > 0 && tests > 0 && taken.len() > 1 {
                let from = end.saturating_sub(chunk);
                let part = taken[from..end].to_vec();
                end = from;
                if part.len() == taken.len() {
                    continue;
                }
                tests -= 1;
                self.free(items, &part, 1);
                if self.fits_least(id, slot) {
                    taken.drain(from..from + part.len());
                } else {
                    self.free(items, &part, -1);
                }
            }
            chunk /= 2;
        }
    }

    /// Whether there is quota, and a place, for the smallest size of the gang.
    fn fits_least(&mut self, id: usize, slot: usize) -> bool {
        self.lacks_least(id, slot).is_none() && self.has_place(id, slot)
    }

    /// Frees items (`sign` -1), or takes them back.
    fn free(&mut self, items: &[Item], which: &[usize], sign: i64) {
        for at in which {
            let item = &items[*at];
            let until = self.members[item.victim].ends_ms;
            self.shift(item.victim, &item.places, self.now_ms, until, sign);
        }
    }

    /// What each victim loses: a gang that is stopped loses all.
    fn merged(&self, items: &[Item], chosen: &[usize]) -> BTreeMap<usize, (Vec<Place>, bool, i64)> {
        let stopped: BTreeSet<usize> =
            chosen.iter().map(|at| &items[*at]).filter(|item| item.stops).map(|item| item.victim).collect();
        let mut merged: BTreeMap<usize, (Vec<Place>, bool, i64)> = BTreeMap::new();
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        for (at, item) in items.iter().enumerate() {
            if !chosen.contains(&at) && !stopped.contains(&item.victim) {
                continue;
            }
            let entry = merged.entry(item.victim).or_insert_with(|| (Vec::new(), false, 0));
            entry.1 |= item.stops;
            entry.2 += item.lost_pod_ms;
            entry.0.extend_from_slice(&item.places);
        }
        for (places, _, _) in merged.values_mut() {
            places.sort_unstable();
            places.dedup_by(|next, kept| {
                let same = (next.role, next.node) == (kept.role, kept.node);
                kept.count += if same { next.count } else { 0 };
                same
            });
        }
        merged
    }

    /// Whether the potential rises: taking from lower priorities always raises it; taking from the same priority does if more
    /// comes to queues that are entitled to it than is taken from such, by more than the hysteresis.
    fn raises(&self, id: usize, lost: &BTreeMap<usize, (Vec<Place>, bool, i64)>) -> bool {
        let priority = self.members[id].priority;
        let equal: Vec<usize> =
            lost.keys().copied().filter(|victim| self.members[*victim].priority == priority).collect();
        if equal.is_empty() {
            return true;
        }
        let resources = self.tree.total.len();
        let mut queues: BTreeMap<usize, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
        for queue in equal.iter().chain([&id]).map(|id| self.members[*id].queue) {
            queues.entry(queue).or_insert_with(|| (vec![0; resources], vec![0; resources]));
        }
        let amounts = |id: usize, places: &[Place]| super::timeline::uses(self.class(id), places, resources);
        for other in self.running.iter().filter(|other| self.members[**other].priority >= priority) {
            let member = &self.members[*other];
            if let Some((before, after)) = queues.get_mut(&member.queue) {
                add(before, &member.uses, 1);
                add(after, &member.uses, 1);
            }
        }
        for victim in equal {
            if let Some((_, after)) = queues.get_mut(&self.members[victim].queue) {
                add(after, &amounts(victim, &lost[&victim].0), -1);
            }
        }
        if let Some((_, after)) = queues.get_mut(&self.members[id].queue) {
            add(after, &self.class(id).asks, 1);
        }
        let risen: i128 = queues.iter().map(|(queue, (before, after))| self.nearer(*queue, before, after)).sum();
        risen > i128::from(self.view.policy.hysteresis_ppm)
    }

    /// How much nearer a queue comes to what it is entitled to, in millionths of the cluster, if it uses `after` instead of `before`.
    fn nearer(&self, queue: usize, before: &[i64], after: &[i64]) -> i128 {
        let one = |at: usize| {
            let entitled = self.tree.entitled(queue, at);
            let change = i128::from(after[at].min(entitled)) - i128::from(before[at].min(entitled));
            change * 1_000_000 / i128::from(self.tree.total[at].max(1))
        };
        self.tree.counted.iter().copied().map(one).sum()
    }
}

fn add(sum: &mut [i64], amounts: &[i64], sign: i64) {
    sum.iter_mut().zip(amounts).for_each(|(sum, one)| *sum += one * sign);
}

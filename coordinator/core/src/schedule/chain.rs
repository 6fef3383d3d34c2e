//! Gangs that start one after the other in the order of their turns: what estimates are made of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::engine::Engine;
use super::quota::Tree;
use super::timeline::FOREVER;

/// Without limit.
const FREE: i64 = i64::MAX / 4;

/// Who runs, and when each is expected to end, the soonest first.
pub(super) type Running = [(i64, usize)];

/// A gang for which places are set aside: from when on, and until when it is expected to have them.
#[derive(Clone, Copy)]
pub(super) struct Hold {
    pub(super) id: usize,
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

impl Hold {
    /// Whether it is in the way of a gang that starts then and goes on for so long, or nobody knows how long.
    fn meets(&self, at_ms: i64, run_ms: Option<i64>) -> bool {
        self.to_ms > at_ms && run_ms.is_none_or(|run_ms| self.from_ms < at_ms.saturating_add(run_ms))
    }
}

/// All that ask for some of a resource: of the whole cluster, or of what a queue or a cohort may use of it.
pub(super) struct Chain {
    resource: usize,
    /// The queue or cohort; none for the cluster.
    at: Option<usize>,
    limit: i64,
    used: i64,
    /// What the queues and cohorts below use.
    below: BTreeMap<usize, i64>,
    /// When who has a place ends: its queue, and how much it gives back.
    ends: BinaryHeap<Reverse<(i64, usize, i64)>>,
    /// What is set aside, and how much it is.
    holds: Vec<(Hold, i64)>,
    /// When the last one started.
    last_ms: i64,
    /// Whether whoever is next waits for somebody of whom nobody knows when it ends.
    stuck: bool,
}

impl Chain {
    /// The cluster.
    pub(super) fn pool(engine: &Engine<'_>, running: &Running, holds: &[Hold], resource: usize) -> Self {
        Self::new(engine, running, holds, (resource, None), engine.tree.total[resource])
    }

    /// A queue or a cohort with a limit of its own.
    pub(super) fn quota(
        engine: &Engine<'_>,
        running: &Running,
        holds: &[Hold],
        (resource, at): (usize, usize),
        limit: i64,
    ) -> Self {
        Self::new(engine, running, holds, (resource, Some(at)), limit)
    }

    fn new(
        engine: &Engine<'_>,
        running: &Running,
        holds: &[Hold],
        (resource, at): (usize, Option<usize>),
        limit: i64,
    ) -> Self {
        let tree = &engine.tree;
        let counts = |queue: usize| {
            at.is_none_or(|at| tree.is_limited(queue, resource) && tree.path(queue).any(|above| above == at))
        };
        let held = |hold: &Hold| {
            let amount = engine.class(hold.id).asks.get(resource).copied().unwrap_or(0);
            (amount > 0 && counts(engine.members[hold.id].queue)).then_some((*hold, amount))
        };
        let (below, holds) = (BTreeMap::new(), holds.iter().filter_map(held).collect());
        let (ends, last_ms) = (BinaryHeap::new(), engine.now_ms);
        let mut chain = Self { resource, at, limit, used: 0, below, ends, holds, last_ms, stuck: false };
        let mut ends = Vec::with_capacity(running.len());
        for (end, id) in running {
            let member = &engine.members[*id];
            let amount = member.uses.get(resource).copied().unwrap_or(0);
            if amount > 0 && counts(member.queue) {
                chain.change(tree, member.queue, amount);
                ends.push(Reverse((*end, member.queue, amount)));
            }
        }
        chain.ends = ends.into();
        chain
    }

    /// When the next one starts, which goes on for so long.
    pub(super) fn start(&mut self, tree: &Tree, (queue, amount): (usize, i64), run_ms: Option<i64>) -> Option<i64> {
        while !self.stuck && self.lacks(tree, (queue, amount), run_ms) {
            let set_aside = self.holds.iter().map(|(hold, _)| hold.to_ms).filter(|to| *to > self.last_ms).min();
            let end = self.ends.peek().map(|Reverse((end, _, _))| *end);
            match set_aside.into_iter().chain(end).min().filter(|next| *next < FOREVER) {
                Some(next) => self.pass(tree, next),
                None => self.stuck = true,
            }
        }
        if self.stuck {
            return None;
        }
        self.change(tree, queue, amount);
        if let Some(run_ms) = run_ms {
            self.ends.push(Reverse((self.last_ms.saturating_add(run_ms), queue, amount)));
        }
        Some(self.last_ms)
    }

    fn lacks(&self, tree: &Tree, (queue, amount): (usize, i64), run_ms: Option<i64>) -> bool {
        let meets = |(hold, amount): &(Hold, i64)| hold.meets(self.last_ms, run_ms).then_some(*amount);
        let held: i64 = self.holds.iter().filter_map(meets).sum();
        self.used.saturating_add(held).saturating_add(self.reaching(tree, queue, amount)) > self.limit
    }

    /// All that end by then have ended.
    fn pass(&mut self, tree: &Tree, until_ms: i64) {
        self.last_ms = self.last_ms.max(until_ms);
        while self.ends.peek().is_some_and(|Reverse((end, _, _))| *end <= self.last_ms) {
            let Some(Reverse((_, queue, amount))) = self.ends.pop() else { break };
            self.change(tree, queue, -amount);
        }
    }

    /// A queue takes so much, or gives it back. Of a cohort's it takes what it has not itself.
    fn change(&mut self, tree: &Tree, queue: usize, amount: i64) {
        let mut change = amount;
        for at in self.way(tree, queue) {
            let local = tree.local(at, self.resource);
            let used = self.below.entry(at).or_default();
            let before = (*used - local).max(0);
            *used += change;
            change = (*used - local).max(0) - before;
        }
        self.used += change;
    }

    /// How much of an amount that a queue takes comes from here.
    fn reaching(&self, tree: &Tree, queue: usize, amount: i64) -> i64 {
        self.way(tree, queue).into_iter().fold(amount, |change, at| {
            let (local, used) = (tree.local(at, self.resource), self.below.get(&at).copied().unwrap_or(0));
            (used + change - local).max(0) - (used - local).max(0)
        })
    }

    /// A queue and the cohorts above it, up to here.
    fn way(&self, tree: &Tree, queue: usize) -> Vec<usize> {
        self.at.map_or_else(Vec::new, |here| tree.path(queue).take_while(|at| *at != here).collect())
    }
}

/// What of the cluster is free, by who runs.
pub(super) struct Ground {
    /// Resources of which there is not enough for all. Of the others there always is.
    pub(super) contested: Vec<usize>,
    /// When those end that use some of these, the soonest first; without it nobody is looked at.
    ends: Vec<i64>,
    /// What is free of each resource while all run, when the first has ended, when two have, and so on.
    free: Vec<Vec<i64>>,
}

impl Ground {
    /// Of these gangs that wait, of which each could start if it were alone.
    pub(super) fn new(engine: &Engine<'_>, running: &Running, waiting: &[usize]) -> Self {
        let total = &engine.tree.total;
        let mut free = total.clone();
        running.iter().for_each(|(_, id)| shift(&mut free, &engine.members[*id].uses, -1));
        let mut rest = free.clone();
        waiting.iter().for_each(|id| shift(&mut rest, &engine.class(*id).asks, -1));
        let contested: Vec<usize> = (0..total.len()).filter(|resource| rest[*resource] < 0).collect();
        let mut ground = Self { contested, ends: Vec::new(), free: vec![free] };
        if !ground.contested.is_empty() {
            for (end, id) in running {
                let mut free = ground.free[ground.ends.len()].clone();
                shift(&mut free, &engine.members[*id].uses, 1);
                ground.ends.push(*end);
                ground.free.push(free);
            }
        }
        ground
    }
}

/// Gangs of a queue that ask for the same resources, and those of the queue that ask for no others: they start in their order, where all
/// that is known of each is known, too.
pub(super) struct Turns {
    /// Which resources, by bit.
    pub(super) mask: u64,
    /// What those of them take that have started.
    taken: Vec<i64>,
    /// What is free of what the queue itself may use.
    room: Vec<i64>,
    /// How many of all that run, and of those of the queue, have ended.
    ended: usize,
    ended_here: usize,
    ends: BinaryHeap<Reverse<(i64, usize)>>,
    /// What is set aside for some of them.
    holds: Vec<Hold>,
    last_ms: i64,
    stuck: bool,
}

impl Turns {
    /// Of a queue in which these run.
    pub(super) fn new(engine: &Engine<'_>, here: &Running, holds: &[Hold], (queue, own): (usize, u64)) -> Self {
        let tree = &engine.tree;
        let room = |resource: usize| {
            let limit = tree.path(queue).next().and_then(|at| tree.limit(at, resource));
            limit.filter(|_| tree.is_limited(queue, resource)).unwrap_or(FREE)
        };
        let mut room: Vec<i64> = (0..tree.total.len()).map(room).collect();
        here.iter().for_each(|(_, id)| shift(&mut room, &engine.members[*id].uses, -1));
        let taken = vec![0; tree.total.len()];
        let is_of_these =
            |hold: &&Hold| engine.members[hold.id].queue == queue && mask(&engine.class(hold.id).asks) & !own == 0;
        let holds = holds.iter().filter(is_of_these).copied().collect();
        let (ends, last_ms) = (BinaryHeap::new(), engine.now_ms);
        Self { mask: own, taken, room, ended: 0, ended_here: 0, ends, holds, last_ms, stuck: false }
    }

    /// When a gang starts that is next, and has what it needs of others no sooner than at a time.
    pub(super) fn start(
        &mut self,
        engine: &Engine<'_>,
        (ground, here): (&Ground, &Running),
        id: usize,
        from_ms: i64,
    ) -> Option<i64> {
        self.pass(engine, (ground, here), from_ms);
        while !self.stuck && self.lacks(engine, ground, id) {
            match self.next_end(ground, here).filter(|end| *end < FOREVER) {
                Some(end) => self.pass(engine, (ground, here), end),
                None => self.stuck = true,
            }
        }
        Some(self.last_ms).filter(|_| !self.stuck)
    }

    /// A gang of these starts then; if nobody knows when, nobody knows it of those behind it either.
    pub(super) fn begin(
        &mut self,
        engine: &Engine<'_>,
        (ground, here): (&Ground, &Running),
        id: usize,
        start_ms: Option<i64>,
    ) {
        let Some(start_ms) = start_ms else {
            self.stuck = true;
            return;
        };
        self.pass(engine, (ground, here), start_ms);
        self.change(&engine.class(id).asks, 1);
        if let Some(run_ms) = engine.members[id].expected_ms {
            self.ends.push(Reverse((start_ms.saturating_add(run_ms), id)));
        }
    }

    fn lacks(&self, engine: &Engine<'_>, ground: &Ground, id: usize) -> bool {
        let run_ms = engine.members[id].expected_ms;
        let mut asks = engine.class(id).asks.clone();
        let asked: Vec<bool> = asks.iter().map(|amount| *amount > 0).collect();
        for hold in self.holds.iter().filter(|hold| hold.meets(self.last_ms, run_ms)) {
            shift(&mut asks, &engine.class(hold.id).asks, 1);
        }
        let free = &ground.free[self.ended];
        let in_cluster = |at: &usize| asked.get(*at) == Some(&true) && asks[*at] > free[*at] - self.taken[*at];
        let in_queue = |at: usize| asked[at] && asks[at] > self.room[at];
        (0..asks.len()).any(in_queue) || ground.contested.iter().any(in_cluster)
    }

    fn next_end(&self, ground: &Ground, here: &Running) -> Option<i64> {
        let of_all = ground.ends.get(self.ended).copied();
        let of_here = here.get(self.ended_here).map(|(end, _)| *end);
        let own = self.ends.peek().map(|Reverse((end, _))| *end);
        let set_aside = self.holds.iter().map(|hold| hold.to_ms).filter(|to| *to > self.last_ms).min();
        of_all.into_iter().chain(of_here).chain(own).chain(set_aside).min()
    }

    /// All that end by then have ended.
    fn pass(&mut self, engine: &Engine<'_>, (ground, here): (&Ground, &Running), until_ms: i64) {
        self.last_ms = self.last_ms.max(until_ms);
        let last_ms = self.last_ms;
        self.ended += ground.ends[self.ended..].partition_point(|end| *end <= last_ms);
        while let Some((_, id)) = here.get(self.ended_here).filter(|(end, _)| *end <= last_ms) {
            shift(&mut self.room, &engine.members[*id].uses, 1);
            self.ended_here += 1;
        }
        while self.ends.peek().is_some_and(|Reverse((end, _))| *end <= last_ms) {
            let Some(Reverse((_, id))) = self.ends.pop() else { break };
            self.change(&engine.class(id).asks, -1);
        }
    }

    fn change(&mut self, amounts: &[i64], sign: i64) {
        shift(&mut self.taken, amounts, sign);
        shift(&mut self.room, amounts, -sign);
    }
}

fn shift(to: &mut [i64], amounts: &[i64], sign: i64) {
    to.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount * sign);
}

/// Which resources are asked for, by bit. Of more than 64 the last ones count as one.
pub(super) fn mask(asks: &[i64]) -> u64 {
    let asked = asks.iter().enumerate().filter(|(_, amount)| **amount > 0);
    asked.fold(0, |mask, (at, _)| mask | 1 << at.min(63))
}

//! Whose turn it is.
//!
//! Gangs that have waited for too long come first, the oldest of them before all. Then the higher priority; then the queue
//! whose share, with its cohorts', is the least; then who came first. Shares are read anew after each admission, so that queues take turns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::cluster::len;
use super::engine::Member;
use super::quota::{Tree, Usage};
use super::view::{QueueingStrategy, View};

/// What counts before everything else: whether it has not waited for too long; how old it is if it has, else its priority,
/// so that less comes first.
type Urgency = (bool, i64);
/// Position of a queue: of its first gang, with the shares from the outermost cohort in before the age.
type Key = (Urgency, Shares, i64, u32);
/// Shares from the outermost cohort in; of a deeper tree the innermost.
type Shares = [u64; 4];

/// A gang that waits, with what its turn looks at: there are thousands of turns in a pass, and looking up each gang would
/// take longer than they do. In the order of turns within a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiter {
    urgency: Urgency,
    submitted_ms: i64,
    pub(super) id: u32,
    pub(super) class: u32,
    pub(super) queue: u32,
    pub(super) priority: i32,
    /// When it has certainly ended if it starts now.
    pub(super) ends_ms: i64,
    pub(super) valid: bool,
}

/// A queue's first gang that has not had its turn.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    key: Key,
    queue: usize,
    /// As of which change of the queue's key; an older head means nothing any more.
    version: u32,
}

/// Queues whose shares change together, and they and the cohorts above them.
#[derive(Clone, Debug, Default)]
struct Group {
    queues: Vec<usize>,
    nodes: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    /// Waiting gangs of each queue, in the order of their turns.
    lists: Vec<Vec<Waiter>>,
    /// Whether gangs of the list may have started.
    stale: Vec<bool>,
    next: Vec<usize>,
    heads: BinaryHeap<Reverse<Head>>,
    /// Which head of each queue is meant, and whether there is one.
    versions: Vec<(u32, bool)>,
    /// Of each queue and cohort.
    shares: Vec<u64>,
    /// Each queue and the cohorts above it, but the outermost, which has no siblings: the outermost first.
    paths: Vec<Vec<usize>>,
    groups: Vec<Group>,
    group_of: Vec<usize>,
    strict: Vec<bool>,
    history: Vec<Vec<i64>>,
    weights: Vec<u32>,
    aged_before_ms: i64,
    /// Gangs for which places are set aside.
    pub(super) holders: BTreeSet<usize>,
    /// Who started before its turn came, since places had been set aside for it.
    early: Vec<usize>,
    /// Turns of the last pass.
    pub(super) sequence: Vec<usize>,
    /// Strict queues that are held up, and by whom.
    pub(super) blocked: BTreeMap<usize, usize>,
}

impl Order {
    pub(super) fn new(view: &View, tree: &Tree, members: &[Member<'_>], now_ms: i64) -> Self {
        let queues = view.queues.len();
        let weights = view.queues.iter().map(|one| one.weight_milli);
        let mut order = Self {
            lists: vec![Vec::new(); queues],
            stale: vec![false; queues],
            versions: vec![(0, false); queues],
            shares: vec![0; queues + view.cohorts.len()],
            strict: view.queues.iter().map(|one| one.queueing_strategy == QueueingStrategy::StrictFifo).collect(),
            history: view.queues.iter().map(|one| one.history.clone()).collect(),
            weights: weights.chain(view.cohorts.iter().map(|one| one.weight_milli)).collect(),
            paths: (0..queues).map(|queue| path(tree, queue)).collect(),
            aged_before_ms: now_ms.saturating_sub(view.policy.age_after_ms),
            ..Self::default()
        };
        order.group();
        for (id, member) in members.iter().enumerate().filter(|(_, member)| !member.running) {
            if member.held.is_some() && member.valid {
                order.holders.insert(id);
            }
            if let Some(list) = order.lists.get_mut(member.queue) {
                list.push(Waiter::new(member, id, order.aged_before_ms));
            }
        }
        order.lists.iter_mut().for_each(|list| list.sort_unstable());
        order
    }

    fn group(&mut self) {
        let mut tops: BTreeMap<usize, usize> = BTreeMap::new();
        for (queue, path) in self.paths.iter().enumerate() {
            let group = *tops.entry(path.first().copied().unwrap_or(queue)).or_insert(self.groups.len());
            if group == self.groups.len() {
                self.groups.push(Group::default());
            }
            self.group_of.push(group);
            self.groups[group].queues.push(queue);
            self.groups[group].nodes.extend_from_slice(path);
        }
        for group in &mut self.groups {
            group.nodes.sort_unstable();
            group.nodes.dedup();
        }
    }

    /// Begins a pass.
    pub(super) fn begin(&mut self, tree: &Tree, usage: &Usage, members: &[Member<'_>]) {
        let queues = self.lists.len();
        self.next = vec![0; queues];
        self.heads.clear();
        self.versions.iter_mut().for_each(|(_, meant)| *meant = false);
        self.sequence.clear();
        self.early.clear();
        self.blocked.clear();
        for (list, stale) in self.lists.iter_mut().zip(&mut self.stale) {
            if std::mem::take(stale) {
                list.retain(|one| !members[one.id as usize].running);
            }
        }
        for group in 0..self.groups.len() {
            self.read_shares(group, tree, usage);
        }
        (0..queues).for_each(|queue| self.enter(queue));
    }

    /// The next gang.
    pub(super) fn next(&mut self) -> Option<Waiter> {
        loop {
            let Reverse(Head { queue, version, .. }) = self.heads.peek()?;
            let queue = *queue;
            if self.versions[queue] != (*version, true) {
                self.heads.pop();
                continue;
            }
            let waiter = *self.lists[queue].get(self.next[queue])?;
            self.next[queue] += 1;
            self.versions[queue].1 = false;
            if self.early.contains(&(waiter.id as usize)) {
                self.enter(queue);
                continue;
            }
            self.sequence.push(waiter.id as usize);
            return Some(waiter);
        }
    }

    /// The gangs that are promised places by now, whose turns come before all.
    pub(super) fn due(&self, members: &[Member<'_>], now_ms: i64) -> Vec<Waiter> {
        let due = |id: &usize| members[*id].held.as_ref().is_some_and(|held| held.start_ms <= now_ms);
        let waiter = |id: usize| Waiter::new(&members[id], id, self.aged_before_ms);
        self.holders.iter().copied().filter(due).map(waiter).collect()
    }

    /// A gang that is due starts.
    pub(super) fn start_early(&mut self, id: usize) {
        self.early.push(id);
    }

    /// A gang starts.
    pub(super) fn start(&mut self, id: usize, queue: usize) {
        self.holders.remove(&id);
        self.stale[queue] = true;
    }

    /// The turn of a gang is over.
    pub(super) fn done(&mut self, one: &Waiter, started: bool, tree: &Tree, usage: &Usage) {
        let queue = one.queue as usize;
        if started {
            let group = self.group_of[queue];
            self.read_shares(group, tree, usage);
            for at in 0..self.groups[group].queues.len() {
                let other = self.groups[group].queues[at];
                if self.versions[other].1 {
                    self.enter(other);
                }
            }
        } else if self.strict[queue] {
            self.blocked.insert(queue, one.id as usize);
            return;
        }
        self.enter(queue);
    }

    /// A gang that was stopped waits again; it has a turn in the next pass.
    pub(super) fn put_back(&mut self, id: usize, members: &[Member<'_>]) {
        let waiter = Waiter::new(&members[id], id, self.aged_before_ms);
        let queue = members[id].queue;
        let list = &mut self.lists[queue];
        let at = list.partition_point(|other| *other < waiter);
        list.insert(at, waiter);
        if let Some(next) = self.next.get_mut(queue).filter(|next| at <= **next) {
            *next += 1;
        }
    }

    /// The waiting gangs of a queue, in the order of their turns.
    pub(super) fn list(&self, queue: usize) -> impl Iterator<Item = usize> {
        self.lists[queue].iter().map(|one| one.id as usize)
    }

    /// Puts the next gang of a queue in the place of the one before.
    fn enter(&mut self, queue: usize) {
        let Some(one) = self.lists[queue].get(self.next[queue]) else { return };
        // Among those that waited for too long only the age counts.
        let shares = if one.urgency.0 { self.shares_of(queue) } else { Shares::default() };
        let version = self.versions[queue].0.wrapping_add(1);
        self.versions[queue] = (version, true);
        let head = Reverse(Head { key: (one.urgency, shares, one.submitted_ms, one.id), queue, version });
        // Most often it is the queue that just had its turn, and it is the first still.
        if let Some(mut first) = self.heads.peek_mut().filter(|first| first.0.queue == queue) {
            *first = head;
        } else {
            self.heads.push(head);
        }
    }

    /// A queue's own share.
    pub(super) fn share_of(&self, tree: &Tree, usage: &Usage, queue: usize) -> u64 {
        if self.paths[queue].is_empty() { 0 } else { self.share(tree, usage, queue) }
    }

    fn shares_of(&self, queue: usize) -> Shares {
        let path = &self.paths[queue];
        let mut shares = Shares::default();
        let inner = path.len().saturating_sub(shares.len());
        shares.iter_mut().zip(&path[inner..]).for_each(|(share, at)| *share = self.shares[*at]);
        shares
    }

    fn read_shares(&mut self, group: usize, tree: &Tree, usage: &Usage) {
        for at in &self.groups[group].nodes {
            self.shares[*at] = self.share(tree, usage, *at);
        }
    }

    /// How much more than it is entitled to a queue or a cohort uses: in millionths of the cluster, by weight. Kueue's dominant
    /// resource share, over the mean of what is used now and what was used in the past.
    fn share(&self, tree: &Tree, usage: &Usage, at: usize) -> u64 {
        let history = self.history.get(at).map_or(&[][..], Vec::as_slice);
        let part = |resource: usize| {
            let past = history.get(resource).copied().unwrap_or(0);
            let mean = i128::from(tree.used(usage, at, resource)) + i128::from(past);
            let over = mean - i128::from(tree.own(at, resource)) * 2;
            if over <= 0 {
                return 0;
            }
            let whole = i128::from(tree.total[resource].max(1)) * 2;
            over * 1_000_000 * 1_000 / (whole * i128::from(self.weights[at].max(1)))
        };
        let most = tree.counted.iter().copied().map(part).max().unwrap_or(0);
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

/// A queue and the cohorts above it, but the outermost, which has no siblings: the outermost first.
fn path(tree: &Tree, queue: usize) -> Vec<usize> {
    let mut path: Vec<usize> = std::iter::successors(Some(queue), |at| tree.parent(*at)).collect();
    if path.len() > 1 {
        path.pop();
    }
    path.reverse();
    path
}

impl Waiter {
    fn new(member: &Member<'_>, id: usize, aged_before_ms: i64) -> Self {
        let (submitted_ms, priority) = (member.submitted_ms, member.priority);
        let aged = submitted_ms <= aged_before_ms;
        Self {
            urgency: if aged { (false, submitted_ms) } else { (true, -i64::from(priority)) },
            submitted_ms,
            id: len(id),
            class: len(member.class),
            queue: len(member.queue),
            priority,
            ends_ms: member.ends_ms,
            valid: member.valid,
        }
    }
}

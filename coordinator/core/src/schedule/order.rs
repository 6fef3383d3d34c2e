//! Whose turn it is.
//!
//! Gangs that have waited for too long come first, the oldest of them before all. Then the higher priority; then the queue
//! whose share, with its cohorts', is the least; then who came first. Shares are read anew after each admission, so that queues take turns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::engine::Member;
use super::quota::{Tree, Usage};
use super::view::{QueueingStrategy, View};

/// Position of a gang in its queue.
type Rank = (Reverse<bool>, Reverse<i32>, i64, usize);
/// Position of a queue: of its first gang, with the shares from the outermost cohort in before the age.
type Key = (Reverse<bool>, i64, Reverse<i32>, Shares, i64, usize, usize);
/// Shares from the outermost cohort in; of a deeper tree the innermost.
type Shares = [u64; 4];

#[derive(Debug, Default)]
pub(super) struct Order {
    /// Waiting gangs of each queue, in the order of their turns.
    lists: Vec<Vec<(Rank, usize)>>,
    next: Vec<usize>,
    keys: Vec<Option<Key>>,
    heads: BTreeSet<Key>,
    shares: Vec<Shares>,
    /// Queues whose shares change together.
    groups: Vec<Vec<usize>>,
    strict: Vec<bool>,
    history: Vec<Vec<i64>>,
    weights: Vec<u32>,
    aged_before_ms: i64,
    /// Gangs for which places are set aside.
    pub(super) holders: BTreeSet<usize>,
    /// Turns of the last pass.
    pub(super) sequence: Vec<usize>,
    /// Strict queues that are held up, and by whom.
    pub(super) blocked: BTreeMap<usize, usize>,
}

impl Order {
    pub(super) fn new(view: &View, members: &[Member<'_>], now_ms: i64) -> Self {
        let mut order = Self {
            lists: vec![Vec::new(); view.queues.len()],
            strict: view.queues.iter().map(|one| one.queueing_strategy == QueueingStrategy::StrictFifo).collect(),
            history: view.queues.iter().map(|one| one.history.clone()).collect(),
            weights: view
                .queues
                .iter()
                .map(|one| one.weight_milli)
                .chain(view.cohorts.iter().map(|one| one.weight_milli))
                .collect(),
            aged_before_ms: now_ms.saturating_sub(view.policy.age_after_ms),
            ..Self::default()
        };
        for (id, member) in members.iter().enumerate().filter(|(_, member)| !member.running) {
            if member.held.is_some() && member.valid {
                order.holders.insert(id);
            }
            if let Some(list) = order.lists.get_mut(member.queue) {
                list.push((rank(member, id, order.aged_before_ms), id));
            }
        }
        order.lists.iter_mut().for_each(|list| list.sort_unstable());
        order
    }

    /// Begins a pass.
    pub(super) fn begin(&mut self, tree: &Tree, usage: &Usage, members: &[Member<'_>]) {
        let queues = self.lists.len();
        self.next = vec![0; queues];
        self.heads.clear();
        self.keys = vec![None; queues];
        self.sequence.clear();
        self.blocked.clear();
        self.lists.iter_mut().for_each(|list| list.retain(|(_, id)| !members[*id].running));
        if self.groups.is_empty() {
            let top = |queue: usize| path(tree, queue).first().copied().unwrap_or(queue);
            let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            (0..queues).for_each(|queue| groups.entry(top(queue)).or_default().push(queue));
            self.groups = (0..queues).map(|queue| groups[&top(queue)].clone()).collect();
        }
        self.shares = (0..queues).map(|queue| self.share(tree, usage, queue)).collect();
        (0..queues).for_each(|queue| self.enter(queue));
    }

    /// The next gang.
    pub(super) fn next(&mut self, members: &[Member<'_>]) -> Option<usize> {
        loop {
            let (.., queue) = self.heads.pop_first()?;
            self.keys[queue] = None;
            let (_, id) = *self.lists[queue].get(self.next[queue])?;
            self.next[queue] += 1;
            if members[id].running {
                self.enter(queue);
                continue;
            }
            self.sequence.push(id);
            return Some(id);
        }
    }

    /// The turn of a gang is over.
    pub(super) fn done(&mut self, id: usize, started: bool, tree: &Tree, usage: &Usage, members: &[Member<'_>]) {
        let queue = members[id].queue;
        if started {
            for other in self.groups[queue].clone() {
                self.shares[other] = self.share(tree, usage, other);
                if let Some(key) = self.keys[other].take() {
                    self.heads.remove(&key);
                    self.enter(other);
                }
            }
        } else if self.strict[queue] {
            self.blocked.insert(queue, id);
            return;
        }
        self.enter(queue);
    }

    /// A gang that was stopped waits again; it has a turn in the next pass.
    pub(super) fn put_back(&mut self, id: usize, members: &[Member<'_>]) {
        let rank = rank(&members[id], id, self.aged_before_ms);
        let queue = members[id].queue;
        let list = &mut self.lists[queue];
        let at = list.partition_point(|other| *other < (rank, id));
        list.insert(at, (rank, id));
        if let Some(next) = self.next.get_mut(queue).filter(|next| at <= **next) {
            *next += 1;
        }
    }

    /// The waiting gangs of a queue, in the order of their turns.
    pub(super) fn list(&self, queue: usize) -> impl Iterator<Item = usize> {
        self.lists[queue].iter().map(|(_, id)| *id)
    }

    fn enter(&mut self, queue: usize) {
        let Some((rank, id)) = self.lists[queue].get(self.next[queue]).copied() else { return };
        let aged = rank.0.0;
        // Among those that waited for too long only the age counts.
        let (age, priority) = if aged { (rank.2, Reverse(0)) } else { (0, rank.1) };
        let shares = if aged { Shares::default() } else { self.shares[queue] };
        let key = (rank.0, age, priority, shares, rank.2, id, queue);
        self.keys[queue] = Some(key);
        self.heads.insert(key);
    }

    /// A queue's own share.
    pub(super) fn share_of(&self, tree: &Tree, usage: &Usage, queue: usize) -> u64 {
        let depth = path(tree, queue).len().min(Shares::default().len());
        depth.checked_sub(1).map_or(0, |last| self.share(tree, usage, queue)[last])
    }

    /// How much more than it is entitled to a queue uses, and the cohorts above it, the outermost first: in millionths of the
    /// cluster, by weight. Kueue's dominant resource share, over the mean of what is used now and what was used in the past.
    fn share(&self, tree: &Tree, usage: &Usage, queue: usize) -> Shares {
        let one = |at: usize| {
            let history =
                |resource: usize| self.history.get(at).and_then(|history| history.get(resource)).copied().unwrap_or(0);
            let part = |resource: usize| {
                let mean = i128::from(tree.used(usage, at, resource)) + i128::from(history(resource));
                let own = i128::from(tree.own(at, resource)) * 2;
                let whole = i128::from(tree.total[resource].max(1)) * 2;
                (mean - own).max(0) * 1_000_000 * 1_000 / whole / i128::from(self.weights[at].max(1))
            };
            let most = (0..tree.total.len()).map(part).max().unwrap_or(0);
            u64::try_from(most).unwrap_or(u64::MAX)
        };
        let path = path(tree, queue);
        let mut shares = Shares::default();
        let inner = path.len().saturating_sub(shares.len());
        shares.iter_mut().zip(&path[inner..]).for_each(|(share, at)| *share = one(*at));
        shares
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

fn rank(member: &Member<'_>, id: usize, aged_before_ms: i64) -> Rank {
    let aged = member.gang.submitted_ms <= aged_before_ms;
    let priority = if aged { i32::MAX } else { member.gang.priority };
    (Reverse(aged), Reverse(priority), member.gang.submitted_ms, id)
}

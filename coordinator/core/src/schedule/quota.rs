//! Quota with borrowing and lending over a tree of cohorts, with Kueue's rules.
//!
//! | word | meaning |
//! |---|---|
//! | subtree quota | own nominal quota and what the children lend |
//! | local quota | the part of it that is not lent, because of the lending limit |
//! | usage of a cohort | what its children use beyond their local quota, and so on up |
//! | available | what is free locally, and of the parent's as much as the borrowing limit allows |

use super::view::{Quota, View};

/// Without limit.
const FREE: i64 = i64::MAX / 4;

#[derive(Clone, Debug)]
struct Cell {
    subtree: i64,
    local: i64,
    borrowing: Option<i64>,
}

/// The tree: queues first, then cohorts.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    resources: usize,
    parent: Vec<Option<usize>>,
    cells: Vec<Cell>,
    /// Whether a resource is limited for a queue.
    limited: Vec<bool>,
    /// What each queue and cohort is entitled to: its own, and its part, by weight, of what the cohorts above have themselves.
    entitled: Vec<i64>,
    /// Resources by which shares and entitlements are told.
    pub(super) counted: Vec<usize>,
    /// The whole of each resource: all nodes' capacity.
    pub(super) total: Vec<i64>,
}

/// Who uses how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage(Vec<i64>);

/// What every queue may take more, found out once for thousands of gangs.
#[derive(Clone, Debug)]
pub(super) struct Available {
    resources: usize,
    cells: Vec<i64>,
}

impl Available {
    /// As [`Tree::lacks`].
    pub(super) fn lacks(&self, queue: usize, amounts: &[i64]) -> Option<(usize, i64, i64)> {
        let free = &self.cells[queue * self.resources..][..self.resources];
        let mut asked = amounts.iter().zip(free).enumerate();
        let (at, (asked, free)) = asked.find(|(_, (asked, free))| **asked > 0 && asked > free)?;
        Some((at, *asked, *free))
    }
}

impl Tree {
    pub(super) fn new(view: &View) -> Self {
        let (queues, resources) = (view.queues.len(), view.resources.len());
        let valid = |parent: Option<u32>| parent.map(|at| at as usize).filter(|at| *at < view.cohorts.len());
        let mut parent: Vec<Option<usize>> =
            view.queues.iter().map(|queue| valid(queue.cohort).map(|at| at + queues)).collect();
        parent.extend(view.cohorts.iter().map(|cohort| valid(cohort.parent).map(|at| at + queues)));
        break_cycles(&mut parent);
        let quotas: Vec<&[Quota]> = view.queues.iter().map(|queue| queue.quotas.as_slice()).collect();
        let quotas: Vec<&[Quota]> =
            quotas.into_iter().chain(view.cohorts.iter().map(|cohort| cohort.quotas.as_slice())).collect();
        let weights = view.queues.iter().map(|queue| queue.weight_milli);
        let weights: Vec<u32> = weights.chain(view.cohorts.iter().map(|cohort| cohort.weight_milli)).collect();
        let mut total = vec![0_i64; resources];
        for node in &view.nodes {
            total.iter_mut().zip(&node.capacity).for_each(|(total, amount)| *total += amount);
        }
        let empty = Cell { subtree: 0, local: 0, borrowing: None };
        let mut tree = Self {
            resources,
            cells: vec![empty; parent.len() * resources],
            limited: vec![false; parent.len() * resources],
            entitled: vec![0; parent.len() * resources],
            parent,
            counted: (0..resources)
                .filter(|at| !view.policy.uncounted.iter().any(|one| *one as usize == *at))
                .collect(),
            total,
        };
        let depth = tree.by_depth();
        for resource in 0..resources {
            tree.fill(resource, &quotas, &depth);
            tree.entitle(resource, &quotas, &weights, &depth);
        }
        tree
    }

    /// Outermost first.
    fn by_depth(&self) -> Vec<usize> {
        let depth = |at: usize| std::iter::successors(self.parent[at], |at| self.parent[*at]).count();
        let mut order: Vec<usize> = (0..self.parent.len()).collect();
        order.sort_by_key(|at| depth(*at));
        order
    }

    fn fill(&mut self, resource: usize, quotas: &[&[Quota]], depth: &[usize]) {
        let find = |at: usize| quotas[at].iter().find(|quota| quota.resource as usize == resource);
        for at in depth {
            let above = self.parent[*at].is_some_and(|parent| self.limited[parent * self.resources + resource]);
            self.limited[at * self.resources + resource] = above || find(*at).is_some();
        }
        for at in depth.iter().rev() {
            let cell = at * self.resources + resource;
            let quota = find(*at);
            self.cells[cell].subtree += quota.map_or(0, |quota| quota.nominal);
            let subtree = self.cells[cell].subtree;
            let lent = quota.and_then(|quota| quota.lending_limit).map_or(subtree, |limit| limit.min(subtree));
            self.cells[cell].local = subtree - lent;
            self.cells[cell].borrowing = quota.and_then(|quota| quota.borrowing_limit);
            if let Some(parent) = self.parent[*at] {
                self.cells[parent * self.resources + resource].subtree += lent;
            }
        }
    }

    fn entitle(&mut self, resource: usize, quotas: &[&[Quota]], weights: &[u32], depth: &[usize]) {
        let mut siblings = vec![0_i64; self.parent.len()];
        for (at, parent) in self.parent.iter().enumerate() {
            if let Some(parent) = parent {
                siblings[*parent] += i64::from(weights[at]);
            }
        }
        for at in depth {
            let own = quotas[*at].iter().find(|quota| quota.resource as usize == resource);
            let own = own.map_or(0, |quota| quota.nominal);
            let cut = self.parent[*at].filter(|parent| siblings[*parent] > 0).map_or(0, |parent| {
                let pot = i128::from(self.entitled[parent * self.resources + resource]);
                let part = pot * i128::from(weights[*at]) / i128::from(siblings[parent]);
                i64::try_from(part).unwrap_or(i64::MAX)
            });
            self.entitled[at * self.resources + resource] = own + cut;
        }
    }

    pub(super) fn none(&self) -> Usage {
        Usage(vec![0; self.parent.len() * self.resources])
    }

    /// A queue takes `amounts`, or gives them back.
    pub(super) fn add(&self, usage: &mut Usage, queue: usize, amounts: &[i64], sign: i64) {
        // Without queues there may still be gangs that run.
        if queue >= self.parent.len() {
            return;
        }
        for (resource, amount) in amounts.iter().enumerate().filter(|(_, amount)| **amount != 0) {
            let mut at = queue;
            let mut change = amount * sign;
            loop {
                let cell = at * self.resources + resource;
                let local = self.cells[cell].local;
                let before = (usage.0[cell] - local).max(0);
                usage.0[cell] += change;
                change = (usage.0[cell] - local).max(0) - before;
                // What is not limited takes nothing of the cohort's.
                let counts = change != 0 && self.limited[queue * self.resources + resource];
                let Some(parent) = self.parent[at].filter(|_| counts) else { break };
                at = parent;
            }
        }
    }

    /// What a queue may take more.
    pub(super) fn available(&self, usage: &Usage, queue: usize, resource: usize) -> i64 {
        if !self.limited[queue * self.resources + resource] {
            return FREE;
        }
        self.available_at(usage, queue, resource)
    }

    fn available_at(&self, usage: &Usage, at: usize, resource: usize) -> i64 {
        let at_cell = at * self.resources + resource;
        let (cell, used) = (&self.cells[at_cell], usage.0[at_cell]);
        let Some(parent) = self.parent[at] else { return cell.subtree - used };
        let mut above = self.available_at(usage, parent, resource);
        if let Some(limit) = cell.borrowing {
            let stored = cell.subtree - cell.local;
            let taken = (used - cell.local).max(0);
            above = above.min(stored - taken + limit);
        }
        (cell.local - used).max(0) + above
    }

    /// The first resource of which there is too little: (position, asked, available).
    pub(super) fn lacks(&self, usage: &Usage, queue: usize, amounts: &[i64]) -> Option<(usize, i64, i64)> {
        let asked = amounts.iter().enumerate().filter(|(_, amount)| **amount > 0);
        asked.map(|(at, amount)| (at, *amount, self.available(usage, queue, at))).find(|(_, asked, free)| asked > free)
    }

    /// What each of the first `queues` may take more, of each resource.
    pub(super) fn all_available(&self, usage: &Usage, queues: usize) -> Available {
        let cell = |at: usize| self.available(usage, at / self.resources, at % self.resources);
        Available { resources: self.resources, cells: (0..queues * self.resources).map(cell).collect() }
    }

    /// Whether a queue that takes these amounts uses more of some resource than its own quota.
    pub(super) fn borrows(&self, usage: &Usage, queue: usize, amounts: &[i64]) -> bool {
        let over = |(resource, amount): (usize, &i64)| {
            let cell = queue * self.resources + resource;
            *amount > 0 && self.limited[cell] && usage.0[cell] + amount > self.cells[cell].subtree
        };
        amounts.iter().enumerate().any(over)
    }

    /// What a queue, or a cohort, uses.
    pub(super) fn used(&self, usage: &Usage, queue: usize, resource: usize) -> i64 {
        usage.0[queue * self.resources + resource]
    }

    /// What a queue is entitled to; everything where nothing limits it.
    pub(super) fn entitled(&self, queue: usize, resource: usize) -> i64 {
        let at = queue * self.resources + resource;
        if self.limited[at] { self.entitled[at] } else { FREE }
    }

    /// Whether anything limits what a queue may use of a resource.
    pub(super) fn is_limited(&self, queue: usize, resource: usize) -> bool {
        self.limited[queue * self.resources + resource]
    }

    /// As [`entitled`](Self::entitled), but nothing where nothing limits it.
    pub(super) fn own(&self, at: usize, resource: usize) -> i64 {
        let at = at * self.resources + resource;
        if self.limited[at] { self.entitled[at] } else { 0 }
    }

    /// Whether two queues are in cohorts of the same root.
    pub(super) fn related(&self, a: usize, b: usize) -> bool {
        let root = |at: usize| std::iter::successors(Some(at), |at| self.parent[*at]).last();
        root(a) == root(b)
    }

    pub(super) fn parent(&self, at: usize) -> Option<usize> {
        self.parent[at]
    }

    /// A queue, if there is such a one, and the cohorts above it.
    pub(super) fn path(&self, queue: usize) -> impl Iterator<Item = usize> {
        let queue = Some(queue).filter(|queue| *queue < self.parent.len());
        std::iter::successors(queue, |at| self.parent[*at])
    }

    /// What a queue or a cohort may use at most of a resource, whatever those above it have.
    pub(super) fn limit(&self, at: usize, resource: usize) -> Option<i64> {
        let cell = &self.cells[at * self.resources + resource];
        match self.parent[at] {
            None => Some(cell.subtree),
            Some(_) => cell.borrowing.map(|more| cell.subtree + more),
        }
    }

    /// What of a resource is not taken from the cohort above.
    pub(super) fn local(&self, at: usize, resource: usize) -> i64 {
        self.cells[at * self.resources + resource].local
    }
}

/// A cohort that is its own ancestor stands alone.
fn break_cycles(parent: &mut [Option<usize>]) {
    for at in 0..parent.len() {
        let mut seen = at;
        for _ in 0..=parent.len() {
            match parent[seen] {
                Some(next) if next == at => {
                    parent[at] = None;
                    break;
                }
                Some(next) => seen = next,
                None => break,
            }
        }
    }
}

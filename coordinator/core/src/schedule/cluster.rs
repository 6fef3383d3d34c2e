//! The nodes, compiled: in an order in which every domain of the topology is a run of neighbours, resources in rows.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::table::{Table, hash};
use super::view::{Effect, Node, NodeRules, Operator, Policy, Requirement, Taint, Toleration, View};

/// No domain, no value.
pub(super) const NONE: u32 = u32::MAX;

/// A row of amounts for each node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grid {
    width: usize,
    cells: Vec<i64>,
}

impl Grid {
    pub(super) fn rows(&self) -> usize {
        self.cells.len().checked_div(self.width).unwrap_or(0)
    }

    pub(super) fn row(&self, node: usize) -> &[i64] {
        &self.cells[node * self.width..(node + 1) * self.width]
    }

    pub(super) fn row_mut(&mut self, node: usize) -> &mut [i64] {
        &mut self.cells[node * self.width..(node + 1) * self.width]
    }

    /// Adds so many pods' needs to a node.
    pub(super) fn add(&mut self, node: usize, needs: &[(usize, i64)], pods: i64) {
        let row = self.row_mut(node);
        for (resource, amount) in needs {
            row[*resource] += amount * pods;
        }
    }

    /// The lesser of each cell.
    pub(super) fn lower_to(&mut self, other: &Self) {
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell = (*cell).min(*other);
        }
    }
}

/// How many pods with these needs a row has room for.
pub(super) fn room(row: &[i64], needs: &[(usize, i64)]) -> u32 {
    let mut least = i64::from(u32::MAX);
    for (resource, amount) in needs {
        let free = row[*resource];
        if free < *amount {
            return 0;
        }
        least = least.min(free / amount);
    }
    u32::try_from(least).unwrap_or(u32::MAX)
}

/// Neighbouring nodes, `lo..hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) lo: usize,
    pub(super) hi: usize,
}

/// The domains of one level.
#[derive(Clone, Debug, Default)]
pub(super) struct Tier {
    pub(super) spans: Vec<Span>,
    /// Domain of each node.
    pub(super) of: Vec<u32>,
}

/// The values of one label.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    pub(super) values: Vec<String>,
    pub(super) of: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) capacity: Grid,
    /// Position in the view of each node, and the other way round.
    pub(super) to_view: Vec<u32>,
    pub(super) from_view: Vec<u32>,
    /// Outermost first, without the node itself.
    pub(super) tiers: Vec<Tier>,
    columns: BTreeMap<String, Column>,
    taints: Vec<Vec<Taint>>,
    taints_of: Vec<u32>,
    /// How fast nodes reach each other.
    pub(super) network: Policy,
    cordoned: Vec<bool>,
}

impl Cluster {
    /// `ports`: host ports that some role asks for, each a resource of which every node has one.
    pub(super) fn new(view: &View, ports: &[u16]) -> Self {
        let paths = Paths::new(view);
        let mut order: Vec<u32> = (0..len(view.nodes.len())).collect();
        let key = |at: &u32| (paths.of(*at), &view.nodes[*at as usize].name);
        order.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut from_view = vec![0; order.len()];
        for (at, node) in (0..).zip(&order) {
            from_view[*node as usize] = at;
        }
        let width = view.resources.len() + ports.len();
        let mut capacity = Grid { width, cells: vec![0; width * order.len()] };
        for (at, node) in order.iter().enumerate() {
            let row = capacity.row_mut(at);
            let amounts = &view.nodes[*node as usize].capacity;
            for (cell, amount) in row.iter_mut().zip(amounts.iter().take(view.resources.len())) {
                *cell = *amount;
            }
            row[view.resources.len()..].fill(1);
        }
        let tiers = (0..view.policy.levels.len()).map(|level| tier(&paths, &order, level)).collect();
        let cordoned = order.iter().map(|node| view.nodes[*node as usize].unschedulable).collect();
        let (taints, taints_of) = taints(&view.nodes, &order);
        Self {
            capacity,
            to_view: order,
            from_view,
            tiers,
            columns: BTreeMap::new(),
            taints,
            taints_of,
            network: view.policy.clone(),
            cordoned,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.to_view.len()
    }

    pub(super) fn all(&self) -> Span {
        Span { lo: 0, hi: self.len() }
    }

    /// Each node by itself.
    pub(super) fn nodes(&self) -> Vec<Span> {
        (0..self.len()).map(|at| Span { lo: at, hi: at + 1 }).collect()
    }

    /// The next cells within a span, going in by one level: domains of `level`, and single nodes that are in none; single
    /// nodes behind the last level.
    pub(super) fn cells(&self, span: Span, level: usize) -> Vec<Span> {
        let mut cells = Vec::new();
        let mut at = span.lo;
        while at < span.hi {
            let domain = self.tiers.get(level).map_or(NONE, |tier| tier.of[at]);
            let cell =
                if domain == NONE { Span { lo: at, hi: at + 1 } } else { self.tiers[level].spans[domain as usize] };
            at = cell.hi;
            cells.push(cell);
        }
        cells
    }

    /// The values of a label, by node.
    pub(super) fn column(&mut self, view: &View, key: &str) -> &Column {
        if !self.columns.contains_key(key) {
            let labels = self.to_view.iter().map(|node| view.nodes[*node as usize].labels.get(key).map(String::as_str));
            let column = column(&labels.collect::<Vec<Option<&str>>>());
            self.columns.insert(key.to_owned(), column);
        }
        &self.columns[key]
    }

    /// The values of every label that was asked for, by node.
    pub(super) fn columns(&self) -> BTreeMap<&str, &[u32]> {
        self.columns.iter().map(|(key, column)| (key.as_str(), column.of.as_slice())).collect()
    }

    /// The nodes that a pod with these rules may run on.
    pub(super) fn allowed(&mut self, view: &View, rules: &NodeRules) -> Bits {
        let mut bits = Bits::full(self.len());
        let tolerated: Vec<bool> = self.taints.iter().map(|taints| tolerates(&rules.tolerations, taints)).collect();
        for at in 0..self.len() {
            if self.cordoned[at] || !tolerated[self.taints_of[at] as usize] {
                bits.clear(at);
            }
        }
        for (key, value) in &rules.selector {
            let only = [Requirement { key: key.clone(), operator: Operator::In, values: vec![value.clone()] }];
            let term = self.term(view, &only);
            keep(&mut bits, &term);
        }
        if !rules.any_of.is_empty() {
            let mut any = vec![false; self.len()];
            for requirements in &rules.any_of {
                let term = self.term(view, requirements);
                any.iter_mut().zip(term).for_each(|(any, one)| *any |= one);
            }
            keep(&mut bits, &any);
        }
        bits
    }

    /// How much a pod with these rules would like each node; none if it does not care.
    pub(super) fn liking(&mut self, view: &View, rules: &NodeRules) -> Option<Vec<i32>> {
        let soft: Vec<i32> = self.taints.iter().map(|taints| -unliked(&rules.tolerations, taints)).collect();
        if rules.preferred.is_empty() && soft.iter().all(|score| *score == 0) {
            return None;
        }
        let mut score: Vec<i32> = self.taints_of.iter().map(|class| soft[*class as usize]).collect();
        for (weight, requirements) in &rules.preferred {
            let term = self.term(view, requirements);
            score.iter_mut().zip(term).filter(|(_, held)| *held).for_each(|(score, _)| *score += weight);
        }
        Some(score)
    }

    /// The nodes on which all requirements hold. An empty term matches none, as in Kubernetes.
    fn term(&mut self, view: &View, requirements: &[Requirement]) -> Vec<bool> {
        let mut held = vec![!requirements.is_empty(); self.len()];
        for requirement in requirements {
            let column = self.column(view, &requirement.key);
            let by_value: Vec<bool> = column.values.iter().map(|value| holds(requirement, Some(value))).collect();
            let without = holds(requirement, None);
            for (held, value) in held.iter_mut().zip(&column.of) {
                *held &= by_value.get(*value as usize).copied().unwrap_or(without);
            }
        }
        held
    }
}

/// Whether a label's value, if there is one, meets a requirement.
pub(crate) fn holds(requirement: &Requirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.iter().any(|one| one == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = || number(requirement.values.first().map(String::as_str));
    match requirement.operator {
        Operator::In => listed(),
        Operator::NotIn => !listed(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => number(value).zip(bound()).is_some_and(|(value, bound)| value > bound),
        Operator::Lt => number(value).zip(bound()).is_some_and(|(value, bound)| value < bound),
    }
}

pub(super) fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn keep(bits: &mut Bits, held: &[bool]) {
    for (at, _) in held.iter().enumerate().filter(|(_, held)| !**held) {
        bits.clear(at);
    }
}

/// The value of each level's label for each node, as a number in the order of the texts: a row for each node.
struct Paths {
    levels: usize,
    cells: Vec<u32>,
}

impl Paths {
    fn new(view: &View) -> Self {
        let levels = view.policy.levels.len();
        let mut labels = vec![Vec::with_capacity(view.nodes.len()); levels];
        // Node by node, since what one label of a node brings near helps with the next.
        for node in &view.nodes {
            for (level, labels) in view.policy.levels.iter().zip(&mut labels) {
                labels.push(node.labels.get(&level.label).map(String::as_str));
            }
        }
        let mut cells = vec![NONE; levels * view.nodes.len()];
        for (level, labels) in labels.iter().enumerate() {
            for (node, value) in numbered(labels).1.into_iter().enumerate() {
                cells[node * levels + level] = value;
            }
        }
        Self { levels, cells }
    }

    fn of(&self, node: u32) -> &[u32] {
        &self.cells[node as usize * self.levels..][..self.levels]
    }
}

fn column(labels: &[Option<&str>]) -> Column {
    let (values, of) = numbered(labels);
    Column { values: values.into_iter().map(str::to_owned).collect(), of }
}

/// The distinct values in order, and the position of each node's.
fn numbered<'a>(labels: &[Option<&'a str>]) -> (Vec<&'a str>, Vec<u32>) {
    let mut table = Table::for_up_to(labels.len());
    let mut values: Vec<&str> = Vec::new();
    // Neighbours often have the same value.
    let mut last = (None, NONE);
    let mut number = |label: &Option<&'a str>| {
        let Some(text) = *label else { return NONE };
        if last.0 != *label {
            let known = table.get_or_enter(hash(text), |id| values[id as usize] == text, || len(values.len()));
            if known as usize == values.len() {
                values.push(text);
            }
            last = (*label, known);
        }
        last.1
    };
    let mut of: Vec<u32> = labels.iter().map(&mut number).collect();
    let mut sorted: Vec<(&str, usize)> = values.into_iter().zip(0..).collect();
    sorted.sort_unstable();
    let mut ranks = vec![0; sorted.len()];
    sorted.iter().zip(0..).for_each(|((_, first), rank)| ranks[*first] = rank);
    for value in of.iter_mut().filter(|value| **value != NONE) {
        *value = ranks[*value as usize];
    }
    (sorted.into_iter().map(|(text, _)| text).collect(), of)
}

fn tier(paths: &Paths, order: &[u32], level: usize) -> Tier {
    let mut tier = Tier { spans: Vec::new(), of: vec![NONE; order.len()] };
    let mut last: Option<&[u32]> = None;
    for (at, node) in order.iter().enumerate() {
        let path = &paths.of(*node)[..=level];
        if path[level] == NONE {
            last = None;
            continue;
        }
        if last != Some(path) {
            tier.spans.push(Span { lo: at, hi: at });
            last = Some(path);
        }
        tier.of[at] = len(tier.spans.len()) - 1;
        if let Some(span) = tier.spans.last_mut() {
            span.hi = at + 1;
        }
    }
    tier
}

fn taints(nodes: &[Node], order: &[u32]) -> (Vec<Vec<Taint>>, Vec<u32>) {
    let mut ids: BTreeMap<&[Taint], u32> = BTreeMap::new();
    let mut sets: Vec<Vec<Taint>> = Vec::new();
    let mut of: Vec<u32> = Vec::with_capacity(order.len());
    for node in order {
        let taints = &nodes[*node as usize].taints;
        // Most nodes have none, or those of their neighbour.
        if let Some(last) = of.last().copied().filter(|last| sets[*last as usize] == *taints) {
            of.push(last);
            continue;
        }
        let id = *ids.entry(taints).or_insert_with(|| {
            sets.push(taints.clone());
            len(sets.len()) - 1
        });
        of.push(id);
    }
    (sets, of)
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    let same = |one: &Toleration| {
        one.effect.is_none_or(|effect| effect == taint.effect)
            && one.key.as_ref().is_none_or(|key| *key == taint.key)
            && one.value.as_ref().is_none_or(|value| *value == taint.value)
    };
    tolerations.iter().any(same)
}

pub(crate) fn tolerates(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints.iter().all(|taint| taint.effect == Effect::PreferNoSchedule || tolerated(tolerations, taint))
}

fn unliked(tolerations: &[Toleration], taints: &[Taint]) -> i32 {
    let soft = taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
    i32::try_from(soft.filter(|taint| !tolerated(tolerations, taint)).count()).unwrap_or(i32::MAX)
}

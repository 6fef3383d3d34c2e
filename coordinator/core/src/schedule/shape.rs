//! Classes of equal gangs and of equal pods: what is found out for one holds for all of its class.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bits::Bits;
use super::cluster::{Cluster, len};
use super::near;
use super::table::{Table, hash};
use super::view::{NodeRules, Phase, Role, Shape, View};

/// Pods that ask for the same.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    /// What a pod needs: (position in a row, amount), the scarcest first; nothing that is zero.
    pub(super) needs: Vec<(usize, i64)>,
    /// Position of the rules.
    pub(super) rules: usize,
}

/// One role of a class.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) kind: usize,
    pub(super) count: u32,
    pub(super) min: u32,
    /// Pods of a slice, and the level that it stays within.
    pub(super) slice: Option<(u32, usize)>,
}

/// Gangs of equal shape.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) shape: Arc<Shape>,
    pub(super) parts: Vec<Part>,
    /// Order in which roles are placed: the most demanding first.
    pub(super) order: Vec<usize>,
    pub(super) required: Option<usize>,
    /// Whether it wants its pods near each other at all.
    pub(super) close: bool,
    /// Whether some role has pod terms.
    pub(super) terms: bool,
    pub(super) valid: bool,
    /// Pods of its smallest size, of its full size, and what the smallest asks for.
    pub(super) least: Vec<u32>,
    pub(super) full: Vec<u32>,
    pub(super) asks: Vec<i64>,
}

/// On which nodes, and which it likes.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    pub(super) nodes: Bits,
    pub(super) liking: Option<Vec<i32>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    pub(super) classes: Vec<Class>,
    pub(super) kinds: Vec<Kind>,
    pub(super) allowed: Vec<Allowed>,
    /// Class of each gang, by its position in the view; of one that waits and has options, of the first of them.
    pub(super) of: Vec<u32>,
    /// Classes of the options of gangs that have some.
    options: BTreeMap<u32, Vec<u32>>,
}

/// The distinct shapes of a view.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    pub(super) shapes: Vec<Arc<Shape>>,
    of: Vec<u32>,
    options: BTreeMap<u32, Vec<u32>>,
}

impl Class {
    /// What `counts` pods of each role ask for.
    pub(super) fn amounts(&self, counts: &[u32], resources: usize) -> Vec<i64> {
        let mut sum = vec![0; resources];
        for (role, count) in self.shape.roles.iter().zip(counts) {
            for (total, amount) in sum.iter_mut().zip(&role.requests) {
                *total += amount * i64::from(*count);
            }
        }
        sum
    }
}

/// Host ports that some role asks for.
pub(super) fn ports(shapes: &[Arc<Shape>]) -> Vec<u16> {
    let roles = shapes.iter().flat_map(|shape| &shape.roles);
    let mut ports: Vec<u16> = roles.flat_map(|role| role.host_ports.iter().copied()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The distinct shapes, and which each gang has.
pub(super) fn distinct(view: &View) -> Distinct {
    let most = view.gangs.iter().map(|gang| 1 + gang.options.len()).sum();
    let mut by_address = Table::for_up_to(most);
    let mut by_hash = Table::for_up_to(most);
    let mut shapes: Vec<Arc<Shape>> = Vec::new();
    let mut find = |shape: &Arc<Shape>| {
        let address = Arc::as_ptr(shape).addr();
        by_address.get_or_enter(
            address as u64,
            |_| true,
            || {
                let known = by_hash.get_or_enter(hash(shape), |id| shapes[id as usize] == *shape, || len(shapes.len()));
                if known as usize == shapes.len() {
                    shapes.push(Arc::clone(shape));
                }
                known
            },
        )
    };
    let mut options: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut of = Vec::with_capacity(view.gangs.len());
    for (at, gang) in (0..).zip(&view.gangs) {
        if gang.options.is_empty() {
            of.push(find(&gang.shape));
            continue;
        }
        let found: Vec<u32> = gang.options.iter().map(&mut find).collect();
        let runs = matches!(gang.phase, Phase::Running { .. });
        of.push(if runs { find(&gang.shape) } else { found[0] });
        options.insert(at, found);
    }
    Distinct { shapes, of, options }
}

impl Classes {
    pub(super) fn new(view: &View, distinct: Distinct, ports: &[u16], cluster: &mut Cluster) -> Self {
        let Distinct { shapes, of, options } = distinct;
        let mut made = Self { of, options, ..Self::default() };
        let mut kinds: BTreeMap<(Vec<(usize, i64)>, usize), usize> = BTreeMap::new();
        let mut rules: BTreeMap<NodeRules, usize> = BTreeMap::new();
        for shape in shapes {
            let mut parts = Vec::new();
            for role in &shape.roles {
                let at = *rules.entry(role.rules.clone()).or_insert_with(|| {
                    let nodes = cluster.allowed(view, &role.rules);
                    made.allowed.push(Allowed { nodes, liking: cluster.liking(view, &role.rules) });
                    made.allowed.len() - 1
                });
                let needs = needs(role, view, ports);
                let kind = *kinds.entry((needs.clone(), at)).or_insert_with(|| {
                    made.kinds.push(Kind { needs, rules: at });
                    made.kinds.len() - 1
                });
                let slice = role.slice.as_ref().and_then(|slice| Some((slice.size, level(view, &slice.level)?)));
                parts.push(Part { kind, count: role.count, min: role.min, slice });
            }
            made.classes.push(class(view, shape, parts));
        }
        // Anti-affinity counts both ways: whom a term of others is about is placed with care, too.
        let apart: Vec<Arc<Shape>> =
            made.classes.iter().filter(|class| class.terms).map(|class| Arc::clone(&class.shape)).collect();
        for class in made.classes.iter_mut().filter(|class| !class.terms) {
            let met = |other: &Arc<Shape>| other.namespace == class.shape.namespace && near::meets(other, &class.shape);
            class.terms = apart.iter().any(met);
        }
        made
    }

    /// Whether any gang has options.
    pub(super) fn has_options(&self) -> bool {
        !self.options.is_empty()
    }

    /// Classes of the options of a gang, by its position in the view.
    pub(super) fn options_of(&self, gang: u32) -> &[u32] {
        self.options.get(&gang).map_or(&[], Vec::as_slice)
    }
}

fn class(view: &View, shape: Arc<Shape>, parts: Vec<Part>) -> Class {
    let resources = view.resources.len();
    let known = |label: &Option<String>| label.as_ref().is_none_or(|label| level(view, label).is_some());
    let sane = |role: &Role| {
        let slice = role.slice.as_ref().is_none_or(|slice| slice.size > 0 && level(view, &slice.level).is_some());
        let requests = role.requests.len() <= resources && role.requests.iter().all(|amount| *amount >= 0);
        role.count > 0 && role.min <= role.count && requests && slice
    };
    let some = parts.iter().any(|part| part.min > 0);
    let valid =
        some && shape.roles.iter().all(sane) && known(&shape.closeness.required) && known(&shape.closeness.preferred);
    let mut order: Vec<usize> = (0..parts.len()).collect();
    let weight = |at: &usize| {
        let role = &shape.roles[*at];
        let scarce = view.policy.scarce.map_or(0, |scarce| role.request(scarce as usize));
        let terms = role.affinity.len() + role.anti_affinity.len();
        (terms, scarce, role.requests.clone())
    };
    order.sort_by_key(|at| (std::cmp::Reverse(weight(at)), *at));
    let required = shape.closeness.required.as_ref().and_then(|label| level(view, label));
    let close = shape.closeness != super::view::Closeness::default() || shape.all_reduce_bytes > 0;
    let terms = shape.roles.iter().any(|role| !role.affinity.is_empty() || !role.anti_affinity.is_empty());
    let least = parts.iter().map(|part| part.min).collect();
    let full = parts.iter().map(|part| part.count).collect();
    let mut class = Class { shape, parts, order, required, close, terms, valid, least, full, asks: Vec::new() };
    if valid {
        class.asks = class.amounts(&class.least, resources);
    }
    class
}

fn level(view: &View, label: &str) -> Option<usize> {
    view.policy.levels.iter().position(|level| level.label == label)
}

fn needs(role: &Role, view: &View, ports: &[u16]) -> Vec<(usize, i64)> {
    let asked = role.requests.iter().copied().enumerate().take(view.resources.len());
    let mut needs: Vec<(usize, i64)> = asked.filter(|(_, amount)| *amount > 0).collect();
    let mut wanted = role.host_ports.clone();
    wanted.dedup();
    let port = |port: &u16| ports.binary_search(port).ok().map(|at| (view.resources.len() + at, 1));
    needs.extend(wanted.iter().filter_map(port));
    needs.sort_by_key(|(at, _)| (view.policy.scarce.map(|scarce| scarce as usize) != Some(*at), *at));
    needs
}

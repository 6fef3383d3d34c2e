//! Places for gangs whose roles have pod affinity or anti-affinity.
//!
//! Such a gang is placed role by role, each with the nodes that the pods which are there, and those placed so far, leave it.
//! Anti-affinity counts both ways, as in kube-scheduler; a pod with an affinity to its own like may be the first of them.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, NONE, Span, holds};
use super::place::{Filling, Ground, scopes};
use super::shape::Class;
use super::view::{Place, PodTerm, Role, Shape};

/// The pods that are there: of gangs of the class, at these places.
pub(super) type Present<'a> = Vec<(&'a Class, &'a [Place])>;

/// The values of the labels that are topology keys of terms, by node.
pub(super) type Keys<'a> = BTreeMap<&'a str, &'a [u32]>;

/// Every topology key of a shape's terms.
pub(super) fn keys(shape: &Shape) -> BTreeSet<&str> {
    let terms = shape.roles.iter().flat_map(|role| role.affinity.iter().chain(&role.anti_affinity));
    terms.map(|term| term.topology_key.as_str()).collect()
}

pub(super) struct Near<'a> {
    pub(super) ground: &'a Ground<'a>,
    pub(super) class: &'a Class,
    pub(super) present: &'a Present<'a>,
    pub(super) keys: &'a Keys<'a>,
}

impl Near<'_> {
    pub(super) fn place(&self, counts: &[u32]) -> Option<Vec<Place>> {
        if self.ground.caps.iter().any(|caps| caps.is_empty()) {
            return None;
        }
        let cluster = self.ground.cluster;
        let mut scopes = scopes(self.class, cluster, true);
        // Roles that want to be near each other are tried in each domain of that kind, too; slices have their own.
        if self.class.parts.iter().all(|part| part.slice.is_none()) {
            let all: Vec<Span> = scopes.last().map(|(_, spans)| spans.clone()).unwrap_or_default();
            let inside = |span: &Span| all.iter().any(|outer| outer.lo <= span.lo && span.hi <= outer.hi);
            for (level, tier) in cluster.tiers.iter().enumerate() {
                scopes.push((level, tier.spans.iter().copied().filter(inside).collect()));
            }
            scopes.push((cluster.tiers.len(), cluster.nodes().into_iter().filter(inside).collect()));
        }
        scopes.iter().find_map(|(level, spans)| spans.iter().find_map(|span| self.fill(*span, *level, counts)))
    }

    fn fill(&self, span: Span, level: usize, counts: &[u32]) -> Option<Vec<Place>> {
        let enough = |part: usize| {
            let caps = &self.ground.caps[part][span.lo..span.hi];
            caps.iter().map(|cap| u64::from(*cap)).sum::<u64>() >= u64::from(counts[part])
        };
        if !(0..counts.len()).all(enough) {
            return None;
        }
        let mut filling = Filling::new(self.ground, self.class, span);
        let mut placed: Vec<Place> = Vec::new();
        let mut order = self.class.order.clone();
        // Who has to be near others comes after them.
        order.sort_by_key(|part| self.class.shape.roles[*part].affinity.len());
        for part in order.into_iter().filter(|part| counts[*part] > 0) {
            let role = &self.class.shape.roles[part];
            let mut caps = std::mem::take(&mut filling.caps[part]);
            self.keep_apart(role, &placed, span, &mut caps);
            let found = self.draw_near(role, &placed, span, &caps, counts[part]).into_iter().find_map(|caps| {
                filling.caps[part] = caps;
                filling.add(part, level, counts[part])
            })?;
            placed.extend(found);
        }
        placed.sort_unstable();
        Some(placed)
    }

    /// Every pod there is with its role, those placed so far included.
    fn pods<'b>(&'b self, placed: &'b [Place]) -> impl Iterator<Item = (&'b Role, u32)> {
        let ours =
            placed.iter().filter_map(|place| Some((self.class.shape.roles.get(place.role as usize)?, place.node)));
        let same = self.present.iter().filter(|(class, _)| class.shape.namespace == self.class.shape.namespace);
        let theirs = same.flat_map(|(class, places)| {
            places.iter().filter_map(|place| Some((class.shape.roles.get(place.role as usize)?, place.node)))
        });
        ours.chain(theirs)
    }

    fn value(&self, key: &str, node: usize) -> u32 {
        self.keys.get(key).and_then(|of| of.get(node)).copied().unwrap_or(NONE)
    }

    fn keep_apart(&self, role: &Role, placed: &[Place], span: Span, caps: &mut [u32]) {
        let mut banned: BTreeSet<(&str, u32)> = BTreeSet::new();
        for (other, node) in self.pods(placed) {
            let ours = role.anti_affinity.iter().filter(|term| matches(term, other));
            let theirs = other.anti_affinity.iter().filter(|term| matches(term, role));
            banned.extend(
                ours.chain(theirs)
                    .map(|term| (term.topology_key.as_str(), self.value(&term.topology_key, node as usize))),
            );
        }
        let keys: BTreeSet<&str> = banned.iter().map(|(key, _)| *key).collect();
        for (at, cap) in (span.lo..span.hi).zip(caps.iter_mut()) {
            let hit = |key: &&str| {
                let value = self.value(key, at);
                value != NONE && banned.contains(&(*key, value))
            };
            if keys.iter().any(hit) {
                *cap = 0;
            }
        }
        for term in role.anti_affinity.iter().filter(|term| matches(term, role)) {
            let mut used: BTreeSet<u32> = BTreeSet::new();
            for (at, cap) in (span.lo..span.hi).zip(caps.iter_mut()).filter(|(_, cap)| **cap > 0) {
                let value = self.value(&term.topology_key, at);
                if value != NONE {
                    *cap = u32::from(used.insert(value));
                }
            }
        }
    }

    /// The caps that affinity leaves: one choice where pods to be near to are there, one for each domain where there are none.
    fn draw_near(&self, role: &Role, placed: &[Place], span: Span, caps: &[u32], count: u32) -> Vec<Vec<u32>> {
        let mut choices = vec![caps.to_vec()];
        for term in &role.affinity {
            let key = term.topology_key.as_str();
            let near = self.pods(placed).filter(|(other, _)| matches(term, other));
            let mut values: BTreeSet<u32> = near.map(|(_, node)| self.value(key, node as usize)).collect();
            values.remove(&NONE);
            let keep = |caps: &Vec<u32>, wanted: &dyn Fn(u32) -> bool| -> Vec<u32> {
                let cap = |(at, cap): (usize, &u32)| if wanted(self.value(key, at)) { *cap } else { 0 };
                (span.lo..span.hi).zip(caps).map(cap).collect()
            };
            if !values.is_empty() || !matches(term, role) {
                choices.iter_mut().for_each(|caps| *caps = keep(caps, &|value| values.contains(&value)));
                continue;
            }
            let domains: BTreeSet<u32> =
                (span.lo..span.hi).map(|at| self.value(key, at)).filter(|value| *value != NONE).collect();
            let each = |caps: &Vec<u32>| -> Vec<Vec<u32>> {
                domains.iter().map(|domain| keep(caps, &|value| value == *domain)).collect()
            };
            choices = choices.iter().flat_map(each).collect();
        }
        let pods = |caps: &Vec<u32>| caps.iter().map(|cap| u64::from(*cap)).sum::<u64>();
        choices.retain(|caps| pods(caps) >= u64::from(count));
        choices.sort_by_key(pods);
        choices
    }
}

/// Whether a term of one shape is about pods of the other.
pub(super) fn meets(one: &Shape, other: &Shape) -> bool {
    let terms = || one.roles.iter().flat_map(|role| role.affinity.iter().chain(&role.anti_affinity));
    other.roles.iter().any(|role| terms().any(|term| matches(term, role)))
}

/// Whether a term is about pods of a role.
fn matches(term: &PodTerm, role: &Role) -> bool {
    let held = |one: &super::view::Requirement| holds(one, role.labels.get(&one.key).map(String::as_str));
    !term.pods.is_empty() && term.pods.iter().all(held)
}

/// The values of each key, by node.
pub(super) fn columns(cluster: &mut Cluster, view: &super::view::View, classes: &[Class]) {
    for class in classes.iter().filter(|class| class.terms) {
        for key in keys(&class.shape) {
            cluster.column(view, key);
        }
    }
}

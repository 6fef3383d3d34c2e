//! The flavors that gangs are given, or use: what each way makes of what their pods ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::super::demand;
use super::super::flavor::{self, Assigned};
use super::super::gather::{Gang, node_name};
use super::super::reason::Wait;
use super::super::rule::Asked;
use super::catalogue::Group;
use super::{Kind, Maker, Part, len, role_name, row};
use crate::schedule::Gang as Member;

/// What pods of a queue ask for in each way in which they can be given flavors.
pub(super) type Ways = Vec<(Assigned, Arc<Asked>)>;

/// The names of flavors by what is counted with them.
type Given = BTreeMap<String, String>;

/// What pods ask for with flavors.
#[derive(Default)]
pub(super) struct Flavored {
    /// Of those that wait, by queue and by where what they ask for is; with that, which so keeps its place.
    ways: BTreeMap<(u32, usize), (Arc<Asked>, Ways)>,
    /// Of those that have nodes, by what they ask for as well as by their flavors.
    used: BTreeMap<(usize, Given), (Arc<Asked>, Arc<Asked>)>,
}

impl<'view> Maker<'view> {
    /// The ways in which the roles of a gang can be given flavors, in the order in which they are tried; none if its queue has no flavors.
    pub(super) fn ways(
        &mut self,
        member: &Member,
        gang: &Gang<'view>,
        kind: Kind,
        groups: &[Group<'view>],
    ) -> Result<Option<Vec<Ways>>, Wait> {
        if !self.setting.gives_flavors(member.queue) {
            return Ok(None);
        }
        let mut all = vec![Ways::new()];
        for group in groups {
            let mut ways = self.ways_of(member.queue, &group.asked)?;
            if matches!(kind, Kind::Missing | Kind::Spare) {
                // A role keeps to its flavors.
                let same = |pod: &&&Pod| role_name(pod) == role_name(group.pods[0]);
                let held = gang.held.iter().find(same).or_else(|| gang.held.first());
                let told = held.map(|pod| {
                    let node = node_name(pod).and_then(|node| self.nodes.get(node));
                    let asked = group.asked.amounts.keys().collect();
                    self.setting.flavors_of(member.queue, &asked, pod, node.map(|at| &self.shown.nodes[*at as usize]))
                });
                let told = told.unwrap_or_default();
                if ways.iter().any(|(given, _)| given.agrees(&told)) {
                    ways.retain(|(given, _)| given.agrees(&told));
                }
            }
            let with = |before: &Ways| {
                let one = |way: &(Assigned, Arc<Asked>)| before.iter().chain([way]).cloned().collect::<Ways>();
                ways.iter().map(one).collect::<Vec<Ways>>()
            };
            all = all.iter().flat_map(with).collect();
            all.truncate(flavor::WAYS);
        }
        Ok(Some(all))
    }

    fn ways_of(&mut self, queue: u32, asked: &Arc<Asked>) -> Result<Ways, Wait> {
        let key = (queue, Arc::as_ptr(asked).addr());
        if let Some((_, known)) = self.flavored.ways.get(&key) {
            return Ok(known.clone());
        }
        let found = self.setting.ways(queue, asked.amounts.keys(), &asked.role.rules.tolerations)?;
        let with = |given: Assigned| {
            let mut changed = Asked::clone(asked);
            changed.amounts.extend(self.setting.of_flavors(&asked.amounts, &given.flavors));
            given.terms.iter().for_each(|terms| flavor::both(&mut changed.role.rules.any_of, terms));
            changed.role.rules.tolerations.extend_from_slice(&given.tolerations);
            (given, Arc::new(changed))
        };
        let ways: Ways = found.into_iter().map(with).collect();
        self.flavored.ways.insert(key, (Arc::clone(asked), ways.clone()));
        Ok(ways)
    }

    /// Pods that have nodes, by the flavors that they use.
    pub(super) fn by_flavor(&mut self, queue: u32, group: Group<'view>) -> Vec<Group<'view>> {
        let names: BTreeSet<&String> = group.asked.amounts.keys().collect();
        let mut by: BTreeMap<BTreeMap<String, String>, Vec<&'view Pod>> = BTreeMap::new();
        for pod in group.pods {
            let node = node_name(pod).and_then(|node| self.nodes.get(node)).map(|at| &self.shown.nodes[*at as usize]);
            by.entry(self.setting.flavors_of(queue, &names, pod, node)).or_default().push(pod);
        }
        let one = |(flavors, pods): (BTreeMap<String, String>, Vec<&'view Pod>)| {
            let key = (Arc::as_ptr(&group.asked).addr(), flavors);
            if let Some((_, asked)) = self.flavored.used.get(&key) {
                return Group { asked: Arc::clone(asked), pods };
            }
            let mut changed = Asked::clone(&group.asked);
            changed.amounts.extend(self.setting.of_flavors(&group.asked.amounts, &key.1));
            let asked = Arc::new(changed);
            self.flavored.used.insert(key, (Arc::clone(&group.asked), Arc::clone(&asked)));
            Group { asked, pods }
        };
        by.into_iter().map(one).collect()
    }

    /// What a node has; of a flavor as much as of the resource, if the node is of it.
    pub(super) fn row_of(&self, node: &Node, at: &BTreeMap<String, usize>) -> Vec<i64> {
        let amounts = demand::of_node(node);
        let mut row = row(&amounts, at);
        for (name, at) in at {
            if let (resource, Some(flavor)) = flavor::split(name)
                && self.setting.flavors.is_of(flavor, node)
            {
                row[*at] = amounts.get(resource).copied().unwrap_or(0);
            }
        }
        row
    }
}

impl Part<'_> {
    /// The way in which its roles are given these flavors, as they are written.
    pub(super) fn way_of(&self, flavors: &[String]) -> Option<u32> {
        if flavors.is_empty() {
            return Some(0);
        }
        let same = |way: &Vec<Assigned>| way.iter().map(Assigned::text).eq(flavors.iter().cloned());
        self.ways.iter().position(same).map(len)
    }
}

//! Flavors of resources: quota of a flavor is of the nodes with its labels.
//!
//! Which of its flavors a pod uses follows from the node that it gets; what quota there is of each is added up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::schedule::{Operator, Requirement};

/// Labels of the nodes of each flavor.
pub(super) type Flavors = BTreeMap<String, BTreeMap<String, String>>;

/// Some resources, of which a pod that asks for one has to use one of some flavors.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    resources: BTreeSet<String>,
    /// By their names.
    flavors: Vec<String>,
}

/// Reads the objects.
pub(super) fn read<'a>(objects: impl Iterator<Item = &'a Value>) -> Flavors {
    let labels = |object: &Value| {
        let labels = object.pointer("/spec/nodeLabels").and_then(Value::as_object).into_iter().flatten();
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    objects
        .filter_map(|object| Some((object.pointer("/metadata/name")?.as_str()?.to_owned(), labels(object))))
        .collect()
}

/// The groups of a queue.
pub(super) fn groups(spec: &Value) -> Vec<Group> {
    let groups = spec["resourceGroups"].as_array().into_iter().flatten();
    let group = |group: &Value| {
        let flavors = || group["flavors"].as_array().into_iter().flatten();
        let resources = flavors().flat_map(|flavor| flavor["resources"].as_array().into_iter().flatten());
        let name = |object: &Value| object["name"].as_str().map(str::to_owned);
        Group { resources: resources.filter_map(name).collect(), flavors: flavors().filter_map(name).collect() }
    };
    groups.map(group).collect()
}

impl Group {
    /// What has to hold of the labels of a node for a pod that asks for these resources, one term for each flavor. `None`: nothing, since
    /// it asks for none of the group's, or a flavor is of any node: it has no labels, or nobody has described it.
    pub(super) fn terms(&self, asked: &BTreeSet<&String>, flavors: &Flavors) -> Option<Vec<Vec<Requirement>>> {
        if !self.resources.iter().any(|resource| asked.contains(resource)) {
            return None;
        }
        let is = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        let term = |name: &String| {
            let labels = flavors.get(name).filter(|labels| !labels.is_empty())?;
            Some(labels.iter().map(is).collect())
        };
        let terms: Option<Vec<Vec<Requirement>>> = self.flavors.iter().map(term).collect();
        terms.filter(|terms| !terms.is_empty())
    }

    /// The labels of the nodes of its flavors, for people.
    pub(super) fn labels<'a>(&'a self, flavors: &'a Flavors) -> impl Iterator<Item = String> + 'a {
        let labels = self.flavors.iter().filter_map(|name| flavors.get(name)).filter(|labels| !labels.is_empty());
        labels.map(|labels| labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
    }
}

/// Makes of alternatives those in which one of the terms holds as well.
pub(super) fn both(any_of: &mut Vec<Vec<Requirement>>, terms: &[Vec<Requirement>]) {
    if any_of.is_empty() {
        *any_of = terms.to_vec();
        return;
    }
    let each = |one: &Vec<Requirement>| -> Vec<Vec<Requirement>> {
        terms.iter().map(|term| one.iter().chain(term).cloned().collect()).collect()
    };
    // One without a requirement is met by no node.
    let mut all: Vec<Vec<Requirement>> = any_of.iter().filter(|one| !one.is_empty()).flat_map(each).collect();
    if all.is_empty() {
        all.push(Vec::new());
    }
    *any_of = all;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(pairs: &[(&str, &str)]) -> Vec<Requirement> {
        let one = |(key, value): &(&str, &str)| Requirement {
            key: (*key).to_owned(),
            operator: Operator::In,
            values: vec![(*value).to_owned()],
        };
        pairs.iter().map(one).collect()
    }

    #[test]
    fn alternatives_are_multiplied_and_what_no_node_meets_stays_so() {
        let terms = [term(&[("pool", "a")]), term(&[("pool", "b")])];
        let mut any = Vec::new();
        both(&mut any, &terms);
        assert_eq!(any, terms);
        let mut zones = vec![term(&[("zone", "1")]), Vec::new(), term(&[("zone", "2")])];
        both(&mut zones, &terms);
        let wanted = [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")];
        assert_eq!(zones, wanted.map(|(zone, pool)| term(&[("zone", zone), ("pool", pool)])));
        let mut none = vec![Vec::new()];
        both(&mut none, &terms);
        assert_eq!(none, [Vec::new()]);
    }
}

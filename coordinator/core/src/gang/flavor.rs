//! Flavors of resources: quota of a flavor is of the nodes with its labels.
//!
//! Of each group of resources that a pod asks for its gang is given one of the queue's flavors, for each role of its own. Of a resource
//! of which only one flavor is named anywhere the engine knows nothing more than the resource. One of several flavors is one more of the engine's
//! resources, by [`named`]: a pod of that flavor asks for as much of it as of the resource itself, and nodes with the flavor's labels have as much
//! of it. So quota, borrowing and lending are by flavor, and what a node has is still counted once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::gather::annotation;
use super::rule;
use crate::label;
use crate::schedule::{self, Effect, Operator, Requirement, Taint, Toleration};

/// Ways in which a gang may be given flavors, at most; of more the first are looked at.
pub(super) const WAYS: usize = 32;
/// Between the names of a resource and of its flavor; neither has a space.
const OF: &str = " of flavor ";

/// What the engine calls a flavor of a resource.
pub(super) fn named(resource: &str, flavor: &str) -> String {
    format!("{resource}{OF}{flavor}")
}

/// The resource and, if it is one of several, the flavor that a name of the engine's stands for.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once(OF).map_or((name, None), |(resource, flavor)| (resource, Some(flavor)))
}

/// What is said of a flavor.
#[derive(Clone, Debug, Default)]
struct Flavor {
    /// Labels of its nodes.
    labels: BTreeMap<String, String>,
    /// Taints that pods have to tolerate to be given it.
    taints: Vec<Taint>,
    /// What its pods tolerate beside what they say themselves, as it is read and as it is written.
    tolerations: Vec<Toleration>,
    given: Vec<Value>,
}

/// All flavors, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Flavors(BTreeMap<String, Flavor>);

/// Some resources, of which a pod that asks for one has to use one of some flavors.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    resources: BTreeSet<String>,
    /// By their names.
    flavors: Vec<String>,
}

/// The flavors that pods are given, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Assigned {
    /// By resource that the pods ask for.
    pub(super) flavors: BTreeMap<String, String>,
    /// What has to hold of the labels of a node: of each group, one of the terms.
    pub(super) terms: Vec<Vec<Vec<Requirement>>>,
    /// What the pods tolerate then.
    pub(super) tolerations: Vec<Toleration>,
    /// The same, as it is written.
    pub(super) given: Vec<Value>,
    /// Whether it has to be written down: there was a choice, or the pods tolerate more.
    pub(super) is_told: bool,
}

impl Assigned {
    /// As it is written on a pod.
    pub(super) fn text(&self) -> String {
        let pairs: Vec<String> = self.flavors.iter().map(|(resource, flavor)| format!("{resource}={flavor}")).collect();
        pairs.join(",")
    }

    /// Whether it gives no resource another flavor than these.
    pub(super) fn agrees(&self, told: &BTreeMap<String, String>) -> bool {
        self.flavors.iter().all(|(resource, flavor)| told.get(resource).is_none_or(|other| other == flavor))
    }
}

/// The flavors that are written on a pod.
pub(super) fn told(pod: &Pod) -> BTreeMap<String, String> {
    let text = annotation(pod, label::FLAVORS).unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.rsplit_once('='));
    pairs.map(|(resource, flavor)| (resource.to_owned(), flavor.to_owned())).collect()
}

/// Writes on a pod which flavors it was given, and what it tolerates for that.
pub(super) fn patch(pod: &Pod, flavors: &str, given: &[Value]) -> Value {
    let mut patch = json!({"metadata": {"annotations": {label::FLAVORS: flavors}}});
    let own = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut all: Vec<Value> = own.map(|one| serde_json::to_value(one).expect("texts and numbers serialise")).collect();
    let before = all.len();
    for one in given {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
    if all.len() > before {
        patch["spec"] = json!({ "tolerations": all });
    }
    patch
}

fn taint(value: &Value) -> Option<Taint> {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    Some(Taint { key: text("key"), value: text("value"), effect: rule::effect(value["effect"].as_str()?)? })
}

/// Reads the objects.
pub(super) fn read<'a>(objects: impl Iterator<Item = &'a Value>) -> Flavors {
    let list = |object: &'a Value, path: &str| object.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let flavor = |object: &'a Value| {
        let labels = object.pointer("/spec/nodeLabels").and_then(Value::as_object).into_iter().flatten();
        let given: Vec<Value> = list(object, "/spec/tolerations").cloned().collect();
        let tolerations = given.iter().filter_map(|one| serde_json::from_value(one.clone()).ok());
        Flavor {
            labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            taints: list(object, "/spec/nodeTaints").filter_map(taint).collect(),
            tolerations: tolerations.filter_map(|one| rule::toleration(&one)).collect(),
            given,
        }
    };
    Flavors(
        objects
            .filter_map(|object| Some((object.pointer("/metadata/name")?.as_str()?.to_owned(), flavor(object))))
            .collect(),
    )
}

impl Flavors {
    /// Whether a node is of a flavor. One that has no labels, or that nobody has described, is of any node.
    pub(super) fn is_of(&self, flavor: &str, node: &Node) -> bool {
        let labels = node.metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| labels.and_then(|all| all.get(key)) == Some(value);
        self.0.get(flavor).is_none_or(|flavor| flavor.labels.iter().all(has))
    }

    /// What pods of a flavor tolerate beside what they say themselves, as it is written.
    pub(super) fn tolerations(&self, flavor: &str) -> &[Value] {
        self.0.get(flavor).map_or(&[], |flavor| &flavor.given)
    }

    /// The labels of a flavor's nodes as a term, unless it is of any node.
    fn term(&self, flavor: &str) -> Option<Vec<Requirement>> {
        let labels = self.0.get(flavor).map(|flavor| &flavor.labels).filter(|labels| !labels.is_empty())?;
        let is = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Some(labels.iter().map(is).collect())
    }

    /// The first taint of a flavor that pods do not tolerate.
    fn untolerated(&self, flavor: &str, tolerations: &[Toleration]) -> Option<&Taint> {
        let flavor = self.0.get(flavor)?;
        let all: Vec<Toleration> = tolerations.iter().chain(&flavor.tolerations).cloned().collect();
        let hard = flavor.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
        hard.into_iter().find(|taint| !schedule::tolerates(&all, std::slice::from_ref(taint)))
    }
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
    /// Those of its resources that are asked for.
    fn of<'a>(&'a self, asked: &'a BTreeSet<&String>) -> impl Iterator<Item = &'a String> {
        self.resources.iter().filter(|resource| asked.contains(resource))
    }

    /// The flavor that a pod on a node uses: as it is written, else the first that the node is of.
    fn flavor_of(&self, told: &BTreeMap<String, String>, node: Option<&Node>, flavors: &Flavors) -> Option<&String> {
        let known = self.resources.iter().find_map(|resource| told.get(resource));
        let written = self.flavors.iter().find(|flavor| Some(*flavor) == known);
        let there = || self.flavors.iter().find(|flavor| node.is_some_and(|node| flavors.is_of(flavor, node)));
        written.or_else(there).or_else(|| self.flavors.first())
    }

    /// The labels of the nodes of its flavors, for people.
    pub(super) fn labels<'a>(&'a self, flavors: &'a Flavors) -> impl Iterator<Item = String> + 'a {
        let labels = self.flavors.iter().filter_map(|name| flavors.0.get(name)).map(|flavor| &flavor.labels);
        let labels = labels.filter(|labels| !labels.is_empty());
        labels.map(|labels| labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
    }
}

/// The ways in which pods that ask for these resources and tolerate so much can be given flavors, in the order in which they are tried.
/// One at least; if every flavor of a group has a taint that is not tolerated, which.
pub(super) fn ways(
    groups: &[Group],
    asked: &BTreeSet<&String>,
    tolerations: &[Toleration],
    flavors: &Flavors,
) -> Result<Vec<Assigned>, String> {
    let mut ways = vec![Assigned::default()];
    for group in groups.iter().filter(|group| group.of(asked).next().is_some() && !group.flavors.is_empty()) {
        let suits = |flavor: &&String| flavors.untolerated(flavor, tolerations).is_none();
        let suitable: Vec<&String> = group.flavors.iter().filter(suits).collect();
        if suitable.is_empty() {
            let why = |flavor: &String| {
                let taint = flavors.untolerated(flavor, tolerations);
                taint.map(|taint| format!("flavor {flavor} has the taint {}={}", taint.key, taint.value))
            };
            let all: Vec<String> = group.flavors.iter().filter_map(why).collect();
            return Err(format!("{}, which its pods do not tolerate", all.join(", ")));
        }
        let with = |way: &Assigned, flavor: &&String| {
            let mut way = way.clone();
            way.flavors.extend(group.of(asked).map(|resource| (resource.clone(), (*flavor).clone())));
            way.terms.extend(flavors.term(flavor).map(|term| vec![term]));
            let known = flavors.0.get(*flavor);
            way.tolerations.extend(known.iter().flat_map(|known| known.tolerations.iter().cloned()));
            way.given.extend_from_slice(flavors.tolerations(flavor));
            way.is_told |= group.flavors.len() > 1 || !flavors.tolerations(flavor).is_empty();
            way
        };
        ways =
            ways.iter().flat_map(|way| suitable.iter().map(|flavor| with(way, flavor)).collect::<Vec<_>>()).collect();
        ways.truncate(WAYS);
    }
    Ok(ways)
}

/// The flavors of a pod that has a node, by resource that it asks for.
pub(super) fn used(
    groups: &[Group],
    asked: &BTreeSet<&String>,
    pod: &Pod,
    node: Option<&Node>,
    flavors: &Flavors,
) -> BTreeMap<String, String> {
    let told = told(pod);
    let mut used = BTreeMap::new();
    for group in groups {
        let Some(flavor) = group.flavor_of(&told, node, flavors) else { continue };
        used.extend(group.of(asked).map(|resource| (resource.clone(), flavor.clone())));
    }
    used
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

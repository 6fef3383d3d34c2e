//! Node selectors and node affinity, required and preferred.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Whether a node has the labels and fields that a pod requires.
pub(super) fn matches(node: &Node, spec: &PodSpec) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| holds(term, node, labels)))
}

/// How much a pod would like a node: the sum of the weights of its preferences that hold.
pub(super) fn preference(node: &Node, spec: &PodSpec) -> i64 {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let terms = preferred.into_iter().flatten().filter(|term| holds(&term.preference, node, labels));
    terms.map(|term| i64::from(term.weight)).sum()
}

fn holds(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |requirement: &NodeSelectorRequirement| {
        (requirement.key == "metadata.name").then(|| node.metadata.name.clone()).flatten()
    };
    // An empty term matches nothing, as in Kubernetes.
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| satisfied(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| satisfied(requirement, name(requirement).as_deref()))
}

fn satisfied(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let compare = |ordering| {
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = values.first().and_then(|bound| number(bound));
        value.and_then(number).zip(bound).is_some_and(|(value, bound)| value.cmp(&bound) == ordering)
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

//! What a pod asks for, in the engine's words.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::demand::{self, Amounts};
use super::gather::annotation;
use crate::label;
use crate::schedule::{Effect, NodeRules, Operator, PodTerm, Requirement, Role, Slice, Taint, Toleration};

/// The label that stands for a node's name, which `matchFields` speaks of.
pub(super) const NODE_NAME: &str = "metadata.name";

/// What one pod asks for. The requests of the role are filled in when it is known which resources there are.
#[derive(Clone, Default)]
pub(super) struct Asked {
    pub(super) amounts: Amounts,
    pub(super) role: Role,
}

impl Asked {
    /// Whether another role asks for the same, whatever it is called.
    pub(super) fn is_the_same(&self, other: &Self) -> bool {
        let named = |role: &Role| Role { name: String::new(), ..role.clone() };
        self.amounts == other.amounts && named(&self.role) == named(&other.role)
    }
}

/// What a pod asks for; the text says which of its requests is none. `keys` are the labels that pod terms speak of.
pub(super) fn asked(pod: &Pod, keys: &BTreeSet<&str>) -> Result<Asked, String> {
    let amounts = demand::of_pod(pod)?;
    let labels = pod.metadata.labels.iter().flatten().filter(|(key, _)| keys.contains(key.as_str()));
    let mut role = Role {
        name: super::gather::pod_label(pod, label::REPLICA_TYPE).unwrap_or_default().to_owned(),
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        slice: slice(pod),
        ..Role::default()
    };
    if let Some(spec) = &pod.spec {
        role.rules = rules(spec);
        role.host_ports = host_ports(spec).collect();
        role.host_ports.sort_unstable();
        let affinity = spec.affinity.as_ref();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let near = near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref());
        role.affinity = near.into_iter().flatten().filter_map(|term| pod_term(term, namespace)).collect();
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let apart = apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref());
        role.anti_affinity = apart.into_iter().flatten().filter_map(|term| pod_term(term, namespace)).collect();
    }
    Ok(Asked { amounts, role })
}

/// Whether two pods certainly ask for the same, so that what one asks for need not be read again.
pub(super) fn alike(one: &Pod, other: &Pod, keys: &BTreeSet<&str>) -> bool {
    let label = |pod: &Pod, key: &str| super::gather::pod_label(pod, key).map(str::to_owned);
    let (Some(a), Some(b)) = (&one.spec, &other.spec) else { return false };
    let same = |a: &Container, b: &Container| {
        a.resources == b.resources
            && a.restart_policy == b.restart_policy
            && a.ports.iter().flatten().map(|port| port.host_port).eq(b
                .ports
                .iter()
                .flatten()
                .map(|port| port.host_port))
    };
    let all = |a: &[Container], b: &[Container]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
    all(&a.containers, &b.containers)
        && all(a.init_containers.as_deref().unwrap_or_default(), b.init_containers.as_deref().unwrap_or_default())
        && a.node_selector == b.node_selector
        && a.tolerations == b.tolerations
        && a.affinity == b.affinity
        && a.overhead == b.overhead
        && one.metadata.namespace == other.metadata.namespace
        && slice(one) == slice(other)
        && keys.iter().all(|key| label(one, key) == label(other, key))
}

/// A number that is the same for pods that are alike.
pub(super) fn rough_hash(pod: &Pod) -> u64 {
    let mut texts = vec![pod.metadata.namespace.as_deref().unwrap_or_default()];
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let resources = container.resources.iter();
        let amounts = resources.flat_map(|all| all.requests.iter().chain(&all.limits)).flatten();
        texts.extend(amounts.flat_map(|(name, amount)| [name.as_str(), amount.0.as_str()]));
    }
    let selector = pod.spec.iter().flat_map(|spec| spec.node_selector.iter().flatten());
    texts.extend(selector.flat_map(|(key, value)| [key.as_str(), value.as_str()]));
    crate::fnv::texts(&texts)
}

/// The labels that pod terms of these pods speak of.
pub(super) fn term_keys<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<&'a str> {
    let mut keys = BTreeSet::new();
    for affinity in pods.filter_map(|pod| pod.spec.as_ref()?.affinity.as_ref()) {
        let near = affinity.pod_affinity.as_ref();
        let near = near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref());
        let apart = affinity.pod_anti_affinity.as_ref();
        let apart = apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref());
        for selector in near.into_iter().chain(apart).flatten().filter_map(|term| term.label_selector.as_ref()) {
            keys.extend(selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()));
            keys.extend(selector.match_expressions.iter().flatten().map(|one| one.key.as_str()));
        }
    }
    keys
}

fn slice(pod: &Pod) -> Option<Slice> {
    let level = annotation(pod, label::SLICE_TOPOLOGY)?;
    let size = annotation(pod, label::SLICE_SIZE)?.parse().ok()?;
    Some(Slice { size, level: level.to_owned() })
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = u16> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.host_port?).ok().filter(|port| *port > 0))
}

fn rules(spec: &PodSpec) -> NodeRules {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred =
        affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let mut any_of: Vec<Vec<Requirement>> =
        required.iter().flat_map(|required| &required.node_selector_terms).map(term).collect();
    if required.is_some() && any_of.is_empty() {
        // No term is met by no node.
        any_of.push(Vec::new());
    }
    NodeRules {
        selector: spec.node_selector.clone().unwrap_or_default(),
        any_of,
        preferred: preferred.into_iter().flatten().map(|one| (one.weight, term(&one.preference))).collect(),
        tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
    }
}

fn term(term: &NodeSelectorTerm) -> Vec<Requirement> {
    let labels = term.match_expressions.iter().flatten();
    labels.chain(term.match_fields.iter().flatten()).map(node_requirement).collect()
}

fn node_requirement(one: &NodeSelectorRequirement) -> Requirement {
    requirement(&one.key, &one.operator, one.values.clone().unwrap_or_default())
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> Requirement {
    let known = match operator {
        "In" => Some(Operator::In),
        "NotIn" => Some(Operator::NotIn),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        "Gt" => Some(Operator::Gt),
        "Lt" => Some(Operator::Lt),
        _ => None,
    };
    // One of none: what nobody understands never holds.
    let (operator, values) = known.map_or((Operator::In, Vec::new()), |operator| (operator, values));
    Requirement { key: key.to_owned(), operator, values }
}

/// A term about pods of the same namespace. One about others is left to whoever looks at all namespaces.
fn pod_term(term: &PodAffinityTerm, namespace: &str) -> Option<PodTerm> {
    let elsewhere = term.namespaces.iter().flatten().any(|other| other != namespace);
    if elsewhere || term.namespace_selector.is_some() {
        return None;
    }
    Some(PodTerm { pods: selected(term.label_selector.as_ref()?), topology_key: term.topology_key.clone() })
}

pub(super) fn selected(selector: &LabelSelector) -> Vec<Requirement> {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| requirement(key, "In", vec![value.clone()]));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions =
        expressions.map(|one| requirement(&one.key, &one.operator, one.values.clone().unwrap_or_default()));
    labels.chain(expressions).collect()
}

pub(super) fn effect(text: &str) -> Option<Effect> {
    match text {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

/// One that makes no sense tolerates nothing.
pub(super) fn toleration(one: &k8s_openapi::api::core::v1::Toleration) -> Option<Toleration> {
    let exists = one.operator.as_deref() == Some("Exists");
    let key = one.key.clone().filter(|key| !key.is_empty());
    if key.is_none() && !exists {
        return None;
    }
    let value = (!exists).then(|| one.value.clone().unwrap_or_default());
    let effect = match one.effect.as_deref() {
        None | Some("") => None,
        Some(text) => Some(effect(text)?),
    };
    Some(Toleration { key, value, effect })
}

/// The taints of a node that mean something here.
pub(super) fn taints(node: &k8s_openapi::api::core::v1::Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let read = |taint: &k8s_openapi::api::core::v1::Taint| {
        let effect = effect(&taint.effect)?;
        Some(Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default(), effect })
    };
    taints.filter_map(read).collect()
}

/// The labels of nodes that the rules and terms of a role speak of.
pub(super) fn node_keys(role: &Role) -> impl Iterator<Item = &str> {
    let rules = &role.rules;
    let terms = rules.any_of.iter().flatten().chain(rules.preferred.iter().flat_map(|(_, term)| term));
    let near = role.affinity.iter().chain(&role.anti_affinity).map(|term| term.topology_key.as_str());
    rules.selector.keys().map(String::as_str).chain(terms.map(|one| one.key.as_str())).chain(near)
}

//! What pods ask for, and what nodes have: exact integers by resource name.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use trainyard_proto::quantity;

/// Amounts by resource: thousandths for `cpu`, units for all others. `pods` counts pods.
pub(super) type Amounts = BTreeMap<String, i64>;

/// The name of the count of pods.
pub(super) const PODS: &str = "pods";

/// What a pod asks for: the sum of its containers, or its greediest init container if that is more. A request that is
/// absent is the limit.
pub(super) fn of_pod(pod: &Pod) -> Result<Amounts, String> {
    let Some(spec) = &pod.spec else { return Ok(BTreeMap::from([(PODS.to_owned(), 1)])) };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(container)?);
    }
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let amounts = of_container(container)?;
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &amounts);
        } else {
            maximum(&mut peak, &amounts);
        }
    }
    maximum(&mut total, &peak);
    let overhead = spec.overhead.as_ref().map(read).transpose()?.unwrap_or_default();
    add(&mut total, &overhead);
    total.retain(|_, amount| *amount > 0);
    total.insert(PODS.to_owned(), 1);
    Ok(total)
}

fn of_container(container: &Container) -> Result<Amounts, String> {
    let Some(resources) = &container.resources else { return Ok(Amounts::new()) };
    let mut amounts = resources.limits.as_ref().map(read).transpose()?.unwrap_or_default();
    amounts.extend(resources.requests.as_ref().map(read).transpose()?.unwrap_or_default());
    Ok(amounts)
}

fn read(quantities: &BTreeMap<String, Quantity>) -> Result<Amounts, String> {
    let amount = |(name, quantity): (&String, &Quantity)| match quantity::amount(name, &quantity.0) {
        Ok(amount) => Ok((name.clone(), amount.max(0))),
        Err(error) => Err(format!("{name}: {error}")),
    };
    quantities.iter().map(amount).collect()
}

/// What a node can give in all. A node whose amounts do not read gives nothing of them.
pub(super) fn of_node(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    let given = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let amounts = given.into_iter().flatten();
    amounts.filter_map(|(name, quantity)| Some((name.clone(), quantity::amount(name, &quantity.0).ok()?))).collect()
}

pub(super) fn add(target: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let slot = target.entry(name.clone()).or_default();
        *slot = slot.saturating_add(*amount);
    }
}

pub(super) fn subtract(target: &mut Amounts, amounts: &Amounts, times: i64) {
    for (name, amount) in amounts {
        let slot = target.entry(name.clone()).or_default();
        *slot = slot.saturating_sub(amount.saturating_mul(times));
    }
}

fn maximum(target: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let slot = target.entry(name.clone()).or_default();
        *slot = (*slot).max(*amount);
    }
}

/// How many pods that ask for `demand` fit into `free`.
pub(super) fn fits(free: &Amounts, demand: &Amounts) -> i64 {
    let room = |(name, amount): (&String, &i64)| free.get(name).copied().unwrap_or(0).max(0) / (*amount).max(1);
    demand.iter().map(room).min().unwrap_or(i64::MAX)
}

/// Why a node is out of the question for a pod, whatever is free on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Misfit {
    NotReady,
    Unschedulable,
    Selector,
    Taint,
}

/// Whether a node is out of the question for a pod.
pub(super) fn misfit(node: &Node, spec: &PodSpec) -> Option<Misfit> {
    let node_spec = node.spec.as_ref();
    if !is_ready(node) {
        return Some(Misfit::NotReady);
    }
    if node_spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        return Some(Misfit::Unschedulable);
    }
    if !super::affinity::matches(node, spec) {
        return Some(Misfit::Selector);
    }
    let taints = node_spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    let hard = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut untolerated = hard.filter(|taint| {
        !tolerations.iter().any(|toleration| {
            tolerates(toleration, &taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect)
        })
    });
    untolerated.next().map(|_| Misfit::Taint)
}

/// A node that does not speak of its readiness is taken for ready.
fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
}

fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let matches_effect = toleration.effect.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == effect);
    let wanted_key = toleration.key.as_deref().unwrap_or_default();
    let matches_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        Some(_) | None => toleration.value.as_deref().unwrap_or_default() == value,
    };
    let matches_key = wanted_key == key || (wanted_key.is_empty() && toleration.operator.as_deref() == Some("Exists"));
    matches_effect && matches_key && matches_value
}

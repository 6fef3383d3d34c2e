//! What pods ask for, and what nodes have: exact integers by resource name.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
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

fn add(target: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let slot = target.entry(name.clone()).or_default();
        *slot = slot.saturating_add(*amount);
    }
}

fn maximum(target: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let slot = target.entry(name.clone()).or_default();
        *slot = (*slot).max(*amount);
    }
}

/// A node that does not speak of its readiness is taken for ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
}

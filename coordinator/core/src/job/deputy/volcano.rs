//! A job as a PodGroup of Volcano.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};
use trainyard_proto::quantity;

use crate::model::JobModel;

/// What is asked for: as many pods at once as the gang begins with, and room for them.
pub(super) fn pod_group(model: &JobModel, version: &str) -> Value {
    let mut spec = json!({"minMember": model.policy.min_available, "minResources": least(model)});
    if let Some(queue) = &model.policy.queue {
        spec["queue"] = json!(queue);
    }
    if let Some(class) = &model.policy.priority_class {
        spec["priorityClassName"] = json!(class);
    }
    json!({"apiVersion": version, "kind": "PodGroup", "metadata": {"name": model.owner.name}, "spec": spec})
}

/// What the first of the pods ask for that must start together, in rank order.
fn least(model: &JobModel) -> BTreeMap<String, String> {
    let mut total: BTreeMap<String, i64> = BTreeMap::new();
    for (role, _) in model.replicas().take(model.policy.min_available as usize) {
        for (name, amount) in asked(&role.template) {
            let sum = total.entry(name).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    // The engine counts thousandths of CPUs.
    let write = |name: &str, amount: i64| if name == "cpu" { format!("{amount}m") } else { amount.to_string() };
    total.into_iter().map(|(name, amount)| (name.clone(), write(&name, amount))).collect()
}

/// The requests of a pod's containers, or their limits where they have none.
fn asked(template: &PodTemplateSpec) -> Vec<(String, i64)> {
    let containers = template.spec.iter().flat_map(|spec| &spec.containers);
    let resources = containers.filter_map(|container| container.resources.as_ref());
    let mut asked = Vec::new();
    for resources in resources {
        let mut amounts = resources.limits.clone().unwrap_or_default();
        amounts.extend(resources.requests.clone().unwrap_or_default());
        let known =
            amounts.iter().filter_map(|(name, amount)| Some((name.clone(), quantity::amount(name, &amount.0).ok()?)));
        asked.extend(known);
    }
    asked
}

//! LimitRange defaults and ResourceQuota, at the creation of objects.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::MutexGuard;
use trainyard_runtime_core::quota;
use trainyard_runtime_core::store::{ListQuery, Object, Resource};

use super::Api;
use super::check::map_at;
use super::status::{ApiError, Subject};

/// Completes a new pod with the namespace's LimitRanges and counts it against its ResourceQuotas.
pub(super) async fn admit_pod<'a>(
    api: &'a Api,
    namespace: &str,
    pod: &mut Value,
) -> Result<Option<MutexGuard<'a, ()>>, ApiError> {
    complete(&limit_ranges(api, namespace), pod);
    admit(api, &Resource::new("", "pods"), namespace, pod).await
}

/// Counts a new object against the ResourceQuotas of its namespace. The guard keeps the count true until the object is
/// stored; there is none where no quota is.
pub(super) async fn admit<'a>(
    api: &'a Api,
    resource: &Resource,
    namespace: &str,
    object: &Value,
) -> Result<Option<MutexGuard<'a, ()>>, ApiError> {
    if namespace.is_empty() || quotas(api, namespace).is_empty() {
        return Ok(None);
    }
    let gate = api.quota_gate.lock().await;
    let present = all(api, resource, namespace);
    let asked = quota::usage(resource, object);
    let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str()).unwrap_or_default();
    for limit in quotas(api, namespace).iter().filter(|limit| quota::covers(limit.value(), resource, object)) {
        let mut used = quota::Amounts::new();
        for other in present.iter().filter(|other| quota::covers(limit.value(), resource, other.value())) {
            quota::add(&mut used, quota::usage(resource, other.value()));
        }
        if let Some(why) = quota::exceeded(limit, &used, &asked) {
            return Err(ApiError::forbidden(Subject::new(&resource.group, &resource.plural, name), &why));
        }
    }
    Ok(Some(gate))
}

/// The LimitRanges of a namespace.
pub(super) fn limit_ranges(api: &Api, namespace: &str) -> Vec<Arc<Object>> {
    all(api, &Resource::new("", "limitranges"), namespace)
}

fn quotas(api: &Api, namespace: &str) -> Vec<Arc<Object>> {
    all(api, &Resource::new("", "resourcequotas"), namespace)
}

fn all(api: &Api, resource: &Resource, namespace: &str) -> Vec<Arc<Object>> {
    let query = ListQuery { namespace: Some(namespace.to_owned()), ..ListQuery::default() };
    // A list without limit and at the latest state cannot be refused.
    api.store.list(resource, &query).map(|page| page.items).unwrap_or_default()
}

/// Fills requests and limits that containers leave out.
pub(super) fn complete(ranges: &[Arc<Object>], pod: &mut Value) {
    for range in ranges {
        for limit in range.value()["spec"]["limits"].as_array().into_iter().flatten() {
            if limit["type"] != "Container" {
                continue;
            }
            let containers = pod["spec"]["containers"].as_array_mut().into_iter().flatten();
            for container in containers {
                let Some(_) = map_at(container, "resources") else { continue };
                fill(&mut container["resources"], "limits", &limit["default"]);
                // A limit without a request asks for as much as the limit, before the range's own default request.
                let own = container["resources"]["limits"].clone();
                let asked = if limit["defaultRequest"].is_object() { &limit["defaultRequest"] } else { &own };
                fill(&mut container["resources"], "requests", asked);
            }
        }
    }
}

fn fill(resources: &mut Value, field: &str, defaults: &Value) {
    let Some(defaults) = defaults.as_object() else { return };
    let Some(map) = map_at(resources, field) else { return };
    for (name, amount) in defaults {
        map.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

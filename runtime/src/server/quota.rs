//! LimitRange defaults and ResourceQuota, at the creation of pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::MutexGuard;
use trainyard_runtime_core::store::{ListQuery, Object, Resource};

use super::Api;
use super::check::map_at;
use super::status::{ApiError, Subject};

/// Completes a new pod with the namespace's LimitRanges and counts it against its ResourceQuotas. The guard keeps the
/// count true until the pod is stored; there is none where no quota is.
pub(super) async fn admit_pod<'a>(
    api: &'a Api,
    namespace: &str,
    pod: &mut Value,
) -> Result<Option<MutexGuard<'a, ()>>, ApiError> {
    complete(&limit_ranges(api, namespace), pod);
    let quotas = all(api, "resourcequotas", namespace);
    if quotas.is_empty() {
        return Ok(None);
    }
    let gate = api.quota_gate.lock().await;
    let pods = all(api, "pods", namespace);
    let used = total(pods.iter().map(|pod| pod.value()).filter(|pod| counts(pod)));
    let asked = usage(pod);
    let name = pod["metadata"]["name"].as_str().or(pod["metadata"]["generateName"].as_str()).unwrap_or_default();
    for quota in &quotas {
        if let Some(why) = exceeded(quota, &used, &asked) {
            return Err(ApiError::forbidden(Subject::new("", "pods", name), &why));
        }
    }
    Ok(Some(gate))
}

/// The LimitRanges of a namespace.
pub(super) fn limit_ranges(api: &Api, namespace: &str) -> Vec<Arc<Object>> {
    all(api, "limitranges", namespace)
}

fn all(api: &Api, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
    let query = ListQuery { namespace: Some(namespace.to_owned()), ..ListQuery::default() };
    api.store.list(&Resource::new("", plural), &query).map(|page| page.items).unwrap_or_default()
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

/// Pods that have ended take nothing.
fn counts(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

type Amounts = BTreeMap<String, f64>;

fn total<'a>(pods: impl Iterator<Item = &'a Value>) -> Amounts {
    let mut total = Amounts::new();
    for pod in pods {
        for (name, amount) in usage(pod) {
            *total.entry(name).or_default() += amount;
        }
    }
    total
}

/// What one pod counts for, by the names that quotas use.
fn usage(pod: &Value) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), 1.0), ("count/pods".to_owned(), 1.0)]);
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let resources = &container["resources"];
        let requests = if resources["requests"].is_object() { &resources["requests"] } else { &resources["limits"] };
        for (prefix, amounts) in [("requests.", requests), ("limits.", &resources["limits"])] {
            for (name, amount) in amounts.as_object().into_iter().flatten() {
                let amount = quantity(amount).unwrap_or(0.0);
                *usage.entry(format!("{prefix}{name}")).or_default() += amount;
                if prefix == "requests." && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    *usage.entry(name.clone()).or_default() += amount;
                }
            }
        }
    }
    usage
}

/// Why the quota does not allow it, in the API's words.
fn exceeded(quota: &Object, used: &Amounts, asked: &Amounts) -> Option<String> {
    let name = &quota.key().name;
    let hard = quota.value()["spec"]["hard"].as_object()?;
    let (mut requested, mut in_use, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    for (resource, limit) in hard {
        let Some(limit_amount) = quantity(limit) else { continue };
        let asked = asked.get(resource).copied().unwrap_or(0.0);
        let used = used.get(resource).copied().unwrap_or(0.0);
        if asked > 0.0 && used + asked > limit_amount + 1e-9 {
            let limit = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            requested.push(format!("{resource}={asked}"));
            in_use.push(format!("{resource}={used}"));
            limited.push(format!("{resource}={limit}"));
        }
    }
    (!requested.is_empty()).then(|| {
        format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            requested.join(","),
            in_use.join(","),
            limited.join(",")
        )
    })
}

/// A Kubernetes quantity as a number. Quotas compare sums of few amounts, for which this is exact enough.
fn quantity(value: &Value) -> Option<f64> {
    let text = match value {
        Value::String(text) => text.trim(),
        Value::Number(number) => return number.as_f64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    for (suffix, factor) in UNITS {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<f64>().ok().map(|n| n * factor);
        }
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read() {
        for (text, expected) in [("500m", 0.5), ("2", 2.0), ("1Gi", 1_073_741_824.0), ("1k", 1_000.0), ("1.5", 1.5)] {
            assert_eq!(quantity(&json!(text)), Some(expected), "{text}");
        }
        assert_eq!(quantity(&json!("many")), None);
    }

    #[test]
    fn a_pod_counts_under_both_names() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": 1}}}, {"resources": {"limits": {"cpu": "1"}}}]}});
        let usage = usage(&pod);
        assert_eq!(usage["cpu"], 1.5);
        assert_eq!(usage["requests.cpu"], 1.5);
        assert_eq!(usage["limits.cpu"], 1.0);
        assert_eq!(usage["requests.nvidia.com/gpu"], 1.0);
        assert_eq!(usage["pods"], 1.0);
    }
}

//! ResourceQuota: what an object counts for, whether one more fits, and what the status says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use trainyard_proto::quantity::Quantity;

use crate::store::{Object, Resource};

/// Amounts by the names that quotas use: `pods`, `requests.cpu`, `count/configmaps`, …
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources that a quota may also count by their bare name.
const BARE: [&str; 6] = ["pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "resourcequotas"];

/// What an object counts for under any quota of its namespace. Pods that have ended take nothing but their place in
/// `count/pods`.
#[must_use]
pub fn usage(resource: &Resource, object: &Value) -> Amounts {
    let mut usage = Amounts::from([(format!("count/{resource}"), Quantity::of(1))]);
    let live = resource.group.is_empty() && !(&*resource.plural == "pods" && has_ended(object));
    if live && BARE.contains(&&*resource.plural) {
        usage.insert(resource.plural.to_string(), Quantity::of(1));
    }
    match &*resource.plural {
        "pods" if live => pod(object, &mut usage),
        "services" if live => match object["spec"]["type"].as_str() {
            Some("NodePort") => drop(usage.insert("services.nodeports".to_owned(), Quantity::of(1))),
            Some("LoadBalancer") => {
                for name in ["services.loadbalancers", "services.nodeports"] {
                    usage.insert(name.to_owned(), Quantity::of(1));
                }
            }
            Some(_) | None => {}
        },
        "persistentvolumeclaims" if live => {
            if let Some(size) = amount(&object["spec"]["resources"]["requests"]["storage"]) {
                usage.insert("requests.storage".to_owned(), size);
            }
        }
        _ => {}
    }
    usage
}

/// Whether the quota's scopes take the object in. Scopes speak of pods only.
#[must_use]
pub fn covers(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().map_or(&[][..], Vec::as_slice);
    if scopes.is_empty() {
        return true;
    }
    let best_effort = object["status"]["qosClass"] == "BestEffort";
    let terminating = object["spec"]["activeDeadlineSeconds"].is_number();
    &*resource.plural == "pods"
        && scopes.iter().all(|scope| match scope.as_str() {
            Some("BestEffort") => best_effort,
            Some("NotBestEffort") => !best_effort,
            Some("Terminating") => terminating,
            Some("NotTerminating") => !terminating,
            Some(_) | None => true,
        })
}

/// The resources whose objects a quota has to look at.
#[must_use]
pub fn counted(quota: &Value) -> BTreeSet<Resource> {
    let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
    hard.map(|(name, _)| match name.strip_prefix("count/") {
        Some(counted) => {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            Resource::new(group, plural)
        }
        None if name == "requests.storage" => Resource::new("", "persistentvolumeclaims"),
        None if name.starts_with("services.") => Resource::new("", "services"),
        None if BARE.contains(&&**name) => Resource::new("", name.as_str()),
        None => Resource::new("", "pods"),
    })
    .collect()
}

/// Adds what one object counts for.
pub fn add(total: &mut Amounts, usage: Amounts) {
    for (name, amount) in usage {
        let slot = total.entry(name).or_insert(Quantity::ZERO);
        *slot = slot.saturating_add(amount);
    }
}

/// Why the quota does not allow `asked` on top of `used`, in the API's words; nothing where it does.
#[must_use]
pub fn exceeded(quota: &Object, used: &Amounts, asked: &Amounts) -> Option<String> {
    let (mut requested, mut in_use, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    for (resource, limit) in quota.value()["spec"]["hard"].as_object()? {
        let Some(limit) = amount(limit) else { continue };
        let asked = asked.get(resource).copied().unwrap_or(Quantity::ZERO);
        let used = used.get(resource).copied().unwrap_or(Quantity::ZERO);
        if asked > Quantity::ZERO && used.saturating_add(asked) > limit {
            requested.push(format!("{resource}={asked}"));
            in_use.push(format!("{resource}={used}"));
            limited.push(format!("{resource}={limit}"));
        }
    }
    (!requested.is_empty()).then(|| {
        format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota.key().name,
            requested.join(","),
            in_use.join(","),
            limited.join(",")
        )
    })
}

/// The status that says how much of the quota is used: each limited name, and nothing else.
#[must_use]
pub fn status(quota: &Value, used: &Amounts) -> Value {
    let empty = Map::new();
    let hard = quota["spec"]["hard"].as_object().unwrap_or(&empty);
    let shown = |name: &String| used.get(name).copied().unwrap_or(Quantity::ZERO).to_string();
    let used: Map<String, Value> = hard.keys().map(|name| (name.clone(), Value::from(shown(name)))).collect();
    json!({"hard": hard, "used": used})
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// The sum of the containers or the greediest init container, whichever is more, and the overhead.
fn pod(pod: &Value, usage: &mut Amounts) {
    let spec = &pod["spec"];
    for (prefix, list) in [("requests.", "requests"), ("limits.", "limits")] {
        let mut total = Amounts::new();
        for container in spec["containers"].as_array().into_iter().flatten() {
            add(&mut total, container_amounts(container, list));
        }
        for container in spec["initContainers"].as_array().into_iter().flatten() {
            let amounts = container_amounts(container, list);
            if container["restartPolicy"] == "Always" {
                add(&mut total, amounts);
                continue;
            }
            for (name, amount) in amounts {
                let slot = total.entry(name).or_insert(Quantity::ZERO);
                *slot = amount.max(*slot);
            }
        }
        add(&mut total, read(&spec["overhead"]));
        for (name, amount) in total {
            if list == "requests" && (matches!(&*name, "cpu" | "memory" | "ephemeral-storage") || is_huge(&name)) {
                usage.insert(name.clone(), amount);
            }
            usage.insert(format!("{prefix}{name}"), amount);
        }
    }
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A request that is absent is the limit.
fn container_amounts(container: &Value, list: &str) -> Amounts {
    let mut amounts = read(&container["resources"]["limits"]);
    if list == "requests" {
        amounts.extend(read(&container["resources"]["requests"]));
    }
    amounts
}

fn read(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

/// A quantity; nothing where it is none, which the schema has refused before.
fn amount(value: &Value) -> Option<Quantity> {
    Quantity::from_json(value).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(amounts: &Amounts, name: &str) -> Option<String> {
        amounts.get(name).map(ToString::to_string)
    }

    #[test]
    fn a_pod_counts_under_both_names_and_with_its_greediest_part() {
        let pod = json!({"spec": {
            "initContainers": [{"resources": {"requests": {"memory": "2Gi"}}}],
            "containers": [
                {"resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": 1}, "limits": {"memory": "1Gi"}}},
                {"resources": {"limits": {"cpu": "1"}}}]}});
        let usage = usage(&Resource::new("", "pods"), &pod);
        for (name, expected) in [
            ("cpu", "1500m"),
            ("requests.cpu", "1500m"),
            ("limits.cpu", "1"),
            ("requests.memory", "2Gi"),
            ("limits.memory", "1Gi"),
            ("requests.nvidia.com/gpu", "1"),
            ("pods", "1"),
            ("count/pods", "1"),
        ] {
            assert_eq!(shown(&usage, name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(shown(&usage, "nvidia.com/gpu"), None);
    }

    #[test]
    fn a_pod_that_has_ended_only_takes_its_place() {
        let usage = usage(&Resource::new("", "pods"), &json!({"status": {"phase": "Failed"}}));
        assert_eq!(usage.keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn other_objects_count_by_number_and_size() {
        let claim = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let used = usage(&Resource::new("", "persistentvolumeclaims"), &claim);
        assert_eq!(shown(&used, "requests.storage").as_deref(), Some("5Gi"));
        let used = usage(&Resource::new("batch", "jobs"), &json!({}));
        assert_eq!(used.keys().collect::<Vec<_>>(), ["count/jobs.batch"]);
        let service = usage(&Resource::new("", "services"), &json!({"spec": {"type": "LoadBalancer"}}));
        assert!(service.contains_key("services.nodeports") && service.contains_key("services"));
    }

    #[test]
    fn the_status_names_all_that_is_limited_and_nothing_else() {
        let quota = json!({"spec": {"hard": {"pods": "4", "requests.cpu": "2"}}});
        let used = usage(&Resource::new("", "pods"), &json!({"spec": {}}));
        let expected = json!({"hard": {"pods": "4", "requests.cpu": "2"}, "used": {"pods": "1", "requests.cpu": "0"}});
        assert_eq!(status(&quota, &used), expected);
    }

    #[test]
    fn a_quota_looks_at_what_it_limits() {
        let hard =
            json!({"cpu": 1, "count/jobs.batch": 1, "configmaps": 1, "services.nodeports": 1, "requests.storage": 1});
        let found: Vec<String> = counted(&json!({"spec": {"hard": hard}})).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["configmaps", "persistentvolumeclaims", "pods", "services", "jobs.batch"]);
    }
}

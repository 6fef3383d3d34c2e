//! What a cluster's admission and strategies do to objects of its own kinds, beyond defaults of the schema. Pure.

use serde_json::{Map, Value, json};

use super::check::map_at;
use crate::kinds::Kind;

/// Whether a new object's first status is ours to set, so that the store keeps it.
pub(super) fn sets_status(kind: &Kind) -> bool {
    match kind.group {
        "" => matches!(kind.plural, "pods" | "persistentvolumeclaims" | "persistentvolumes" | "nodes"),
        "apps" => kind.plural == "replicasets",
        _ => false,
    }
}

/// Completes what a client says: nothing of it is the server's own.
pub(super) fn read(kind: &Kind, object: &mut Value) {
    if (kind.group, kind.plural) == ("", "secrets") {
        secret_data(object);
    }
}

/// Completes a new object.
pub(super) fn created(kind: &Kind, object: &mut Value, now: &str) {
    match (kind.group, kind.plural) {
        ("", "pods") => new_pod(object, now),
        ("", "persistentvolumeclaims") => replace_status(object, json!({"phase": "Pending"})),
        ("", "persistentvolumes") => replace_status(object, json!({"phase": "Available"})),
        ("", "services") => families(None, object),
        ("batch", "jobs") => job_selector(object),
        ("apps", "replicasets") => replace_status(object, json!({"replicas": 0})),
        _ => {}
    }
}

/// Draws a name behind `generateName` before anything is said of the object: refusals name it, and a Job's labels hold it.
pub(super) fn named(object: &mut Value, suffix: &str) {
    let unnamed = object["metadata"]["name"].as_str().is_none_or(str::is_empty);
    let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    if unnamed && !prefix.is_empty() {
        /// 63 for a label, less the suffix.
        const PREFIX_CHARS: usize = 58;
        let prefix: String = prefix.chars().take(PREFIX_CHARS).collect();
        object["metadata"]["name"] = Value::from(format!("{prefix}{suffix}"));
    }
}

/// A job finds its pods by its name (`kubectl logs job/…` reads the selector). On a cluster it is the job's uid, which
/// is not drawn yet here; the pods carry both.
fn job_selector(job: &mut Value) {
    let Some(name) = job["metadata"]["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned) else {
        return;
    };
    if let Some(spec) = map_at(job, "spec") {
        spec.entry("selector").or_insert_with(|| json!({"matchLabels": {"batch.kubernetes.io/job-name": name}}));
    }
}

/// Completes a change.
pub(super) fn updated(kind: &Kind, old: &Value, new: &mut Value) {
    match (kind.group, kind.plural) {
        ("", "services") => {
            keep_addresses(old, new);
            families(Some(old), new);
        }
        // What the pod's class gave it.
        ("", "pods") => keep(old, new, &["priority", "preemptionPolicy"]),
        _ => {}
    }
}

/// `stringData` is a convenience for writing and is never shown.
fn secret_data(object: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|root| root.remove("stringData")) else { return };
    let Some(data) = map_at(object, "data") else { return };
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data.insert(key, Value::from(base64::engine::general_purpose::STANDARD.encode(text)));
    }
}

/// A client that replaces an object without what the server put into its spec means what it has.
fn keep(old: &Value, new: &mut Value, fields: &[&str]) {
    for field in fields {
        let absent = new["spec"].get(*field).is_none_or(|v| v.is_null() || *v == "");
        if let (true, Some(spec), Some(had)) = (absent, map_at(new, "spec"), old["spec"].get(*field)) {
            spec.insert((*field).to_owned(), had.clone());
        }
    }
}

/// A service keeps the address that its writers do not speak of, unless it becomes a name of something outside. Who changes
/// one of the two fields means both.
fn keep_addresses(old: &Value, new: &mut Value) {
    let given = new["spec"]["clusterIP"].as_str().unwrap_or_default();
    let had = old["spec"]["clusterIP"].as_str().unwrap_or_default();
    if new["spec"]["type"] == "ExternalName" {
        // Who takes one of the two fields away means both.
        let same_address = given == had || given.is_empty() && new["spec"]["clusterIPs"] == old["spec"]["clusterIPs"];
        let Some(spec) = map_at(new, "spec") else { return };
        if same_address {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if old["spec"]["type"] != "ExternalName" && spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
        return;
    }
    if !given.is_empty() && given != had && new["spec"]["clusterIPs"] == old["spec"]["clusterIPs"] {
        let both = json!([given]);
        new["spec"]["clusterIPs"] = both;
    }
    keep(old, new, &["clusterIP", "clusterIPs"]);
}

/// The families of a service's addresses, where its writers do not speak of them: those of a headless service without
/// selector are somebody else's, of whatever family; all others are of one. The policy stays until somebody changes it.
fn families(old: Option<&Value>, service: &mut Value) {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        // What has no address has no traffic to route either.
        service["spec"].as_object_mut().map(|spec| spec.remove("internalTrafficPolicy"));
        return;
    }
    if !spec.is_object() {
        return;
    }
    let free = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(Map::is_empty);
    let had = |field: &str| old.map(|old| &old["spec"][field]).filter(|had| !had.is_null());
    let policy = match (spec["ipFamilyPolicy"].is_null(), had("ipFamilyPolicy")) {
        (false, _) => spec["ipFamilyPolicy"].clone(),
        (true, Some(policy)) => policy.clone(),
        (true, None) => Value::from(if free { "RequireDualStack" } else { "SingleStack" }),
    };
    let mut families: Vec<Value> = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    // Who wants one family gives the second up, unless he has just asked for it.
    if policy == "SingleStack" && had("ipFamilies") == Some(&spec["ipFamilies"]) {
        families.truncate(1);
    }
    // What demands both and may not have them is refused as it is.
    if families.is_empty() && (free || policy != "RequireDualStack") {
        families.push(Value::from("IPv4"));
    }
    // Who takes one of two away says so in the policy, or is refused.
    let reduced = had("ipFamilies").and_then(Value::as_array).is_some_and(|had| had.len() > families.len())
        && !spec["ipFamilies"].is_null();
    if free && policy != "SingleStack" && families.len() == 1 && !reduced {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(Value::from(other));
    }
    if let Some(spec) = map_at(service, "spec") {
        spec.insert("ipFamilyPolicy".to_owned(), policy);
        if !families.is_empty() {
            spec.insert("ipFamilies".to_owned(), Value::Array(families));
        }
    }
}

/// Completes a pod's status: what a node agent reports in one of two forms is there in both, and what was settled when the
/// pod was made stays.
pub(super) fn reported(kind: &Kind, old: &Value, object: &mut Value) {
    // A status that says nothing is none.
    if let (true, None, Some(root)) = (kind.builtin, old.get("status"), object.as_object_mut())
        && root.get("status").and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        root.remove("status");
    }
    match (kind.group, kind.plural) {
        ("apps", "deployments") => keep_metadata(old, object, "labels"),
        ("", "pods") => reported_of_pod(old, object),
        _ => {}
    }
}

/// A field of the metadata that writers of the status do not change.
fn keep_metadata(old: &Value, object: &mut Value, field: &str) {
    let had = old["metadata"].get(field).cloned();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        match had {
            Some(had) => drop(metadata.insert(field.to_owned(), had)),
            None => drop(metadata.remove(field)),
        }
    }
}

fn reported_of_pod(old: &Value, object: &mut Value) {
    keep_metadata(old, object, "ownerReferences");
    let class = old["status"].get("qosClass").filter(|class| class.is_string()).cloned();
    if let (Some(class), Some(status)) = (class, map_at(object, "status")) {
        status.entry("qosClass").or_insert(class);
    }
    let Some(status) = object["status"].as_object_mut() else { return };
    let first = status.get("podIPs").and_then(|ips| ips.pointer("/0/ip")).cloned();
    match (status.get("podIP").filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty())).cloned(), first) {
        (Some(ip), first) if first.as_ref() != Some(&ip) => {
            status.insert("podIPs".to_owned(), json!([{"ip": ip}]));
        }
        (None, Some(first)) => {
            status.insert("podIP".to_owned(), first);
        }
        _ => {}
    }
}

fn replace_status(object: &mut Value, status: Value) {
    if let Some(root) = object.as_object_mut() {
        root.insert("status".to_owned(), status);
    }
}

fn new_pod(pod: &mut Value, now: &str) {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastTransitionTime": now,
        }]);
    }
    replace_status(pod, status);
}

/// Guaranteed, Burstable or BestEffort, by requests and limits of cpu and memory.
fn qos_class(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter().filter_map(|field| spec[field].as_array()).flatten();
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            // An amount of nothing is none.
            let amount = |kind: &str| Some(&container["resources"][kind][name]).filter(|v| !v.is_null() && **v != "0");
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::registry;

    #[test]
    fn a_service_keeps_its_families_until_somebody_speaks_of_them() {
        let made = |old: Option<&Value>, spec: Value| {
            let mut service = json!({ "spec": spec });
            families(old, &mut service);
            service
        };
        let both = json!(["IPv4", "IPv6"]);
        let free = made(None, json!({"clusterIP": "None"}));
        assert_eq!((&free["spec"]["ipFamilyPolicy"], &free["spec"]["ipFamilies"]), (&json!("RequireDualStack"), &both));
        let one = made(None, json!({"selector": {"a": "b"}}));
        assert_eq!(
            (&one["spec"]["ipFamilyPolicy"], &one["spec"]["ipFamilies"]),
            (&json!("SingleStack"), &json!(["IPv4"]))
        );
        // It demands both still, which a service with a selector cannot have: refused as it is.
        let selecting = made(Some(&free), json!({"clusterIP": "None", "selector": {"a": "b"}}));
        assert_eq!(selecting["spec"]["ipFamilyPolicy"], "RequireDualStack");
        assert!(selecting["spec"]["ipFamilies"].is_null());
        let policy = json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack", "ipFamilies": both});
        assert_eq!(made(Some(&free), policy.clone())["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(made(None, policy)["spec"]["ipFamilies"], both);
    }

    #[test]
    fn a_new_pods_status_is_ours() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}], "schedulingGates": [{"name": "g"}]},
            "status": {"phase": "Running"}});
        new_pod(&mut pod, "2026-01-01T00:00:00Z");
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(pod["status"]["qosClass"], "BestEffort");
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        secret_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn a_status_without_the_class_of_its_pod_keeps_it() {
        let kind = registry().find("pods").expect("pods are served");
        let old = json!({"metadata": {}, "status": {"phase": "Pending", "qosClass": "BestEffort"}});
        let mut new = json!({"metadata": {"ownerReferences": [{}]}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        reported(kind, &old, &mut new);
        let status = json!({"qosClass": "BestEffort", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]});
        assert_eq!(new, json!({"metadata": {}, "status": status}));
    }

    #[test]
    fn a_status_that_says_nothing_changes_nothing() {
        let kind = registry().find("deployments").expect("deployments are served");
        let old = json!({"metadata": {"labels": {"a": "b"}}});
        let mut new = json!({"metadata": {"labels": {"a": "c"}, "annotations": {"d": "e"}}, "status": {}});
        reported(kind, &old, &mut new);
        assert_eq!(new, json!({"metadata": {"labels": {"a": "b"}, "annotations": {"d": "e"}}}));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&spec(json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": 1}}))), "Burstable");
        assert_eq!(qos_class(&spec(json!({"limits": {"cpu": 1, "memory": "1Gi"}}))), "Guaranteed");
    }
}

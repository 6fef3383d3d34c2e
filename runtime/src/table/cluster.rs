//! Cells of everything else in the core groups: nodes, services, storage, configuration, events.

use serde_json::Value;

use super::age;
use super::cell::{count, items, join, pairs, size, text, text_or};

pub(super) fn node(node: &Value, column: &str) -> Option<Value> {
    let info = &node["status"]["nodeInfo"];
    let address = |kind: &str| {
        let found = items(&node["status"]["addresses"]).find(|a| a["type"] == kind);
        text_or(found.map_or(&Value::Null, |a| &a["address"]), "<none>")
    };
    Some(match column {
        "status" => Value::from(node_status(node)),
        "roles" => roles(node),
        "version" => text_or(&info["kubeletVersion"], ""),
        "internal-ip" => address("InternalIP"),
        "external-ip" => address("ExternalIP"),
        "os-image" => text_or(&info["osImage"], "<unknown>"),
        "kernel-version" => text_or(&info["kernelVersion"], "<unknown>"),
        "container-runtime" => text_or(&info["containerRuntimeVersion"], "<unknown>"),
        _ => return None,
    })
}

fn node_status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).find(|c| c["type"] == "Ready").map(|c| text(&c["status"]));
    let mut word = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        word.push_str(",SchedulingDisabled");
    }
    word
}

fn roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    join(labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")))
}

pub(super) fn service(service: &Value, column: &str) -> Option<Value> {
    let spec = &service["spec"];
    Some(match column {
        "type" => text_or(&spec["type"], "ClusterIP"),
        "cluster-ip" => text_or(&spec["clusterIP"], "<none>"),
        "external-ip" if spec["type"] == "ExternalName" => text_or(&spec["externalName"], "<none>"),
        "external-ip" => join(items(&spec["externalIPs"]).map(text)),
        "port(s)" => {
            let port = |p: &Value| format!("{}/{}", count(&p["port"]), p["protocol"].as_str().unwrap_or("TCP"));
            let ports: Vec<String> = items(&spec["ports"]).map(port).collect();
            join(ports.iter().map(String::as_str))
        }
        "selector" => pairs(&spec["selector"]),
        _ => return None,
    })
}

pub(super) fn event(event: &Value, column: &str, now_ms: i64) -> Option<Value> {
    let either = |ours: &str, theirs: &str| if event[ours].is_object() { &event[ours] } else { &event[theirs] };
    let about = either("involvedObject", "regarding");
    let first_of = |fields: &[&str]| fields.iter().map(|f| text(&event[*f])).find(|t| !t.is_empty());
    Some(match column {
        "last seen" => {
            let series = event["series"]["lastObservedTime"].as_str();
            let last = series.or_else(|| {
                first_of(&[
                    "lastTimestamp",
                    "deprecatedLastTimestamp",
                    "firstTimestamp",
                    "deprecatedFirstTimestamp",
                    "eventTime",
                ])
            });
            Value::from(age::since(last, now_ms))
        }
        "first seen" => {
            Value::from(age::since(first_of(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]), now_ms))
        }
        "type" => text_or(&event["type"], ""),
        "reason" => text_or(&event["reason"], ""),
        "object" => {
            let (kind, name) = (text(&about["kind"]).to_lowercase(), text(&about["name"]));
            Value::from(if name.is_empty() { kind } else { format!("{kind}/{name}") })
        }
        "subobject" => text_or(&about["fieldPath"], ""),
        "source" => {
            let source = either("source", "deprecatedSource");
            let or = |text: &'_ Value, other: Option<&str>| match text.as_str().unwrap_or_default() {
                "" => other.unwrap_or_default().to_owned(),
                text => text.to_owned(),
            };
            let who = or(&source["component"], first_of(&["reportingComponent", "reportingController"]));
            let where_ = or(&source["host"], first_of(&["reportingInstance"]));
            Value::from(if where_.is_empty() { who } else { format!("{who}, {where_}") })
        }
        "message" => Value::from(first_of(&["message", "note"]).unwrap_or_default().trim_end()),
        "count" => {
            let counted = event["series"]["count"].as_i64().or_else(|| event["count"].as_i64());
            let counted = counted.or_else(|| event["deprecatedCount"].as_i64());
            Value::from(counted.filter(|count| *count != 0).unwrap_or(1))
        }
        _ => return None,
    })
}

fn access_modes(modes: &Value) -> Value {
    let short = |mode: &Value| match text(mode) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = items(modes).map(short).filter(|mode| !mode.is_empty()).collect();
    Value::from(modes.join(","))
}

pub(super) fn volume_claim(claim: &Value, column: &str) -> Option<Value> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    Some(match column {
        "status" if claim["metadata"]["deletionTimestamp"].is_string() => Value::from("Terminating"),
        "status" => text_or(&status["phase"], "Pending"),
        "volume" => text_or(&spec["volumeName"], ""),
        "capacity" => text_or(&status["capacity"]["storage"], ""),
        "access modes" => access_modes(&status["accessModes"]),
        "storageclass" => text_or(&spec["storageClassName"], ""),
        "volumeattributesclass" => text_or(&spec["volumeAttributesClassName"], "<unset>"),
        "volumemode" => text_or(&spec["volumeMode"], "Filesystem"),
        _ => return None,
    })
}

pub(super) fn volume(volume: &Value, column: &str) -> Option<Value> {
    let spec = &volume["spec"];
    let claim = &spec["claimRef"];
    Some(match column {
        "capacity" => text_or(&spec["capacity"]["storage"], ""),
        "access modes" => access_modes(&spec["accessModes"]),
        "reclaim policy" => text_or(&spec["persistentVolumeReclaimPolicy"], "Retain"),
        "status" => text_or(&volume["status"]["phase"], "Available"),
        "claim" if claim.is_object() => Value::from(format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))),
        "claim" => Value::from(""),
        "storageclass" => text_or(&spec["storageClassName"], ""),
        "volumeattributesclass" => text_or(&spec["volumeAttributesClassName"], "<unset>"),
        "reason" => text_or(&volume["status"]["reason"], ""),
        "volumemode" => text_or(&spec["volumeMode"], "Filesystem"),
        _ => return None,
    })
}

pub(super) fn quota(quota: &Value, column: &str) -> Option<Value> {
    let limits = match column {
        "request" => false,
        "limit" => true,
        _ => return None,
    };
    let hard = quota["status"]["hard"].as_object().or_else(|| quota["spec"]["hard"].as_object());
    let used = |name: &str| {
        let used = &quota["status"]["used"][name];
        if used.is_null() { "0".to_owned() } else { super::path::text(used) }
    };
    let listed = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    let cells: Vec<String> =
        listed.map(|(name, hard)| format!("{name}: {}/{}", used(name), super::path::text(hard))).collect();
    Some(Value::from(cells.join(", ")))
}

/// Kinds with a cell or two.
pub(super) fn other(plural: &str, object: &Value, column: &str) -> Option<Value> {
    Some(match (plural, column) {
        ("namespaces", "status") => text_or(&object["status"]["phase"], "Active"),
        // Never what is in it: only how many keys.
        ("secrets" | "configmaps", "data") => Value::from(size(&object["data"]) + size(&object["binaryData"])),
        ("secrets", "type") => text_or(&object["type"], "Opaque"),
        ("serviceaccounts", "secrets") => Value::from(items(&object["secrets"]).count()),
        ("leases", "holder") => text_or(&object["spec"]["holderIdentity"], ""),
        ("priorityclasses", "value") => Value::from(count(&object["value"])),
        ("priorityclasses", "global-default") => Value::from(object["globalDefault"] == true),
        ("priorityclasses", "preemptionpolicy") => text_or(&object["preemptionPolicy"], "PreemptLowerPriority"),
        ("storageclasses", "provisioner") => text_or(&object["provisioner"], ""),
        ("storageclasses", "reclaimpolicy") => text_or(&object["reclaimPolicy"], "Delete"),
        ("storageclasses", "volumebindingmode") => text_or(&object["volumeBindingMode"], "Immediate"),
        ("storageclasses", "allowvolumeexpansion") => Value::from(object["allowVolumeExpansion"] == true),
        (_, "created at") => text_or(&object["metadata"]["creationTimestamp"], "<unknown>"),
        _ => return None,
    })
}

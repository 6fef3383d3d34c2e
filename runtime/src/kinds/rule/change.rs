//! What may not change once an object of a kind of Kubernetes itself exists.

use serde_json::{Map, Value};
use trainyard_runtime_core::schema::{Cause, CauseReason};

use super::{Causes, list};
use crate::kinds::Kind;

const UPDATABLE: &str = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What is wrong with a change of an object.
pub(in crate::kinds) fn check_update(kind: &Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Causes(Vec::new());
    match (kind.group, kind.kind) {
        ("apps", "Deployment" | "ReplicaSet") => causes.frozen(old, new, &["/spec/selector"]),
        ("batch", "Job") => causes.job_update(old, new),
        ("", "ConfigMap" | "Secret") if old["immutable"] == true => causes.sealed(old, new),
        ("", "Secret") => causes.frozen(old, new, &["/type"]),
        ("events.k8s.io", "Event") => causes.event_update(old, new),
        ("scheduling.k8s.io", "PriorityClass") => causes.priority_class_update(old, new),
        ("storage.k8s.io", "StorageClass") => causes.storage_class_update(old, new),
        ("", "Service") => causes.service_update(old, new),
        ("", "Pod") => causes.pod_update(&old["spec"], &new["spec"]),
        _ => {}
    }
    causes.0
}

/// What is wrong with a change of an object as it was written, before what says nothing is left out of it.
pub(in crate::kinds) fn check_written(kind: &Kind, old: &Value, written: &Value) -> Vec<Cause> {
    let mut causes = Causes(Vec::new());
    // To the API server parameters of which there are none are other ones than none.
    let emptied = written["parameters"].as_object().is_some_and(Map::is_empty) && old["parameters"].is_null();
    if kind.kind == "StorageClass" && emptied {
        causes.forbidden("parameters".to_owned(), "updates to parameters are forbidden.");
    }
    causes.0
}

/// What is wrong with a change of an object's status.
pub(in crate::kinds) fn check_status(kind: &Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Causes(Vec::new());
    if (kind.group, kind.kind) == ("batch", "Job") {
        causes.job_status(old, new);
    }
    causes.0
}

impl Causes {
    /// Fields that stay as they are.
    pub(super) fn frozen(&mut self, old: &Value, new: &Value, pointers: &[&str]) {
        for pointer in pointers {
            if old.pointer(pointer) != new.pointer(pointer) {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                self.invalid(field, new.pointer(pointer).unwrap_or(&Value::Null), "field is immutable");
            }
        }
    }

    /// The content of what was made immutable; it is not repeated.
    fn sealed(&mut self, old: &Value, new: &Value) {
        for field in ["immutable", "data", "binaryData"] {
            if old.get(field) != new.get(field) {
                let message = "Forbidden: field is immutable when `immutable` is set".to_owned();
                self.add(CauseReason::Forbidden, field.to_owned(), message);
            }
        }
        self.frozen(old, new, &["/type"]);
    }

    /// Of an event only how often it was seen changes.
    fn event_update(&mut self, old: &Value, new: &Value) {
        const FROZEN: [(&str, &str); 13] = [
            ("regarding", "involvedObject"),
            ("reason", "reason"),
            ("note", "message"),
            ("deprecatedSource", "source"),
            ("deprecatedFirstTimestamp", "firstTimestamp"),
            ("deprecatedLastTimestamp", "lastTimestamp"),
            ("deprecatedCount", "count"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingController", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ];
        if old["series"] != new["series"] {
            self.series(&new["series"]);
        }
        for (field, named) in FROZEN {
            if old[field] != new[field] {
                let absent = match field {
                    "eventTime" | "deprecatedFirstTimestamp" | "deprecatedLastTimestamp" | "related" => Value::Null,
                    "deprecatedCount" => Value::from(0),
                    "deprecatedSource" | "regarding" => Value::Object(Map::new()),
                    _ => Value::from(""),
                };
                let has = new.get(field).unwrap_or(&absent);
                self.invalid(named, has, "field is immutable");
            }
        }
    }

    /// A cluster address stays.
    fn service_update(&mut self, old: &Value, new: &Value) {
        let address = |service: &Value| {
            let text = service["spec"]["clusterIP"].as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let external = [old, new].iter().any(|service| service["spec"]["type"] == "ExternalName");
        let families = |service: &Value| list(&service["spec"], "ipFamilies").len();
        if new["spec"]["ipFamilyPolicy"] != "SingleStack" && (1..families(old)).contains(&families(new)) && !external {
            let why = "must be 'SingleStack' to release the secondary IP family";
            self.invalid("spec.ipFamilyPolicy", &new["spec"]["ipFamilyPolicy"], why);
        }
        if let (Some(had), Some(has), false) = (address(old), address(new), external)
            && had != has
        {
            let message = format!("Invalid value: [{has:?}]: may not change once set");
            self.add(CauseReason::Invalid, "spec.clusterIPs[0]".to_owned(), message);
        }
    }

    fn pod_update(&mut self, old: &Value, new: &Value) {
        for field in ["containers", "initContainers"] {
            if list(old, field).len() != list(new, field).len() {
                let message = "Forbidden: pod updates may not add or remove containers".to_owned();
                return self.add(CauseReason::Forbidden, format!("spec.{field}"), message);
            }
        }
        if !self.deadline_update(&old["activeDeadlineSeconds"], &new["activeDeadlineSeconds"]) {
            return;
        }
        self.gates_update(old, new);
        if without_mutable_fields(old, old) != without_mutable_fields(new, old) {
            self.add(CauseReason::Forbidden, "spec".to_owned(), UPDATABLE.to_owned());
        }
    }

    /// A deadline can be set, and drawn nearer. Nothing else is looked at where it is moved away.
    fn deadline_update(&mut self, old: &Value, new: &Value) -> bool {
        let field = "spec.activeDeadlineSeconds";
        match (old.as_i64(), new.as_i64()) {
            (_, Some(has)) if !(0..=i64::from(i32::MAX)).contains(&has) => {
                self.invalid(field, new, "must be between 0 and 2147483647, inclusive");
                false
            }
            (Some(had), Some(has)) if had < has => {
                self.invalid(field, new, "must be less than or equal to previous value");
                false
            }
            (Some(_), None) => {
                self.invalid(field, &Value::Null, "must not update from a positive integer to nil value");
                true
            }
            _ => true,
        }
    }

    /// Gates come off one by one, and none is added.
    fn gates_update(&mut self, had: &Value, has: &Value) {
        for (index, gate) in list(has, "schedulingGates").iter().enumerate() {
            let name = gate["name"].as_str().unwrap_or_default();
            if list(had, "schedulingGates").iter().all(|old| old["name"] != gate["name"]) {
                let message = format!("Forbidden: only deletion is allowed, but found new scheduling gate '{name}'");
                self.add(CauseReason::Forbidden, format!("spec.schedulingGates[{index}].name"), message);
            }
        }
    }
}

/// A pod's spec as far as it may not change. Where a held pod goes may still be narrowed down.
fn without_mutable_fields(spec: &Value, old: &Value) -> Map<String, Value> {
    let held = !list(old, "schedulingGates").is_empty();
    let mut spec = spec.as_object().cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove(field);
    }
    if held {
        spec.remove("nodeSelector");
        if let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
        }
        if spec.get("affinity").is_some_and(|affinity| affinity.as_object().is_none_or(Map::is_empty)) {
            spec.remove("affinity");
        }
    }
    for field in ["containers", "initContainers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            container.remove("image");
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::registry;

    #[test]
    fn a_pods_command_cannot_change_and_its_image_can() {
        let kind = registry().find("pods").expect("pods are served");
        let old =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x", "command": ["a"]}]}});
        let mut image = old.clone();
        image["spec"]["containers"][0]["image"] = json!("y");
        assert_eq!(check_update(kind, &old, &image), []);
        let mut command = old.clone();
        command["spec"]["containers"][0]["command"] = json!(["b"]);
        assert_eq!(check_update(kind, &old, &command).len(), 1);
        command["spec"]["containers"] = json!([]);
        assert_eq!(check_update(kind, &old, &command)[0].field, "spec.containers");
    }
}

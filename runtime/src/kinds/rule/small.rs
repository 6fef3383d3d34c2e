//! Rules of the kinds that hold little: configuration, leases, events, claims, quotas; and of the metadata of all.

use serde_json::Value;
use trainyard_proto::quantity::Quantity;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::key_problems;

use super::{Causes, amount, list};

/// Finalizers without a domain that Kubernetes knows.
pub(in crate::kinds) const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What quotas may limit, beside names with a domain and `count/…`.
const QUOTA_RESOURCES: [&str; 16] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
];
const QUOTA_SERVICES: [&str; 3] = ["persistentvolumeclaims", "services.nodeports", "services.loadbalancers"];

const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

impl Causes {
    pub(super) fn metadata(&mut self, metadata: &Value) {
        for (index, name) in list(metadata, "finalizers").iter().enumerate() {
            let Some(name) = name.as_str() else { continue };
            if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
                let message = format!(
                    "Invalid value: {name:?}: name is neither a standard finalizer name nor is it fully qualified"
                );
                self.add(CauseReason::Invalid, format!("metadata.finalizers[{index}]"), message);
            }
        }
    }

    /// ConfigMaps and Secrets.
    pub(super) fn config(&mut self, object: &Value) {
        let entries = |field: &str| object.get(field).and_then(Value::as_object).into_iter().flatten();
        for field in ["data", "binaryData"] {
            for (key, _) in entries(field) {
                let legal = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if !legal {
                    let message = format!("Invalid value: {key:?}: {CONFIG_KEY_TEXT}");
                    self.add(CauseReason::Invalid, format!("{field}[{key}]"), message);
                }
            }
        }
        for (key, _) in entries("data") {
            if object.get("binaryData").is_some_and(|binary| binary.get(key).is_some()) {
                let message = format!("Invalid value: {key:?}: duplicate of key present in binaryData");
                self.add(CauseReason::Invalid, format!("data[{key}]"), message);
            }
        }
    }

    pub(super) fn lease(&mut self, spec: &Value) {
        for field in ["acquireTime", "renewTime"] {
            // `metav1.MicroTime` is read with a fraction of six digits, and only so.
            let digits = |text: &str| {
                let (_, fraction) = text.split_once('.').unwrap_or_default();
                fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len())
            };
            if let Some(text) = spec.get(field).and_then(Value::as_str).filter(|text| digits(text) != 6) {
                let message = format!("Invalid value: {text:?}: write the time with microseconds");
                self.add(CauseReason::TypeInvalid, format!("spec.{field}"), message);
            }
        }
        if let Some(seconds) = spec.get("leaseDurationSeconds").and_then(Value::as_i64).filter(|seconds| *seconds <= 0)
        {
            let message = format!("Invalid value: {seconds}: must be greater than 0");
            self.add(CauseReason::Invalid, "spec.leaseDurationSeconds".to_owned(), message);
        }
        self.not_negative(spec, "leaseTransitions");
    }

    /// What some types of secrets must hold.
    pub(super) fn secret(&mut self, secret: &Value) {
        let filled = |key: &str| secret["data"][key].as_str().is_some_and(|text| !text.is_empty());
        let mut needs = |key: &str, there: bool| {
            if !there {
                self.add(CauseReason::Required, format!("data[{key}]"), "Required value".to_owned());
            }
        };
        match secret["type"].as_str().unwrap_or_default() {
            "kubernetes.io/service-account-token" => {
                let name = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"].as_str();
                if name.is_none_or(str::is_empty) {
                    let field = "metadata.annotations[kubernetes.io/service-account.name]".to_owned();
                    self.add(CauseReason::Required, field, "Required value".to_owned());
                }
            }
            "kubernetes.io/dockercfg" => needs(".dockercfg", !secret["data"][".dockercfg"].is_null()),
            "kubernetes.io/dockerconfigjson" => {
                needs(".dockerconfigjson", !secret["data"][".dockerconfigjson"].is_null())
            }
            "kubernetes.io/basic-auth" => {
                let either = ["username", "password"].iter().any(|key| !secret["data"][*key].is_null());
                needs("username", either);
                needs("password", either);
            }
            "kubernetes.io/ssh-auth" => needs("ssh-privatekey", filled("ssh-privatekey")),
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"] {
                    needs(key, !secret["data"][key].is_null());
                }
            }
            _ => {}
        }
    }

    pub(super) fn event(&mut self, event: &Value) {
        self.event_of(event, "involvedObject", "reportingComponent");
    }

    /// An event of `events.k8s.io/v1`: it has one time and no count. Most of that is asked of new ones only.
    pub(super) fn new_event(&mut self, event: &Value) {
        self.event_of(event, "regarding", "reportingController");
        if event["metadata"]["uid"].is_string() {
            return;
        }
        self.series(&event["series"]);
        if event["eventTime"].is_null() {
            self.add(CauseReason::Required, "eventTime".to_owned(), "Required value".to_owned());
        }
        let kind = event["type"].as_str().unwrap_or_default();
        if !matches!(kind, "Normal" | "Warning") {
            let message = format!("Invalid value: \"\": has invalid value: {kind}");
            self.add(CauseReason::Invalid, "type".to_owned(), message);
        }
        for (field, named) in [
            ("deprecatedFirstTimestamp", "firstTimestamp"),
            ("deprecatedLastTimestamp", "lastTimestamp"),
            ("deprecatedCount", "count"),
            ("deprecatedSource", "source"),
        ] {
            let said = match &event[field] {
                Value::Object(source) => source.values().any(|part| part.as_str().is_some_and(|text| !text.is_empty())),
                Value::Number(count) => count.as_i64() != Some(0),
                Value::String(_) => true,
                Value::Null | Value::Bool(_) | Value::Array(_) => false,
            };
            if said {
                self.invalid(named, &Value::from(""), "needs to be unset");
            }
        }
    }

    /// How often an event came, of a newer one.
    pub(super) fn series(&mut self, series: &Value) {
        if series.is_null() {
            return;
        }
        if series["count"].as_i64().unwrap_or(0) < 2 {
            self.invalid("series.count", &Value::from(""), "should be at least 2");
        }
        if series["lastObservedTime"].is_null() {
            self.required("series.lastObservedTime");
        }
    }

    /// What is asked of events of both kinds.
    fn event_of(&mut self, event: &Value, about: &str, controller: &str) {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
        let involved = event[about]["namespace"].as_str().unwrap_or_default();
        let is_new = !event["eventTime"].is_null();
        // Events about objects outside of namespaces are kept in `default`.
        let at_home = if involved.is_empty() {
            namespace.is_empty() || namespace == "default" || (is_new && namespace == "kube-system")
        } else {
            is_new || namespace.is_empty() || involved == namespace
        };
        if !at_home {
            let message = format!("Invalid value: {involved:?}: does not match event.namespace");
            self.add(CauseReason::Invalid, "involvedObject.namespace".to_owned(), message);
        }
        if !is_new {
            return;
        }
        for (field, named) in [
            (controller, controller),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if text(field).is_empty() {
                self.add(CauseReason::Required, named.to_owned(), "Required value".to_owned());
            }
            if field == controller {
                self.all(named, &Value::from(text(field)), &key_problems(text(field)));
            }
        }
    }

    pub(super) fn priority_class(&mut self, class: &Value) {
        /// Above it are the system's own.
        const HIGHEST: i64 = 1_000_000_000;
        if class["value"].as_i64().is_some_and(|value| value > HIGHEST) {
            let message = format!("Forbidden: maximum allowed value of a user defined priority is {HIGHEST}");
            self.add(CauseReason::Forbidden, "value".to_owned(), message);
        }
        let policies = ["PreemptLowerPriority", "Never"];
        self.one_of(class.get("preemptionPolicy"), "preemptionPolicy".to_owned(), &policies);
    }

    /// Pods have taken their priority from it.
    pub(super) fn priority_class_update(&mut self, old: &Value, new: &Value) {
        if old["value"] != new["value"] {
            let message = "Forbidden: may not be changed in an update.".to_owned();
            self.add(CauseReason::Forbidden, "value".to_owned(), message);
        }
        if old["preemptionPolicy"] != new["preemptionPolicy"] {
            let message = format!("Invalid value: {}: field is immutable", new["preemptionPolicy"]);
            self.add(CauseReason::Invalid, "preemptionPolicy".to_owned(), message);
        }
    }

    pub(super) fn storage_class(&mut self, class: &Value) {
        self.one_of(class.get("reclaimPolicy"), "reclaimPolicy".to_owned(), &["Delete", "Retain"]);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        self.one_of(class.get("volumeBindingMode"), "volumeBindingMode".to_owned(), &modes);
    }

    pub(super) fn storage_class_update(&mut self, old: &Value, new: &Value) {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if old[field] != new[field] {
                let message = format!("Forbidden: updates to {field} are forbidden.");
                self.add(CauseReason::Forbidden, field.to_owned(), message);
            }
        }
        if old["volumeBindingMode"] != new["volumeBindingMode"] {
            let message = format!("Invalid value: {}: field is immutable", new["volumeBindingMode"]);
            self.add(CauseReason::Invalid, "volumeBindingMode".to_owned(), message);
        }
    }

    pub(super) fn claim(&mut self, spec: &Value) {
        if list(spec, "accessModes").is_empty() {
            let message = "Required value: at least 1 access mode is required".to_owned();
            self.add(CauseReason::Required, "spec.accessModes".to_owned(), message);
        }
        if spec.pointer("/resources/requests/storage").is_none() {
            self.add(CauseReason::Required, "spec.resources[storage]".to_owned(), "Required value".to_owned());
        }
    }

    pub(super) fn quota(&mut self, spec: &Value) {
        for (name, limit) in spec.get("hard").and_then(Value::as_object).into_iter().flatten() {
            let field = format!("spec.hard[{name}]");
            let known = QUOTA_RESOURCES.contains(&name.as_str()) || QUOTA_SERVICES.contains(&name.as_str());
            if !known && !name.contains('/') {
                for problem in ["a standard resource type or fully qualified", "a standard resource for quota"] {
                    let message = format!("Invalid value: {name:?}: must be {problem}");
                    self.add(CauseReason::Invalid, field.clone(), message);
                }
            }
            if amount(limit).is_some_and(Quantity::is_negative) {
                let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
                let message = format!("Invalid value: {shown:?}: must be greater than or equal to 0");
                self.add(CauseReason::Invalid, field, message);
            }
        }
    }
}

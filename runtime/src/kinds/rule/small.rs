//! Rules of the kinds that hold little: configuration, leases, events, claims, quotas; and of the metadata of all.

use serde_json::Value;
use trainyard_proto::quantity::Quantity;
use trainyard_runtime_core::schema::CauseReason;

use super::{Causes, amount, list};

/// Finalizers without a domain that Kubernetes knows.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

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
            // `metav1.MicroTime` is read with its fraction, and only so.
            if let Some(text) = spec.get(field).and_then(Value::as_str).filter(|text| !text.contains('.')) {
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

    pub(super) fn event(&mut self, event: &Value) {
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let (namespace, involved) = (text("/metadata/namespace"), text("/involvedObject/namespace"));
        // Events about objects outside of namespaces are kept in `default`.
        if !namespace.is_empty() && !involved.is_empty() && involved != namespace {
            let message = format!("Invalid value: {involved:?}: does not match event.namespace");
            self.add(CauseReason::Invalid, "involvedObject.namespace".to_owned(), message);
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

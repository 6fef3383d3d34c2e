//! Rules of Kubernetes' own kinds that a schema cannot say: the ones that people run into.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Map, Value};
use trainyard_proto::quantity::Quantity;
use trainyard_runtime_core::schema::{Cause, CauseReason};
pub(super) use trainyard_runtime_core::selector::is_dns_label;
use trainyard_runtime_core::selector::is_subdomain;
pub(super) use trainyard_runtime_core::store::LABEL_TEXT;
use trainyard_runtime_core::store::SUBDOMAIN_TEXT;

use super::Kind;

mod change;
mod container;
mod job;
mod pod;
mod policy;
mod scale;
mod security;
mod small;

pub(super) use change::{check_status, check_update, check_written};
pub(super) use scale::check_scale;
pub(super) use small::STANDARD_FINALIZERS;

/// What is wrong with an object of a kind of Kubernetes itself, beyond its schema.
pub(super) fn check(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Causes(Vec::new());
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if (kind.group, kind.kind) == ("", "Service") {
        // Addresses are given out, or not, before anything else is looked at.
        let kind = spec["type"].as_str().unwrap_or("ClusterIP");
        if kind != "ExternalName" {
            causes.addresses(spec, kind);
        }
        if causes.0.is_empty() {
            causes.families(spec);
        }
        if !causes.0.is_empty() {
            return causes.0;
        }
    }
    // Those of leases may be called anything that is a name.
    if kind.kind != "Lease" {
        causes.metadata(object.get("metadata").unwrap_or(&Value::Null));
    }
    match (kind.group, kind.kind) {
        ("", "Pod") => {
            causes.pod(spec, "spec", &["Always", "OnFailure", "Never"]);
            causes.pod_only(spec);
        }
        ("", "Service") => causes.service(spec),
        ("batch", "Job") => causes.job(spec, object["metadata"]["uid"].is_string()),
        ("apps", "Deployment" | "ReplicaSet") => causes.replicated(kind, spec),
        ("", "ConfigMap") => causes.config(object),
        ("", "Secret") => {
            causes.config(object);
            causes.secret(object);
        }
        ("coordination.k8s.io", "Lease") => causes.lease(spec),
        ("", "Event") => causes.event(object),
        ("events.k8s.io", "Event") => causes.new_event(object),
        ("scheduling.k8s.io", "PriorityClass") => causes.priority_class(object),
        ("storage.k8s.io", "StorageClass") => causes.storage_class(object),
        ("", "PersistentVolumeClaim") => causes.claim(spec),
        ("", "ResourceQuota") => causes.quota(spec),
        _ => {}
    }
    causes.0
}

/// Lists of which the rules of pods say what is there twice.
pub(super) const OWN_LISTS: [&str; 5] =
    [".imagePullSecrets[", ".schedulingGates[", ".volumeMounts[", ".hostAliases[", ".onExitCodes.values["];

struct Causes(Vec<Cause>);

impl Causes {
    fn add(&mut self, reason: CauseReason, field: String, message: String) {
        self.0.push(Cause { reason, field, message });
    }

    fn one_of(&mut self, value: Option<&Value>, field: String, supported: &[&str]) {
        let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) else { return };
        if !supported.contains(&text) {
            let listed: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
            self.add(
                CauseReason::NotSupported,
                field,
                format!("Unsupported value: {text:?}: supported values: {}", listed.join(", ")),
            );
        }
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.add(CauseReason::Invalid, field.into(), format!("Invalid value: {value}: {why}"));
    }

    fn required(&mut self, field: impl Into<String>) {
        self.add(CauseReason::Required, field.into(), "Required value".to_owned());
    }

    fn not_negative(&mut self, spec: &Value, field: &str) {
        self.not_negative_at("spec", spec, field);
    }

    fn not_negative_at(&mut self, at: &str, part: &Value, field: &str) {
        if let Some(number) = part.get(field).and_then(Value::as_i64).filter(|number| *number < 0) {
            self.invalid(format!("{at}.{field}"), &number.into(), "must be greater than or equal to 0");
        }
    }

    fn port(&mut self, value: Option<&Value>, field: String) {
        if let Some(number) = value.and_then(Value::as_i64).filter(|number| !(1..=65535).contains(number)) {
            self.add(
                CauseReason::Invalid,
                field,
                format!("Invalid value: {number}: must be between 1 and 65535, inclusive"),
            );
        }
    }

    fn service(&mut self, spec: &Value) {
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP");
        self.one_of(
            spec.get("type"),
            "spec.type".to_owned(),
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        );
        if kind == "ExternalName" {
            self.addresses(spec, kind);
        }
        let headless = spec.get("clusterIP").and_then(Value::as_str) == Some("None");
        let ports = list(spec, "ports");
        if ports.is_empty() && !headless && kind != "ExternalName" {
            self.add(CauseReason::Required, "spec.ports".to_owned(), "Required value".to_owned());
        }
        if kind == "ExternalName" && spec.get("externalName").is_none_or(|name| name.is_null() || *name == "") {
            self.add(CauseReason::Required, "spec.externalName".to_owned(), "Required value".to_owned());
        } else if kind == "ExternalName" {
            let name = spec["externalName"].as_str().unwrap_or_default();
            if !is_subdomain(name.strip_suffix('.').unwrap_or(name)) {
                self.invalid("spec.externalName", &spec["externalName"], SUBDOMAIN_TEXT);
            }
        }
        self.one_of(spec.get("sessionAffinity"), "spec.sessionAffinity".to_owned(), &["ClientIP", "None"]);
        for (index, port) in ports.iter().enumerate() {
            if ports.len() > 1 && port.get("name").is_none_or(Value::is_null) {
                self.add(CauseReason::Required, format!("spec.ports[{index}].name"), "Required value".to_owned());
            }
            let number =
                |field: &str| port.get(field).filter(|port| !port.is_null()).cloned().unwrap_or(Value::from(0));
            self.port(Some(&number("port")), format!("spec.ports[{index}].port"));
            self.one_of(port.get("protocol"), format!("spec.ports[{index}].protocol"), &["SCTP", "TCP", "UDP"]);
            self.port(Some(&number("targetPort")), format!("spec.ports[{index}].targetPort"));
        }
        self.distinct_ports(ports);
        let policies = ["Cluster", "Local"];
        self.one_of(spec.get("internalTrafficPolicy"), "spec.internalTrafficPolicy".to_owned(), &policies);
    }

    /// Ports have names and numbers of their own.
    fn distinct_ports(&mut self, ports: &[Value]) {
        for (index, port) in ports.iter().enumerate() {
            let before = || ports.iter().take(index);
            let name = port["name"].as_str().filter(|name| !name.is_empty());
            if name.is_some_and(|name| before().any(|other| other["name"] == name)) {
                let message = format!("Duplicate value: {}", port["name"]);
                self.add(CauseReason::Duplicate, format!("spec.ports[{index}].name"), message);
            }
            if before().any(|other| other["port"] == port["port"] && other["protocol"] == port["protocol"]) {
                // What the API server compares, as it shows it.
                let message = format!(
                    "Duplicate value: {{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\
                     \"TargetPort\":0,\"NodePort\":0}}",
                    port["protocol"], port["port"]
                );
                self.add(CauseReason::Duplicate, format!("spec.ports[{index}]"), message);
            }
        }
    }

    /// Addresses are of one family here, as on most clusters. What has none and selects nothing may be of both.
    fn families(&mut self, spec: &Value) {
        let loose = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(Map::is_empty);
        if spec["type"] == "ExternalName" {
            return;
        }
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        self.one_of(spec.get("ipFamilyPolicy"), "spec.ipFamilyPolicy".to_owned(), &policies);
        if spec["ipFamilyPolicy"] == "SingleStack" && list(spec, "ipFamilies").len() == 2 {
            let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
            return self.invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why);
        }
        if loose {
            return;
        }
        if spec["ipFamilyPolicy"] == "RequireDualStack" {
            let why = "this cluster is not configured for dual-stack services";
            self.invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why);
        }
        for (index, family) in list(spec, "ipFamilies").iter().enumerate().filter(|(_, family)| **family == "IPv6") {
            self.invalid(format!("spec.ipFamilies[{index}]"), family, "not configured on this cluster");
        }
    }

    /// `clusterIP` and `clusterIPs` of a service.
    fn addresses(&mut self, spec: &Value, kind: &str) {
        let first = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default();
        let listed: Vec<&str> = list(spec, "clusterIPs").iter().filter_map(Value::as_str).collect();
        let all = if listed.is_empty() && !first.is_empty() { vec![first] } else { listed };
        let Some(given) = all.first().copied() else { return };
        let shown = Value::from(all.clone());
        let (whole, one) = ("spec.clusterIPs".to_owned(), "spec.clusterIPs[0]".to_owned());
        if kind == "ExternalName" {
            let message = "Forbidden: may not be set for ExternalName services".to_owned();
            self.add(CauseReason::Forbidden, whole, message);
        } else if first.is_empty() {
            let message = format!("Invalid value: {shown}: must be empty when `clusterIP` is not specified");
            self.add(CauseReason::Invalid, whole, message);
        } else if first != given {
            let message = format!("Invalid value: {shown}: first value must match `clusterIP`");
            self.add(CauseReason::Invalid, whole, message);
        } else if given == "None" {
            if kind != "ClusterIP" {
                let message = format!("Invalid value: \"None\": may not be set to 'None' for {kind} services");
                self.add(CauseReason::Invalid, one, message);
            }
        } else if let Some((index, wrong)) = all.iter().enumerate().find(|(_, ip)| ip.parse::<IpAddr>().is_err()) {
            let text = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            let message = format!("Invalid value: {wrong:?}: {text}");
            self.add(CauseReason::Invalid, format!("spec.clusterIPs[{index}]"), message);
        } else if all.len() > 1 {
            let message = format!("Invalid value: {shown}: may specify no more than one IP for each IP family");
            self.add(CauseReason::Invalid, whole, message);
        } else if given.parse::<Ipv6Addr>().is_ok() {
            let message = format!("Invalid value: {shown}: IPv6 is not configured on this cluster");
            self.add(CauseReason::Invalid, one, message);
        }
    }

    fn replicated(&mut self, kind: &Kind, spec: &Value) {
        self.not_negative(spec, "replicas");
        let selector = spec.get("selector").and_then(Value::as_object);
        if selector.is_some_and(|selector| selector.values().all(is_empty)) {
            let message = format!("Invalid value: {{}}: empty selector is invalid for {}", kind.singular);
            self.add(CauseReason::Invalid, "spec.selector".to_owned(), message);
        }
        let empty = Map::new();
        let labels = spec.pointer("/template/metadata/labels").and_then(Value::as_object).unwrap_or(&empty);
        let wanted =
            selector.and_then(|selector| selector.get("matchLabels")).and_then(Value::as_object).unwrap_or(&empty);
        if selector.is_none() {
            self.add(CauseReason::Required, "spec.selector".to_owned(), "Required value".to_owned());
        }
        // Without a selector nothing matches.
        if selector.is_none() || wanted.iter().any(|(name, value)| labels.get(name) != Some(value)) {
            let shown = spec.pointer("/template/metadata/labels").unwrap_or(&Value::Null).to_string();
            let message = format!("Invalid value: {shown}: `selector` does not match template `labels`");
            self.add(CauseReason::Invalid, "spec.template.metadata.labels".to_owned(), message);
        }
        let pod = spec.pointer("/template/spec").unwrap_or(&Value::Null);
        self.pod(pod, "spec.template.spec", &["Always", "OnFailure", "Never"]);
        self.one_of(pod.get("restartPolicy"), "spec.template.spec.restartPolicy".to_owned(), &["Always"]);
        if !pod["activeDeadlineSeconds"].is_null() {
            let message = "Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported".to_owned();
            self.add(CauseReason::Forbidden, "spec.template.spec.activeDeadlineSeconds".to_owned(), message);
        }
        let strategy = &spec["strategy"];
        self.one_of(strategy.get("type"), "spec.strategy.type".to_owned(), &["Recreate", "RollingUpdate"]);
        if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
            let message = "Forbidden: may not be specified when strategy `type` is 'Recreate'".to_owned();
            self.add(CauseReason::Forbidden, "spec.strategy.rollingUpdate".to_owned(), message);
        }
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A quantity; nothing where the schema has already said that it is none.
fn amount(value: &Value) -> Option<Quantity> {
    Quantity::from_json(value).ok().flatten()
}

//! What clients are told of objects that are valid and may not do what their writers think.

use std::collections::BTreeSet;

use serde_json::Value;
use trainyard_proto::quantity::Quantity;

use super::Kind;
use super::rule::{LABEL_TEXT, STANDARD_FINALIZERS, is_dns_label};

/// The warnings for an object; `old` is what it was.
pub(super) fn of(kind: &Kind, old: Option<&Value>, new: &Value) -> Vec<String> {
    let mut told = Vec::new();
    match (kind.group, kind.kind, old) {
        ("", "Service", _) => service(new, &mut told),
        // People seldom change pods, and what changes them is in a hurry.
        ("", "Pod", None) => {
            name(new, "the Pod's hostname", &mut told);
            pod(&new["spec"], "spec", &mut told);
        }
        ("apps", "Deployment" | "ReplicaSet", _) | ("batch", "Job", _) => {
            match old {
                None => name(new, "Pod names and hostnames", &mut told),
                Some(old) if old["spec"] == new["spec"] => return told,
                Some(_) => {}
            }
            pod(&new["spec"]["template"]["spec"], "spec.template.spec", &mut told);
        }
        _ => {}
    }
    told
}

/// The warnings for an object of a custom kind: of finalizers that others may call theirs too.
pub(super) fn of_custom(old: Option<&Value>, new: &Value) -> Vec<String> {
    let of = |object: &'_ Value| -> BTreeSet<String> {
        let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
        all.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let known = old.map(of).unwrap_or_default();
    let added = of(new).into_iter().filter(|name| !known.contains(name));
    let own = added.filter(|name| !name.contains('/') && !STANDARD_FINALIZERS.contains(&&**name));
    own.map(|name| {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts \
             with other finalizer writers"
        )
    })
    .collect()
}

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    value[field].as_array().into_iter().flatten().enumerate()
}

fn name(object: &Value, used: &str, told: &mut Vec<String>) {
    const CHARS: usize = 63;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let problems: Vec<&str> =
        [(!is_dns_label(name)).then_some(LABEL_TEXT), (name.len() > CHARS).then_some("must be no more than 63 bytes")]
            .into_iter()
            .flatten()
            .collect();
    if !name.is_empty() && !problems.is_empty() {
        told.push(format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: \
             [{}]",
            problems.join(" ")
        ));
    }
}

fn service(service: &Value, told: &mut Vec<String>) {
    let spec = &service["spec"];
    let is_set = |field: &str| spec[field].as_str().is_some_and(|text| !text.is_empty());
    let addresses = spec["externalIPs"].as_array().is_some_and(|list| !list.is_empty());
    if spec["type"] == "ClusterIP" && spec["clusterIP"] == "None" {
        let ignored = [
            ("loadBalancerIP", is_set("loadBalancerIP")),
            ("externalIPs", addresses),
            ("SessionAffinity", spec["sessionAffinity"] != "None"),
        ];
        for (field, _) in ignored.into_iter().filter(|(_, there)| *there) {
            told.push(format!("spec.{field} is ignored for headless services"));
        }
    }
    let named = spec["type"] == "ExternalName";
    if named && addresses {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !named && is_set("externalName") {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
}

fn pod(spec: &Value, path: &str, told: &mut Vec<String>) {
    for (index, constraint) in items(spec, "topologySpreadConstraints") {
        if constraint["labelSelector"].is_null() {
            let field = format!("{path}.topologySpreadConstraints[{index}].labelSelector");
            told.push(format!("{field}: a null labelSelector results in matching no pod"));
        }
    }
    twice(spec, "hostAliases", "ip", path, told);
    twice(spec, "imagePullSecrets", "name", path, told);
    for (index, secret) in items(spec, "imagePullSecrets") {
        if secret["name"].as_str().is_none_or(str::is_empty) {
            told.push(format!("{path}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
    let containers: Vec<(String, &Value)> = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| items(spec, list).map(move |(index, one)| (format!("{path}.{list}[{index}]"), one)))
        .collect();
    for (at, container) in &containers {
        fractions(container, at, told);
        hidden(container, at, told);
    }
    ports(&containers, told);
    for field in ["podAffinity", "podAntiAffinity"] {
        affinity(&spec["affinity"][field], &format!("{path}.affinity.{field}"), told);
    }
}

/// Items of a list with the same value of a field.
fn twice(spec: &Value, list: &str, field: &str, path: &str, told: &mut Vec<String>) {
    for (index, item) in items(spec, list) {
        if items(spec, list).take(index).any(|(_, before)| before[field] == item[field]) {
            told.push(format!("{path}.{list}[{index}].{field}: duplicate {field} {}", item[field]));
        }
    }
}

/// Amounts of bytes that are not whole.
fn fractions(container: &Value, at: &str, told: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let amount = &container["resources"][list][name];
            let whole = Quantity::from_json(amount).ok().flatten().and_then(|amount| amount.milli().ok());
            let whole = whole.is_none_or(|milli| milli % 1000 == 0);
            if !whole {
                told.push(format!(
                    "{at}.resources.{list}[{name}]: fractional byte value {amount} is invalid, must be an integer"
                ));
            }
        }
    }
}

/// Environment variables that are set again, without what they were.
fn hidden(container: &Value, at: &str, told: &mut Vec<String>) {
    for (index, env) in items(container, "env") {
        let name = env["name"].as_str().unwrap_or_default();
        let reference = format!("$({name})");
        let value = env["value"].as_str().unwrap_or_default();
        let bad = !env["valueFrom"].is_null() || value == reference || !value.contains(&reference);
        if bad && items(container, "env").take(index).any(|(_, before)| before["name"] == name) {
            told.push(format!(
                "{at}.env[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
}

/// Ports of a pod with the same number or name.
fn ports(containers: &[(String, &Value)], told: &mut Vec<String>) {
    let all: Vec<(String, &Value)> = containers
        .iter()
        .flat_map(|(at, container)| items(container, "ports").map(move |(n, port)| (format!("{at}.ports[{n}]"), port)))
        .collect();
    for (index, (at, port)) in all.iter().enumerate() {
        let same = |other: &Value, fields: &[&str]| fields.iter().all(|field| other[*field] == port[*field]);
        for (other_at, other) in all.iter().take(index).filter(|(_, o)| same(o, &["containerPort", "protocol"])) {
            if same(other, &["hostIP", "hostPort"]) {
                told.push(format!("{at}: duplicate port definition with {other_at}"));
            } else if port["hostPort"].is_null() || other["hostPort"].is_null() {
                told.push(format!("{at}: overlapping port definition with {other_at}"));
            }
        }
    }
    for (index, (at, port)) in all.iter().enumerate() {
        let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) else { continue };
        if let Some((other, _)) = all.iter().take(index).find(|(_, before)| before["name"] == name) {
            told.push(format!(
                "{at}: duplicate port name \"{name}\" with {other}, services and probes that select ports by name will use \
                 {other}"
            ));
        }
    }
}

/// Terms that match nothing.
fn affinity(affinity: &Value, at: &str, told: &mut Vec<String>) {
    for (list, inner) in [
        ("requiredDuringSchedulingIgnoredDuringExecution", ""),
        ("preferredDuringSchedulingIgnoredDuringExecution", ".podAffinityTerm"),
    ] {
        for (index, term) in items(affinity, list) {
            let term = if inner.is_empty() { term } else { &term["podAffinityTerm"] };
            if term["labelSelector"].is_null() {
                let field = format!("{at}.{list}[{index}]{inner}.labelSelector");
                told.push(format!("{field}: a null labelSelector results in matching no pod"));
            }
        }
    }
}

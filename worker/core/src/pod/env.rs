//! The environment of a container as its pod spells it: `env`, `envFrom`, `valueFrom`, `$(VAR)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};
use thiserror::Error;

use trainyard_proto::quantity;

/// Decoded ConfigMaps and Secrets of the pod's namespace, by name. What is absent here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `data` (and text of `binaryData`) of each ConfigMap.
    pub config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Decoded `data` of each Secret.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// What the pod's fields resolve to on this node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub host_ip: String,
    /// The pod's address.
    pub pod_ip: String,
    /// Processor time a pod without limit can have, in thousandths of a processor.
    pub allocatable_cpu_milli: i64,
    /// Memory a pod without limit can have.
    pub allocatable_memory_bytes: i64,
}

/// Why a container's environment cannot be made. The text is what the user reads in the pod's status.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvError {
    /// A ConfigMap or Secret that is not optional does not exist.
    #[error("{kind} \"{name}\" not found in namespace {namespace}; create it, or mark the reference optional")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The pod's namespace.
        namespace: String,
    },
    /// The object exists, the key does not.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key asked for.
        key: String,
        /// The pod's namespace.
        namespace: String,
    },
    /// A field that pods do not offer.
    #[error(
        "unsupported fieldPath {path:?}; supported are metadata.name, metadata.namespace, metadata.uid, metadata.labels['…'], metadata.annotations['…'], spec.nodeName, spec.serviceAccountName, status.hostIP, status.podIP"
    )]
    Field {
        /// As written.
        path: String,
    },
    /// A resource that containers do not offer.
    #[error(
        "unsupported resource {resource:?} in resourceFieldRef; supported are requests and limits of cpu, memory, ephemeral-storage"
    )]
    Resource {
        /// As written.
        resource: String,
    },
}

/// Replaces `$(VAR)` by the variable's value; `$$` stands for `$`, and what is unknown stays as it is written.
#[must_use]
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// The variables of `container` in the order in which they are set; a later one of the same name has won already.
///
/// # Errors
/// When something that is not optional does not exist.
pub fn container_env(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Ordered::default();
    from_whole_sources(pod, container, sources, &mut env)?;
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(source)) => match resolve(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, &|name| env.get(name)),
            (None, None) => String::new(),
        };
        env.set(&var.name, value);
    }
    Ok(env.entries)
}

#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<String> {
        self.at.get(name).map(|&at| self.entries[at].1.clone())
    }

    fn set(&mut self, name: &str, value: String) {
        if let Some(&at) = self.at.get(name) {
            self.entries[at].1 = value;
        } else {
            self.at.insert(name.to_owned(), self.entries.len());
            self.entries.push((name.to_owned(), value));
        }
    }
}

fn from_whole_sources(pod: &Pod, container: &Container, sources: &Sources, env: &mut Ordered) -> Result<(), EnvError> {
    for from in container.env_from.iter().flatten() {
        let (kind, name, optional, all) = if let Some(map) = &from.config_map_ref {
            ("configmap", &map.name, map.optional, &sources.config_maps)
        } else if let Some(secret) = &from.secret_ref {
            ("secret", &secret.name, secret.optional, &sources.secrets)
        } else {
            continue;
        };
        let Some(data) = all.get(name) else {
            if optional == Some(true) {
                continue;
            }
            return Err(EnvError::Missing { kind, name: name.clone(), namespace: namespace(pod) });
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in data {
            env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
        }
    }
    Ok(())
}

fn resolve(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource, facts).map(Some);
    }
    let (kind, name, key, optional, all) = if let Some(map) = &source.config_map_key_ref {
        ("configmap", &map.name, &map.key, map.optional, &sources.config_maps)
    } else if let Some(secret) = &source.secret_key_ref {
        ("secret", &secret.name, &secret.key, secret.optional, &sources.secrets)
    } else {
        return Ok(Some(String::new()));
    };
    let optional = optional == Some(true);
    let Some(data) = all.get(name) else {
        let missing = EnvError::Missing { kind, name: name.clone(), namespace: namespace(pod) };
        return if optional { Ok(None) } else { Err(missing) };
    };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => Err(EnvError::MissingKey { kind, name: name.clone(), key: key.clone(), namespace: namespace(pod) }),
    }
}

fn namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

/// The value of a `fieldRef`.
///
/// # Errors
/// When pods have no such field.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector, facts: &NodeFacts) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let path = field.field_path.as_str();
    let unsupported = || EnvError::Field { path: path.to_owned() };
    if let Some((map, key)) = path.split_once("['").and_then(|(map, key)| Some((map, key.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(unsupported()),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => namespace(pod),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => listing(meta.labels.as_ref()),
        "metadata.annotations" => listing(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        _ => return Err(unsupported()),
    })
}

/// `key="value"` lines, as the downward API writes whole maps.
fn listing(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
///
/// # Errors
/// When containers have no such resource.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    facts: &NodeFacts,
) -> Result<String, EnvError> {
    let unsupported = || EnvError::Resource { resource: field.resource.clone() };
    let named = field.container_name.as_ref().and_then(|name| {
        let spec = pod.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| &c.name == name)
    });
    let resources = named.unwrap_or(container).resources.as_ref();
    let (list, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let declared = |list: &str| {
        let amounts = match list {
            "limits" => resources.and_then(|r| r.limits.as_ref()),
            _ => resources.and_then(|r| r.requests.as_ref()).or_else(|| resources.and_then(|r| r.limits.as_ref())),
        };
        amounts.and_then(|amounts| amounts.get(resource)).map(|quantity| quantity.0.clone())
    };
    if !matches!(list, "limits" | "requests") {
        return Err(unsupported());
    }
    let in_milli = resource == "cpu";
    let fallback = match (list, resource) {
        ("limits", "cpu") => facts.allocatable_cpu_milli,
        ("limits", "memory") => facts.allocatable_memory_bytes,
        (_, "cpu" | "memory" | "ephemeral-storage") => 0,
        _ if resource.starts_with("hugepages-") => 0,
        _ => return Err(unsupported()),
    };
    let read = |text: &str| quantity::amount(resource, text).ok();
    let amount = declared(list).and_then(|text| read(&text)).unwrap_or(fallback);
    let divisor = field.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor = read(divisor).filter(|divisor| *divisor > 0).unwrap_or(if in_milli { 1_000 } else { 1 });
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": containers}
        }))
        .expect("a pod")
    }

    fn env_of(env: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String)>, EnvError> {
        let pod = pod(json!([{"name": "c", "env": env, "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}]));
        let facts = NodeFacts { pod_ip: "127.1.2.3".into(), node_name: "n".into(), ..NodeFacts::default() };
        container_env(&pod, &pod.spec.as_ref().expect("a spec").containers[0], sources, &facts)
    }

    fn value(env: &[(String, String)], name: &str) -> String {
        env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).expect(name)
    }

    #[test]
    fn expansion_follows_kubernetes() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expanded) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("x$", "x$"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &lookup), expanded, "{text}");
        }
    }

    #[test]
    fn variables_see_those_before_them() {
        let env = env_of(
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)/$(C)"}, {"name": "C", "value": "3"},
                   {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                   {"name": "URL", "value": "tcp://$(IP):80"},
                   {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                   {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                   {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}}]),
            &Sources::default(),
        )
        .expect("an environment");
        assert_eq!(value(&env, "B"), "1/$(C)");
        assert_eq!(value(&env, "URL"), "tcp://127.1.2.3:80");
        assert_eq!(value(&env, "L"), "x");
        assert_eq!(value(&env, "CPU"), "2");
        assert_eq!(value(&env, "MEM"), "1024");
    }

    #[test]
    fn missing_sources_are_named_unless_optional() {
        let key = |optional: bool| json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": optional}}}]);
        let error = env_of(key(false), &Sources::default()).expect_err("it is not there");
        assert!(error.to_string().contains("configmap \"m\" not found"), "{error}");
        assert!(env_of(key(true), &Sources::default()).expect("optional").is_empty());
        let mut sources = Sources::default();
        sources.config_maps.insert("m".into(), BTreeMap::new());
        assert!(matches!(env_of(key(false), &sources), Err(EnvError::MissingKey { .. })));
    }

    proptest! {
        #[test]
        fn text_without_dollars_is_itself(text in "[^$]{0,60}") {
            prop_assert_eq!(expand(&text, &|_| None), text);
        }

        #[test]
        fn escaping_undoes_expansion(text in "\\PC{0,60}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &|_| Some("x".into())), text);
        }
    }
}

//! Reading a manifest section by section, so that one mistake does not hide the others.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trainyard_proto::kind::KindInfo;
use trainyard_proto::plan::ObjectRef;

use crate::diagnostic::Diagnostic;
use trainyard_proto::quantity;

/// Most pods that one job may have. Far above what one coordinator was measured with, and low enough that a slip of the
/// pen (`replicas: 1000000`) does not fill the store.
pub(super) const MAX_REPLICAS: i32 = 16_384;

/// Longest DNS label: the limit on service names, and so on `<job>-<role>-<index>`.
const MAX_LABEL: usize = 63;

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Diagnostic>,
}

impl Findings {
    pub(super) fn add(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// The value as a type; what does not fit is a finding with the path inside it.
    pub(super) fn read<T: DeserializeOwned>(&mut self, value: &Value, path: &str) -> Option<T> {
        match serde_path_to_error::deserialize(value) {
            Ok(read) => Some(read),
            Err(error) => {
                let inner = error.path().to_string();
                let path = if inner == "." { path.to_owned() } else { join(path, &inner) };
                self.add(Diagnostic::new(path, error.into_inner().to_string()));
                None
            }
        }
    }

    /// The value of an optional field.
    pub(super) fn field<T: DeserializeOwned>(&mut self, parent: &Value, path: &str, name: &str) -> Option<T> {
        let value = parent.get(name).filter(|value| !value.is_null())?;
        self.read(value, &join(path, name))
    }

    /// A number that must not be negative.
    pub(super) fn not_negative(&mut self, number: Option<i64>, path: &str) {
        if number.is_some_and(|number| number < 0) {
            self.add(Diagnostic::new(path, "must not be negative").hint("write 0 or more, or leave it out"));
        }
    }

    /// One of a closed list of words.
    pub(super) fn one_of<T: Copy>(&mut self, word: Option<&str>, path: &str, table: &[(&str, T)], default: T) -> T {
        let Some(word) = word else { return default };
        if let Some((_, value)) = table.iter().find(|(name, _)| *name == word) {
            return *value;
        }
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        self.add(
            Diagnostic::new(path, format!("`{word}` is not known")).hint(format!("write one of {}", names.join(", "))),
        );
        default
    }

    /// The model, or all findings in the order of their paths.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<Diagnostic>> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => {
                self.list.sort();
                self.list.dedup();
                Err(self.list)
            }
        }
    }
}

/// A path one step longer.
pub(super) fn join(path: &str, step: &str) -> String {
    if path.is_empty() || step.starts_with('[') { format!("{path}{step}") } else { format!("{path}.{step}") }
}

/// Who the job is.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) owner: ObjectRef,
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) namespace: String,
}

/// Reads the metadata and checks the name, from which pods and services are named.
pub(super) fn head(job: &Value, info: &KindInfo, findings: &mut Findings) -> Option<Head> {
    let metadata: ObjectMeta = findings.field(job, "", "metadata").unwrap_or_default();
    let name = metadata.name.unwrap_or_default();
    if name.is_empty() {
        if metadata.generate_name.is_none() {
            findings.add(Diagnostic::new("metadata.name", "is missing").hint("give the job a name"));
        }
    } else if !is_dns_label(&name) {
        findings.add(
            Diagnostic::new("metadata.name", format!("`{name}` is not a DNS label"))
                .hint("use lower-case letters, digits and `-`, begin with a letter, end with a letter or digit, at most 63 characters"),
        );
    }
    let namespace =
        metadata.namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned());
    let owner = ObjectRef {
        api_version: info.api_version.to_owned(),
        kind: info.kind.to_owned(),
        namespace: namespace.clone(),
        name: name.clone(),
    };
    Some(Head { owner, uid: metadata.uid.unwrap_or_default(), name, namespace })
}

/// The object of these coordinates. One that was never stored may lack its namespace.
pub(super) fn find<'objects>(objects: &'objects [Value], wanted: &ObjectRef) -> Option<&'objects Value> {
    let text = |object: &'objects Value, path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    objects.iter().find(|object| {
        text(object, "/kind") == wanted.kind
            && text(object, "/metadata/name") == wanted.name
            && ["", wanted.namespace.as_str()].contains(&text(object, "/metadata/namespace"))
    })
}

/// Kind and name of an object.
pub(super) fn title(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

/// The controller that a job names in its `managedBy`, unless it is one of `own`.
pub(super) fn foreign_manager(job: &Value, pointer: &str, own: &[&str]) -> Option<String> {
    let name = job.pointer(pointer)?.as_str()?;
    (!name.is_empty() && !own.contains(&name)).then(|| name.to_owned())
}

/// RFC 1035: a letter, then letters, digits and dashes, not ending in a dash.
fn is_dns_label(name: &str) -> bool {
    name.len() <= MAX_LABEL
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.ends_with('-')
}

/// Checks that the longest name made from the job's is still a name.
pub(super) fn check_pod_name(longest: &str, findings: &mut Findings) {
    if longest.len() > MAX_LABEL {
        findings.add(
            Diagnostic::new(
                "metadata.name",
                format!("the pod and service name `{longest}` is longer than {MAX_LABEL} characters"),
            )
            .hint(format!("make the job's name at least {} characters shorter", longest.len() - MAX_LABEL)),
        );
    }
}

/// Checks a pod as an API server would. `place` turns a path below the pod's `spec` into one of the job.
pub(super) fn check_pod(spec: &PodSpec, place: &dyn Fn(&str) -> String, findings: &mut Findings) {
    for diagnostic in super::pod::check(spec) {
        findings.add(Diagnostic { path: place(&diagnostic.path), ..diagnostic });
    }
}

/// Checks the quantities of a container.
pub(super) fn check_container_resources(container: &Container, path: &str, found: &mut Vec<Diagnostic>) {
    let Some(resources) = &container.resources else { return };
    let empty = BTreeMap::new();
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    for (group, amounts) in [("requests", requests), ("limits", limits)] {
        for (name, amount) in amounts {
            match quantity::amount(name, &amount.0) {
                Ok(number) if number < 0 => {
                    found.push(Diagnostic::new(format!("{path}.{group}.{name}"), "must not be negative"));
                }
                Ok(_) => {}
                Err(error) => found.push(Diagnostic::new(format!("{path}.{group}.{name}"), error.to_string())),
            }
        }
    }
    for (name, request) in requests {
        if exceeds(name, request, limits.get(name)) {
            found.push(
                Diagnostic::new(format!("{path}.requests.{name}"), "is more than the limit")
                    .hint("lower it, or raise the limit"),
            );
        }
    }
}

fn exceeds(name: &str, request: &Quantity, limit: Option<&Quantity>) -> bool {
    let amount = |quantity: &Quantity| quantity::amount(name, &quantity.0).ok();
    limit.and_then(amount).zip(amount(request)).is_some_and(|(limit, request)| request > limit)
}

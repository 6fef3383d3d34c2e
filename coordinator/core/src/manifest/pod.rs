//! What an API server would refuse in a pod. Found when the manifest is lowered, it is told with the place in the job;
//! found later, it would be a pod that cannot be created, again and again.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use super::read::check_container_resources;
use crate::diagnostic::Diagnostic;

/// Longest DNS label.
const MAX_LABEL: usize = 63;
/// Longest name of a port (RFC 6335).
const MAX_PORT_NAME: usize = 15;

/// Everything that is wrong with a pod, with paths that begin below its `spec`.
pub(super) fn check(spec: &PodSpec) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        check_name(&volume.name, &format!("volumes[{index}].name"), "volume", &mut volumes, &mut found);
    }
    let mut containers = BTreeSet::new();
    let groups = [("initContainers", spec.init_containers.as_ref()), ("containers", Some(&spec.containers))];
    for (group, list) in groups {
        for (index, container) in list.into_iter().flatten().enumerate() {
            let path = format!("{group}[{index}]");
            check_name(&container.name, &format!("{path}.name"), "container", &mut containers, &mut found);
            check_container(container, &path, &volumes, &mut found);
        }
    }
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        found.push(Diagnostic::new("terminationGracePeriodSeconds", "must not be negative"));
    }
    found
}

fn check_name<'spec>(
    name: &'spec str,
    path: &str,
    noun: &str,
    known: &mut BTreeSet<&'spec str>,
    found: &mut Vec<Diagnostic>,
) {
    if name.is_empty() {
        found.push(Diagnostic::new(path, "is missing").hint(format!("give the {noun} a name")));
    } else if !is_label(name) {
        found.push(
            Diagnostic::new(path, format!("`{name}` is not a DNS label"))
                .hint(format!("use lower-case letters, digits and `-`, at most {MAX_LABEL} characters")),
        );
    } else if !known.insert(name) {
        found.push(
            Diagnostic::new(path, format!("`{name}` is the name of another {noun}"))
                .hint(format!("give each {noun} a name of its own")),
        );
    }
}

/// RFC 1123.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_LABEL
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}

fn check_container(container: &Container, path: &str, volumes: &BTreeSet<&str>, found: &mut Vec<Diagnostic>) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let name = variable.name.as_str();
        if name.is_empty() || name.contains('=') || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            found.push(
                Diagnostic::new(format!("{path}.env[{index}].name"), format!("`{name}` is not the name of a variable"))
                    .hint("use printable ASCII characters other than `=`"),
            );
        }
    }
    check_mounts(container, path, volumes, found);
    check_ports(container.ports.as_deref().unwrap_or_default(), path, found);
    if let Some(policy) = &container.image_pull_policy
        && !["Always", "IfNotPresent", "Never"].contains(&policy.as_str())
    {
        found.push(
            Diagnostic::new(format!("{path}.imagePullPolicy"), format!("`{policy}` is not known"))
                .hint("write one of Always, IfNotPresent, Never"),
        );
    }
    check_container_resources(container, &format!("{path}.resources"), found);
}

fn check_mounts(container: &Container, path: &str, volumes: &BTreeSet<&str>, found: &mut Vec<Diagnostic>) {
    let mut places = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(mount.name.as_str()) {
            found.push(
                Diagnostic::new(format!("{path}.name"), format!("there is no volume `{}`", mount.name))
                    .hint("describe it among the volumes, or name another"),
            );
        }
        if mount.mount_path.is_empty() {
            found.push(Diagnostic::new(format!("{path}.mountPath"), "is missing"));
        } else if !places.insert(mount.mount_path.as_str()) {
            let message = format!("`{}` has another volume already", mount.mount_path);
            found.push(Diagnostic::new(format!("{path}.mountPath"), message));
        }
    }
}

fn check_ports(ports: &[ContainerPort], path: &str, found: &mut Vec<Diagnostic>) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        for (field, number) in [("containerPort", Some(port.container_port)), ("hostPort", port.host_port)] {
            if number.is_some_and(|number| !(1..=65535).contains(&number)) {
                found.push(
                    Diagnostic::new(format!("{path}.{field}"), "is not a port").hint("write a number from 1 to 65535"),
                );
            }
        }
        if let Some(protocol) = &port.protocol
            && !["TCP", "UDP", "SCTP"].contains(&protocol.as_str())
        {
            found.push(
                Diagnostic::new(format!("{path}.protocol"), format!("`{protocol}` is not known"))
                    .hint("write one of TCP, UDP, SCTP"),
            );
        }
        let Some(name) = port.name.as_deref() else { continue };
        if !is_port_name(name) {
            found.push(Diagnostic::new(format!("{path}.name"), format!("`{name}` is not the name of a port")).hint(
                format!("use lower-case letters, digits and `-`, with a letter, at most {MAX_PORT_NAME} characters"),
            ));
        } else if !names.insert(name) {
            found.push(Diagnostic::new(format!("{path}.name"), format!("`{name}` is the name of another port")));
        }
    }
}

/// RFC 6335.
fn is_port_name(name: &str) -> bool {
    name.len() <= MAX_PORT_NAME
        && is_label(name)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
}

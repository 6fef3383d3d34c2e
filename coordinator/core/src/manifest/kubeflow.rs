//! What the dialects of `kubeflow.org/v1` share: replica specs, run policy, names, labels, services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, PodTemplateSpec, ServicePort};
use serde_json::Value;
use trainyard_proto::kubeflow::common::{ReplicaSpec, RunPolicy};

use super::read::{self, Findings, Head};
use crate::diagnostic::Diagnostic;
use crate::label;
use crate::model::{CleanPods, EnvInto, Policy, Replica, RestartRule, Role, Scheduler, ServiceModel, Warning};

/// What tells one dialect's replica map from another's.
#[derive(Debug)]
pub(super) struct Shape {
    /// Field of the spec.
    pub(super) map: &'static str,
    /// Roles in rank order.
    pub(super) roles: &'static [&'static str],
    /// The container that trains.
    pub(super) container: &'static str,
    /// Name of its port.
    pub(super) port_name: &'static str,
    /// Number of its port.
    pub(super) port: u16,
    /// Restart policy of a replica that names none.
    pub(super) restart: RestartRule,
    /// `training.kubeflow.org/operator-name`.
    pub(super) operator: &'static str,
    /// Values of `managedBy` that mean this controller.
    pub(super) managed_by: &'static [&'static str],
}

/// One role as the user wrote it, checked, with the defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct RoleSpec {
    pub(super) name: &'static str,
    pub(super) path: String,
    /// What the user wrote, if anything.
    pub(super) written: Option<i32>,
    pub(super) replicas: u32,
    pub(super) template: PodTemplateSpec,
    pub(super) restart: RestartRule,
    /// Port number that the user gave to the default port, if any.
    pub(super) port: Option<u16>,
}

/// The words of `restartPolicy`.
pub(super) const RESTART_RULES: &[(&str, RestartRule)] = &[
    ("Always", RestartRule::Always),
    ("OnFailure", RestartRule::OnFailure),
    ("Never", RestartRule::Never),
    ("ExitCode", RestartRule::ExitCode),
];

/// The words of `cleanPodPolicy`.
pub(super) const CLEAN_PODS: &[(&str, CleanPods)] =
    &[("None", CleanPods::None), ("Running", CleanPods::Running), ("All", CleanPods::All), ("", CleanPods::None)];

/// Reads the replica map: all roles that the user wrote, in rank order.
pub(super) fn roles(
    spec: &Value,
    shape: &Shape,
    warnings: &mut Vec<Warning>,
    findings: &mut Findings,
) -> Vec<RoleSpec> {
    let path = format!("spec.{}", shape.map);
    let Some(map) = spec.get(shape.map).and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        findings.add(
            Diagnostic::new(path, "is missing").hint(format!("describe at least one of {}", shape.roles.join(", "))),
        );
        return Vec::new();
    };
    for key in map.keys().filter(|key| !shape.roles.contains(&key.as_str())) {
        let canonical = shape.roles.iter().find(|role| role.eq_ignore_ascii_case(key));
        let hint = canonical
            .map_or_else(|| format!("write one of {}", shape.roles.join(", ")), |role| format!("write `{role}`"));
        findings
            .add(Diagnostic::new(format!("{path}.{key}"), format!("`{key}` is not a role of this kind")).hint(hint));
    }
    let specs: Vec<RoleSpec> = shape
        .roles
        .iter()
        .filter_map(|name| map.get(*name).map(|value| (*name, value)))
        .filter_map(|(name, value)| role(name, value, format!("{path}.{name}"), shape, warnings, findings))
        .collect();
    let total: i64 = specs.iter().map(|spec| i64::from(spec.replicas)).sum();
    if total > i64::from(read::MAX_REPLICAS) {
        findings.add(Diagnostic::new(path, format!("asks for {total} replicas, more than {}", read::MAX_REPLICAS)));
    }
    specs
}

fn role(
    name: &'static str,
    value: &Value,
    path: String,
    shape: &Shape,
    warnings: &mut Vec<Warning>,
    findings: &mut Findings,
) -> Option<RoleSpec> {
    let read: ReplicaSpec = findings.read(value, &path)?;
    findings.not_negative(read.replicas.map(i64::from), &format!("{path}.replicas"));
    let replicas = read.replicas.map_or(1, |replicas| u32::try_from(replicas).unwrap_or(0));
    let restart =
        findings.one_of(read.restart_policy.as_deref(), &format!("{path}.restartPolicy"), RESTART_RULES, shape.restart);
    let mut template = read.template.unwrap_or_default();
    let containers = template.spec.get_or_insert_default();
    check_containers(containers, &path, shape, findings);
    read::check_pod(containers, &|below| format!("{path}.template.spec.{below}"), findings);
    let port = default_port(containers, shape);
    if containers.restart_policy.is_some() {
        warnings.push(Warning {
            reason: "SetPodTemplateRestartPolicy".to_owned(),
            message: format!("{path}.template.spec.restartPolicy is overwritten by {path}.restartPolicy"),
        });
    }
    containers.restart_policy = Some(pod_restart_policy(restart).to_owned());
    Some(RoleSpec { name, path, written: read.replicas, replicas, template, restart, port })
}

fn check_containers(spec: &PodSpec, path: &str, shape: &Shape, findings: &mut Findings) {
    let path = format!("{path}.template.spec.containers");
    if spec.containers.is_empty() {
        findings.add(Diagnostic::new(path, "is missing").hint(format!("add a container named `{}`", shape.container)));
        return;
    }
    if !spec.containers.iter().any(|container| container.name == shape.container) {
        findings.add(
            Diagnostic::new(path.clone(), format!("has no container named `{}`", shape.container))
                .hint(format!("name the container that trains `{}`", shape.container)),
        );
    }
    for (index, container) in spec.containers.iter().enumerate() {
        if container.image.as_deref().unwrap_or_default().is_empty() {
            findings.add(
                Diagnostic::new(format!("{path}[{index}].image"), "is missing")
                    .hint("name an image; where pods are processes it is not used"),
            );
        }
    }
}

/// What the pod's own `restartPolicy` becomes.
pub(super) const fn pod_restart_policy(rule: RestartRule) -> &'static str {
    match rule {
        RestartRule::Always => "Always",
        RestartRule::OnFailure => "OnFailure",
        RestartRule::Never | RestartRule::ExitCode => "Never",
    }
}

fn main_container<'spec>(spec: &'spec PodSpec, shape: &Shape) -> Option<&'spec Container> {
    spec.containers.iter().find(|container| container.name == shape.container)
}

/// The number that the user gave to the port of this name.
fn default_port(spec: &PodSpec, shape: &Shape) -> Option<u16> {
    let ports = main_container(spec, shape)?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(shape.port_name))?;
    u16::try_from(port.container_port).ok()
}

/// Appends the default port to the container that trains (or to the first), unless it is there.
fn append_port(spec: &mut PodSpec, shape: &Shape) {
    let index = spec.containers.iter().position(|container| container.name == shape.container).unwrap_or(0);
    if let Some(container) = spec.containers.get_mut(index) {
        container.ports.get_or_insert_default().push(ContainerPort {
            name: Some(shape.port_name.to_owned()),
            container_port: i32::from(shape.port),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        });
    }
}

/// Reads the run policy.
pub(super) fn policy(spec: &Value, total: u32, warnings: &mut Vec<Warning>, findings: &mut Findings) -> Policy {
    let run: RunPolicy = findings.field(spec, "spec", "runPolicy").unwrap_or_default();
    let path = "spec.runPolicy";
    findings.not_negative(run.ttl_seconds_after_finished.map(i64::from), &format!("{path}.ttlSecondsAfterFinished"));
    findings.not_negative(run.active_deadline_seconds, &format!("{path}.activeDeadlineSeconds"));
    findings.not_negative(run.backoff_limit.map(i64::from), &format!("{path}.backoffLimit"));
    let clean_pods = findings.one_of(
        run.clean_pod_policy.as_deref(),
        &format!("{path}.cleanPodPolicy"),
        CLEAN_PODS,
        CleanPods::None,
    );
    let scheduling = run.scheduling_policy.unwrap_or_default();
    // The gang scheduler adds the pods' own requests up, and a gang waits for as long as it takes.
    for (name, given) in [
        ("minResources", scheduling.min_resources.is_some()),
        ("scheduleTimeoutSeconds", scheduling.schedule_timeout_seconds.is_some()),
    ] {
        if given {
            warnings.push(Warning::ignored(&format!("{path}.schedulingPolicy.{name}")));
        }
    }
    let min_available = scheduling.min_available.map_or(total, |number| u32::try_from(number).unwrap_or(0));
    if scheduling.min_available.is_some_and(|number| number < 1) || min_available > total {
        findings.add(
            Diagnostic::new(
                format!("{path}.schedulingPolicy.minAvailable"),
                format!("must be from 1 to {total}, the number of replicas"),
            )
            .hint("leave it out to start all replicas together"),
        );
    }
    Policy {
        clean_pods,
        ttl_ms: run.ttl_seconds_after_finished.map(|seconds| i64::from(seconds) * 1000),
        active_deadline_ms: run.active_deadline_seconds.map(|seconds| seconds.saturating_mul(1000)),
        backoff_limit: run.backoff_limit.and_then(|limit| u32::try_from(limit).ok()),
        suspend: run.suspend.unwrap_or(false),
        min_available,
        queue: scheduling.queue,
        priority: None,
        priority_class: scheduling.priority_class,
        scheduler: Scheduler::Trainyard,
    }
}

/// The four labels of a replica.
pub(super) fn labels(head: &Head, operator: &str, role: &str, index: u32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::OPERATOR_NAME.to_owned(), operator.to_owned()),
        (label::JOB_NAME.to_owned(), head.name.clone()),
        (label::REPLICA_TYPE.to_owned(), role.to_lowercase()),
        (label::REPLICA_INDEX.to_owned(), index.to_string()),
    ])
}

/// `<job>-<role>-<index>`.
pub(super) fn replica_name(head: &Head, role: &str, index: u32) -> String {
    format!("{}-{}-{index}", head.name, role.to_lowercase()).replace('/', "-")
}

/// Selector of a role's pods, in text form with sorted keys.
pub(super) fn selector(head: &Head, operator: &str, role: &str) -> String {
    format!(
        "{}={},{}={operator},{}={}",
        label::JOB_NAME,
        head.name,
        label::OPERATOR_NAME,
        label::REPLICA_TYPE,
        role.to_lowercase()
    )
}

/// The role of the model, with a service for each of its replicas. `shared_port` says whether the default port is the one on
/// which the ranks meet, so that another number may be filled in.
pub(super) fn lower_role(
    head: &Head,
    shape: &Shape,
    mut spec: RoleSpec,
    first_rank: u32,
    shared_port: bool,
) -> (Role, Vec<ServiceModel>) {
    let appended = spec.port.is_none();
    let pod = spec.template.spec.get_or_insert_default();
    if appended {
        append_port(pod, shape);
    }
    let port_name = (appended && shared_port).then(|| shape.port_name.to_owned());
    let ports = service_ports(pod, shape);
    let replicas: Vec<Replica> = (0..spec.replicas)
        .map(|index| Replica {
            name: replica_name(head, spec.name, index),
            index,
            node_rank: first_rank + index,
            labels: labels(head, shape.operator, spec.name, index),
            env: Vec::new(),
            hostname: None,
        })
        .collect();
    let services = replicas
        .iter()
        .map(|replica| ServiceModel {
            name: replica.name.clone(),
            labels: replica.labels.clone(),
            selector: replica.labels.clone(),
            ports: ports.clone(),
            port_name: port_name.clone(),
            publish_not_ready: false,
        })
        .collect();
    let role = Role {
        name: spec.name.to_owned(),
        template: spec.template,
        replicas,
        restart: spec.restart,
        main_container: shape.container.to_owned(),
        env_into: EnvInto::All,
        port_name,
        selector: selector(head, shape.operator, spec.name),
    };
    (role, services)
}

/// All named ports of the container that trains.
fn service_ports(spec: &PodSpec, shape: &Shape) -> Vec<ServicePort> {
    let container = main_container(spec, shape).or_else(|| spec.containers.first());
    container
        .into_iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.name.is_some())
        .map(|port| ServicePort {
            name: port.name.clone(),
            port: port.container_port,
            protocol: port.protocol.clone(),
            ..ServicePort::default()
        })
        .collect()
}

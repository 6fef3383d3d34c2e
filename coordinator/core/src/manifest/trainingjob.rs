//! TrainingJob of `trainyard.dev/v1alpha1`.
//!
//! One role, `Worker`; every pod runs `trainyard launch -- <command>`, which starts the ranks. A failed rank takes the whole
//! gang with it, since data-parallel peers cannot go on without it; so pods never restart by themselves, and a restart is a
//! new generation of all of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize as _;
use serde_json::Value;
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::trainyard::{
    Amount, MAX_PROCS_PER_REPLICA, Resources, TrainingJob, TrainingJobSpec, TrainingJobStatus,
};

use super::Dialect;
use super::kubeflow::{self, RoleSpec, Shape};
use super::read::{self, Findings, Head, join};
use super::recovery::{self, Size, Terms};
use super::{meeting, scheduler, status, torchrun};
use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::label;
use crate::model::{
    CleanPods, EnvModel, EnvValue, JobModel, Policy, PortWish, ReplicaKey, RestartRule, RestartScope, Role, Scheduler,
    ServiceModel, SuccessRule, Warning,
};
use crate::view::Config;

/// Restarts of a job that names no `backoffLimit`: enough for a hiccup, few enough that a broken program ends soon.
const DEFAULT_BACKOFF_LIMIT: u32 = 3;

/// The container that runs the program.
const CONTAINER: &str = "trainer";

/// What runs the program.
const LAUNCH: [&str; 3] = ["trainyard", "launch", "--"];

/// Resource name of GPUs.
const GPU: &str = "nvidia.com/gpu";

const SHAPE: Shape = Shape {
    map: "",
    roles: &["Worker"],
    container: CONTAINER,
    port_name: "trainyard-port",
    port: 29500,
    restart: RestartRule::Never,
    operator: "trainingjob-controller",
    managed_by: &[label::MANAGED_BY],
};

/// The dialect of TrainingJob.
#[derive(Debug)]
pub struct TrainingJobs;

impl Dialect for TrainingJobs {
    fn info(&self) -> &'static KindInfo {
        const { &<TrainingJob as CustomKind>::INFO }
    }

    fn operator_name(&self) -> &'static str {
        SHAPE.operator
    }

    fn managed_by(&self, job: &Value) -> Option<String> {
        read::foreign_manager(job, "/spec/managedBy", SHAPE.managed_by)
    }

    fn is_known_to_kueue(&self) -> bool {
        false
    }

    fn shows_launchers(&self) -> bool {
        true
    }

    fn lower(&self, job: &Value, _related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
        lower(job, config)
    }

    fn read_status(&self, job: &Value) -> Lifecycle {
        let own = own_status(job);
        Lifecycle { message: own.message, ..status::read(job) }
    }

    fn render_status(&self, job: &Value, change: &StatusChange) -> Value {
        render_status(job, self.info().kind, change)
    }
}

fn own_status(job: &Value) -> TrainingJobStatus {
    job.get("status").and_then(|status| TrainingJobStatus::deserialize(status).ok()).unwrap_or_default()
}

fn render_status(job: &Value, kind: &str, change: &StatusChange) -> Value {
    let present = own_status(job);
    let common = status::advance(&status::status_of(job), kind, change);
    let of_launchers = meeting::render(change, &present);
    let next = TrainingJobStatus {
        phase: Some(change.phase.name().to_owned()),
        conditions: common.conditions,
        replica_statuses: common.replica_statuses,
        start_time: common.start_time,
        completion_time: common.completion_time,
        progress: change
            .progress
            .as_ref()
            .and_then(|value| serde_json::from_value(value.clone()).ok())
            .or(present.progress),
        exit_code: change.exit_code,
        message: change.message.clone(),
        restarts: Some(i32::try_from(change.restarts).unwrap_or(i32::MAX)),
        ranks: change.ranks.map(|ranks| i32::try_from(ranks).unwrap_or(i32::MAX)).or(present.ranks),
        checkpoint: change
            .checkpoint
            .as_ref()
            .and_then(|value| serde_json::from_value(value.clone()).ok())
            .or(present.checkpoint),
        ..of_launchers
    };
    serde_json::to_value(next).expect("a status of strings, numbers and times serialises")
}

/// The model of a TrainingJob.
///
/// # Errors
/// With everything that is wrong with it.
pub fn lower(job: &Value, config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let model = lower_into(job, config, &mut findings);
    findings.finish(model)
}

fn lower_into(job: &Value, config: &Config, findings: &mut Findings) -> Option<JobModel> {
    let head = read::head(job, TrainingJobs.info(), findings)?;
    let written = job.get("spec").filter(|spec| spec.is_object());
    let Some(written) = written else {
        findings.add(Diagnostic::new("spec", "is missing").hint("write at least `command: [program, argument, …]`"));
        return None;
    };
    let spec: TrainingJobSpec = findings.read(written, "spec")?;
    let checkpoint = recovery::checkpoint(spec.checkpoint.as_ref(), findings);
    let size = Size::read(spec.replicas, spec.elastic.as_ref(), read::MAX_REPLICAS, findings);
    let replicas = size.replicas;
    let nproc = nproc(spec.procs_per_replica.as_ref(), findings);
    let restart = findings.one_of(
        spec.restart_policy.as_deref(),
        "spec.restartPolicy",
        kubeflow::RESTART_RULES,
        RestartRule::Never,
    );
    let preflight = spec.preflight.unwrap_or(false);
    let terms = Terms { preflight, ..Terms::read(spec.recovery.as_ref(), findings) };
    let mut policy = policy(&spec, replicas, findings);
    let mut template = template(&spec, config, findings);
    let mut warnings = choose_scheduler(job, &spec, &template, config, &mut policy, findings);
    read::check_pod_name(&kubeflow::replica_name(&head, "Worker", replicas.saturating_sub(1)), findings);
    if !findings.list.is_empty() {
        return None;
    }
    let spec_of_pod = template.spec.clone().unwrap_or_default();
    let rendezvous = recovery::address(config, &spec_of_pod).filter(|_| terms.in_place);
    let notes = rendezvous.and_then(|_| replace_torchrun(job, &mut template)).into_iter().collect();
    if rendezvous.is_some() {
        policy.min_available = size.least;
    } else if spec.elastic.is_some() {
        warnings.push(Warning::ignored("spec.elastic"));
    }
    let port = fixed_port(&template).map_or(PortWish::Default(SHAPE.port), PortWish::Fixed);
    let (mut role, services) = lower_role(&head, spec.replicas, replicas, template, restart);
    let told = recovery::Told {
        head: &head,
        terms: &terms,
        rendezvous,
        max_restarts: if restart == RestartRule::Never { 0 } else { policy.backoff_limit.unwrap_or(u32::MAX) },
        grace_seconds: role.template.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds),
    };
    for replica in &mut role.replicas {
        replica.env = env(&told, replicas, &nproc, replica.node_rank);
        replica.env.extend(checkpoint.iter().cloned());
    }
    if let Some(leader) = role.replicas.first_mut() {
        leader.labels.insert(label::JOB_ROLE.to_owned(), "master".to_owned());
    }
    Some(JobModel {
        owner: head.owner,
        uid: head.uid,
        roles: vec![role],
        services,
        extras: Vec::new(),
        port,
        success: if rendezvous.is_some() && size.least < replicas { SuccessRule::Elastic } else { SuccessRule::All },
        restart_scope: RestartScope::Gang,
        leader: ReplicaKey { role: 0, index: 0 },
        ranks: nproc.parse::<u32>().ok().map(|nproc| nproc.saturating_mul(replicas)),
        rendezvous: rendezvous.map(|_| recovery::config(&terms, restart, policy.backoff_limit, size)),
        policy,
        notes,
        warnings,
    })
}

/// The one role, whose replicas are not told of each other yet. Only the first has a service: ranks are told its name alone, and of a
/// job of ten thousand pods as many services would be a third of all that is written for it.
fn lower_role(
    head: &Head,
    written: Option<i32>,
    replicas: u32,
    template: PodTemplateSpec,
    restart: RestartRule,
) -> (Role, Vec<ServiceModel>) {
    let port = fixed_port(&template);
    let role = RoleSpec { name: "Worker", path: "spec".to_owned(), written, replicas, port, template, restart };
    let (mut role, mut services) = kubeflow::lower_role(head, &SHAPE, role, 0, true);
    services.truncate(1);
    role.main_container = main_name(&role.template);
    (role, services)
}

/// Puts our launcher in torchrun's place, unless the job keeps it.
fn replace_torchrun(job: &Value, template: &mut PodTemplateSpec) -> Option<Warning> {
    let main = main_name(template);
    let containers = &mut template.spec.as_mut()?.containers;
    let container = containers.iter_mut().find(|container| container.name == main)?;
    let mut own = container.clone();
    // What the user wrote is behind our launcher.
    own.command = own.command.map(|command| command.into_iter().skip(LAUNCH.len()).collect());
    let note = torchrun::replace(&mut own).filter(|_| !torchrun::is_kept(job))?;
    *container = own;
    Some(note)
}

fn nproc(written: Option<&IntOrString>, findings: &mut Findings) -> String {
    let text = match written {
        None => return "1".to_owned(),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(text)) => text.clone(),
    };
    if !["auto", "cpu", "gpu"].contains(&text.as_str())
        && !text.parse().is_ok_and(|number| (1..=MAX_PROCS_PER_REPLICA).contains(&number))
    {
        findings.add(
            Diagnostic::new("spec.procsPerReplica", format!("`{text}` is not known"))
                .hint(format!("write a number from 1 to {MAX_PROCS_PER_REPLICA}, auto, cpu or gpu")),
        );
    }
    text
}

fn policy(spec: &TrainingJobSpec, replicas: u32, findings: &mut Findings) -> Policy {
    findings.not_negative(spec.ttl_seconds_after_finished.map(i64::from), "spec.ttlSecondsAfterFinished");
    findings.not_negative(spec.active_deadline_seconds, "spec.activeDeadlineSeconds");
    findings.not_negative(spec.backoff_limit.map(i64::from), "spec.backoffLimit");
    let clean_pods = findings.one_of(
        spec.clean_pod_policy.as_deref(),
        "spec.cleanPodPolicy",
        kubeflow::CLEAN_PODS,
        CleanPods::Running,
    );
    let (priority, priority_class) = match &spec.priority {
        Some(IntOrString::Int(number)) => (Some(*number), None),
        Some(IntOrString::String(class)) => (None, Some(class.clone())),
        None => (None, None),
    };
    Policy {
        clean_pods,
        ttl_ms: spec.ttl_seconds_after_finished.map(|seconds| i64::from(seconds) * 1000),
        active_deadline_ms: spec.active_deadline_seconds.map(|seconds| seconds.saturating_mul(1000)),
        backoff_limit: Some(
            spec.backoff_limit.map_or(DEFAULT_BACKOFF_LIMIT, |limit| u32::try_from(limit).unwrap_or(0)),
        ),
        suspend: spec.suspend.unwrap_or(false),
        min_available: replicas,
        queue: spec.queue.clone(),
        priority,
        priority_class,
        scheduler: Scheduler::Trainyard,
    }
}

/// Who lets the pods go. Kueue knows queues by their names, and priorities as numbers.
fn choose_scheduler(
    job: &Value,
    spec: &TrainingJobSpec,
    template: &PodTemplateSpec,
    config: &Config,
    policy: &mut Policy,
    findings: &mut Findings,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let field = spec.scheduler.as_deref();
    policy.scheduler = scheduler::read(job, field, [template], config, &mut warnings, findings);
    if policy.scheduler != Scheduler::Kueue {
        return warnings;
    }
    policy.queue = policy.queue.take().or_else(|| scheduler::kueue_queue(job));
    if policy.queue.is_none() {
        findings.add(
            Diagnostic::new("spec.queue", "is missing").hint("name the LocalQueue of Kueue in which the job waits"),
        );
    }
    if policy.priority_class.is_some() {
        let message = "spec.priority names a class, and Kueue is told of numbers only".to_owned();
        warnings.push(Warning { reason: "FieldIgnored".to_owned(), message });
    }
    warnings
}

/// The pod template: the user's, with the fields of the spec laid over it.
fn template(spec: &TrainingJobSpec, config: &Config, findings: &mut Findings) -> PodTemplateSpec {
    let mut template = spec.template.clone().unwrap_or_default();
    let pod = template.spec.get_or_insert_default();
    if pod.containers.is_empty() {
        pod.containers.push(Container { name: CONTAINER.to_owned(), ..Container::default() });
    }
    let index = pod.containers.iter().position(|container| container.name == CONTAINER).unwrap_or(0);
    let seam = Seam::of(spec, pod, index);
    complete_container(&mut pod.containers[index], spec, findings);
    if !config.embedded && pod.containers[index].image.as_deref().unwrap_or_default().is_empty() {
        findings
            .add(Diagnostic::new("spec.image", "is missing").hint("name an image: on a cluster every pod needs one"));
    }
    if let Some(volumes) = &spec.volumes {
        pod.volumes.get_or_insert_default().extend(volumes.clone());
    }
    if let Some(labels) = &spec.node_selector {
        pod.node_selector.get_or_insert_default().extend(labels.clone());
    }
    if let Some(tolerations) = &spec.tolerations {
        pod.tolerations.get_or_insert_default().extend(tolerations.clone());
    }
    pod.restart_policy = Some("Never".to_owned());
    read::check_pod(pod, &|below| seam.place(below), findings);
    template
}

/// Where the fields of the spec begin in the pod that was made from the template and from them.
#[derive(Debug)]
struct Seam<'spec> {
    spec: &'spec TrainingJobSpec,
    main: usize,
    volumes: usize,
    mounts: usize,
    env: usize,
}

impl<'spec> Seam<'spec> {
    fn of(spec: &'spec TrainingJobSpec, pod: &PodSpec, main: usize) -> Self {
        let container = &pod.containers[main];
        Self {
            spec,
            main,
            volumes: pod.volumes.as_ref().map_or(0, Vec::len),
            mounts: container.volume_mounts.as_ref().map_or(0, Vec::len),
            env: container.env.as_ref().map_or(0, Vec::len),
        }
    }

    /// The place in the job of a path below the pod's `spec`.
    fn place(&self, below: &str) -> String {
        let own = match item(below, "volumes") {
            Some((index, rest)) => index.checked_sub(self.volumes).map(|own| format!("spec.volumes[{own}]{rest}")),
            None => item(below, "containers").filter(|(at, _)| *at == self.main).and_then(|(_, rest)| self.main(rest)),
        };
        own.unwrap_or_else(|| format!("spec.template.spec.{below}"))
    }

    fn main(&self, below: &str) -> Option<String> {
        let below = below.strip_prefix('.')?;
        if let Some((index, rest)) = item(below, "volumeMounts") {
            return index.checked_sub(self.mounts).map(|own| format!("spec.volumeMounts[{own}]{rest}"));
        }
        if let Some((index, rest)) = item(below, "env") {
            let own = index.checked_sub(self.env)?;
            let name = self.spec.env.as_ref()?.as_object().and_then(|map| map.keys().nth(own));
            return Some(name.map_or_else(|| format!("spec.env[{own}]{rest}"), |name| format!("spec.env.{name}")));
        }
        (below.starts_with("resources") && self.spec.resources.is_some()).then(|| format!("spec.{below}"))
    }
}

/// The index, and what follows, of a path that begins with an item of this list.
fn item<'path>(path: &'path str, list: &str) -> Option<(usize, &'path str)> {
    let (index, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

fn complete_container(container: &mut Container, spec: &TrainingJobSpec, findings: &mut Findings) {
    if container.name.is_empty() {
        container.name = CONTAINER.to_owned();
    }
    let command = spec.command.clone().or_else(|| container.command.clone()).unwrap_or_default();
    match command.first() {
        None => findings.add(
            Diagnostic::new("spec.command", "is missing")
                .hint("write the program and its arguments: `command: [python, train.py]`"),
        ),
        Some(program) if program.trim().is_empty() => {
            findings.add(Diagnostic::new("spec.command[0]", "is empty").hint("name the program to run"));
        }
        Some(_) => {}
    }
    container.command = Some(LAUNCH.map(str::to_owned).into_iter().chain(command).collect());
    if spec.args.is_some() {
        container.args.clone_from(&spec.args);
    }
    if let Some(image) = &spec.image {
        container.image = Some(image.clone());
    }
    if let Some(folder) = &spec.working_dir {
        container.working_dir = Some(folder.clone());
    }
    if let Some(mounts) = &spec.volume_mounts {
        container.volume_mounts.get_or_insert_default().extend(mounts.clone());
    }
    if let Some(env) = &spec.env {
        container.env.get_or_insert_default().extend(user_env(env, findings));
    }
    if let Some(resources) = &spec.resources {
        lay_resources(container.resources.get_or_insert_default(), resources, findings);
    }
}

/// The user's variables, from a map or from a list in Kubernetes form.
fn user_env(env: &Value, findings: &mut Findings) -> Vec<EnvVar> {
    match env {
        Value::Object(map) => map
            .iter()
            .filter_map(|(name, value)| {
                Some(EnvVar { name: name.clone(), value: scalar(name, value, findings)?, value_from: None })
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| findings.read(item, &join("spec.env", &format!("[{index}]"))))
            .collect(),
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            findings.add(Diagnostic::new("spec.env", "is neither a map nor a list").hint("write `env: {NAME: value}`"));
            Vec::new()
        }
    }
}

/// The text of a variable's value. Numbers and booleans are taken as written, since a map invites them.
fn scalar(name: &str, value: &Value, findings: &mut Findings) -> Option<Option<String>> {
    match value {
        Value::String(text) => Some(Some(text.clone())),
        Value::Number(number) => Some(Some(number.to_string())),
        Value::Bool(flag) => Some(Some(flag.to_string())),
        Value::Null => Some(None),
        Value::Array(_) | Value::Object(_) => {
            findings.add(
                Diagnostic::new(format!("spec.env.{name}"), "is not a text")
                    .hint("write a text; for valueFrom use the list form `- {name: …, valueFrom: …}`"),
            );
            None
        }
    }
}

/// Lays the short and the Kubernetes form of resources over a container's.
fn lay_resources(target: &mut ResourceRequirements, resources: &Resources, findings: &mut Findings) {
    let requests = target.requests.get_or_insert_default();
    lay(requests, resources.requests.as_ref(), "spec.resources.requests", findings);
    for (name, amount, field) in
        [("cpu", &resources.cpu, "cpu"), ("memory", &resources.memory, "memory"), (GPU, &resources.gpu, "gpu")]
    {
        put(requests, name, amount.as_ref(), &format!("spec.resources.{field}"), findings);
    }
    let limits = target.limits.get_or_insert_default();
    lay(limits, resources.limits.as_ref(), "spec.resources.limits", findings);
    put(limits, GPU, resources.gpu.as_ref(), "spec.resources.gpu", findings);
    if limits.is_empty() {
        target.limits = None;
    }
}

fn lay(
    target: &mut BTreeMap<String, Quantity>,
    amounts: Option<&BTreeMap<String, Amount>>,
    path: &str,
    findings: &mut Findings,
) {
    for (name, amount) in amounts.into_iter().flatten() {
        put(target, name, Some(amount), &format!("{path}.{name}"), findings);
    }
}

/// Puts one amount. `0` GPUs are no request, so that a manifest for machines with GPUs is easily tried without.
fn put(
    target: &mut BTreeMap<String, Quantity>,
    name: &str,
    amount: Option<&Amount>,
    path: &str,
    findings: &mut Findings,
) {
    let Some(amount) = amount else { return };
    match trainyard_proto::quantity::amount(name, &amount.0) {
        Ok(0) => {}
        Ok(number) if number > 0 => {
            target.insert(name.to_owned(), Quantity(amount.0.clone()));
        }
        Ok(_) => findings.add(Diagnostic::new(path, "must not be negative")),
        Err(error) => findings.add(Diagnostic::new(path, error.to_string())),
    }
}

fn main_name(template: &PodTemplateSpec) -> String {
    let containers = template.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let main = containers.iter().find(|container| container.name == CONTAINER).or_else(|| containers.first());
    main.map(|container| container.name.clone()).unwrap_or_default()
}

/// The number of the port named as the default one, if the template has it.
fn fixed_port(template: &PodTemplateSpec) -> Option<u16> {
    let containers = template.spec.as_ref()?.containers.iter();
    let port = containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| port.name.as_deref() == Some(SHAPE.port_name))?;
    u16::try_from(port.container_port).ok()
}

/// What the launcher reads.
fn env(told: &recovery::Told<'_>, replicas: u32, nproc: &str, node_rank: u32) -> Vec<EnvModel> {
    let variable = |name: &str, value| EnvModel { name: name.to_owned(), value };
    let text = |name: &str, value: &str| variable(name, EnvValue::Text(value.to_owned()));
    let mut env = told.env();
    env.extend([
        text("PET_NNODES", &replicas.to_string()),
        text("PET_NODE_RANK", &node_rank.to_string()),
        text("PET_NPROC_PER_NODE", nproc),
        text("PET_MASTER_ADDR", &kubeflow::replica_name(told.head, "Worker", 0)),
        variable("PET_MASTER_PORT", EnvValue::Port(String::new())),
    ]);
    env
}

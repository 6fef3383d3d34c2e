//! TrainJob of `trainer.kubeflow.org/v1alpha1`, on runtimes whose framework is torch, JAX, or none that needs help.
//!
//! On a cluster a TrainJob becomes a JobSet, that becomes a Job, that becomes pods. Here it becomes the pods at once, with the
//! names and labels that they would have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, PodSpec, PodTemplateSpec, ServicePort};
use serde_json::Value;
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::plan::ObjectRef;
use trainyard_proto::trainer::{
    ClusterTrainingRuntime, ReplicatedJob, TrainJob, TrainJobSpec, TrainingRuntime, TrainingRuntimeSpec,
};

use super::read::{self, Findings, Head};
use super::recovery::{self, Size, Terms};
use super::{Dialect, ExtraKind, scheduler, torchrun};
use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::label;
use crate::model::{
    CleanPods, EnvInto, EnvModel, EnvValue, JobModel, Policy, PortWish, Replica, ReplicaKey, RestartRule, RestartScope,
    Role, ServiceModel, SuccessRule, Warning,
};
use crate::view::Config;

mod patch;
mod snapshot;
mod status;

/// The step, and its container, that trains.
const NODE: &str = "node";
const OPERATOR: &str = "trainjob-controller";
const PORT_NAME: &str = "pet-master";
const PORT: u16 = 29500;
/// `backoffLimit` of a batch Job that names none.
const DEFAULT_BACKOFF_LIMIT: u32 = 6;
const MANAGED_BY: &[&str] = &["trainer.kubeflow.org/trainjob-controller", label::MANAGED_BY];

/// The dialect of TrainJob.
#[derive(Debug)]
pub struct TrainJobs;

impl Dialect for TrainJobs {
    fn info(&self) -> &'static KindInfo {
        const { &<TrainJob as CustomKind>::INFO }
    }

    fn operator_name(&self) -> &'static str {
        OPERATOR
    }

    fn managed_by(&self, job: &Value) -> Option<String> {
        read::foreign_manager(job, "/spec/managedBy", MANAGED_BY)
    }

    fn related(&self, job: &Value) -> Vec<ObjectRef> {
        runtime_ref(job).into_iter().chain(snapshot::reference(job)).collect()
    }

    fn related_kinds(&self) -> &'static [KindInfo] {
        const { &[<ClusterTrainingRuntime as CustomKind>::INFO, <TrainingRuntime as CustomKind>::INFO] }
    }

    fn waits_for(&self, job: &Value, related: &[Value]) -> Option<ObjectRef> {
        let wanted = runtime_ref(job)?;
        let there = read::find(related, &wanted).is_some() || snapshot::read(job, related).is_some();
        (!there).then_some(wanted)
    }

    fn extra_kinds(&self) -> &'static [ExtraKind] {
        &[snapshot::KIND]
    }

    fn lower(&self, job: &Value, related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
        lower(job, related, config)
    }

    fn read_status(&self, job: &Value) -> Lifecycle {
        status::read(job)
    }

    fn render_status(&self, job: &Value, change: &StatusChange) -> Value {
        status::render(job, change)
    }
}

/// The runtime that a job names.
fn runtime_ref(job: &Value) -> Option<ObjectRef> {
    let reference = job.pointer("/spec/runtimeRef")?;
    let text = |name: &str| reference.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("kind").unwrap_or("ClusterTrainingRuntime");
    let namespace = job.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    Some(ObjectRef {
        api_version: <ClusterTrainingRuntime as CustomKind>::INFO.api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: if kind == "TrainingRuntime" { namespace.to_owned() } else { String::new() },
        name: text("name")?.to_owned(),
    })
}

/// The model of a TrainJob on its runtime.
///
/// # Errors
/// With everything that is wrong with them.
pub fn lower(job: &Value, related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let model = lower_into(job, related, config, &mut findings);
    findings.finish(model)
}

fn lower_into(job: &Value, related: &[Value], config: &Config, findings: &mut Findings) -> Option<JobModel> {
    let head = read::head(job, TrainJobs.info(), findings)?;
    let spec: TrainJobSpec = findings.read(job.get("spec").unwrap_or(&Value::Null), "spec")?;
    let found = runtime(job, related, findings)?;
    let runtime: TrainingRuntimeSpec =
        findings.read(found.get("spec").unwrap_or(&Value::Null), &format!("{}: spec", read::title(&found)))?;
    let step = node_step(&runtime, findings)?;
    let framework = Framework::of(&runtime, findings);
    let policy = runtime.ml_policy.clone().unwrap_or_default();
    let trainer = spec.trainer.clone().unwrap_or_default();
    let nodes = trainer.num_nodes.or(policy.num_nodes).unwrap_or(1);
    if !(1..=read::MAX_REPLICAS).contains(&nodes) {
        findings.add(Diagnostic::new("spec.trainer.numNodes", format!("must be from 1 to {}", read::MAX_REPLICAS)));
    }
    let nodes = u32::try_from(nodes).unwrap_or(1);
    findings.not_negative(spec.active_deadline_seconds, "spec.activeDeadlineSeconds");
    let job_spec = step.template.spec.clone().unwrap_or_default();
    let mut template = job_spec.template.clone();
    patch::apply(&spec, &mut template, findings);
    let nproc = complete(&mut template, &spec, &runtime, framework, findings)?;
    read::check_pod_name(&node_name(&head, nodes.saturating_sub(1)), findings);
    let mut warnings = Vec::new();
    let scheduler = scheduler::read(job, None, [&template], config, &mut warnings, findings);
    if !findings.list.is_empty() {
        return None;
    }
    let backoff_limit = job_spec.backoff_limit.map_or(DEFAULT_BACKOFF_LIMIT, |limit| u32::try_from(limit).unwrap_or(0));
    let mut roles = vec![role(&head, template, nodes, &nproc, framework)];
    let is_torch = framework == Framework::Torch;
    let note = is_torch.then(|| torchrun::take_over(job, &mut roles, config)).flatten();
    let rendezvous = note.as_ref().map(|(address, _)| {
        let terms = Terms::default();
        let (rendezvous, max_restarts, grace_seconds) = (Some(*address), backoff_limit, None);
        recovery::Told { head: &head, terms: &terms, rendezvous, max_restarts, grace_seconds }.tell(&mut roles);
        let size = Size { replicas: nodes, least: nodes };
        recovery::config(&terms, RestartRule::OnFailure, Some(backoff_limit), size)
    });
    Some(JobModel {
        services: vec![service(&head)],
        roles,
        extras: vec![snapshot::body(&head.name, &found)],
        port: PortWish::Default(PORT),
        policy: Policy {
            clean_pods: CleanPods::Running,
            ttl_ms: None,
            active_deadline_ms: spec.active_deadline_seconds.map(|seconds| seconds.saturating_mul(1000)),
            backoff_limit: Some(backoff_limit),
            suspend: spec.suspend.unwrap_or(false),
            min_available: nodes,
            queue: None,
            priority: None,
            priority_class: None,
            scheduler,
        },
        success: SuccessRule::AllOf { role: 0 },
        restart_scope: RestartScope::Replica,
        leader: ReplicaKey { role: 0, index: 0 },
        rendezvous,
        notes: note.map(|(_, note)| note).into_iter().collect(),
        ranks: nproc.parse::<u32>().ok().map(|nproc| nproc.saturating_mul(nodes)),
        warnings: warnings.into_iter().chain(ignored(&spec, &runtime)).collect(),
        owner: head.owner,
        uid: head.uid,
    })
}

/// The runtime as it was when the job was taken up; at that time, as it is.
fn runtime(job: &Value, related: &[Value], findings: &mut Findings) -> Option<Value> {
    let Some(wanted) = runtime_ref(job) else {
        findings.add(
            Diagnostic::new("spec.runtimeRef.name", "is missing")
                .hint("name a runtime: `trainyard get clustertrainingruntimes`"),
        );
        return None;
    };
    let found = snapshot::read(job, related).or_else(|| read::find(related, &wanted).cloned());
    if found.is_none() {
        findings.add(
            Diagnostic::new("spec.runtimeRef.name", format!("{} `{}` does not exist", wanted.kind, wanted.name))
                .hint("apply it first, or name another"),
        );
    }
    found
}

/// The step that trains. Other steps, such as initializers, are not run.
fn node_step<'runtime>(
    runtime: &'runtime TrainingRuntimeSpec,
    findings: &mut Findings,
) -> Option<&'runtime ReplicatedJob> {
    let path = "spec.runtimeRef.name";
    let steps = &runtime.template.spec.replicated_jobs;
    for step in steps.iter().filter(|step| step.name != NODE) {
        findings.add(
            Diagnostic::new(path, format!("the runtime has a step `{}`, which cannot be run here", step.name))
                .hint("name a runtime whose only step is `node`, such as torch-distributed"),
        );
    }
    let step = steps.iter().find(|step| step.name == NODE);
    if step.is_none() {
        findings.add(Diagnostic::new(path, format!("the runtime has no step named `{NODE}`")));
    }
    step
}

/// Fields of the runtime and of the job that have no effect here, though they would on a cluster.
fn ignored(spec: &TrainJobSpec, runtime: &TrainingRuntimeSpec) -> Vec<Warning> {
    let set = &runtime.template.spec;
    let job = set.replicated_jobs.iter().find(|step| step.name == NODE).and_then(|step| step.template.spec.as_ref());
    let given = |at: &str, fields: &[(&str, bool)]| {
        let given = fields.iter().filter(|(_, given)| *given);
        given.map(|(field, _)| Warning::ignored(&format!("{at}.{field}"))).collect::<Vec<_>>()
    };
    let of_set = [
        ("failurePolicy", set.failure_policy.is_some()),
        ("successPolicy", set.success_policy.is_some()),
        ("ttlSecondsAfterFinished", set.ttl_seconds_after_finished.is_some()),
        ("volumeClaimPolicies", set.volume_claim_policies.is_some()),
    ];
    let of_job = [
        ("activeDeadlineSeconds", job.is_some_and(|job| job.active_deadline_seconds.is_some())),
        ("podFailurePolicy", job.is_some_and(|job| job.pod_failure_policy.is_some())),
        ("successPolicy", job.is_some_and(|job| job.success_policy.is_some())),
        ("backoffLimitPerIndex", job.is_some_and(|job| job.backoff_limit_per_index.is_some())),
        ("maxFailedIndexes", job.is_some_and(|job| job.max_failed_indexes.is_some())),
    ];
    let mut warnings = given("the runtime's template.spec", &of_set);
    warnings.extend(given("the runtime's template.spec.replicatedJobs[node].template.spec", &of_job));
    warnings.extend(given("spec", &[("initializer", spec.initializer.is_some())]));
    warnings
}

/// What helps the ranks find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framework {
    Torch,
    Jax,
    Plain,
}

impl Framework {
    fn of(runtime: &TrainingRuntimeSpec, findings: &mut Findings) -> Self {
        let Some(policy) = &runtime.ml_policy else { return Self::Plain };
        for (name, given) in [("mpi", &policy.mpi), ("flux", &policy.flux), ("xgboost", &policy.xgboost)] {
            if given.is_some() {
                findings.add(
                    Diagnostic::new(
                        "spec.runtimeRef.name",
                        format!("the runtime's framework `{name}` cannot be run here"),
                    )
                    .hint("name a runtime whose mlPolicy is torch or jax"),
                );
            }
        }
        match (&policy.torch, &policy.jax) {
            (Some(_), _) => Self::Torch,
            (None, Some(_)) => Self::Jax,
            (None, None) => Self::Plain,
        }
    }

    /// Variables that only the runtime may set.
    const fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::Torch => &["PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"],
            Self::Jax => &["JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"],
            Self::Plain => &[],
        }
    }
}

/// Lays the trainer over the runtime's container, and answers the number of ranks per node.
fn complete(
    template: &mut PodTemplateSpec,
    spec: &TrainJobSpec,
    runtime: &TrainingRuntimeSpec,
    framework: Framework,
    findings: &mut Findings,
) -> Option<String> {
    let trainer = spec.trainer.clone().unwrap_or_default();
    let pod = template.spec.get_or_insert_default();
    pod.restart_policy.get_or_insert_with(|| "OnFailure".to_owned());
    let Some(container) = pod.containers.iter_mut().find(|container| container.name == NODE) else {
        findings.add(Diagnostic::new(
            "spec.runtimeRef.name",
            format!("the runtime's step `{NODE}` has no container named `{NODE}`"),
        ));
        return None;
    };
    for (index, variable) in trainer.env.iter().flatten().enumerate() {
        if framework.reserved().contains(&variable.name.as_str()) {
            findings.add(
                Diagnostic::new(
                    format!("spec.trainer.env[{index}].name"),
                    format!("`{}` is set by the runtime", variable.name),
                )
                .hint("remove it; numNodes and numProcPerNode decide its value"),
            );
        }
    }
    container.image = trainer.image.or_else(|| container.image.take());
    container.command = trainer.command.or_else(|| container.command.take());
    container.args = trainer.args.or_else(|| container.args.take());
    container.resources = trainer.resources_per_node.or_else(|| container.resources.take());
    upsert(container.env.get_or_insert_default(), trainer.env.unwrap_or_default());
    let written = trainer.num_proc_per_node.map(|number| match number {
        k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number) => number.to_string(),
        k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(text) => text,
    });
    let nproc = written.or_else(|| runtime_nproc(runtime)).unwrap_or_else(|| "auto".to_owned());
    if !["auto", "cpu", "gpu"].contains(&nproc.as_str()) && !nproc.parse::<u32>().is_ok_and(|number| number > 0) {
        findings.add(
            Diagnostic::new("spec.trainer.numProcPerNode", format!("`{nproc}` is not known"))
                .hint("write a number from 1"),
        );
    }
    let nproc = if nproc == "auto" { automatic(container) } else { nproc };
    container.ports.get_or_insert_default().push(ContainerPort {
        name: Some(PORT_NAME.to_owned()),
        container_port: i32::from(PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    check_pod(pod, spec, findings);
    Some(nproc)
}

/// Checks the pod. What is wrong with it is the runtime's, or of a patch, unless it is in the trainer's own fields.
fn check_pod(pod: &PodSpec, spec: &TrainJobSpec, findings: &mut Findings) {
    let node = pod.containers.iter().position(|container| container.name == NODE).unwrap_or(0);
    let resources = format!("containers[{node}].resources");
    let own_resources = spec.trainer.as_ref().is_some_and(|trainer| trainer.resources_per_node.is_some());
    for found in super::pod::check(pod) {
        let place = found.path.strip_prefix(&resources).filter(|_| own_resources);
        findings.add(match place {
            Some(rest) => Diagnostic { path: format!("spec.trainer.resourcesPerNode{rest}"), ..found },
            None => Diagnostic {
                path: "spec.runtimeRef.name".to_owned(),
                message: format!("the runtime's pod, with this job's patches: {} {}", found.path, found.message),
                ..found
            },
        });
    }
}

fn runtime_nproc(runtime: &TrainingRuntimeSpec) -> Option<String> {
    let number = runtime.ml_policy.as_ref()?.torch.as_ref()?.get("numProcPerNode")?;
    Some(number.as_str().map_or_else(|| number.to_string(), str::to_owned))
}

/// Ranks per node where the user leaves it open: torchrun's own choice on nodes with GPUs, one per CPU asked for otherwise.
fn automatic(container: &Container) -> String {
    let resources = container.resources.clone().unwrap_or_default();
    let mut amounts = resources.limits.unwrap_or_default();
    amounts.extend(resources.requests.unwrap_or_default());
    if amounts.keys().any(|name| name.to_lowercase().contains("gpu")) {
        return "auto".to_owned();
    }
    let cpus = amounts.get("cpu").and_then(|cpu| trainyard_proto::quantity::units(&cpu.0).ok()).unwrap_or(1);
    cpus.max(1).to_string()
}

/// Variables of the same name are replaced where they stand; new ones go to the end.
fn upsert(target: &mut Vec<EnvVar>, variables: Vec<EnvVar>) {
    for variable in variables {
        match target.iter_mut().find(|present| present.name == variable.name) {
            Some(present) => *present = variable,
            None => target.push(variable),
        }
    }
}

fn node_name(head: &Head, index: u32) -> String {
    format!("{}-{NODE}-0-{index}", head.name)
}

fn role(head: &Head, template: PodTemplateSpec, nodes: u32, nproc: &str, framework: Framework) -> Role {
    let mut template = template;
    if let Some(pod) = &mut template.spec {
        pod.subdomain = Some(head.name.clone());
    }
    let replicas = (0..nodes)
        .map(|index| Replica {
            name: node_name(head, index),
            index,
            node_rank: index,
            labels: labels(head, index),
            env: env(head, nodes, index, nproc, framework),
            hostname: Some(node_name(head, index)),
        })
        .collect();
    Role {
        name: NODE.to_owned(),
        template,
        replicas,
        // A batch Job makes a new pod for each that failed, within its backoffLimit, whatever the pod's own restart policy is.
        restart: RestartRule::OnFailure,
        main_container: NODE.to_owned(),
        env_into: EnvInto::Main,
        port_name: Some(PORT_NAME.to_owned()),
        selector: format!("{JOBSET_NAME}={},{REPLICATED_JOB}={NODE}", head.name),
    }
}

const JOBSET_NAME: &str = "jobset.sigs.k8s.io/jobset-name";
const REPLICATED_JOB: &str = "jobset.sigs.k8s.io/replicatedjob-name";

fn labels(head: &Head, index: u32) -> BTreeMap<String, String> {
    let mut labels = super::kubeflow::labels(head, OPERATOR, NODE, index);
    let job = format!("{}-{NODE}-0", head.name);
    labels.extend(
        [
            (JOBSET_NAME, head.name.clone()),
            (REPLICATED_JOB, NODE.to_owned()),
            ("jobset.sigs.k8s.io/job-index", "0".to_owned()),
            ("jobset.sigs.k8s.io/restart-attempt", "0".to_owned()),
            ("batch.kubernetes.io/job-name", job),
            ("batch.kubernetes.io/job-completion-index", index.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if index == 0 {
        labels.insert(label::JOB_ROLE.to_owned(), "master".to_owned());
    }
    labels
}

fn env(head: &Head, nodes: u32, index: u32, nproc: &str, framework: Framework) -> Vec<EnvModel> {
    let variable = |name: &str, value| EnvModel { name: name.to_owned(), value };
    let text = |name: &str, value: String| variable(name, EnvValue::Text(value));
    let first = format!("{}.{}", node_name(head, 0), head.name);
    match framework {
        Framework::Torch => vec![
            text("PET_NNODES", nodes.to_string()),
            text("PET_NPROC_PER_NODE", nproc.to_owned()),
            text("PET_NODE_RANK", index.to_string()),
            text("PET_MASTER_ADDR", first),
            variable("PET_MASTER_PORT", EnvValue::Port(String::new())),
        ],
        Framework::Jax => vec![
            text("JAX_NUM_PROCESSES", nodes.to_string()),
            text("JAX_PROCESS_ID", index.to_string()),
            variable("JAX_COORDINATOR_ADDRESS", EnvValue::Port(format!("{first}:"))),
        ],
        Framework::Plain => Vec::new(),
    }
}

/// The headless service under whose name the pods' host names live.
fn service(head: &Head) -> ServiceModel {
    ServiceModel {
        name: head.name.clone(),
        labels: BTreeMap::from([
            (JOBSET_NAME.to_owned(), head.name.clone()),
            (label::JOB_NAME.to_owned(), head.name.clone()),
            (label::OPERATOR_NAME.to_owned(), OPERATOR.to_owned()),
        ]),
        selector: BTreeMap::from([(JOBSET_NAME.to_owned(), head.name.clone())]),
        ports: Vec::<ServicePort>::new(),
        port_name: None,
        publish_not_ready: true,
    }
}

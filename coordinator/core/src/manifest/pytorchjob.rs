//! PyTorchJob of `kubeflow.org/v1`.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::kubeflow::{ElasticPolicy, PyTorchJob};
use trainyard_proto::trainyard::MAX_PROCS_PER_REPLICA;

use super::Dialect;
use super::kubeflow::{self, RoleSpec, Shape};
use super::read::{self, Findings, Head};
use super::recovery::{self, Size, Terms};
use super::{scheduler, status, torchrun};
use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::label;
use crate::model::{
    EnvModel, EnvValue, JobModel, PortWish, ReplicaKey, RestartRule, RestartScope, Role, ServiceModel, SuccessRule,
    Warning,
};
use crate::view::Config;

const SHAPE: Shape = Shape {
    map: "pytorchReplicaSpecs",
    roles: &["Master", "Worker"],
    container: "pytorch",
    port_name: "pytorchjob-port",
    port: 23456,
    restart: RestartRule::OnFailure,
    operator: "pytorchjob-controller",
    managed_by: &["kubeflow.org/training-operator", label::MANAGED_BY],
};

/// The dialect of PyTorchJob.
#[derive(Debug)]
pub struct PyTorchJobs;

impl Dialect for PyTorchJobs {
    fn info(&self) -> &'static KindInfo {
        const { &<PyTorchJob as CustomKind>::INFO }
    }

    fn operator_name(&self) -> &'static str {
        SHAPE.operator
    }

    fn managed_by(&self, job: &Value) -> Option<String> {
        read::foreign_manager(job, "/spec/runPolicy/managedBy", SHAPE.managed_by)
    }

    fn lower(&self, job: &Value, _related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
        lower(job, config)
    }

    fn read_status(&self, job: &Value) -> Lifecycle {
        status::read(job)
    }

    fn render_status(&self, job: &Value, change: &StatusChange) -> Value {
        status::render(job, self.info().kind, change)
    }
}

/// The model of a PyTorchJob.
///
/// # Errors
/// With everything that is wrong with it.
pub fn lower(job: &Value, config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let model = lower_into(job, config, &mut findings);
    findings.finish(model)
}

fn lower_into(job: &Value, config: &Config, findings: &mut Findings) -> Option<JobModel> {
    let head = read::head(job, PyTorchJobs.info(), findings)?;
    let Some(spec) = job.get("spec").filter(|spec| spec.is_object()) else {
        findings.add(Diagnostic::new("spec", "is missing"));
        return None;
    };
    let mut warnings = Vec::new();
    let specs = kubeflow::roles(spec, &SHAPE, &mut warnings, findings);
    let elastic: Option<ElasticPolicy> = findings.field(spec, "spec", "elasticPolicy");
    let nproc: Option<String> = findings.field(spec, "spec", "nprocPerNode");
    check_roles(&specs, findings);
    check_nproc(nproc.as_deref(), elastic.as_ref(), findings);
    check_elastic(elastic.as_ref(), &specs, findings);
    let total: u32 = specs.iter().map(|spec| spec.replicas).sum();
    let mut policy = kubeflow::policy(spec, total, &mut warnings, findings);
    let templates = specs.iter().map(|spec| &spec.template);
    policy.scheduler = scheduler::read(job, None, templates, config, &mut warnings, findings);
    warnings.extend(elastic.as_ref().and_then(ignored));
    check_pod_names(&head, &specs, findings);
    if !findings.list.is_empty() {
        return None;
    }

    let facts = Facts::new(&head, &specs, nproc, elastic, total);
    let meeting = specs.first()?;
    let port = meeting.port.map_or(PortWish::Default(SHAPE.port), PortWish::Fixed);
    let (mut roles, services) = lower_roles(&head, specs, &facts, port);
    let leader = ReplicaKey { role: 0, index: 0 };
    let rule = recovery::strictest(roles.iter().map(|role| role.restart));
    let note = torchrun::take_over(job, &mut roles, config);
    let size = facts.size();
    if note.is_some() {
        // An elastic policy's own limit holds where the run policy has none.
        policy.backoff_limit = policy.backoff_limit.or_else(|| facts.max_restarts());
    } else {
        // Our launchers wait by themselves, and meet by address.
        facts.await_master(&mut roles, config);
    }
    let rendezvous = note.as_ref().map(|(address, _)| {
        let limit = policy.backoff_limit;
        let terms = facts.terms();
        let max_restarts = if rule == RestartRule::Never { 0 } else { limit.unwrap_or(u32::MAX) };
        let (rendezvous, grace_seconds) = (Some(*address), None);
        recovery::Told { head: &head, terms: &terms, rendezvous, max_restarts, grace_seconds }.tell(&mut roles);
        recovery::config(&terms, rule, limit, size)
    });
    let elastic = rendezvous.is_some() && size.least < size.replicas;
    if elastic {
        policy.min_available = policy.min_available.min(size.least);
    }
    let success = if elastic { SuccessRule::Elastic } else { facts.success(leader) };
    let ranks = facts.nproc_text().parse::<u32>().ok().map(|nproc| nproc.saturating_mul(total));
    Some(JobModel {
        owner: head.owner,
        uid: head.uid,
        roles,
        services,
        extras: Vec::new(),
        port,
        policy,
        success,
        restart_scope: RestartScope::Replica,
        leader,
        rendezvous,
        notes: note.map(|(_, note)| note).into_iter().collect(),
        ranks,
        warnings,
    })
}

/// What an elastic policy asks for in vain.
fn ignored(elastic: &ElasticPolicy) -> Option<Warning> {
    let message = "spec.elasticPolicy.metrics has no effect here: nothing scales by load; use `kubectl scale`";
    elastic.metrics.as_ref().map(|_| Warning { reason: "FieldIgnored".to_owned(), message: message.to_owned() })
}

/// All replicas, with what each is told. The first of them leads.
fn lower_roles(head: &Head, specs: Vec<RoleSpec>, facts: &Facts, port: PortWish) -> (Vec<Role>, Vec<ServiceModel>) {
    let shared = matches!(port, PortWish::Default(_));
    let (mut roles, mut services) = (Vec::new(), Vec::new());
    let mut first_rank = 0;
    for spec in specs {
        let replicas = spec.replicas;
        let (mut role, role_services) = kubeflow::lower_role(head, &SHAPE, spec, first_rank, shared);
        facts.complete(&mut role);
        first_rank += replicas;
        roles.push(role);
        services.extend(role_services);
    }
    if let Some(leader) = roles.first_mut().and_then(|role| role.replicas.first_mut()) {
        leader.labels.insert(label::JOB_ROLE.to_owned(), "master".to_owned());
    }
    (roles, services)
}

fn check_pod_names(head: &Head, specs: &[RoleSpec], findings: &mut Findings) {
    for spec in specs {
        read::check_pod_name(&kubeflow::replica_name(head, spec.name, spec.replicas.saturating_sub(1)), findings);
    }
}

fn check_roles(specs: &[RoleSpec], findings: &mut Findings) {
    for spec in specs {
        match spec.name {
            "Master" if spec.written != Some(1) => findings.add(
                Diagnostic::new(format!("{}.replicas", spec.path), "must be written and be 1")
                    .hint("write `replicas: 1`"),
            ),
            "Worker" if spec.written.is_some_and(|replicas| replicas < 1) => findings.add(
                Diagnostic::new(format!("{}.replicas", spec.path), "must be 1 or more")
                    .hint("leave the Worker role out for a Master alone"),
            ),
            _ => {}
        }
    }
}

fn check_nproc(nproc: Option<&str>, elastic: Option<&ElasticPolicy>, findings: &mut Findings) {
    if let Some(word) = nproc {
        let number = word.parse().is_ok_and(|number| (1..=MAX_PROCS_PER_REPLICA).contains(&number));
        if !number && !["auto", "cpu", "gpu"].contains(&word) {
            findings.add(
                Diagnostic::new("spec.nprocPerNode", format!("`{word}` is not known"))
                    .hint(format!("write auto, cpu, gpu or a number from 1 to {MAX_PROCS_PER_REPLICA}, in quotes")),
            );
        }
        if elastic.is_some_and(|elastic| elastic.n_proc_per_node.is_some()) {
            findings.add(
                Diagnostic::new("spec.elasticPolicy.nProcPerNode", "excludes spec.nprocPerNode")
                    .hint("keep spec.nprocPerNode; this field is deprecated"),
            );
        }
    }
}

fn check_elastic(elastic: Option<&ElasticPolicy>, specs: &[RoleSpec], findings: &mut Findings) {
    let Some(elastic) = elastic else { return };
    let path = "spec.elasticPolicy";
    if !specs.iter().any(|spec| spec.name == "Worker") {
        findings.add(Diagnostic::new(path, "needs a Worker role").hint("describe spec.pytorchReplicaSpecs.Worker"));
    }
    for (name, number) in [
        ("minReplicas", elastic.min_replicas),
        ("maxReplicas", elastic.max_replicas),
        ("nProcPerNode", elastic.n_proc_per_node),
    ] {
        if number.is_some_and(|number| number < 1) {
            findings.add(Diagnostic::new(format!("{path}.{name}"), "must be 1 or more"));
        }
    }
    findings.not_negative(elastic.max_restarts.map(i64::from), &format!("{path}.maxRestarts"));
    if let (Some(min), Some(max)) = (elastic.min_replicas, elastic.max_replicas)
        && min > max
    {
        findings.add(Diagnostic::new(format!("{path}.minReplicas"), format!("is more than maxReplicas ({max})")));
    }
    if elastic.rdzv_port.is_some_and(|port| u16::try_from(port).map_or(true, |port| port == 0)) {
        findings
            .add(Diagnostic::new(format!("{path}.rdzvPort"), "is not a port").hint("write a number from 1 to 65535"));
    }
    findings.one_of(
        elastic.rdzv_backend.as_deref(),
        &format!("{path}.rdzvBackend"),
        &[("c10d", ()), ("etcd", ()), ("etcd-v2", ())],
        (),
    );
}

/// What the environment of every replica is made from.
#[derive(Debug)]
struct Facts {
    has_master: bool,
    master: String,
    first_worker: String,
    worker_port: Option<u16>,
    workers: u32,
    total: u32,
    nproc: Option<String>,
    elastic: Option<ElasticPolicy>,
}

impl Facts {
    fn new(head: &Head, specs: &[RoleSpec], nproc: Option<String>, elastic: Option<ElasticPolicy>, total: u32) -> Self {
        let worker = specs.iter().find(|spec| spec.name == "Worker");
        let has_master = specs.iter().any(|spec| spec.name == "Master");
        let master_port = specs.first().and_then(|spec| spec.port);
        Self {
            has_master,
            master: kubeflow::replica_name(head, "Master", 0),
            first_worker: kubeflow::replica_name(head, "Worker", 0),
            // A worker without a port of its own shares the port on which the ranks meet only where that is not fixed.
            worker_port: worker.and_then(|spec| spec.port).or_else(|| master_port.map(|_| SHAPE.port)),
            workers: worker.map_or(0, |spec| spec.replicas),
            total,
            nproc,
            elastic,
        }
    }

    /// With how many pods it trains.
    fn size(&self) -> Size {
        let min = self.elastic.as_ref().and_then(|elastic| elastic.min_replicas);
        let least = min.and_then(|min| u32::try_from(min).ok()).unwrap_or(self.total);
        Size { replicas: self.total, least: least.clamp(1, self.total.max(1)) }
    }

    /// What a job of fixed size takes for its success.
    fn success(&self, leader: ReplicaKey) -> SuccessRule {
        match (self.has_master, &self.elastic) {
            (true, _) => SuccessRule::One(leader),
            (false, Some(_)) => SuccessRule::AnyOf { role: 0 },
            (false, None) => SuccessRule::AllOf { role: 0 },
        }
    }

    fn max_restarts(&self) -> Option<u32> {
        u32::try_from(self.elastic.as_ref()?.max_restarts?).ok()
    }

    /// torchrun waits for lost nodes as long as for late ones, and so do we.
    fn terms(&self) -> Terms {
        let pairs = self.elastic.iter().flat_map(|elastic| elastic.rdzv_conf.iter().flatten());
        let seconds =
            pairs.filter(|pair| pair.key == "last_call_timeout").find_map(|pair| pair.value.parse::<i64>().ok());
        let default = Terms::default();
        let return_ms = seconds.filter(|seconds| *seconds > 0).map_or(default.return_ms, |s| s.saturating_mul(1000));
        Terms { return_ms, ..default }
    }

    /// `PET_NPROC_PER_NODE`.
    fn nproc_text(&self) -> String {
        let deprecated = self.elastic.as_ref().and_then(|elastic| elastic.n_proc_per_node);
        self.nproc.clone().or_else(|| deprecated.map(|number| number.to_string())).unwrap_or_else(|| "auto".to_owned())
    }

    /// Gives a role what is particular to this dialect.
    fn complete(&self, role: &mut Role) {
        for replica in &mut role.replicas {
            replica.env = self.env(replica.node_rank);
        }
    }

    /// Lets workers wait for their master, where names take their time.
    fn await_master(&self, roles: &mut [Role], config: &Config) {
        let workers = roles.iter_mut().filter(|role| self.has_master && role.name == "Worker" && !config.embedded);
        for role in workers {
            let spec = role.template.spec.get_or_insert_default();
            add_init_container(spec, &self.master, config);
        }
    }

    /// The variables of a replica, in upstream's order.
    fn env(&self, node_rank: u32) -> Vec<EnvModel> {
        let nproc = self.nproc_text();
        let mut env = vec![text("PYTHONUNBUFFERED", "1")];
        if self.elastic.as_ref().is_none_or(|elastic| elastic.n_proc_per_node.is_none()) {
            env.push(text("PET_NPROC_PER_NODE", &nproc));
        }
        if self.has_master {
            let world = u64::from(self.total) * nproc.parse::<u32>().map_or(1, u64::from);
            env.extend([
                port("MASTER_PORT", ""),
                port("PET_MASTER_PORT", ""),
                text("MASTER_ADDR", &self.master),
                text("PET_MASTER_ADDR", &self.master),
                text("WORLD_SIZE", &world.to_string()),
                text("RANK", &node_rank.to_string()),
                text("PET_NODE_RANK", &node_rank.to_string()),
            ]);
        }
        match &self.elastic {
            Some(elastic) => self.elastic_env(elastic, &mut env),
            None => env.push(text("PET_NNODES", &self.total.to_string())),
        }
        env
    }

    fn elastic_env(&self, elastic: &ElasticPolicy, env: &mut Vec<EnvModel>) {
        let host = elastic.rdzv_host.as_ref().unwrap_or(&self.first_worker);
        let fixed =
            elastic.rdzv_port.map(|port| port.to_string()).or_else(|| self.worker_port.map(|port| port.to_string()));
        env.push(match fixed {
            Some(number) => text("PET_RDZV_ENDPOINT", &format!("{host}:{number}")),
            None => port("PET_RDZV_ENDPOINT", &format!("{host}:")),
        });
        env.push(text("PET_RDZV_BACKEND", elastic.rdzv_backend.as_deref().unwrap_or("c10d")));
        let workers = i32::try_from(self.workers).unwrap_or(i32::MAX);
        let (min, max) = match (elastic.min_replicas, elastic.max_replicas) {
            (Some(min), Some(max)) => (min, max),
            (Some(one), None) | (None, Some(one)) => (one, one),
            (None, None) => (workers, workers),
        };
        env.push(text("PET_NNODES", &format!("{min}:{max}")));
        if let Some(restarts) = elastic.max_restarts {
            env.push(text("PET_MAX_RESTARTS", &restarts.to_string()));
        }
        if let Some(nproc) = elastic.n_proc_per_node {
            env.push(text("PET_NPROC_PER_NODE", &nproc.to_string()));
        }
        if let Some(id) = &elastic.rdzv_id {
            env.push(text("PET_RDZV_ID", id));
        }
        if let Some(conf) = elastic.rdzv_conf.as_ref().filter(|conf| !conf.is_empty()) {
            let pairs: Vec<String> = conf.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
            env.push(text("PET_RDZV_CONF", &pairs.join(",")));
        }
        if elastic.standalone == Some(true) {
            env.push(text("PET_STANDALONE", ""));
        }
    }
}

fn text(name: &str, value: &str) -> EnvModel {
    EnvModel { name: name.to_owned(), value: EnvValue::Text(value.to_owned()) }
}

fn port(name: &str, before: &str) -> EnvModel {
    EnvModel { name: name.to_owned(), value: EnvValue::Port(before.to_owned()) }
}

/// Lets workers wait for the master's name, which on a cluster resolves only some time after its service was made.
fn add_init_container(spec: &mut PodSpec, master: &str, config: &Config) {
    let amounts = || {
        Some(std::collections::BTreeMap::from([
            ("cpu".to_owned(), Quantity("100m".to_owned())),
            ("memory".to_owned(), Quantity("20Mi".to_owned())),
        ]))
    };
    let script = format!(
        "err=1\nfor i in $(seq 100)\ndo\n  if nslookup {master}\n  then\n    err=0 && break\n  fi\n  echo waiting for master\n  sleep 2\ndone\nexit $err"
    );
    spec.init_containers.get_or_insert_default().push(Container {
        name: "init-pytorch".to_owned(),
        image: Some(config.init_container_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["sh".to_owned(), "-c".to_owned(), script]),
        resources: Some(ResourceRequirements { limits: amounts(), requests: None, ..ResourceRequirements::default() }),
        ..Container::default()
    });
}

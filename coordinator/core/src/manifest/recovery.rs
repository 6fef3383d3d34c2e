//! How the launchers of a job meet and come back from failures: the terms that a manifest sets, and what the launchers are
//! told of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use trainyard_proto::trainyard::{Checkpoint, Elastic, Recovery};

use super::read::{Findings, Head};
use crate::diagnostic::Diagnostic;
use crate::model::{EnvModel, EnvValue, RestartRule, Role};
use crate::rendezvous::{Budget, Cause, Config};
use crate::view;

/// How long launchers wait for each other, as torchrun does by default.
const JOIN_MS: i64 = 600_000;
/// How long an elastic job that could begin waits for more. Pods of a gang start within a second or two of each other.
const LAST_CALL_MS: i64 = 5_000;
/// How long a launcher may be away before it counts as lost. One that ended is known to be gone at once: this is for those
/// that are stuck, and for how long a control plane that has just started waits for all of a generation to come back.
const AWAY_MS: i64 = 15_000;
/// What a new pod needs to start where there is a place for it.
const DEFAULT_RETURN_MS: i64 = 30_000;
/// The launcher's variable for its place among the pods.
const NODE_RANK: &str = "PET_NODE_RANK";
/// What Kubernetes gives a pod to end when its manifest does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What a manifest says of recovery.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) in_place: bool,
    pub(super) spares: Option<&'static str>,
    pub(super) on_hang: Option<&'static str>,
    pub(super) return_ms: i64,
    pub(super) by_cause: BTreeMap<Cause, u32>,
    /// Whether links and GPUs are checked first.
    pub(super) preflight: bool,
}

impl Default for Terms {
    fn default() -> Self {
        let by_cause = BTreeMap::new();
        Self { in_place: true, spares: None, on_hang: None, return_ms: DEFAULT_RETURN_MS, by_cause, preflight: false }
    }
}

impl Terms {
    /// Reads `spec.recovery`.
    pub(super) fn read(written: Option<&Recovery>, findings: &mut Findings) -> Self {
        let Some(recovery) = written else { return Self::default() };
        let path = "spec.recovery";
        let spares = findings.one_of(
            recovery.spares.as_deref(),
            &format!("{path}.spares"),
            &[("auto", Some("auto")), ("off", Some("off"))],
            None,
        );
        let on_hang = findings.one_of(
            recovery.on_hang.as_deref(),
            &format!("{path}.onHang"),
            &[("report", Some("report")), ("restart", Some("restart"))],
            None,
        );
        if recovery.return_seconds.is_some_and(|seconds| seconds < 1) {
            findings.add(Diagnostic::new(format!("{path}.returnSeconds"), "must be 1 or more"));
        }
        Self {
            in_place: recovery.in_place.unwrap_or(true),
            spares,
            on_hang,
            return_ms: recovery.return_seconds.map_or(DEFAULT_RETURN_MS, |seconds| seconds.saturating_mul(1000)),
            by_cause: budgets(recovery, findings),
            preflight: false,
        }
    }
}

fn budgets(recovery: &Recovery, findings: &mut Findings) -> BTreeMap<Cause, u32> {
    let Some(written) = &recovery.budgets else { return BTreeMap::new() };
    let of = |cause: Cause| match cause {
        Cause::ExitCode => written.exit_code,
        Cause::Signal => written.signal,
        Cause::OutOfMemory => written.out_of_memory,
        Cause::ImportError => written.import_error,
        Cause::Exception => written.exception,
        Cause::RendezvousTimeout => written.rendezvous_timeout,
        Cause::Hang => written.hang,
        Cause::NodeLost => written.node_lost,
        Cause::GpuXid => written.gpu_xid,
        // Never worth a restart.
        Cause::Preflight => None,
    };
    let mut budgets = BTreeMap::new();
    for (cause, most) in Cause::ALL.into_iter().filter_map(|cause| Some((cause, of(cause)?))) {
        findings.not_negative(Some(i64::from(most)), &format!("spec.recovery.budgets.{}", cause.word()));
        budgets.insert(cause, u32::try_from(most).unwrap_or(0));
    }
    budgets
}

/// How many pods a job has, and with how few it trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) replicas: u32,
    pub(super) least: u32,
}

impl Size {
    /// Reads `spec.replicas` and `spec.elastic`.
    pub(super) fn read(written: Option<i32>, elastic: Option<&Elastic>, max: i32, findings: &mut Findings) -> Self {
        let most = elastic.and_then(|elastic| elastic.max_replicas);
        let replicas = written.or(most).unwrap_or(1);
        if !(1..=max).contains(&replicas) {
            let path = if written.is_some() { "spec.replicas" } else { "spec.elastic.maxReplicas" };
            findings.add(Diagnostic::new(path, format!("must be from 1 to {max}")));
        }
        let least = elastic.map_or(replicas, |elastic| elastic.min_replicas.unwrap_or(1));
        if elastic.is_some() && least < 1 {
            findings.add(Diagnostic::new("spec.elastic.minReplicas", "must be 1 or more"));
        }
        if least > replicas {
            findings.add(
                Diagnostic::new("spec.elastic.minReplicas", format!("is more than the job has pods ({replicas})"))
                    .hint("lower it, or raise spec.replicas"),
            );
        }
        if let Some(most) = most.filter(|most| *most < replicas) {
            findings.add(
                Diagnostic::new("spec.replicas", format!("is more than elastic.maxReplicas ({most})"))
                    .hint("lower it, or raise spec.elastic.maxReplicas"),
            );
        }
        Self { replicas: u32::try_from(replicas).unwrap_or(1), least: u32::try_from(least).unwrap_or(1) }
    }
}

/// The rendezvous of a job of this size.
pub(super) fn config(terms: &Terms, rule: RestartRule, backoff_limit: Option<u32>, size: Size) -> Config {
    let total = if rule == RestartRule::Never { Some(0) } else { backoff_limit };
    // What a program says with a code of its own is its last word under this rule.
    let lowest_code = if rule == RestartRule::ExitCode { 128 } else { 0 };
    Config {
        least: size.least,
        most: size.replicas,
        join_ms: JOIN_MS,
        last_call_ms: LAST_CALL_MS.min(terms.return_ms),
        away_ms: AWAY_MS,
        return_ms: terms.return_ms,
        lost_ms: JOIN_MS.max(terms.return_ms.saturating_mul(2)),
        // Each change of size costs a restart: a job that waits long for what it lost need not grow at once either.
        grow_ms: terms.return_ms,
        budget: Budget { total, by_cause: terms.by_cause.clone(), lowest_code },
    }
}

/// The rule that holds for a job whose roles have several: ranks are started again together, so the strictest.
pub(super) fn strictest(rules: impl Iterator<Item = RestartRule> + Clone) -> RestartRule {
    let has = |rule| rules.clone().any(|one| one == rule);
    [RestartRule::Never, RestartRule::ExitCode].into_iter().find(|rule| has(*rule)).unwrap_or(RestartRule::OnFailure)
}

/// Where the launcher of such a pod reaches the rendezvous, if there is one.
pub(super) fn address<'config>(config: &'config view::Config, pod: &PodSpec) -> Option<&'config str> {
    let own = config.rendezvous.as_deref().filter(|_| is_ours(pod));
    own.or(config.open_rendezvous.as_deref())
}

/// Whether a pod's processes are the coordinator's user's, whose socket is the user's alone.
fn is_ours(pod: &PodSpec) -> bool {
    let of_pod = pod.security_context.as_ref().is_some_and(|context| context.run_as_user.is_some());
    let of_containers = pod
        .containers
        .iter()
        .any(|container| container.security_context.as_ref().is_some_and(|context| context.run_as_user.is_some()));
    !of_pod && !of_containers
}

/// What launchers are told of `spec.checkpoint`.
pub(super) fn checkpoint(written: Option<&Checkpoint>, findings: &mut Findings) -> Vec<EnvModel> {
    let Some(checkpoint) = written else { return Vec::new() };
    let path = checkpoint.path.as_deref().unwrap_or_default().trim();
    if path.is_empty() {
        findings.add(
            Diagnostic::new("spec.checkpoint.path", "is missing")
                .hint("name the folder into which the program writes its checkpoints"),
        );
    }
    let numbers = [
        ("TRAINYARD_CHECKPOINT_KEEP", checkpoint.keep, "keep"),
        ("TRAINYARD_CHECKPOINT_EVERY_SECONDS", checkpoint.every_seconds, "everySeconds"),
    ];
    let text = |name: &str, value: String| EnvModel { name: name.to_owned(), value: EnvValue::Text(value) };
    let mut env = vec![text("TRAINYARD_CHECKPOINT_PATH", path.to_owned())];
    for (name, number, field) in numbers {
        if number.is_some_and(|number| number < 1) {
            findings.add(Diagnostic::new(format!("spec.checkpoint.{field}"), "must be 1 or more"));
        }
        env.extend(number.map(|number| text(name, number.to_string())));
    }
    env
}

/// What every launcher of a job is told.
#[derive(Debug)]
pub(super) struct Told<'job> {
    pub(super) head: &'job Head,
    pub(super) terms: &'job Terms,
    /// Where the rendezvous is, if there is one.
    pub(super) rendezvous: Option<&'job str>,
    pub(super) max_restarts: u32,
    pub(super) grace_seconds: Option<i64>,
}

impl Told<'_> {
    /// Tells every replica of these roles.
    pub(super) fn tell(&self, roles: &mut [Role]) {
        for role in roles {
            let grace_seconds = role.template.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            let env = Self { grace_seconds, ..*self }.env();
            for replica in &mut role.replicas {
                // Where torchrun's nodes would find their places by themselves, ours keep theirs.
                if replica.env.iter().all(|variable| variable.name != NODE_RANK) {
                    let value = EnvValue::Text(replica.node_rank.to_string());
                    replica.env.push(EnvModel { name: NODE_RANK.to_owned(), value });
                }
                replica.env.extend(env.iter().cloned());
            }
        }
    }

    /// The variables of a launcher.
    pub(super) fn env(&self) -> Vec<EnvModel> {
        let variable = |name: &str, value| EnvModel { name: name.to_owned(), value };
        let text = |name: &str, value: &str| variable(name, EnvValue::Text(value.to_owned()));
        let max_restarts = if self.terms.in_place { self.max_restarts } else { 0 };
        let mut env = vec![
            text("TRAINYARD_JOB", &self.head.name),
            text("TRAINYARD_NAMESPACE", &self.head.namespace),
            // The uid is known only to those who may read the job: enough to keep other processes of the machine out.
            text("TRAINYARD_JOB_TOKEN", &self.head.uid),
            variable("TRAINYARD_GENERATION", EnvValue::Generation),
            // Not the generation, which a change of size and a resumption raise as well.
            variable("TRAINYARD_RESTARTS", EnvValue::Restarts),
            text("TRAINYARD_MAX_RESTARTS", &max_restarts.to_string()),
            text("TRAINYARD_STOP_GRACE_SECONDS", &self.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS).to_string()),
        ];
        if let Some(address) = self.rendezvous {
            env.push(text("TRAINYARD_RENDEZVOUS", address));
            env.push(variable("TRAINYARD_POD_UID", EnvValue::Field("metadata.uid".to_owned())));
            // Launchers that come from other machines say where they are; no name has to be known before they meet.
            if address.starts_with("http://") {
                env.push(variable("TRAINYARD_POD_IP", EnvValue::Field("status.podIP".to_owned())));
            }
        }
        env.extend(self.terms.spares.map(|word| text("TRAINYARD_SPARES", word)));
        env.extend(self.terms.on_hang.map(|word| text("TRAINYARD_ON_HANG", word)));
        env.extend(self.terms.preflight.then(|| text("TRAINYARD_PREFLIGHT", "1")));
        env
    }
}

//! Why a job is where it is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;
use trainyard_proto::pace;
use trainyard_proto::plan::{ObjectRef, Reason};
use trainyard_proto::trainyard::{LastFailure as Told, SlowRank, TrainingJobStatus};

use crate::gang::GangView;
use crate::job::{Ledger, Lifecycle};
use crate::rendezvous::{self, Cause, LastFailure, Place, RendezvousView, Stage};
use crate::view::JobView;

/// Why the job is where it is: the life cycle's reasons, then the scheduler's for those of its pods that wait.
#[must_use]
pub fn explain(job: &JobView, gangs: Option<&GangView>, now_ms: i64) -> Vec<Reason> {
    let plan = crate::job::plan(job, now_ms);
    let Some(subject) = plan.reasons.first().map(|reason| reason.subject.clone()) else { return plan.reasons };
    let uid = job.job.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let own: BTreeSet<String> = gangs
        .into_iter()
        .flat_map(|view| &view.pods)
        .filter(|pod| pod.metadata.namespace.as_deref() == Some(&subject.namespace) && owned(pod, uid))
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let placement = gangs.map(|view| crate::gang::place(view, now_ms)).unwrap_or_default();
    let scheduler = placement.plan.reasons.into_iter();
    let waits =
        scheduler.filter(|reason| reason.subject.namespace == subject.namespace && own.contains(&reason.subject.name));
    let recovery = recovery(job, gangs, &subject, now_ms);
    let layout = layout(gangs, &own, &subject, now_ms);
    plan.reasons.into_iter().chain(layout).chain(recovery).chain(waits).collect()
}

/// Where its pods are, or would be, and what that is predicted to cost.
fn layout(gangs: Option<&GangView>, own: &BTreeSet<String>, subject: &ObjectRef, now_ms: i64) -> Option<Reason> {
    let view = gangs.filter(|_| own.len() > 1)?;
    let layouts = crate::gang::layouts(view, now_ms);
    let found = layouts.iter().find(|one| one.namespace == subject.namespace && one.name == subject.name)?;
    let (code, subject) = ("Layout".to_owned(), subject.clone());
    Some(Reason { subject, code, message: found.words(), hint: None })
}

/// What failed last, how many restarts are left, and which nodes are avoided.
fn recovery(view: &JobView, gangs: Option<&GangView>, subject: &ObjectRef, now_ms: i64) -> Vec<Reason> {
    let Ok(model) = crate::manifest::lower(&view.job, &view.related, &view.config) else { return Vec::new() };
    let reason = |code: &str, message: String| {
        let (code, subject, hint) = (code.to_owned(), subject.clone(), None);
        Reason { subject, code, message, hint }
    };
    let mut reasons = Vec::new();
    if let Some(last) = last_failure(&view.job) {
        let ago = now_ms.saturating_sub(last.at_ms).max(0) / 1000;
        let then = match last.recovered_ms {
            Some(ms) => format!("; all ranks ran again {ms} ms later"),
            None => "; the ranks have not run since".to_owned(),
        };
        let lost = own_status(&view.job).last_failure.and_then(|last| last.lost_steps).filter(|steps| *steps > 0);
        let then = lost.map_or_else(|| then.clone(), |steps| format!("{then}; {steps} steps were lost"));
        let what = crate::job::what_failed(&last);
        let message = format!("{what}, {ago} s ago in generation {}{then}", last.generation);
        reasons.push(reason("LastFailure", message));
    }
    // Of a job that bears no failure there is nothing to count.
    if let Some(config) = model.rendezvous.as_ref().filter(|config| config.budget.total != Some(0)) {
        let used = Ledger::read(&view.job).all_restarts();
        let total = match config.budget.total {
            Some(total) => format!("{} of {total} restarts are left", total.saturating_sub(used)),
            None => format!("{used} restarts so far, and no limit"),
        };
        let spent = Ledger::read(&view.job).spent;
        let by_cause = config.budget.by_cause.iter().map(|(cause, most)| {
            let left = most.saturating_sub(spent.get(cause).copied().unwrap_or(0));
            format!("of those for {} {left} of {most}", cause.word())
        });
        let parts: Vec<String> = std::iter::once(total).chain(by_cause).collect();
        reasons.push(reason("RestartsLeft", parts.join("; ")));
    }
    // Where there is one node, nobody can go elsewhere.
    let elsewhere = gangs.is_none_or(|gangs| gangs.nodes.len() > 1);
    for (node, blame) in Ledger::read(&view.job).avoided(now_ms).into_iter().filter(|_| elsewhere) {
        let ago = now_ms.saturating_sub(blame.at_ms).max(0) / 1000;
        let times = if blame.failures == 1 { "once".to_owned() } else { format!("{} times", blame.failures) };
        let message = format!(
            "new pods avoid node {node}, where ranks failed {times}, last {ago} s ago, as long as another one has room"
        );
        reasons.push(reason("AvoidsNode", message));
    }
    reasons
}

/// What the status says of the launchers, for whoever cannot ask them: enough to explain the job, not to decide about it.
#[must_use]
pub fn told(job: &Value, pods: &[Pod]) -> Option<RendezvousView> {
    let dialect = crate::manifest::dialect_of(job)?;
    if !dialect.shows_launchers() {
        return noted(job, &dialect.read_status(job), pods);
    }
    let status = own_status(job);
    let stage = match status.phase.as_deref()? {
        "Running" => Stage::Running,
        "Restarting" => Stage::Recovering,
        "Pending" | "Starting" => Stage::Joining,
        _ => return None,
    };
    let generation = status.generation?.try_into().ok()?;
    let there = there(job, pods, &status.missing.unwrap_or_default());
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Some(RendezvousView {
        generation,
        stage,
        restarts: Ledger::read(job).in_place,
        joined: there.clone(),
        members: there.clone(),
        present: there,
        ranks: status.ranks.and_then(|ranks| u32::try_from(ranks).ok()).unwrap_or(0),
        last_failure: last_failure(job),
        stalled: status
            .stalled
            .into_iter()
            .flatten()
            .map(|rank| rendezvous::Stalled {
                rank: u32::try_from(number(rank.rank)).unwrap_or(0),
                host: rank.host.unwrap_or_default(),
                waits_in: rank.waits_in.unwrap_or_default(),
                since_ms: rank.since_ms.unwrap_or(0),
                in_collective: rank.in_collective.unwrap_or(false),
            })
            .collect(),
        stragglers: status.stragglers.into_iter().flatten().map(straggler).collect(),
        ..RendezvousView::default()
    })
}

/// The same of a job whose status has no place for it.
fn noted(job: &Value, lifecycle: &Lifecycle, pods: &[Pod]) -> Option<RendezvousView> {
    let ledger = Ledger::read(job);
    let note = ledger.meeting.clone()?;
    let stage = match (lifecycle.finished, lifecycle.suspended, lifecycle.restarting, lifecycle.running) {
        (Some(_), _, _, _) | (None, true, _, _) => return None,
        (None, false, true, _) => Stage::Recovering,
        (None, false, false, true) => Stage::Running,
        (None, false, false, false) => Stage::Joining,
    };
    let there = there(job, pods, &note.missing);
    Some(RendezvousView {
        generation: note.generation,
        stage,
        restarts: ledger.in_place,
        joined: there.clone(),
        members: there.clone(),
        present: there,
        last_failure: note.last_failure,
        stalled: note.stalled,
        ..RendezvousView::default()
    })
}

/// UIDs of the job's pods but for those of these names.
fn there(job: &Value, pods: &[Pod], missing: &[String]) -> BTreeSet<String> {
    let uid = job.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let is_missing = |pod: &Pod| pod.metadata.name.as_ref().is_some_and(|name| missing.contains(name));
    let own = pods.iter().filter(|pod| owned(pod, uid) && !is_missing(pod));
    own.filter_map(|pod| pod.metadata.uid.clone()).collect()
}

fn straggler(slow: SlowRank) -> rendezvous::Straggler {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let percent = (slow.slowdown.unwrap_or(0.0) * 100.0).round().clamp(0.0, 1e6) as u32;
    rendezvous::Straggler {
        rank: slow.rank.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(0),
        host: slow.host.unwrap_or_default(),
        slow: pace::Straggler { percent, since_ms: slow.since_ms.unwrap_or(0) },
    }
}

fn own_status(job: &Value) -> TrainingJobStatus {
    job.get("status").and_then(|status| Deserialize::deserialize(status).ok()).unwrap_or_default()
}

fn last_failure(job: &Value) -> Option<LastFailure> {
    if let Some(noted) = Ledger::read(job).meeting {
        return noted.last_failure;
    }
    let Told { rank, pod, host, cause, code, message, generation, at_ms, recovered_ms, lost_steps: _ } =
        own_status(job).last_failure?;
    Some(LastFailure {
        rank: rank.and_then(|rank| u32::try_from(rank).ok()),
        pod,
        place: Place::default(),
        host,
        cause: Cause::ALL.into_iter().find(|known| Some(known.word()) == cause.as_deref())?,
        code: code.unwrap_or(1),
        message: message.unwrap_or_default(),
        generation: generation.and_then(|number| u64::try_from(number).ok()).unwrap_or(0),
        at_ms: at_ms.unwrap_or(0),
        recovered_ms,
    })
}

fn owned(pod: &Pod, uid: &str) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

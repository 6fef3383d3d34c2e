//! Why a job is where it is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use trainyard_proto::plan::Reason;

use crate::gang::GangView;
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
    plan.reasons.into_iter().chain(waits).collect()
}

fn owned(pod: &Pod, uid: &str) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

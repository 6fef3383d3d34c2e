//! Who lets the pods of a job go, as its manifest says.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::read::Findings;
use crate::label;
use crate::model::{Scheduler, Warning};
use crate::view::Config;

/// The words for them.
const WORDS: &[(&str, Scheduler)] = &[
    ("trainyard", Scheduler::Trainyard),
    ("kubernetes", Scheduler::Kubernetes),
    ("kueue", Scheduler::Kueue),
    ("volcano", Scheduler::Volcano),
];
/// What pods that Volcano is to place say.
const VOLCANO: &str = "volcano";

/// The queue that Kueue's own label names.
pub(super) fn kueue_queue(job: &Value) -> Option<String> {
    let labels = job.pointer("/metadata/labels")?;
    labels.get(label::KUEUE_QUEUE)?.as_str().filter(|queue| !queue.is_empty()).map(str::to_owned)
}

/// The first of these that says anything: the field of our own kind, the annotation, Kueue's label, and the `schedulerName` of
/// the pods. The label speaks of our own queues where they are ours. On one machine there is nobody else, and only what was said
/// outright is worth a word.
pub(super) fn read<'template>(
    job: &Value,
    field: Option<&str>,
    templates: impl IntoIterator<Item = &'template PodTemplateSpec>,
    config: &Config,
    warnings: &mut Vec<Warning>,
    findings: &mut Findings,
) -> Scheduler {
    let annotation = job.pointer("/metadata/annotations").and_then(|all| all.get(label::SCHEDULER)?.as_str());
    let path = if field.is_some() {
        "spec.scheduler".to_owned()
    } else {
        format!("metadata.annotations[{}]", label::SCHEDULER)
    };
    let word = field.or(annotation);
    let said = findings.one_of(word, &path, WORDS, Scheduler::Trainyard);
    if config.embedded {
        if said != Scheduler::Trainyard {
            warnings.push(Warning::ignored(&path));
        }
        return Scheduler::Trainyard;
    }
    if word.is_some() {
        return said;
    }
    if kueue_queue(job).is_some() {
        return if config.peers.queues.is_empty() { Scheduler::Kueue } else { Scheduler::Trainyard };
    }
    let name = |template: &PodTemplateSpec| template.spec.as_ref().and_then(|spec| spec.scheduler_name.clone());
    let by_volcano = templates.into_iter().any(|template| name(template).as_deref() == Some(VOLCANO));
    if by_volcano { Scheduler::Volcano } else { Scheduler::Trainyard }
}

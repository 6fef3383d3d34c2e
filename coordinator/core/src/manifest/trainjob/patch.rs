//! Changes that a TrainJob makes to its runtime's pods: `runtimePatches`, and the two older forms of it.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::Value;
use trainyard_proto::trainer::TrainJobSpec;

use super::NODE;
use crate::manifest::read::{Findings, join};

/// Applies them in the order of the list, as strategic merges on the pod template of the step that trains.
pub(super) fn apply(spec: &TrainJobSpec, template: &mut PodTemplateSpec, findings: &mut Findings) {
    for (index, item) in spec.pod_spec_overrides.iter().flatten().enumerate() {
        let path = format!("spec.podSpecOverrides[{index}]");
        if targets(item)
            && let Some(pod) = findings.read::<PodSpec>(item, &path)
        {
            template.spec.get_or_insert_default().merge_from(pod);
        }
    }
    for (index, item) in spec.pod_template_overrides.iter().flatten().enumerate() {
        let path = format!("spec.podTemplateOverrides[{index}]");
        if targets(item)
            && let Some(pod) = findings.read::<PodTemplateSpec>(item, &path)
        {
            template.merge_from(pod);
        }
    }
    for (index, item) in spec.runtime_patches.iter().flatten().enumerate() {
        let path = format!("spec.runtimePatches[{index}].trainingRuntimeSpec.template.spec.replicatedJobs");
        let steps = item.pointer("/trainingRuntimeSpec/template/spec/replicatedJobs").and_then(Value::as_array);
        for (at, step) in steps.into_iter().flatten().enumerate() {
            let pod = step.pointer("/template/spec/template");
            if step.get("name").and_then(Value::as_str) == Some(NODE)
                && let Some(pod) = pod
                && let Some(pod) =
                    findings.read::<PodTemplateSpec>(pod, &join(&path, &format!("[{at}].template.spec.template")))
            {
                template.merge_from(pod);
            }
        }
    }
}

/// Whether an override is meant for the step that trains.
fn targets(item: &Value) -> bool {
    let targets = item.get("targetJobs").and_then(Value::as_array);
    targets.is_none_or(|targets| targets.iter().any(|target| target.get("name").and_then(Value::as_str) == Some(NODE)))
}

//! What a Job's policies make of its pods: `podFailurePolicy`, `successPolicy`, `podReplacementPolicy`.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::Pod;

use super::super::object::name;
use super::super::pod;
use super::index::Indexes;

/// What a pod's failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limits.
    Count,
    /// It does not.
    Ignore,
    /// Its index has failed, whatever the limit.
    FailIndex,
    /// The Job has failed, with this message.
    FailJob(String),
}

/// What a failed pod's failure means: the first rule that matches says so.
pub(super) fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules).enumerate();
    for (at, rule) in rules {
        let Some(cause) = matches(rule, pod) else { continue };
        match rule.action.as_str() {
            "FailJob" => {
                return Verdict::FailJob(format!("{cause} matching FailJob rule at index {at}"));
            }
            "FailIndex" => return Verdict::FailIndex,
            "Ignore" => return Verdict::Ignore,
            "Count" => return Verdict::Count,
            // As documented: an action that is not known skips its rule.
            _ => {}
        }
    }
    Verdict::Count
}

/// What in the pod a rule matches, in words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let title = || format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), name(&pod.metadata));
    if let Some(wanted) = &rule.on_exit_codes {
        let (container, code) = pod::exits(pod).find(|(container, code)| exit_matches(wanted, container, *code))?;
        return Some(format!("Container {container} for pod {} failed with exit code {code}", title()));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|condition| {
        let same = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
            let status = if pattern.status.is_empty() { "True" } else { &pattern.status };
            pattern.type_ == condition.type_ && status == condition.status
        };
        patterns.iter().any(same)
    })?;
    Some(format!("Pod {} has condition {}", title(), found.type_))
}

fn exit_matches(wanted: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let listed = wanted.values.contains(&code);
    let matched = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    code != 0 && matched && wanted.container_name.as_deref().is_none_or(|name| name == container)
}

/// The position of the success rule that holds.
pub(super) fn success_rule(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let completions = spec.completions?;
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
        let have = wanted.as_ref().map_or_else(|| completed.len(), |wanted| wanted.common(completed));
        let enough = rule.succeeded_count.map(i64::from).or_else(|| wanted.map(|wanted| wanted.len()));
        !completed.is_empty() && enough.is_some_and(|enough| have >= enough)
    })
}

/// Whether a pod is replaced only once it has ended, rather than as soon as it is on its way out.
pub(super) fn replaces_ended_only(spec: &JobSpec) -> bool {
    spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether a pod counts as failed.
pub(super) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let leaves = pod::leaving(pod) && !pod::succeeded(pod);
    pod::failed(pod) || leaves && (!replaces_ended_only(spec) || pod::is_given_up(pod))
}

/// Whether a pod still holds a place though it is on its way out.
pub(super) fn blocks_place(spec: &JobSpec, pod: &Pod) -> bool {
    replaces_ended_only(spec) && pod::leaving(pod) && !pod::succeeded(pod) && !has_failed(spec, pod)
}

//! What a trial runs: Katib's places, and the job with values in them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};
use trainyard_proto::katib::{NamedValue, TrialParameter, TrialTemplate};

use super::{Findings, JOBS, NOT_RUN, condition};
use crate::space::nearest;

const TRIAL_PARAMETERS: &str = "trialParameters.";
const TRIAL_SPEC: &str = "trialSpec.";
const META: [&str; 6] = ["Name", "Namespace", "Kind", "APIVersion", "Labels[key]", "Annotations[key]"];
const PATH: &str = "spec.trialTemplate";
/// Groups of kinds with several steps, and whose they are.
const PIPELINES: [(&str, &str); 2] = [("argoproj.io/", "Argo Workflows"), ("tekton.dev/", "Tekton")];

/// Checks a template, and gives the manifest of a trial's job, which has places for these parameters.
pub(super) fn check(given: Option<&TrialTemplate>, parameters: &[&str], findings: &mut Findings) -> Json {
    let Some(template) = given else {
        findings.add(PATH, "say what a trial runs: trialSpec with the manifest of a job");
        return Json::Null;
    };
    let Some(job) = template.trial_spec.as_ref() else {
        let message = if template.config_map.is_some() {
            "manifests in a ConfigMap are not read here yet; write the manifest into trialSpec"
        } else {
            "say what a trial runs: the manifest of a job"
        };
        findings.add(format!("{PATH}.trialSpec"), message);
        return Json::Null;
    };
    kind(job, findings);
    for name in ["name", "namespace"] {
        if job.pointer(&format!("/metadata/{name}")).is_some() {
            findings.add(format!("{PATH}.trialSpec.metadata.{name}"), format!("the trial gives its job its {name}"));
        }
    }
    places(template, job, parameters, findings);
    container(template, job, findings);
    for (name, given) in
        [("successCondition", &template.success_condition), ("failureCondition", &template.failure_condition)]
    {
        if let Some(Err(message)) = given.as_ref().map(|path| condition::check(path)) {
            findings.add(format!("{PATH}.{name}"), message);
        }
    }
    job.clone()
}

fn kind(job: &Json, findings: &mut Findings) {
    let text = |name: &str| job.get(name).and_then(Json::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if JOBS.contains(&(version, kind)) {
        return;
    }
    let found = if kind.is_empty() { "no kind".to_owned() } else { format!("{kind} of {version}") };
    let known: Vec<String> = JOBS.iter().map(|(version, kind)| format!("{kind} of {version}")).collect();
    let (path, known) = (format!("{PATH}.trialSpec.kind"), known.join(", "));
    if let Some((_, whose)) = PIPELINES.iter().find(|(group, _)| version.starts_with(group)) {
        let message = format!("{found} is run by {whose}, which is not here; a trial runs one of {known}");
        let hint = "give the trial a Job with the command of the step that trains; what steps before it do can be its initContainers";
        return findings.hint(path, message, Some(hint.to_owned()));
    }
    if version == "kubeflow.org/v1" && NOT_RUN.contains(&kind) {
        let message = format!("{found} is not run here yet; a trial runs one of {known}");
        let hint = "a Job is enough for one process; a PyTorchJob or a TrainJob starts several, with a rank and an address for each";
        return findings.hint(path, message, Some(hint.to_owned()));
    }
    let near = nearest(kind, JOBS.map(|(_, kind)| kind)).map(|kind| format!("did you mean {kind}?"));
    findings.hint(path, format!("a trial runs one of {known}; found {found}"), near);
}

/// Every place has a parameter, every parameter a place.
fn places(template: &TrialTemplate, job: &Json, parameters: &[&str], findings: &mut Findings) {
    let given = template.trial_parameters.as_deref().unwrap_or_default();
    let mut found = BTreeSet::new();
    collect(job, &mut found);
    let names: BTreeSet<&str> = given.iter().map(|parameter| parameter.name.as_str()).collect();
    for place in found.iter().filter(|place| !names.contains(place.as_str())) {
        let near = nearest(place, names.iter().copied()).map(|near| format!("did you mean {near}?"));
        let message = format!("there is no trial parameter `{place}` for ${{trialParameters.{place}}}");
        findings.hint(format!("{PATH}.trialSpec"), message, near);
    }
    let (mut seen, mut referred) = (BTreeSet::new(), BTreeSet::new());
    for (at, parameter) in given.iter().enumerate() {
        let path = format!("{PATH}.trialParameters[{at}]");
        let TrialParameter { name, reference, .. } = parameter;
        if name.is_empty() || name.contains(['{', '}']) {
            findings
                .add(format!("{path}.name"), format!("a trial parameter has a name without braces, found \"{name}\""));
        } else if !seen.insert(name.as_str()) {
            findings.add(format!("{path}.name"), format!("there are two trial parameters `{name}`"));
        } else if !found.contains(name) {
            let message = format!("`{name}` has no place; write ${{trialParameters.{name}}} where its value goes");
            findings.add(format!("{path}.name"), message);
        }
        if !referred.insert(reference.as_str()) {
            findings.add(format!("{path}.reference"), format!("there are two references to `{reference}`"));
        }
        refers(reference, &path, parameters, findings);
    }
    for parameter in parameters.iter().filter(|parameter| !referred.contains(**parameter)) {
        let message = format!("no trial parameter refers to the parameter `{parameter}`");
        findings.add(format!("{PATH}.trialParameters"), message);
    }
}

fn refers(reference: &str, path: &str, parameters: &[&str], findings: &mut Findings) {
    let path = format!("{path}.reference");
    match inside(reference, TRIAL_SPEC) {
        Some(field) => {
            let name = field.split('[').next().unwrap_or_default();
            let known = META.iter().any(|known| {
                let (own, index) = known.split_once('[').map_or((*known, false), |(own, _)| (own, true));
                own == name && index == (field.len() > name.len() && field.ends_with(']'))
            });
            if !known {
                let message = format!("there is no {field} of a job's metadata; there are {}", META.join(", "));
                findings.add(path, message);
            }
        }
        None => {
            if !parameters.contains(&reference) {
                let near = nearest(reference, parameters.iter().copied()).map(|near| format!("did you mean {near}?"));
                findings.hint(path, format!("there is no parameter `{reference}`"), near);
            }
        }
    }
}

/// The primary container is there, where the manifest has templates of pods.
fn container(template: &TrialTemplate, job: &Json, findings: &mut Findings) {
    let mut names = Vec::new();
    super::view::each_template(job, &mut |pod| {
        let containers = pod.pointer("/spec/containers").and_then(Json::as_array).into_iter().flatten();
        names.extend(containers.filter_map(|one| one.get("name").and_then(Json::as_str).map(str::to_owned)));
    });
    let path = format!("{PATH}.primaryContainerName");
    match template.primary_container_name.as_deref().filter(|name| !name.is_empty()) {
        None if names.len() > 1 => findings.add(path, "say which container tells the metrics"),
        Some(name) if !names.is_empty() && !names.iter().any(|known| known == name) => {
            let near = nearest(name, names.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
            let message = format!("there is no container `{name}`; there are {}", names.join(", "));
            findings.hint(path, message, near);
        }
        Some(_) | None => {}
    }
}

/// `lr` of `${trialParameters.lr}`.
fn inside<'text>(text: &'text str, of: &str) -> Option<&'text str> {
    text.strip_prefix("${")?.strip_suffix('}')?.strip_prefix(of)
}

/// The names of the places of a manifest.
fn collect(value: &Json, found: &mut BTreeSet<String>) {
    match value {
        Json::String(text) => pieces(text, &mut |_, name| found.extend(name.map(str::to_owned))),
        Json::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Json::Object(entries) => entries.iter().for_each(|(key, entry)| {
            pieces(key, &mut |_, name| found.extend(name.map(str::to_owned)));
            collect(entry, found);
        }),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// The parts of a text: what stands before a place, and the name in it; the last part has none.
fn pieces<'text>(text: &'text str, act: &mut dyn FnMut(&'text str, Option<&'text str>)) {
    const START: &str = "${";
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest[from..].find(START).map(|at| from + at) {
        let name = rest[at + START.len()..].strip_prefix(TRIAL_PARAMETERS);
        match name.and_then(|name| name.split_once('}')) {
            Some((name, after)) => {
                act(&rest[..at], Some(name));
                (rest, from) = (after, 0);
            }
            None => from = at + START.len(),
        }
    }
    act(rest, None);
}

/// The manifest with values in its places.
pub(super) fn filled(
    template: &Json,
    parameters: &[TrialParameter],
    assignments: &[NamedValue],
    name: &str,
    namespace: &str,
) -> Json {
    let value_of = |reference: &str| -> Option<String> {
        let Some(field) = inside(reference, TRIAL_SPEC) else {
            return assignments.iter().find(|one| one.name == reference).map(|one| one.value.clone());
        };
        let text = |pointer: &str| template.pointer(pointer).and_then(Json::as_str).map(str::to_owned);
        let of = |table: &str, key: &str| {
            let table = template.pointer(&format!("/metadata/{table}"))?;
            table.get(key.strip_suffix(']')?)?.as_str().map(str::to_owned)
        };
        match field.split_once('[') {
            Some(("Labels", key)) => of("labels", key),
            Some(("Annotations", key)) => of("annotations", key),
            Some(_) => None,
            None => match field {
                "Name" => Some(name.to_owned()),
                "Namespace" => Some(namespace.to_owned()),
                "Kind" => text("/kind"),
                "APIVersion" => text("/apiVersion"),
                _ => None,
            },
        }
    };
    let words: BTreeMap<&str, String> =
        parameters.iter().filter_map(|one| Some((one.name.as_str(), value_of(&one.reference)?))).collect();
    with_words(template, &words)
}

fn with_words(template: &Json, words: &BTreeMap<&str, String>) -> Json {
    let text = |text: &str| {
        let mut out = String::with_capacity(text.len());
        pieces(text, &mut |before, name| {
            out.push_str(before);
            match name.map(|name| (name, words.get(name))) {
                Some((_, Some(word))) => out.push_str(word),
                Some((name, None)) => {
                    out.push_str("${trialParameters.");
                    out.push_str(name);
                    out.push('}');
                }
                None => {}
            }
        });
        out
    };
    match template {
        Json::String(given) => Json::String(text(given)),
        Json::Array(items) => items.iter().map(|item| with_words(item, words)).collect(),
        Json::Object(entries) => {
            let entries = entries.iter().map(|(key, entry)| (text(key), with_words(entry, words)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => template.clone(),
    }
}

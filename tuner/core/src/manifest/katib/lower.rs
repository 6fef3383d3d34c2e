//! An Experiment as one of ours.

use serde_json::{Map, Value as Json, json};
use trainyard_proto::katib::{ExperimentSpec, ObjectiveSpec};

use super::nas::Nas;
use super::{Diagnostic, Findings, algorithm, collector, space, template};
use crate::control::Keep;

/// Trials at the same time, where an experiment does not say.
const PARALLEL: i32 = 3;

/// What an Experiment says, in the words of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The keys of our own experiments, but for what a trial runs.
    pub spec: Map<String, Json>,
    /// The manifest of a trial's job, with Katib's places.
    pub job: Json,
    /// Which jobs stay when their trial has ended.
    pub keep: Keep,
}

/// Reads an Experiment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn lower(object: &Json) -> Result<Lowered, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let spec: ExperimentSpec = match object.get("spec").cloned().map(serde_json::from_value) {
        Some(Ok(spec)) => spec,
        Some(Err(error)) => {
            findings.add("spec", error.to_string());
            return Err(findings.0);
        }
        None => {
            findings.add("spec", "an experiment needs a spec");
            return Err(findings.0);
        }
    };
    let nas = Nas::of(&spec);
    let mut parameters = match nas {
        Some(nas) => nas.parameters(&spec, &mut findings),
        None => space::parameters(&spec.parameters, "spec.parameters", &mut findings),
    };
    match (nas.is_some(), spec.parameters.is_empty(), spec.nas_config.is_some()) {
        (true, false, _) => findings.add("spec.parameters", "an architecture is searched by its nasConfig alone"),
        (false, _, true) => findings.add("spec.nasConfig", "it is for the algorithms enas and darts"),
        (false, true, false) => findings.add("spec.parameters", "say what is chosen: a list of parameters"),
        (true, true, _) | (false, false, false) => {}
    }
    let algorithm = algorithm::algorithm(spec.algorithm.as_ref(), nas, &mut parameters, &mut findings);
    let objective = objective(spec.objective.as_ref(), &mut findings);
    let budget = budget(&spec, &mut findings);
    let stopping = spec.early_stopping.as_ref().map(|stopping| algorithm::stopping(stopping, &mut findings));
    if let Err(message) = collector::check(spec.metrics_collector_spec.as_ref()) {
        findings.add(message.0, message.1);
    }
    let names: Vec<&str> = match nas {
        Some(nas) => nas.names().to_vec(),
        None => spec.parameters.iter().map(|parameter| parameter.name.as_str()).collect(),
    };
    let job = template::check(spec.trial_template.as_ref(), &names, &mut findings);
    let retain = spec.trial_template.as_ref().and_then(|template| template.retain);
    let keep = if retain == Some(true) { Keep::All } else { Keep::Nothing };
    if !findings.0.is_empty() {
        return Err(findings.0);
    }
    let seed = algorithm.seed.unwrap_or_else(|| chance(object.pointer("/metadata/uid").and_then(Json::as_str)));
    let all = [
        ("seed", Some(json!(seed))),
        ("objective", Some(objective)),
        ("parameters", Some(Json::Object(parameters))),
        ("algorithm", Some(algorithm.table)),
        ("fidelity", algorithm.fidelity),
        ("stopping", stopping),
        ("budget", Some(budget)),
    ];
    let spec = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Ok(Lowered { spec, job, keep })
}

/// Katib's experiments without a seed differ each time; ours, for each object.
fn chance(uid: Option<&str>) -> i64 {
    let hash = uid.unwrap_or_default().bytes();
    let hash =
        hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash >> 1) as i64
}

fn objective(given: Option<&ObjectiveSpec>, findings: &mut Findings) -> Json {
    let Some(given) = given else {
        findings.add("spec.objective", "say what is to be made better: type and objectiveMetricName");
        return Json::Null;
    };
    let is_minimize = match given.kind.as_str() {
        "minimize" => true,
        "maximize" => false,
        other => {
            findings.unknown("spec.objective.type", other, &["minimize", "maximize"]);
            return Json::Null;
        }
    };
    let name = &given.objective_metric_name;
    if name.is_empty() {
        findings.add("spec.objective.objectiveMetricName", "the name under which trials tell their value");
    }
    if given.additional_metric_names.iter().flatten().any(|additional| additional == name) {
        let path = "spec.objective.additionalMetricNames";
        findings.add(path, format!("`{name}` is the objective's own metric; leave it out here"));
    }
    let own = given.metric_strategies.iter().flatten().enumerate().find(|(_, strategy)| strategy.name == *name);
    let best = if is_minimize { "min" } else { "max" };
    let take = match own.map(|(at, strategy)| (at, strategy.value.as_str())) {
        None => "best",
        Some((_, value)) if value == best => "best",
        Some((_, "latest")) => "last",
        Some((at, value)) => {
            let path = format!("spec.objective.metricStrategies[{at}].value");
            if matches!(value, "min" | "max") {
                let message = format!("the worst value of a trial ({value}, to {}) is not to be had", given.kind);
                findings.hint(path, message, Some(format!("there are {best} and latest")));
            } else {
                findings.unknown(&path, value, &["min", "max", "latest"]);
            }
            "last"
        }
    };
    let mut table = json!({"metric": name, "goal": given.kind, "take": take});
    if let Some(goal) = given.goal {
        table["target"] = json!(goal);
    }
    table
}

fn budget(spec: &ExperimentSpec, findings: &mut Findings) -> Json {
    let parallel = spec.parallel_trial_count.unwrap_or(PARALLEL);
    if parallel < 1 {
        findings.add("spec.parallelTrialCount", format!("expected 1 or more, found {parallel}"));
    }
    // Katib has no limit where none is given.
    let mut table = json!({"parallel": parallel, "failures": i64::MAX});
    if let Some(trials) = spec.max_trial_count {
        if trials < 1 {
            findings.add("spec.maxTrialCount", format!("expected 1 or more, found {trials}"));
        } else if spec.parallel_trial_count.is_some_and(|parallel| parallel > trials) {
            let path = "spec.parallelTrialCount";
            findings.add(path, format!("{parallel} at the same time are more than maxTrialCount, {trials}"));
        }
        table["trials"] = json!(trials);
    }
    if let Some(failures) = spec.max_failed_trial_count {
        if failures < 0 {
            findings.add("spec.maxFailedTrialCount", format!("expected 0 or more, found {failures}"));
        }
        table["failures"] = json!(failures);
    }
    table
}

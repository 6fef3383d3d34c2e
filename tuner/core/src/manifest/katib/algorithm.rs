//! Who says what to try next, and when trials are ended early.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use trainyard_proto::katib::{AlgorithmSpec, EarlyStoppingSpec, NamedValue};

use super::nas::Nas;
use super::{Findings, population, space};

/// Katib's algorithms that are here.
const HERE: [&str; 11] = [
    "random",
    "grid",
    "tpe",
    "multivariate-tpe",
    "bayesianoptimization",
    "cmaes",
    "sobol",
    "hyperband",
    "pbt",
    "enas",
    "darts",
];

const ESTIMATORS: [&str; 4] = ["GP", "RF", "ET", "GBRT"];
const ACQUISITIONS: [&str; 6] = ["gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"];
const OPTIMISERS: [&str; 3] = ["auto", "sampling", "lbfgs"];

/// An algorithm as one of ours.
#[derive(Debug, Default)]
pub(super) struct Algorithm {
    /// Its name and settings.
    pub(super) table: Json,
    /// What random numbers are made of, if that is given.
    pub(super) seed: Option<i64>,
    /// What trials have more of the better they are.
    pub(super) fidelity: Option<Json>,
}

/// The settings of an algorithm, with the path of each.
struct Settings<'given> {
    given: BTreeMap<&'given str, (String, &'given str)>,
    known: Vec<&'static str>,
}

impl<'given> Settings<'given> {
    fn of(given: Option<&'given Vec<NamedValue>>, path: &str, findings: &mut Findings) -> Self {
        let mut all = BTreeMap::new();
        for (at, setting) in given.into_iter().flatten().enumerate() {
            let path = format!("{path}[{at}]");
            if all.insert(setting.name.as_str(), (path.clone(), setting.value.as_str())).is_some() {
                findings.add(path, format!("the setting `{}` is given twice", setting.name));
            }
        }
        Self { given: all, known: Vec::new() }
    }

    fn text(&mut self, name: &'static str) -> Option<(String, &'given str)> {
        self.known.push(name);
        self.given.remove(name)
    }

    /// A number of a range.
    fn number(&mut self, name: &'static str, least: f64, most: f64, findings: &mut Findings) -> Option<f64> {
        let (path, text) = self.text(name)?;
        let number = text.trim().parse::<f64>().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let range = if most >= 9e15 { format!("{least} or more") } else { format!("from {least} to {most}") };
            findings
                .add(format!("{path}.value"), format!("expected a number, {range}, for `{name}`, found \"{text}\""));
        }
        number
    }

    /// A whole number of a range.
    fn whole(&mut self, name: &'static str, least: u32, findings: &mut Findings) -> Option<i64> {
        let path = self.given.get(name).map(|(path, _)| path.clone());
        let number = self.number(name, f64::from(least), 9e15, findings)?;
        if number.fract() != 0.0 {
            findings.add(
                format!("{}.value", path.unwrap_or_default()),
                format!("expected a whole number for `{name}`, found {number}"),
            );
            return None;
        }
        Some(number as i64)
    }

    fn word(&mut self, name: &'static str, known: &[&str], findings: &mut Findings) -> Option<&'given str> {
        let (path, text) = self.text(name)?;
        if known.contains(&text) {
            return Some(text);
        }
        findings.unknown(&format!("{path}.value"), text, known);
        None
    }

    /// What was not asked for is not known.
    fn end(self, findings: &mut Findings) {
        for (name, (path, _)) in &self.given {
            let near = crate::space::nearest(name, self.known.iter().copied());
            let message = format!("there is no setting `{name}`; there are {}", self.known.join(", "));
            findings.hint(format!("{path}.name"), message, near.map(|near| format!("did you mean {near}?")));
        }
    }
}

/// The algorithm as one of ours, and the seed if one is given. What hyperband gives trials more of is none of the parameters any more: it
/// is `fidelity`.
pub(super) fn algorithm(
    given: Option<&AlgorithmSpec>,
    nas: Option<Nas>,
    parameters: &mut Map<String, Json>,
    findings: &mut Findings,
) -> Algorithm {
    let name = given.map(|given| given.algorithm_name.as_str()).unwrap_or_default();
    let Some(named) = named(name, findings) else { return Algorithm::default() };
    let settings = given.and_then(|given| given.algorithm_settings.as_ref());
    let mut settings = Settings::of(settings, "spec.algorithm.algorithmSettings", findings);
    let mut table = json!({"name": named});
    let mut fidelity = None;
    // What the controller of enas is made of does not matter to another sampler, and that of darts its trial looks at.
    for name in nas.into_iter().flat_map(Nas::settings) {
        if settings.given.get(name).is_some_and(|(_, text)| *text == "None") {
            settings.text(name);
        } else {
            settings.number(name, 0.0, f64::MAX, findings);
        }
    }
    let mut put = |key: &str, value: Option<Json>| {
        if let Some(value) = value {
            table[key] = value;
        }
    };
    match named {
        "tpe" if nas.is_none() => {
            put("gamma", settings.number("gamma", 1e-3, 1.0, findings).map(Json::from));
            put("prior_weight", settings.number("prior_weight", 1e-6, 1e6, findings).map(Json::from));
            // Katib has two programs for it, which spell this differently.
            put("candidates", settings.number("n_EI_candidates", 1.0, 1e4, findings).map(|count| json!(count.floor())));
            put("candidates", settings.number("n_ei_candidates", 1.0, 1e4, findings).map(|count| json!(count.floor())));
            put("startup", settings.whole("n_startup_trials", 0, findings).map(Json::from));
        }
        "gp" => {
            if let Some(estimator) = settings.word("base_estimator", &ESTIMATORS, findings)
                && estimator != "GP"
            {
                let path = "spec.algorithm.algorithmSettings";
                findings.add(path, format!("base_estimator {estimator} is not here; there is GP"));
            }
            put("startup", settings.whole("n_initial_points", 0, findings).map(Json::from));
            // There is one acquisition here, and one way to its best point.
            settings.word("acq_func", &ACQUISITIONS, findings);
            settings.word("acq_optimizer", &OPTIMISERS, findings);
        }
        "cmaes" => {
            // Given in units of the narrowest parameter; ours is one of the whole range.
            let narrowest = parameters.values().filter_map(space::range).filter(|range| *range > 0.0);
            let narrowest = narrowest.reduce(f64::min).unwrap_or(1.0);
            let sigma = settings.number("sigma", 0.0, f64::MAX, findings).filter(|sigma| *sigma > 0.0);
            put("sigma", sigma.map(|sigma| json!((sigma / narrowest).clamp(1e-6, 1.0))));
            let restart = settings.word("restart_strategy", &["ipop", "bipop", "none", "None"], findings);
            put("restart", Some(json!(restart.unwrap_or("none").to_lowercase())));
        }
        "hyperband" => fidelity = resource(&mut settings, parameters, findings),
        "pbt" => population(&mut settings, &mut put, findings),
        _ => {}
    }
    let seed = settings.whole("random_state", 0, findings);
    settings.end(findings);
    Algorithm { table, seed, fidelity }
}

/// Our name of an algorithm.
fn named(name: &str, findings: &mut Findings) -> Option<&'static str> {
    const PATH: &str = "spec.algorithm.algorithmName";
    match name {
        // There is nothing to choose for darts.
        "random" | "darts" => return Some("random"),
        "grid" => return Some("grid"),
        "cmaes" => return Some("cmaes"),
        "sobol" => return Some("sobol"),
        "hyperband" => return Some("hyperband"),
        "pbt" => return Some("pbt"),
        "tpe" | "multivariate-tpe" | "enas" => return Some("tpe"),
        "bayesianoptimization" => return Some("gp"),
        "" => findings.add(PATH, format!("say who suggests: one of {}", HERE.join(", "))),
        _ => findings.unknown(PATH, name, &HERE),
    }
    None
}

/// What a population of pbt is like.
fn population(settings: &mut Settings<'_>, put: &mut dyn FnMut(&str, Option<Json>), findings: &mut Findings) {
    const PATH: &str = "spec.algorithm.algorithmSettings";
    match settings.text(population::FOLDER) {
        None => findings.add(PATH, "pbt needs suggestion_trial_dir: the folder in which trials have their checkpoints"),
        Some((_, folder)) if folder.starts_with('/') && !folder.trim_matches('/').is_empty() => {}
        Some((path, folder)) => {
            let message =
                format!("expected an absolute path, below which trials have their checkpoints, found \"{folder}\"");
            findings.add(format!("{path}.value"), message);
        }
    }
    let is_there = |settings: &Settings<'_>, name: &str| settings.given.contains_key(name);
    for (name, why) in [("n_population", "how many are trained"), ("truncation_threshold", "the share that gives up")] {
        if !is_there(settings, name) {
            findings.add(PATH, format!("pbt needs {name}: {why}"));
        }
    }
    put("population", settings.whole("n_population", 5, findings).map(Json::from));
    // More than half cannot give up for as many that are ahead.
    let truncation = settings.number("truncation_threshold", 0.0, 1.0, findings);
    put("truncation", truncation.map(|share| json!(share.min(0.5))));
    put("resample", settings.number("resample_probability", 0.0, 1.0, findings).map(Json::from));
}

/// What trials of hyperband get more of the better they are.
fn resource(settings: &mut Settings<'_>, parameters: &mut Map<String, Json>, findings: &mut Findings) -> Option<Json> {
    const PATH: &str = "spec.algorithm.algorithmSettings";
    let most = settings.number("r_l", 1.0, 1e15, findings);
    let eta = settings.number("eta", 1.1, 1e6, findings).unwrap_or(3.0);
    let Some((path, name)) = settings.text("resource_name") else {
        findings.add(PATH, "hyperband needs resource_name: the parameter that says how much a trial gets");
        return None;
    };
    if parameters.shift_remove(name).is_none() {
        let near = crate::space::nearest(name, parameters.keys().map(String::as_str));
        let hint = near.map(|near| format!("did you mean {near}?"));
        findings.hint(format!("{path}.value"), format!("there is no parameter `{name}`"), hint);
    }
    let Some(most) = most else {
        findings.add(PATH, "hyperband needs r_l: the most that a trial gets");
        return None;
    };
    let steps = (most.ln() / eta.ln() + 1e-9).floor();
    let least = (most / eta.powf(steps) + 1e-9).floor().max(1.0);
    Some(json!({"parameter": name, "min": least, "max": most, "eta": eta}))
}

/// The rules that end trials early, as one of ours.
pub(super) fn stopping(given: &EarlyStoppingSpec, findings: &mut Findings) -> Json {
    if given.algorithm_name != "medianstop" {
        findings.unknown("spec.earlyStopping.algorithmName", &given.algorithm_name, &["medianstop"]);
        return Json::Null;
    }
    let mut settings =
        Settings::of(given.algorithm_settings.as_ref(), "spec.earlyStopping.algorithmSettings", findings);
    let trials = settings.whole("min_trials_required", 1, findings).unwrap_or(3);
    let start = settings.whole("start_step", 1, findings).unwrap_or(4);
    settings.end(findings);
    json!({"rule": "median", "trials": trials, "start": start})
}

//! What is searched.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};
use trainyard_proto::katib::{FeasibleSpace, ParameterSpec};

use super::Findings;

const TYPES: [&str; 4] = ["double", "int", "discrete", "categorical"];
const DISTRIBUTIONS: [&str; 4] = ["uniform", "logUniform", "normal", "logNormal"];
/// The least value on a scale of orders of magnitude, where Katib's optimisers are given 0.
const LEAST: f64 = 1e-10;

/// The parameters at a path as those of our own experiments, by name and in their order.
pub(super) fn parameters(given: &[ParameterSpec], path: &str, findings: &mut Findings) -> Map<String, Json> {
    let mut names = BTreeSet::new();
    let mut all = Map::new();
    for (at, parameter) in given.iter().enumerate() {
        let own = format!("{path}[{at}]");
        if parameter.name.is_empty() {
            findings.add(format!("{own}.name"), "a parameter needs a name");
        } else if !names.insert(parameter.name.as_str()) {
            findings.add(format!("{own}.name"), format!("there are two parameters `{}`", parameter.name));
        }
        let space = &parameter.feasible_space;
        let path = format!("{own}.feasibleSpace");
        let table = match parameter.parameter_type.as_str() {
            "double" | "int" => number(space, parameter.parameter_type == "int", &path, findings),
            "discrete" => list(space, &path, findings).and_then(|list| discrete(list, &path, findings)),
            "categorical" => list(space, &path, findings).map(|list| json!({"type": "categorical", "choices": list})),
            other => {
                findings.unknown(&format!("{own}.parameterType"), other, &TYPES);
                None
            }
        };
        all.extend(table.map(|table| (parameter.name.clone(), table)));
    }
    all
}

/// The range of a number, in units of its scale; none of what is no number.
pub(super) fn range(parameter: &Json) -> Option<f64> {
    let bound = |name: &str| parameter.get(name).and_then(Json::as_f64);
    let (min, max) = (bound("min")?, bound("max")?);
    match parameter.get("scale").and_then(Json::as_str) {
        Some("log" | "lognormal") if min > 0.0 => Some(max.ln() - min.ln()),
        _ => Some(max - min),
    }
}

/// One of the numbers of a space: whole ones stay whole.
fn bound(text: Option<&str>, is_whole: bool, path: &str, findings: &mut Findings) -> Option<f64> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        findings.add(path, "a double or an int needs min and max");
        return None;
    };
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    match number {
        Some(number) if !is_whole || number.fract() == 0.0 && number.abs() < 9e15 => Some(number),
        _ => {
            let expected = if is_whole { "a whole number" } else { "a number" };
            findings.add(path, format!("expected {expected} in quotes, found \"{text}\""));
            None
        }
    }
}

fn number(space: &FeasibleSpace, is_whole: bool, path: &str, findings: &mut Findings) -> Option<Json> {
    if space.list.as_ref().is_some_and(|list| !list.is_empty()) {
        findings.hint(
            format!("{path}.list"),
            "a double or an int has min and max, and no list",
            Some("for one of a list of numbers the parameterType is discrete".to_owned()),
        );
    }
    let min = bound(space.min.as_deref(), is_whole, &format!("{path}.min"), findings);
    let max = bound(space.max.as_deref(), is_whole, &format!("{path}.max"), findings);
    let step = match space.step.as_deref().filter(|step| !step.is_empty()) {
        Some(step) => Some(bound(Some(step), is_whole, &format!("{path}.step"), findings)?),
        None => None,
    };
    let (mut min, max) = (min?, max?);
    if min > max {
        findings.add(format!("{path}.min"), format!("min {min} is above max {max}"));
        return None;
    }
    if step.is_some_and(|step| step <= 0.0) {
        findings.add(format!("{path}.step"), "a step is above 0");
        return None;
    }
    let distribution = distribution(space, path, findings)?;
    if matches!(distribution, "logUniform" | "logNormal") && min <= 0.0 {
        // As in Katib, where 0 is a common slip.
        min = if is_whole { 1.0 } else { LEAST };
        if min > max {
            findings.add(format!("{path}.max"), format!("max is above 0 for {distribution}, found {max}"));
            return None;
        }
    }
    let whole = |number: f64| if is_whole { json!(number as i64) } else { json!(number) };
    let mut table = json!({"type": if is_whole { "int" } else { "float" }, "min": whole(min), "max": whole(max)});
    if let Some(step) = step {
        table["step"] = whole(step);
    }
    // Six deviations from end to end, as Katib has it; a single value has no deviation.
    let spread = |low: f64, high: f64| (f64::midpoint(low, high), (high - low) / 6.0);
    let shape = match distribution {
        "normal" if min < max => Some(("normal", spread(min, max))),
        "logNormal" if min < max => Some(("lognormal", spread(min.ln(), max.ln()))),
        "logUniform" => {
            table["scale"] = json!("log");
            None
        }
        _ => None,
    };
    if let Some((scale, (mean, sd))) = shape {
        table["scale"] = json!(scale);
        table["mean"] = json!(mean);
        table["sd"] = json!(sd);
    }
    Some(table)
}

fn distribution(space: &FeasibleSpace, path: &str, findings: &mut Findings) -> Option<&'static str> {
    let path = format!("{path}.distribution");
    match &space.distribution {
        None | Some(Json::Null) => Some("uniform"),
        Some(Json::String(name)) if matches!(name.as_str(), "" | "unknown") => Some("uniform"),
        Some(Json::String(name)) => {
            let known = DISTRIBUTIONS.into_iter().find(|known| known == name);
            if known.is_none() {
                findings.unknown(&path, name, &DISTRIBUTIONS);
            }
            known
        }
        Some(other) => {
            findings.add(path, format!("expected one of {}, found {other}", DISTRIBUTIONS.join(", ")));
            None
        }
    }
}

/// The values of a parameter that is one of a list, each once.
fn list(space: &FeasibleSpace, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    for (name, given) in [("min", &space.min), ("max", &space.max), ("step", &space.step)] {
        if given.as_ref().is_some_and(|text| !text.is_empty()) {
            findings.add(format!("{path}.{name}"), "one of a list has a list, and no min, max and step");
        }
    }
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let given = match (&space.list, &space.distribution) {
        // The Python client's `search.categorical` passes the list as the distribution.
        (None, Some(Json::Array(values))) => values.iter().map(text).collect(),
        (list, _) => list.clone().unwrap_or_default(),
    };
    if given.is_empty() {
        findings.add(format!("{path}.list"), "a parameter that is one of a list needs the list");
        return None;
    }
    let mut seen = BTreeSet::new();
    Some(given.into_iter().filter(|value| seen.insert(value.clone())).collect())
}

/// Numbers have an order, and are passed on as they were written.
fn discrete(list: Vec<String>, path: &str, findings: &mut Findings) -> Option<Json> {
    let mut numbers = Vec::new();
    for (at, text) in list.into_iter().enumerate() {
        match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => numbers.push((number, text)),
            _ => findings.hint(
                format!("{path}.list[{at}]"),
                format!("a discrete parameter has numbers, found \"{text}\""),
                Some("for texts the parameterType is categorical".to_owned()),
            ),
        }
    }
    numbers.sort_by(|one, other| one.0.total_cmp(&other.0));
    let texts: Vec<String> = numbers.into_iter().map(|(_, text)| text).collect();
    (!texts.is_empty()).then(|| json!({"type": "ordinal", "choices": texts}))
}

//! How far experiments search the same.

use serde_json::{Value as Json, json};
use trainyard_tuner::record::Record;
use trainyard_tuner_core::space::{Domain, Scale, Value};

use crate::command::tune::number;
use crate::output::table::Table;

/// All names of parameters, in the order in which they come.
fn names(records: &[Record]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in records.iter().flat_map(Record::parameters) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn domain<'record>(record: &'record Record, name: &str) -> Option<&'record Domain> {
    let parameters = record.definition.space.parameters().iter();
    parameters.into_iter().find(|parameter| parameter.name == name).map(|parameter| &parameter.domain)
}

pub(super) fn table(records: &[Record]) -> Table {
    let mut head = vec!["PARAMETER".to_owned()];
    head.extend(records.iter().map(|record| record.name.clone()));
    head.push("IN COMMON".to_owned());
    let row = |name: String| {
        let domains: Vec<Option<&Domain>> = records.iter().map(|record| domain(record, &name)).collect();
        let shown = domains.iter().map(|domain| domain.map_or_else(|| "-".to_owned(), text)).collect::<Vec<_>>();
        let part = match common(&domains) {
            Some(part) => format!("{:.0} %", part * 100.0),
            None => "-".to_owned(),
        };
        std::iter::once(name).chain(shown).chain([part]).collect()
    };
    Table { head, rows: names(records).into_iter().map(row).collect() }
}

pub(super) fn document(records: &[Record]) -> Json {
    let one = |name: String| {
        let domains: Vec<Option<&Domain>> = records.iter().map(|record| domain(record, &name)).collect();
        let texts = records
            .iter()
            .zip(&domains)
            .filter_map(|(record, domain)| Some((record.name.clone(), json!(text((*domain)?)))));
        json!({"name": name, "searched": texts.collect::<serde_json::Map<_, _>>(), "common": common(&domains)})
    };
    names(records).into_iter().map(one).collect()
}

/// `1e-5..1 log`, `{sgd, adam}`.
fn text(domain: &Domain) -> String {
    let range = |low: String, high: String, scale: &Scale, step: String| {
        let scale = match scale {
            Scale::Linear => "",
            Scale::Log => " log",
            Scale::Logit => " logit",
            Scale::Normal { .. } => " normal",
            Scale::LogNormal { .. } => " lognormal",
        };
        format!("{low}..{high}{scale}{step}")
    };
    match domain {
        Domain::Float { min, max, scale, step } => {
            let step = step.map(|step| format!(" by {}", number::short(step))).unwrap_or_default();
            range(number::short(*min), number::short(*max), scale, step)
        }
        Domain::Int { min, max, scale, step } => {
            let step = if *step > 1 { format!(" by {step}") } else { String::new() };
            range(min.to_string(), max.to_string(), scale, step)
        }
        Domain::Ordinal(choices) => choice(choices, '[', ']'),
        Domain::Categorical(choices) => choice(choices, '{', '}'),
    }
}

fn choice(choices: &[Value], open: char, close: char) -> String {
    let mut texts: Vec<String> = choices.iter().take(6).map(ToString::to_string).collect();
    if choices.len() > 6 {
        texts.push(format!("and {} more", choices.len() - 6));
    }
    format!("{open}{}{close}", texts.join(", "))
}

/// What part of all that any of them searches all of them do: of numbers by width, as the scale has it where all have the same, of choices
/// by count. `None` where they are of different kinds or have no ends; 0 where one does not have the parameter.
fn common(domains: &[Option<&Domain>]) -> Option<f64> {
    let all: Option<Vec<&Domain>> = domains.iter().copied().collect();
    let Some(all) = all else { return Some(0.0) };
    let choices: Option<Vec<&Vec<Value>>> = all.iter().map(|domain| listed(domain)).collect();
    if let Some(choices) = choices {
        let mut union: Vec<&Value> = Vec::new();
        for one in choices.iter().flat_map(|list| list.iter()) {
            if !union.contains(&one) {
                union.push(one);
            }
        }
        let shared = union.iter().filter(|one| choices.iter().all(|list| list.contains(one))).count();
        return Some(shared as f64 / union.len().max(1) as f64);
    }
    let ranges: Vec<(f64, f64, Scale)> = all.iter().map(|domain| bounds(domain)).collect::<Option<_>>()?;
    let is_log = ranges.iter().all(|(low, _, scale)| matches!(scale, Scale::Log) && *low > 0.0);
    let warp = |value: f64| if is_log { value.ln() } else { value };
    let ends = || ranges.iter().map(|(low, high, _)| (warp(*low), warp(*high)));
    let inner = ends().map(|end| end.1).fold(f64::INFINITY, f64::min)
        - ends().map(|end| end.0).fold(f64::NEG_INFINITY, f64::max);
    let outer = ends().map(|end| end.1).fold(f64::NEG_INFINITY, f64::max)
        - ends().map(|end| end.0).fold(f64::INFINITY, f64::min);
    match (outer.is_finite(), outer > 0.0) {
        (true, true) => Some((inner / outer).max(0.0)),
        // All of them are the same single value.
        (true, false) => Some(1.0),
        (false, _) => None,
    }
}

fn listed(domain: &Domain) -> Option<&Vec<Value>> {
    match domain {
        Domain::Ordinal(choices) | Domain::Categorical(choices) => Some(choices),
        Domain::Float { .. } | Domain::Int { .. } => None,
    }
}

fn bounds(domain: &Domain) -> Option<(f64, f64, Scale)> {
    match domain {
        Domain::Float { min, max, scale, .. } => Some((*min, *max, *scale)),
        Domain::Int { min, max, scale, .. } => Some((*min as f64, *max as f64, *scale)),
        Domain::Ordinal(_) | Domain::Categorical(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(min: f64, max: f64, scale: Scale) -> Domain {
        Domain::Float { min, max, scale, step: None }
    }

    fn choices(texts: &[&str]) -> Domain {
        Domain::Categorical(texts.iter().map(|text| Value::Text((*text).to_owned())).collect())
    }

    #[test]
    fn what_is_in_common_is_a_part_of_what_any_searches() {
        let (one, other) = (float(0.0, 4.0, Scale::Linear), float(1.0, 5.0, Scale::Linear));
        assert_eq!(common(&[Some(&one), Some(&other)]), Some(0.6));
        assert_eq!(common(&[Some(&one), None]), Some(0.0));
        assert_eq!(common(&[Some(&one), Some(&choices(&["a"]))]), None);
        let (one, other) = (float(1e-4, 1.0, Scale::Log), float(1e-2, 1.0, Scale::Log));
        assert_eq!(common(&[Some(&one), Some(&other)]), Some(0.5));
        assert_eq!(common(&[Some(&choices(&["a", "b"])), Some(&choices(&["b", "c"]))]), Some(1.0 / 3.0));
        let apart = float(7.0, 8.0, Scale::Linear);
        assert_eq!(common(&[Some(&apart), Some(&float(1.0, 2.0, Scale::Linear))]), Some(0.0));
        let open = float(f64::NEG_INFINITY, f64::INFINITY, Scale::Normal { mean: 0.0, sd: 1.0 });
        assert_eq!(common(&[Some(&open), Some(&open)]), None);
    }

    #[test]
    fn a_domain_is_a_short_text() {
        assert_eq!(text(&float(1e-5, 1.0, Scale::Log)), "1e-5..1 log");
        assert_eq!(text(&Domain::Int { min: 2, max: 64, scale: Scale::Linear, step: 2 }), "2..64 by 2");
        assert_eq!(text(&choices(&["a", "b"])), "{a, b}");
        assert_eq!(text(&choices(&["a"; 8])), "{a, a, a, a, a, a, and 2 more}");
    }
}

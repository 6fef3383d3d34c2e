//! One parameter of the file.

use std::ops::Range;

use toml::de::DeTable;
use trainyard_tuner_core::expression::Expression;
use trainyard_tuner_core::space::{Domain, Parameter, Scale, Value, nearest};

use super::table::Table;
use super::{DefinitionError, within};

const TYPES: [&str; 5] = ["float", "int", "bool", "ordinal", "categorical"];
const SCALES: [&str; 5] = ["linear", "log", "logit", "normal", "lognormal"];

pub(super) fn read(
    name: &str,
    file: &DeTable<'_>,
    span: Range<usize>,
    path: &str,
    errors: &mut Vec<DefinitionError>,
) -> Option<Parameter> {
    let mut table = Table::new(file, span, path, errors);
    let when = match table.text("when") {
        Some((text, span)) => match Expression::parse(text) {
            Ok(expression) => Some(Some(expression)),
            Err(error) => {
                table.error("when", within(&span, error.at), error.message, None);
                None
            }
        },
        None => file.get("when").is_none().then_some(None),
    };
    let Some((kind, span)) = table.text("type") else {
        if file.get("type").is_none() {
            table.missing("type", &format!("one of {}", TYPES.join(", ")));
        }
        return None;
    };
    let domain = match kind {
        "float" => float(&mut table),
        "int" => int(&mut table),
        "bool" => Some(Domain::Categorical(vec![Value::Bool(false), Value::Bool(true)])),
        "ordinal" => choices(&mut table).map(Domain::Ordinal),
        "categorical" => choices(&mut table).map(Domain::Categorical),
        other => {
            let hint = nearest(other, TYPES).map(|kind| format!("did you mean \"{kind}\"?"));
            table.error("type", span, format!("expected one of {}, found \"{other}\"", TYPES.join(", ")), hint);
            return None;
        }
    };
    table.end();
    Some(Parameter { name: name.to_owned(), domain: domain?, when: when? })
}

fn float(table: &mut Table<'_, '_>) -> Option<Domain> {
    let scale = scale(table);
    let bounded = !matches!(scale, Some(Scale::Normal { .. } | Scale::LogNormal { .. }));
    let least = if matches!(scale, Some(Scale::LogNormal { .. })) { 0.0 } else { f64::NEG_INFINITY };
    let min = bound(table, "min", bounded.then_some("the least value").ok_or(least));
    let max = bound(table, "max", bounded.then_some("the greatest value").ok_or(f64::INFINITY));
    let step = match table.get("step") {
        Some(_) => Some(table.number("step")?),
        None => None,
    };
    Some(Domain::Float { min: min?, max: max?, scale: scale?, step })
}

/// A bound that has to be there for a reason, or else has a value by default.
fn bound(table: &mut Table<'_, '_>, key: &'static str, without: Result<&str, f64>) -> Option<f64> {
    if table.get(key).is_some() {
        return table.number(key);
    }
    without.map_or_else(Some, |expected| {
        table.missing(key, expected);
        None
    })
}

fn int(table: &mut Table<'_, '_>) -> Option<Domain> {
    let scale = scale(table);
    let whole = |table: &mut Table<'_, '_>, key: &'static str, expected: &str| {
        if table.get(key).is_none() {
            table.missing(key, expected);
        }
        table.whole(key)
    };
    let min = whole(table, "min", "the least value");
    let max = whole(table, "max", "the greatest value");
    let step = if table.get("step").is_some() { table.whole("step") } else { Some(1) };
    Some(Domain::Int { min: min?, max: max?, scale: scale?, step: step? })
}

fn scale(table: &mut Table<'_, '_>) -> Option<Scale> {
    let Some((name, span)) = table.text("scale") else {
        return table.get("scale").is_none().then_some(Scale::Linear);
    };
    match name {
        "linear" => Some(Scale::Linear),
        "log" => Some(Scale::Log),
        "logit" => Some(Scale::Logit),
        "normal" | "lognormal" | "log-normal" => {
            let of = if name == "normal" { "the values" } else { "the values' natural logarithm" };
            let mut number = |key: &'static str, what: &str| {
                if table.get(key).is_none() {
                    table.missing(key, &format!("the {what} of {of}"));
                }
                table.number(key)
            };
            let (mean, sd) = (number("mean", "mean"), number("sd", "standard deviation"));
            let (mean, sd) = (mean?, sd?);
            Some(if name == "normal" { Scale::Normal { mean, sd } } else { Scale::LogNormal { mean, sd } })
        }
        other => {
            let hint = nearest(other, SCALES).map(|scale| format!("did you mean \"{scale}\"?"));
            table.error("scale", span, format!("expected one of {}, found \"{other}\"", SCALES.join(", ")), hint);
            None
        }
    }
}

fn choices(table: &mut Table<'_, '_>) -> Option<Vec<Value>> {
    if table.get("choices").is_none() {
        table.missing("choices", "a list of the values");
    }
    table.values("choices").map(|values| values.into_iter().map(|(value, _)| value).collect())
}

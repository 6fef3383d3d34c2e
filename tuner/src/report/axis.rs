//! Where values stand on the axis of a parameter.

use serde_json::{Value as Json, json};
use trainyard_tuner_core::space::{Dimension, Domain, Parameter, Scale, Space, Value};

/// More choices than these are not all named.
const NAMED: usize = 24;

/// The marks of a parameter's axis: where, from 0 to 1, and what. A category stands in the middle of its cell.
pub(super) fn marks(space: &Space, at: usize) -> Vec<(f64, String)> {
    let parameter = &space.parameters()[at];
    match &parameter.domain {
        Domain::Ordinal(choices) | Domain::Categorical(choices) => {
            let every = choices.len().div_ceil(NAMED);
            let place = |level: usize| (level as f64 + 0.5) / choices.len() as f64;
            choices.iter().enumerate().step_by(every).map(|(level, one)| (place(level), one.to_string())).collect()
        }
        Domain::Float { min, max, scale, .. } => numbers(space, at, parameter, (*min, *max), *scale),
        Domain::Int { min, max, scale, .. } => numbers(space, at, parameter, (*min as f64, *max as f64), *scale),
    }
}

/// The place of a value from 0 to 1: that of a category is the middle of its cell. `None` of one that is not used.
pub(super) fn place(dimension: Dimension, coordinate: f64) -> Option<f64> {
    let place = match dimension {
        Dimension::Continuous | Dimension::Cells(_) => coordinate,
        Dimension::Categories(count) => (coordinate + 0.5) / count as f64,
    };
    Some((place * 1e4).round() / 1e4).filter(|place| place.is_finite())
}

fn numbers(
    space: &Space,
    at: usize,
    parameter: &Parameter,
    (min, max): (f64, f64),
    scale: Scale,
) -> Vec<(f64, String)> {
    let is_whole = matches!(parameter.domain, Domain::Int { .. });
    let mut values = match scale {
        Scale::Linear => round(min, max, is_whole),
        Scale::Log if max / min >= 100.0 => decades(min, max),
        Scale::Log => Vec::new(),
        Scale::Logit => [1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.99, 1.0 - 1e-4, 1.0 - 1e-6].to_vec(),
        Scale::Normal { mean, sd } => (-2..=2).map(|far| mean + f64::from(far) * sd).collect(),
        Scale::LogNormal { mean, sd } => (-2..=2).map(|far| (mean + f64::from(far) * sd).exp()).collect(),
    };
    values.retain(|value| (min..=max).contains(value));
    if values.len() < 2 {
        values = if min.is_finite() && max.is_finite() { vec![min, max] } else { values };
    }
    if is_whole {
        values.iter_mut().for_each(|value| *value = value.round());
        values.dedup();
    }
    let mark = |value: f64| Some((space.place(at, &as_value(value, is_whole))?, text(value)));
    values.into_iter().filter_map(mark).collect()
}

fn as_value(value: f64, is_whole: bool) -> Value {
    if is_whole { Value::Int(value as i64) } else { Value::Float(value) }
}

/// Round numbers, about five of them.
fn round(min: f64, max: f64, is_whole: bool) -> Vec<f64> {
    let width = max - min;
    if !(width > 0.0 && width.is_finite()) {
        return vec![min];
    }
    let power = 10_f64.powf((width / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| width / step <= 6.0);
    let step = step.unwrap_or(width).max(if is_whole { 1.0 } else { 0.0 });
    let first = (min / step).ceil();
    // Counted, so that rounding leaves none out; 0 has no sign.
    let marks = (0..=7).map(|at| (first + f64::from(at)) * step + 0.0);
    marks.take_while(|value| *value <= max + 1e-9 * width).map(|value| value.clamp(min, max)).collect()
}

fn decades(min: f64, max: f64) -> Vec<f64> {
    let (first, last) = (min.log10().ceil() as i32, max.log10().floor() as i32);
    let every = ((last - first) / 6 + 1).max(1) as usize;
    // As they are written: a power of ten by multiplication is not always the nearest number.
    (first..=last).step_by(every).filter_map(|power| format!("1e{power}").parse().ok()).collect()
}

/// A number to four digits at the most.
pub(super) fn text(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    Value::Float(rounded).to_string()
}

/// The marks as the page has them.
pub(super) fn json(marks: &[(f64, String)]) -> Json {
    marks.iter().map(|(at, text)| json!([(at * 1e4).round() / 1e4, text])).collect()
}

//! What is wrong with a space, or with a value of one of its parameters.

use std::collections::{BTreeMap, BTreeSet};

use super::{Domain, Parameter, Scale, Value, axis, nearest};
use crate::expression::{Expression, Kind, Scope};

/// What is wrong with a space or a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpaceError {
    /// The parameter that it is about, if it is about one.
    pub parameter: Option<String>,
    /// Where in its condition, or in a constraint, in bytes.
    pub at: Option<usize>,
    /// What was found, what was expected, and the nearest name.
    pub message: String,
}

impl std::fmt::Display for SpaceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.parameter {
            Some(parameter) => write!(formatter, "parameter `{parameter}`: {}", self.message),
            None => formatter.write_str(&self.message),
        }
    }
}

impl SpaceError {
    pub(super) fn of(parameter: &str, message: String) -> Self {
        Self { parameter: Some(parameter.to_owned()), at: None, message }
    }
}

/// Whole numbers up to here are exact as 64-bit floats.
const EXACT: i64 = 1 << 53;

/// Checks parameters and constraints, and answers an order in which a parameter comes after those that its condition names.
pub(super) fn check(parameters: &[Parameter], constraints: &[Expression]) -> Result<Vec<usize>, Vec<SpaceError>> {
    let mut errors = Vec::new();
    let mut names = BTreeMap::new();
    for (at, parameter) in parameters.iter().enumerate() {
        if parameter.name.is_empty() {
            errors.push(SpaceError::of("", "a parameter needs a name".to_owned()));
        }
        if names.insert(parameter.name.as_str(), at).is_some() {
            errors.push(SpaceError::of(&parameter.name, "there are two of this name".to_owned()));
        }
        if let Err(message) = domain(&parameter.domain) {
            errors.push(SpaceError::of(&parameter.name, message));
        }
    }
    let known = Known { parameters, names: &names };
    for parameter in parameters {
        if let Some(when) = &parameter.when
            && let Err(error) = when.check(&known)
        {
            let message = format!("its condition `{when}`: {error}");
            errors.push(SpaceError { parameter: Some(parameter.name.clone()), at: Some(error.at), message });
        }
    }
    for constraint in constraints {
        if let Err(error) = constraint.check(&known) {
            let message = format!("the constraint `{constraint}`: {error}");
            errors.push(SpaceError { parameter: None, at: Some(error.at), message });
        }
    }
    let order = order(parameters, &names);
    if errors.is_empty() && order.len() < parameters.len() {
        let stuck: Vec<&str> =
            (0..parameters.len()).filter(|at| !order.contains(at)).map(|at| parameters[at].name.as_str()).collect();
        let message = format!("whether {} are used depends on each other in a circle", stuck.join(", "));
        errors.push(SpaceError { parameter: None, at: None, message });
    }
    if errors.is_empty() { Ok(order) } else { Err(errors) }
}

fn order(parameters: &[Parameter], names: &BTreeMap<&str, usize>) -> Vec<usize> {
    let needs: Vec<BTreeSet<usize>> = parameters
        .iter()
        .map(|parameter| {
            let of = parameter.when.iter().flat_map(Expression::names);
            of.filter_map(|name| names.get(name).copied()).collect()
        })
        .collect();
    let mut order: Vec<usize> = Vec::new();
    let mut placed = BTreeSet::new();
    loop {
        let ready = |at: &usize| !placed.contains(at) && needs[*at].is_subset(&placed);
        let next: Vec<usize> = (0..parameters.len()).filter(ready).collect();
        if next.is_empty() {
            return order;
        }
        placed.extend(next.iter().copied());
        order.extend(next);
    }
}

struct Known<'space> {
    parameters: &'space [Parameter],
    names: &'space BTreeMap<&'space str, usize>,
}

impl Scope for Known<'_> {
    fn kind(&self, name: &str) -> Result<Kind, String> {
        let Some(at) = self.names.get(name) else {
            let hint = did_you_mean(name, self.names.keys().copied());
            return Err(format!("there is no parameter `{name}`{hint}"));
        };
        Ok(match &self.parameters[*at].domain {
            Domain::Float { .. } | Domain::Int { .. } => Kind::Number,
            Domain::Ordinal(choices) | Domain::Categorical(choices) => choices.first().map_or(Kind::Text, Kind::of),
        })
    }

    fn excludes(&self, name: &str, value: &Value) -> Option<String> {
        match &self.parameters[*self.names.get(name)?].domain {
            Domain::Ordinal(choices) | Domain::Categorical(choices) => {
                choice(choices, value).err().map(|message| format!("`{name}` can never be this: {message}"))
            }
            Domain::Float { .. } | Domain::Int { .. } => None,
        }
    }
}

pub(super) fn did_you_mean<'names>(wrong: &str, known: impl IntoIterator<Item = &'names str>) -> String {
    nearest(wrong, known).map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn domain(domain: &Domain) -> Result<(), String> {
    match domain {
        Domain::Float { min, max, scale, step } => {
            range(*min, *max, *scale)?;
            match step {
                Some(step) if !(step.is_finite() && *step > 0.0) => Err(format!("step {step} is not above 0")),
                Some(_) if !(min.is_finite() && max.is_finite()) => Err("a step needs min and max".to_owned()),
                Some(step) if axis::levels(*min, *max, *step) > EXACT as u64 => {
                    Err(format!("step {step} is too small for a range from {min} to {max}"))
                }
                Some(_) | None => Ok(()),
            }
        }
        Domain::Int { min, max, scale, step } => {
            if *step < 1 {
                return Err(format!("step {step} is not at least 1"));
            }
            if [*min, *max].iter().any(|bound| bound.unsigned_abs() > EXACT as u64) {
                return Err(format!("whole numbers go from {} to {EXACT}", -EXACT));
            }
            range(*min as f64, *max as f64, *scale)
        }
        Domain::Ordinal(choices) | Domain::Categorical(choices) => {
            let Some(first) = choices.first() else {
                return Err("choices are empty".to_owned());
            };
            let twice = choices.iter().enumerate().find(|(at, choice)| choices[..*at].contains(choice));
            if let Some((_, twice)) = twice {
                return Err(format!("`{twice}` is among the choices twice"));
            }
            match choices.iter().find(|choice| Kind::of(choice) != Kind::of(first)) {
                Some(other) => Err(format!(
                    "choices are of one kind, but `{first}` is {} and `{other}` is {}",
                    Kind::of(first),
                    Kind::of(other)
                )),
                None => Ok(()),
            }
        }
    }
}

fn range(min: f64, max: f64, scale: Scale) -> Result<(), String> {
    let bounded = min.is_finite() && max.is_finite();
    if min.is_nan() || max.is_nan() || min > max {
        return Err(format!("min {min} is above max {max}"));
    }
    match scale {
        Scale::Linear | Scale::Log | Scale::Logit if !bounded => Err("min and max are finite on this scale".to_owned()),
        Scale::Linear if !(max - min).is_finite() => Err(format!("the range from {min} to {max} is too wide")),
        Scale::Log if min <= 0.0 => Err(format!("min is above 0 on a log scale, found {min}")),
        Scale::Logit if min <= 0.0 || max >= 1.0 => {
            Err(format!("min and max lie between 0 and 1 on a logit scale, found {min} and {max}"))
        }
        Scale::LogNormal { .. } if min < 0.0 => Err(format!("min is at least 0 on a log-normal scale, found {min}")),
        Scale::Normal { mean, sd } | Scale::LogNormal { mean, sd }
            if !(mean.is_finite() && sd.is_finite() && sd > 0.0) =>
        {
            Err(format!("mean and sd are finite and sd is above 0, found {mean} and {sd}"))
        }
        Scale::Normal { mean, sd } if (mean - max) / sd > 8.0 || (min - mean) / sd > 8.0 => {
            Err(format!("the bounds {min} to {max} lie more than 8 standard deviations from the mean {mean}"))
        }
        Scale::LogNormal { mean, sd } if (mean - max.ln()) / sd > 8.0 || (min.ln() - mean) / sd > 8.0 => {
            Err(format!("the bounds {min} to {max} lie more than 8 standard deviations from the mean exp({mean})"))
        }
        Scale::Linear | Scale::Log | Scale::Logit | Scale::Normal { .. } | Scale::LogNormal { .. } => Ok(()),
    }
}

/// The value as the domain has it, or why it is none of its values.
pub(super) fn member(domain: &Domain, value: &Value) -> Result<Value, String> {
    match domain {
        Domain::Float { min, max, .. } => match value.number() {
            Some(number) if number >= *min && number <= *max => Ok(Value::Float(number)),
            Some(number) => Err(format!("{number} is not from {min} to {max}")),
            None => Err(format!("expected a number, found `{value}`")),
        },
        Domain::Int { min, max, .. } => match value.number() {
            Some(number) if number.fract() != 0.0 => Err(format!("expected a whole number, found {number}")),
            Some(number) if number >= *min as f64 && number <= *max as f64 => Ok(Value::Int(number as i64)),
            Some(number) => Err(format!("{number} is not from {min} to {max}")),
            None => Err(format!("expected a whole number, found `{value}`")),
        },
        Domain::Ordinal(choices) | Domain::Categorical(choices) => choice(choices, value),
    }
}

fn choice(choices: &[Value], value: &Value) -> Result<Value, String> {
    let same = |choice: &&Value| match (choice.number(), value.number()) {
        (Some(one), Some(other)) => one == other,
        _ => *choice == value,
    };
    if let Some(found) = choices.iter().find(same) {
        return Ok(found.clone());
    }
    let texts: Vec<String> = choices.iter().map(ToString::to_string).collect();
    let hint = did_you_mean(&value.to_string(), texts.iter().map(String::as_str));
    let shown = texts.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if texts.len() > 12 { ", ..." } else { "" };
    Err(format!("`{value}` is none of {shown}{more}{hint}"))
}

//! What is searched: parameters, when each is used, and which configurations are allowed.

mod axis;
mod check;
mod configuration;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;

use axis::Axis;
pub use check::SpaceError;
pub use configuration::{Configuration, Key, Point};
pub use value::Value;

use crate::expression::Expression;
use crate::stream::Stream;

/// How the values of a number are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// Evenly in the logarithm; for numbers above zero that span orders of magnitude.
    Log,
    /// Evenly in ln(x / (1 - x)); for shares between 0 and 1 of which both ends matter.
    Logit,
    /// As a normal distribution, cut off at the bounds.
    Normal {
        /// The most likely value.
        mean: f64,
        /// The standard deviation.
        sd: f64,
    },
    /// As a distribution whose logarithm is normal, cut off at the bounds.
    LogNormal {
        /// The mean of the natural logarithm.
        mean: f64,
        /// The standard deviation of the natural logarithm.
        sd: f64,
    },
}

/// What values a parameter may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// A number from `min` to `max`, both included; `min + k * step` where there is a step.
    Float {
        /// The least value; may be infinite on a normal scale.
        min: f64,
        /// The greatest value; may be infinite on a normal scale.
        max: f64,
        /// How values are spread.
        scale: Scale,
        /// The distance of neighbouring values.
        step: Option<f64>,
    },
    /// A whole number from `min` to `max`, both included, in this step.
    Int {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
        /// How values are spread.
        scale: Scale,
        /// The distance of neighbouring values, at least 1.
        step: i64,
    },
    /// One of these, which have an order: neighbours are alike.
    Ordinal(Vec<Value>),
    /// One of these, without an order. A parameter that is true or false is one of these, too.
    Categorical(Vec<Value>),
}

/// One thing to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, of which there is one in a space.
    pub name: String,
    /// Its values.
    pub domain: Domain,
    /// When it is used: an expression over other parameters. Without one, always.
    pub when: Option<Expression>,
}

/// How a parameter looks to a sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// A coordinate from 0 to 1.
    Continuous,
    /// A coordinate from 0 to 1, of which there are only so many.
    Cells(u64),
    /// The index of one of so many, without an order.
    Categories(u64),
}

/// Parameters with their conditions, and constraints between them.
///
/// A sampler sees a configuration as a [`Point`]: for each parameter, in their order here, its coordinate from 0 to 1, or the index of a
/// category, or NaN where the parameter is not used.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    parameters: Vec<Parameter>,
    constraints: Vec<Expression>,
    shapes: Vec<Shape>,
    /// Parameters, those first on which others depend.
    order: Vec<usize>,
    names: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Axis(Axis),
    Ordered(u64),
    Unordered(u64),
}

/// How many configurations are drawn before it is said that the constraints leave none.
const DRAWS: u64 = 10_000;

impl Space {
    /// A space of these parameters in which every constraint has to hold. All errors are told at once.
    pub fn new(parameters: Vec<Parameter>, constraints: Vec<Expression>) -> Result<Self, Vec<SpaceError>> {
        let order = check::check(&parameters, &constraints)?;
        let shapes = parameters.iter().map(|parameter| shape(&parameter.domain)).collect();
        let names = parameters.iter().enumerate().map(|(at, parameter)| (parameter.name.clone(), at)).collect();
        Ok(Self { parameters, constraints, shapes, order, names })
    }

    /// The parameters, in the order in which they were given.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The position of a parameter.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// How the parameters look to a sampler.
    pub fn dimensions(&self) -> impl ExactSizeIterator<Item = Dimension> + '_ {
        self.shapes.iter().map(|shape| match shape {
            Shape::Axis(axis) => axis.levels().map_or(Dimension::Continuous, Dimension::Cells),
            Shape::Ordered(count) => Dimension::Cells(*count),
            Shape::Unordered(count) => Dimension::Categories(*count),
        })
    }

    /// The most configurations that there can be; `None` where a parameter is continuous, or for more than 2^63.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.dimensions().try_fold(1_u64, |product, dimension| match dimension {
            Dimension::Continuous => None,
            Dimension::Cells(count) | Dimension::Categories(count) => {
                product.checked_mul(count).filter(|product| *product < 1 << 63)
            }
        })
    }

    /// The configuration nearest to a point. Parameters that it does not use have no value, and those it uses without a coordinate get
    /// the middle of their range, or their first category.
    #[must_use]
    pub fn configuration(&self, point: &[f64]) -> Configuration {
        self.filled(|at| {
            let given = point.get(at).copied().filter(|coordinate| !coordinate.is_nan());
            self.value(at, given)
        })
    }

    /// The point of a configuration.
    #[must_use]
    pub fn point(&self, configuration: &Configuration) -> Point {
        let values = configuration.values().iter().enumerate();
        values.map(|(at, value)| value.as_ref().map_or(f64::NAN, |value| self.coordinate(at, value))).collect()
    }

    /// Where a value of a parameter stands from 0 to 1, or the index of a category. `None` where the parameter cannot have it.
    #[must_use]
    pub fn place(&self, at: usize, value: &Value) -> Option<f64> {
        let value = check::member(&self.parameters.get(at)?.domain, value).ok()?;
        Some(self.coordinate(at, &value))
    }

    /// Where the value of a numeric parameter stands that is nearest to a number.
    pub(crate) fn nearest_to(&self, at: usize, number: f64) -> f64 {
        match &self.shapes[at] {
            Shape::Axis(axis) => axis.coordinate(axis.bounded(number)),
            Shape::Ordered(_) | Shape::Unordered(_) => f64::NAN,
        }
    }

    /// Whether it has neither conditions nor constraints.
    pub(crate) fn is_free(&self) -> bool {
        self.constraints.is_empty() && self.parameters.iter().all(|parameter| parameter.when.is_none())
    }

    /// Whether all constraints hold. One about a parameter that is not used holds.
    #[must_use]
    pub fn is_allowed(&self, configuration: &Configuration) -> bool {
        self.broken(configuration).is_none()
    }

    /// A configuration drawn as the scales say, or `None` if none of 10,000 kept the constraints.
    pub fn draw(&self, stream: &mut Stream) -> Option<Configuration> {
        (0..DRAWS).find_map(|_| {
            let point: Point = self.dimensions().map(|dimension| drawn(dimension, stream)).collect();
            let configuration = self.configuration(&point);
            self.is_allowed(&configuration).then_some(configuration)
        })
    }

    /// The configuration with this number, where there are [`size`](Self::size) of them. Some numbers give the same one: they differ in
    /// what is not used.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Configuration {
        let mut left = number;
        let mut levels = Vec::with_capacity(self.parameters.len());
        for dimension in self.dimensions() {
            let (Dimension::Cells(count) | Dimension::Categories(count)) = dimension else {
                levels.push(0);
                continue;
            };
            levels.push(left % count);
            left /= count;
        }
        self.filled(|at| self.level(at, levels[at]))
    }

    /// What identifies a configuration among those of this space.
    #[must_use]
    pub fn key(&self, configuration: &Configuration) -> Key {
        let words = configuration.values().iter().enumerate().map(|(at, value)| {
            let value = value.as_ref()?;
            Some(match &self.parameters[at].domain {
                Domain::Ordinal(choices) | Domain::Categorical(choices) => place(choices, value),
                Domain::Float { .. } | Domain::Int { .. } => value.bits(),
            })
        });
        words.collect()
    }

    /// Reads a configuration from values by name. All errors are told at once.
    pub fn read(&self, given: &BTreeMap<String, Value>) -> Result<Configuration, Vec<SpaceError>> {
        let mut errors = Vec::new();
        for name in given.keys().filter(|name| self.position(name).is_none()) {
            let hint = check::did_you_mean(name, self.names.keys().map(String::as_str));
            errors.push(SpaceError::of(name, format!("there is no such parameter{hint}")));
        }
        let mut values = vec![None; self.parameters.len()];
        for &at in &self.order {
            let parameter = &self.parameters[at];
            let used = self.is_used(at, &values);
            match given.get(&parameter.name) {
                Some(value) if used => match check::member(&parameter.domain, value) {
                    Ok(value) => values[at] = Some(value),
                    Err(message) => errors.push(SpaceError::of(&parameter.name, message)),
                },
                // What is not used may be given: it says nothing.
                Some(_) => {}
                None if used => errors.push(SpaceError::of(&parameter.name, "it has no value".to_owned())),
                None => {}
            }
        }
        let configuration = Configuration::new(values);
        if errors.is_empty()
            && let Some(broken) = self.broken(&configuration)
        {
            errors.push(SpaceError {
                parameter: None,
                at: None,
                message: format!("the constraint `{broken}` does not hold"),
            });
        }
        errors.sort_by_key(|error| error.parameter.as_deref().and_then(|name| self.position(name)));
        if errors.is_empty() { Ok(configuration) } else { Err(errors) }
    }

    /// A constraint that does not hold.
    fn broken(&self, configuration: &Configuration) -> Option<&Expression> {
        self.constraints.iter().find(|constraint| self.holds(constraint, configuration.values()) == Some(false))
    }

    fn is_used(&self, at: usize, values: &[Option<Value>]) -> bool {
        self.parameters[at].when.as_ref().is_none_or(|when| self.holds(when, values) == Some(true))
    }

    fn holds(&self, expression: &Expression, values: &[Option<Value>]) -> Option<bool> {
        expression.holds(&|name| self.position(name).and_then(|at| values[at].as_ref()))
    }

    /// The configuration whose parameters, as far as they are used, have these values.
    fn filled(&self, value: impl Fn(usize) -> Value) -> Configuration {
        let mut values = vec![None; self.parameters.len()];
        for &at in &self.order {
            if self.is_used(at, &values) {
                values[at] = Some(value(at));
            }
        }
        Configuration::new(values)
    }

    fn value(&self, at: usize, coordinate: Option<f64>) -> Value {
        match &self.shapes[at] {
            Shape::Axis(axis) => self.number(at, axis.value(coordinate.unwrap_or(0.5))),
            Shape::Ordered(count) => {
                let cell = (coordinate.unwrap_or(0.5) * *count as f64).floor().max(0.0) as u64;
                self.level(at, cell.min(count - 1))
            }
            Shape::Unordered(count) => self.level(at, (coordinate.unwrap_or(0.0).max(0.0) as u64).min(count - 1)),
        }
    }

    /// The value at a place of the order of values.
    fn level(&self, at: usize, level: u64) -> Value {
        match (&self.shapes[at], &self.parameters[at].domain) {
            (Shape::Axis(axis), _) => self.number(at, axis.level(level)),
            (Shape::Ordered(_) | Shape::Unordered(_), Domain::Ordinal(choices) | Domain::Categorical(choices)) => {
                choices[(level as usize).min(choices.len() - 1)].clone()
            }
            (Shape::Ordered(_) | Shape::Unordered(_), Domain::Float { .. } | Domain::Int { .. }) => Value::Int(0),
        }
    }

    fn number(&self, at: usize, number: f64) -> Value {
        match self.parameters[at].domain {
            Domain::Int { min, max, .. } => Value::Int((number.round() as i64).clamp(min, max)),
            Domain::Float { .. } | Domain::Ordinal(_) | Domain::Categorical(_) => Value::Float(number),
        }
    }

    fn coordinate(&self, at: usize, value: &Value) -> f64 {
        match (&self.shapes[at], &self.parameters[at].domain) {
            (Shape::Axis(axis), _) => axis.coordinate(value.number().unwrap_or(f64::NAN)),
            (Shape::Ordered(count), Domain::Ordinal(choices)) => (place(choices, value) as f64 + 0.5) / *count as f64,
            (Shape::Unordered(_), Domain::Categorical(choices)) => place(choices, value) as f64,
            (Shape::Ordered(_) | Shape::Unordered(_), _) => f64::NAN,
        }
    }
}

/// The known name nearest to a wrong one, if it is near enough to be worth offering.
pub fn nearest<'names>(wrong: &str, known: impl IntoIterator<Item = &'names str>) -> Option<&'names str> {
    // The distance takes quadratic time.
    if wrong.len() > 64 {
        return None;
    }
    let lowered = wrong.to_lowercase();
    let limit = (lowered.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|name| (strsim::osa_distance(&lowered, &name.to_lowercase()), name));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

/// A coordinate drawn from all of a dimension.
pub(crate) fn drawn(dimension: Dimension, stream: &mut Stream) -> f64 {
    match dimension {
        Dimension::Continuous | Dimension::Cells(_) => stream.uniform(),
        Dimension::Categories(count) => stream.below(count) as f64,
    }
}

fn place(choices: &[Value], value: &Value) -> u64 {
    choices.iter().position(|choice| choice == value).unwrap_or(0) as u64
}

fn shape(domain: &Domain) -> Shape {
    match domain {
        Domain::Float { min, max, scale, step } => Shape::Axis(Axis::new(*scale, *min, *max, *step)),
        Domain::Int { min, max, scale, step } => {
            Shape::Axis(Axis::new(*scale, *min as f64, *max as f64, Some(*step as f64)))
        }
        Domain::Ordinal(choices) => Shape::Ordered(choices.len() as u64),
        Domain::Categorical(choices) => Shape::Unordered(choices.len() as u64),
    }
}

//! What kind of value an expression has, and its value.

use std::cmp::Ordering;
use std::fmt;

use super::{ExpressionError, Form, Function, Node, Operator};
use crate::space::Value;

/// A kind of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers, whole or not.
    Number,
    /// True or false.
    Truth,
    /// Texts.
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Number => "a number",
            Self::Truth => "true or false",
            Self::Text => "a text",
        })
    }
}

impl Kind {
    /// The kind of a value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Bool(_) => Self::Truth,
            Value::Int(_) | Value::Float(_) => Self::Number,
            Value::Text(_) => Self::Text,
        }
    }
}

/// The parameters that an expression may name.
pub trait Scope {
    /// What a parameter's values are. The error says that there is none, and which is the nearest.
    fn kind(&self, name: &str) -> Result<Kind, String>;

    /// Why a parameter can never have this value, if it is one of those with a list of choices.
    fn excludes(&self, name: &str, value: &Value) -> Option<String>;
}

pub(super) fn check(node: &Node, scope: &dyn Scope) -> Result<Kind, ExpressionError> {
    let wants = |node: &Node, wanted: Kind, of: &str| match check(node, scope)? {
        found if found == wanted => Ok(()),
        found => Err(ExpressionError { at: node.at, message: format!("{of} takes {wanted}, found {found}") }),
    };
    match &node.form {
        Form::Value(value) => Ok(Kind::of(value)),
        Form::Name(name) => scope.kind(name).map_err(|message| ExpressionError { at: node.at, message }),
        Form::List(_) => Err(ExpressionError { at: node.at, message: "a list can only stand after `in`".to_owned() }),
        Form::Not(inner) => wants(inner, Kind::Truth, "`not`").map(|()| Kind::Truth),
        Form::Minus(inner) => wants(inner, Kind::Number, "`-`").map(|()| Kind::Number),
        Form::Call(_, given) => {
            given.iter().try_for_each(|one| wants(one, Kind::Number, "a function"))?;
            Ok(Kind::Number)
        }
        Form::Two(operator, left, right) => {
            let name = operator.sign();
            match operator {
                Operator::Or | Operator::And => {
                    wants(left, Kind::Truth, name)?;
                    wants(right, Kind::Truth, name)?;
                    Ok(Kind::Truth)
                }
                Operator::Equal | Operator::NotEqual => same(left, right, scope),
                Operator::In | Operator::NotIn => {
                    let Form::List(members) = &right.form else {
                        let message = format!("expected a list in [ ] after {name}");
                        return Err(ExpressionError { at: right.at, message });
                    };
                    members.iter().try_for_each(|member| same(left, member, scope).map(drop))?;
                    Ok(Kind::Truth)
                }
                Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => {
                    wants(left, Kind::Number, name)?;
                    wants(right, Kind::Number, name)?;
                    Ok(Kind::Truth)
                }
                Operator::Add
                | Operator::Subtract
                | Operator::Multiply
                | Operator::Divide
                | Operator::Remainder
                | Operator::Power => {
                    wants(left, Kind::Number, name)?;
                    wants(right, Kind::Number, name)?;
                    Ok(Kind::Number)
                }
            }
        }
    }
}

/// Both sides have to be of one kind; and a choice that is not there can never be chosen.
fn same(left: &Node, right: &Node, scope: &dyn Scope) -> Result<Kind, ExpressionError> {
    let (one, other) = (check(left, scope)?, check(right, scope)?);
    if one != other {
        return Err(ExpressionError { at: right.at, message: format!("cannot compare {one} with {other}") });
    }
    for (name, value) in [(left, right), (right, left)] {
        if let (Form::Name(parameter), Form::Value(literal)) = (&name.form, &value.form)
            && let Some(message) = scope.excludes(parameter, literal)
        {
            return Err(ExpressionError { at: value.at, message });
        }
    }
    Ok(Kind::Truth)
}

impl Operator {
    fn sign(self) -> &'static str {
        match self {
            Self::Or => "`or`",
            Self::And => "`and`",
            Self::Equal => "`==`",
            Self::NotEqual => "`!=`",
            Self::Less => "`<`",
            Self::LessEqual => "`<=`",
            Self::Greater => "`>`",
            Self::GreaterEqual => "`>=`",
            Self::In => "`in`",
            Self::NotIn => "`not in`",
            Self::Add => "`+`",
            Self::Subtract => "`-`",
            Self::Multiply => "`*`",
            Self::Divide => "`/`",
            Self::Remainder => "`%`",
            Self::Power => "`**`",
        }
    }
}

type Values<'scope, 'values> = &'scope dyn Fn(&str) -> Option<&'values Value>;

pub(super) fn holds(node: &Node, values: Values<'_, '_>) -> Option<bool> {
    match value(node, values)? {
        Value::Bool(truth) => Some(truth),
        Value::Int(_) | Value::Float(_) | Value::Text(_) => None,
    }
}

fn value(node: &Node, values: Values<'_, '_>) -> Option<Value> {
    match &node.form {
        Form::Value(value) => Some(value.clone()),
        Form::Name(name) => values(name).cloned(),
        Form::List(_) => None,
        Form::Not(inner) => holds(inner, values).map(|truth| Value::Bool(!truth)),
        Form::Minus(inner) => number(inner, values).map(|number| Value::Float(-number)),
        Form::Call(function, given) => {
            let numbers: Option<Vec<f64>> = given.iter().map(|one| number(one, values)).collect();
            finite(call(*function, &numbers?))
        }
        Form::Two(operator, left, right) => two(*operator, left, right, values),
    }
}

fn two(operator: Operator, left: &Node, right: &Node, values: Values<'_, '_>) -> Option<Value> {
    let numbers = || Some((number(left, values)?, number(right, values)?));
    let compared = |wanted: &[Ordering]| {
        let (one, other) = numbers()?;
        Some(Value::Bool(wanted.contains(&one.partial_cmp(&other)?)))
    };
    let computed = |result: fn(f64, f64) -> f64| numbers().and_then(|(one, other)| finite(result(one, other)));
    match operator {
        Operator::Or => either(true, left, right, values),
        Operator::And => either(false, left, right, values),
        Operator::Equal => Some(Value::Bool(equal(&value(left, values)?, &value(right, values)?))),
        Operator::NotEqual => Some(Value::Bool(!equal(&value(left, values)?, &value(right, values)?))),
        Operator::In => within(left, right, values).map(Value::Bool),
        Operator::NotIn => within(left, right, values).map(|found| Value::Bool(!found)),
        Operator::Less => compared(&[Ordering::Less]),
        Operator::LessEqual => compared(&[Ordering::Less, Ordering::Equal]),
        Operator::Greater => compared(&[Ordering::Greater]),
        Operator::GreaterEqual => compared(&[Ordering::Greater, Ordering::Equal]),
        Operator::Add => computed(|one, other| one + other),
        Operator::Subtract => computed(|one, other| one - other),
        Operator::Multiply => computed(|one, other| one * other),
        Operator::Divide => computed(|one, other| one / other),
        Operator::Remainder => computed(f64::rem_euclid),
        Operator::Power => computed(f64::powf),
    }
}

/// `or` where `decides` is true, `and` where it is false: one side that decides is enough.
fn either(decides: bool, left: &Node, right: &Node, values: Values<'_, '_>) -> Option<Value> {
    let left = holds(left, values);
    if left == Some(decides) {
        return Some(Value::Bool(decides));
    }
    let right = holds(right, values);
    if right == Some(decides) {
        return Some(Value::Bool(decides));
    }
    left.and(right).map(Value::Bool)
}

fn within(left: &Node, right: &Node, values: Values<'_, '_>) -> Option<bool> {
    let Form::List(members) = &right.form else { return None };
    let wanted = value(left, values)?;
    let found: Option<Vec<Value>> = members.iter().map(|member| value(member, values)).collect();
    Some(found?.iter().any(|member| equal(&wanted, member)))
}

fn equal(one: &Value, other: &Value) -> bool {
    match (one.number(), other.number()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn number(node: &Node, values: Values<'_, '_>) -> Option<f64> {
    value(node, values)?.number()
}

fn finite(number: f64) -> Option<Value> {
    number.is_finite().then_some(Value::Float(number))
}

fn call(function: Function, given: &[f64]) -> f64 {
    let first = given.first().copied().unwrap_or(f64::NAN);
    match function {
        Function::Abs => first.abs(),
        Function::Ceil => first.ceil(),
        Function::Exp => first.exp(),
        Function::Floor => first.floor(),
        Function::Log => first.ln(),
        Function::Log10 => first.log10(),
        Function::Log2 => first.log2(),
        Function::Max => given.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Function::Min => given.iter().copied().fold(f64::INFINITY, f64::min),
        Function::Sqrt => first.sqrt(),
    }
}

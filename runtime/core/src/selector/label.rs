//! Label selectors: `app=web,tier in (a, b),!legacy,cores>4`.

use serde_json::Value;

use super::SelectorError;
use super::name::{key_problems, value_problems};

/// How a label is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// `=`, `==`, `in`: present with one of these values.
    In(Vec<String>),
    /// `!=`, `notin`: absent, or with none of these values.
    NotIn(Vec<String>),
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>n`: present, a number, and greater.
    GreaterThan(i64),
    /// `key<n`: present, a number, and less.
    LessThan(i64),
}

/// One term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
}

/// All terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The terms.
    pub requirements: Vec<LabelRequirement>,
}

impl LabelSelector {
    /// Parses the text form, equality- and set-based.
    ///
    /// # Errors
    /// When the text does not follow the grammar, or a key or value is not a legal label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { rest: text }.selector()
    }

    /// Reads the object form: `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// When an operator is unknown, or has too many or too few values.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| error(format!("matchLabels.{key} is not a string")))?;
            requirements.push(requirement(key, LabelOperator::In(vec![value.to_owned()]))?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self { requirements })
    }

    /// Whether every term holds; `label` looks a label up.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

impl LabelRequirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            LabelOperator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            LabelOperator::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            LabelOperator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

fn from_expression(expression: &Value) -> Result<LabelRequirement, SelectorError> {
    let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
    let values: Vec<String> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => {
            return Err(error(format!("values of {key:?} must not be empty for 'in' and 'notin'")));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(error(format!("values of {key:?} must be empty for 'exists' and 'does not exist'")));
        }
        "In" => LabelOperator::In(values),
        "NotIn" => LabelOperator::NotIn(values),
        "Exists" => LabelOperator::Exists,
        "DoesNotExist" => LabelOperator::DoesNotExist,
        other => return Err(error(format!("{other:?} is not a valid label selector operator"))),
    };
    requirement(key, operator)
}

/// A term that cannot be read, in the API server's words.
fn error(message: String) -> SelectorError {
    SelectorError { message: format!("unable to parse requirement: {message}") }
}

/// Text between terms that cannot be read.
fn unexpected(found: &str, expected: &str) -> SelectorError {
    SelectorError { message: format!("found '{found}', expected: {expected}") }
}

fn requirement(key: &str, operator: LabelOperator) -> Result<LabelRequirement, SelectorError> {
    if let Some(problem) = key_problems(key).first() {
        return Err(error(format!("<nil>: Invalid value: {key:?}: {problem}")));
    }
    if let LabelOperator::In(values) | LabelOperator::NotIn(values) = &operator {
        for (i, value) in values.iter().enumerate() {
            if let Some(problem) = value_problems(value).first() {
                return Err(error(format!("values[{i}][{key}]: Invalid value: {value:?}: {problem}")));
            }
        }
    }
    Ok(LabelRequirement { key: key.to_owned(), operator })
}

/// Reads terms off the front of `rest`.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(LabelSelector::default());
        }
        loop {
            let expected =
                if requirements.is_empty() { "!, identifier, or 'end of string'" } else { "identifier after ','" };
            requirements.push(self.term(expected)?);
            self.skip_space();
            if self.rest.is_empty() {
                return Ok(LabelSelector { requirements });
            }
            if !self.eat(",") {
                return Err(unexpected(self.peek(), "',' or 'end of string'"));
            }
            self.skip_space();
            if self.rest.is_empty() || self.rest.starts_with(',') {
                return Err(unexpected(self.peek(), "identifier after ','"));
            }
        }
    }

    fn term(&mut self, expected: &str) -> Result<LabelRequirement, SelectorError> {
        self.skip_space();
        if self.eat("!") {
            let key = self.word();
            return requirement(key, LabelOperator::DoesNotExist);
        }
        let key = self.word();
        if key.is_empty() && !self.rest.is_empty() {
            return Err(unexpected(self.peek(), expected));
        }
        self.skip_space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return requirement(key, LabelOperator::Exists);
        }
        for (symbol, equal) in [("==", true), ("!=", false), ("=", true)] {
            if self.eat(symbol) {
                let values = vec![self.word().to_owned()];
                let operator = if equal { LabelOperator::In(values) } else { LabelOperator::NotIn(values) };
                return requirement(key, operator);
            }
        }
        for greater in [true, false] {
            if self.eat(if greater { ">" } else { "<" }) {
                let bound = self.number()?;
                let operator = if greater { LabelOperator::GreaterThan(bound) } else { LabelOperator::LessThan(bound) };
                return requirement(key, operator);
            }
        }
        match self.word() {
            "in" => requirement(key, LabelOperator::In(self.values()?)),
            "notin" => requirement(key, LabelOperator::NotIn(self.values()?)),
            other => Err(error(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"))),
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let word = self.word();
        let wrong = "for 'Gt', 'Lt' operators, the value must be an integer";
        word.parse().map_err(|_| error(format!("values[0]: Invalid value: {word:?}: {wrong}")))
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.skip_space();
        if !self.eat("(") {
            return Err(error(format!("found '{}' expected: '('", self.peek())));
        }
        let mut values = Vec::new();
        loop {
            let value = self.word().to_owned();
            if !values.contains(&value) {
                values.push(value);
            }
            self.skip_space();
            if self.eat(")") {
                return Ok(values);
            }
            if !self.eat(",") {
                return Err(error(format!("found '{}', expected: ',', or ')'", self.peek())));
            }
        }
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '=' | '!' | '<' | '>'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// The next word or symbol, as errors show it.
    fn peek(&self) -> &'a str {
        let word = Self { rest: self.rest }.word();
        if word.is_empty() { self.rest.get(..1).unwrap_or_default() } else { word }
    }

    fn eat(&mut self, symbol: &str) -> bool {
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

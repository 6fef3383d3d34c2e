//! A table of a TOML file that is read key by key: what is wrong is collected with its place, and so are keys that nobody asked for.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use trainyard_tuner_core::space::{Value, nearest};

use super::DefinitionError;

/// A table, and what is wrong with it so far.
pub(super) struct Table<'file, 'errors> {
    table: &'file DeTable<'file>,
    /// Of its header, or of the whole file.
    span: Range<usize>,
    path: String,
    asked: BTreeSet<&'static str>,
    errors: &'errors mut Vec<DefinitionError>,
}

/// A value with its place.
pub(super) struct Found<'file> {
    pub(super) value: &'file DeValue<'file>,
    pub(super) span: Range<usize>,
}

impl<'file, 'errors> Table<'file, 'errors> {
    pub(super) fn new(
        table: &'file DeTable<'file>,
        span: Range<usize>,
        path: &str,
        errors: &'errors mut Vec<DefinitionError>,
    ) -> Self {
        Self { table, span, path: path.to_owned(), asked: BTreeSet::new(), errors }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Found<'file>> {
        self.asked.insert(key);
        self.table.get(key).map(|value| Found { value: value.get_ref(), span: value.span() })
    }

    /// The text of a key.
    pub(super) fn text(&mut self, key: &'static str) -> Option<(&'file str, Range<usize>)> {
        let found = self.get(key)?;
        match found.value.as_str() {
            Some(text) => Some((text, found.span)),
            None => self.wrong(key, &found, "a text"),
        }
    }

    /// The number of a key.
    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        let found = self.get(key)?;
        match value(found.value).as_ref().and_then(Value::number) {
            Some(number) => Some(number),
            None => self.wrong(key, &found, "a number"),
        }
    }

    /// The whole number of a key.
    pub(super) fn whole(&mut self, key: &'static str) -> Option<i64> {
        let found = self.get(key)?;
        match value(found.value) {
            Some(Value::Int(number)) => Some(number),
            Some(Value::Float(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Some(number as i64),
            _ => self.wrong(key, &found, "a whole number"),
        }
    }

    /// The list of a key: each member that is a text, number or truth, with its place.
    pub(super) fn values(&mut self, key: &'static str) -> Option<Vec<(Value, Range<usize>)>> {
        let found = self.get(key)?;
        let Some(members) = found.value.as_array() else { return self.wrong(key, &found, "a list") };
        let mut values = Vec::with_capacity(members.len());
        for (at, member) in members.iter().enumerate() {
            match value(member.get_ref()) {
                Some(value) => values.push((value, member.span())),
                None => {
                    let found = Found { value: member.get_ref(), span: member.span() };
                    self.wrong::<()>(&format!("{key}[{at}]"), &found, "a text, a number, true or false");
                }
            }
        }
        Some(values)
    }

    /// Says that a key's value is of another kind.
    pub(super) fn wrong<Nothing>(&mut self, key: &str, found: &Found<'_>, expected: &str) -> Option<Nothing> {
        self.error(key, found.span.clone(), format!("expected {expected}, found {}", kind(found.value)), None);
        None
    }

    /// Says that a key is needed.
    pub(super) fn missing(&mut self, key: &str, expected: &str) {
        self.error(key, self.span.clone(), format!("`{key}` is missing: {expected}"), None);
    }

    /// Says what is wrong with the value of a key.
    pub(super) fn error(&mut self, key: &str, span: Range<usize>, message: String, hint: Option<String>) {
        let path = self.path_of(key);
        self.errors.push(DefinitionError { span, path, message, hint });
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{key}", self.path),
        }
    }

    /// Where a key's value stands, or the table if it is not there.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// The entries of a table in it, without reading it.
    pub(super) fn table(&self, key: &str) -> Option<&'file DeTable<'file>> {
        self.table.get(key).and_then(|value| value.get_ref().as_table())
    }

    /// The members of a list in it, without reading it.
    pub(super) fn list(&self, key: &str) -> Option<&'file [Spanned<DeValue<'file>>]> {
        self.table.get(key).and_then(|value| value.get_ref().as_array()).map(|list| &**list)
    }

    /// A table within this one. Of what is wrong in it this one's errors are told.
    pub(super) fn errors(&mut self) -> &mut Vec<DefinitionError> {
        self.errors
    }

    /// Ends the reading: keys that nobody asked for are errors.
    pub(super) fn end(self) {
        for key in self.table.keys().filter(|key| !self.asked.contains(key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let hint = nearest(name, self.asked.iter().copied()).map(|known| format!("did you mean `{known}`?"));
            let known = self.asked.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let path = self.path_of(name);
            let message = format!("there is no key `{name}` here; there are {known}");
            self.errors.push(DefinitionError { span: key.span(), path, message, hint });
        }
    }
}

/// The value, if it is a text, a number or a truth.
pub(super) fn value(found: &DeValue<'_>) -> Option<Value> {
    match found {
        DeValue::String(text) => Some(Value::Text(text.to_string())),
        DeValue::Boolean(truth) => Some(Value::Bool(*truth)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Int),
        DeValue::Float(number) => {
            number.as_str().parse().ok().filter(|number: &f64| !number.is_nan()).map(Value::Float)
        }
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn kind(found: &DeValue<'_>) -> String {
    match found {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

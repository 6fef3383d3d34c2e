//! Does a value have the shape that its schema wants?

use serde_json::{Map, Value};
use trainyard_proto::quantity::{Quantity, QuantityError};

use super::{FieldPath, Format, MAX_DEPTH, Object, Rules, Schema, Shape, closest};

/// One thing that is wrong, as it goes into `status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What sort of thing.
    pub reason: CauseReason,
    /// Where: `spec.pytorchReplicaSpecs[Worker].replicas`.
    pub field: String,
    /// What exactly, without the field: `Invalid value: "string": …`.
    pub message: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

/// The sorts of wrong, named as the API names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseReason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueNotFound`
    NotFound,
}

impl CauseReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// More than this many are not reported.
const MAX_REPORTED: usize = 64;

/// Everything about `value` that its schema does not allow, in document order. Unknown fields are not looked at.
pub fn validate(schema: &Schema, value: &Value) -> Vec<Cause> {
    let mut check = Check { causes: Vec::new(), nulls: false };
    check.value(schema, value, &FieldPath::ROOT, 0);
    check.causes
}

/// The fields of `value` that are null and must not be.
pub fn nulls(schema: &Schema, value: &Value) -> Vec<Cause> {
    let mut check = Check { causes: Vec::new(), nulls: true };
    check.value(schema, value, &FieldPath::ROOT, 0);
    // Definitions say nothing of what metadata holds, be it the object's own or that of a template.
    let is_metadata = |field: &str| field.starts_with("metadata") || field.contains(".metadata.");
    check.causes.retain(|cause| cause.message.ends_with(": \"null\"") && !is_metadata(&cause.field));
    check.causes
}

struct Check {
    causes: Vec<Cause>,
    /// Whether null is a value, and of no type.
    nulls: bool,
}

impl Check {
    fn report(&mut self, reason: CauseReason, path: &FieldPath<'_>, message: String) {
        if self.causes.len() < MAX_REPORTED {
            self.causes.push(Cause { reason, field: path.to_string(), message });
        }
    }

    fn value(&mut self, schema: &Schema, value: &Value, path: &FieldPath<'_>, depth: usize) {
        if depth > MAX_DEPTH {
            self.report(CauseReason::Invalid, path, format!("Invalid value: nested deeper than {MAX_DEPTH} levels"));
            return;
        }
        // Null means absent; a field that must be there was looked for by its parent.
        let allowed = !self.nulls || schema.default.is_some() || schema.shape == Shape::Any;
        if value.is_null() && allowed {
            return;
        }
        let schema = schema.resolve(value);
        if !schema.accepts_type(value) {
            let (seen, wanted) = (type_name(value), shape_name(&schema.shape));
            let shown = format!("Invalid value: \"{seen}\": {path} in body must be of type {wanted}: \"{seen}\"");
            self.report(CauseReason::TypeInvalid, path, shown);
            return;
        }
        self.rules(schema, value, path);
        match (&schema.shape, value) {
            (Shape::Object(object), Value::Object(map)) => self.object(object, map, path, depth),
            (Shape::List(list), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(&list.items, item, &path.index(index), depth + 1);
                }
                self.duplicates(list, items, path);
            }
            (Shape::Integer { narrow: true }, number) => self.narrow(number, path),
            (Shape::Quantity, Value::String(text)) => self.quantity(text, path),
            (Shape::String(format), Value::String(text)) => self.format(*format, text, path),
            _ => {}
        }
    }

    fn object(&mut self, object: &Object, map: &Map<String, Value>, path: &FieldPath<'_>, depth: usize) {
        for name in &object.required {
            if map.get(name.as_ref()).is_none_or(Value::is_null) {
                self.report(CauseReason::Required, &path.field(name), "Required value".to_owned());
            }
        }
        for (key, value) in map {
            match (object.fields.get(key.as_str()), object.field(key)) {
                (Some(schema), _) => self.value(schema, value, &path.field(key), depth + 1),
                (None, Some(schema)) => self.value(schema, value, &path.key(key), depth + 1),
                (None, None) => {}
            }
        }
    }

    fn rules(&mut self, schema: &Schema, value: &Value, path: &FieldPath<'_>) {
        let Some(rules) = &schema.rules else { return };
        self.one_of(rules, value, path);
        if let Some(number) = value.as_f64() {
            if let Some(minimum) = rules.minimum.filter(|minimum| number < *minimum) {
                let text =
                    format!("Invalid value: {value}: {path} in body should be greater than or equal to {minimum}");
                self.report(CauseReason::Invalid, path, text);
            }
            if let Some(maximum) = rules.maximum.filter(|maximum| number > *maximum) {
                let text = format!("Invalid value: {value}: {path} in body should be less than or equal to {maximum}");
                self.report(CauseReason::Invalid, path, text);
            }
        }
        let (length, unit) = match value {
            Value::String(text) => (text.chars().count() as u64, "chars long"),
            Value::Array(items) => (items.len() as u64, "items"),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return,
        };
        if let Some(least) = rules.min_length.filter(|least| length < *least) {
            let text = format!("Invalid value: {}: {path} in body should be at least {least} {unit}", shown(value));
            self.report(CauseReason::Invalid, path, text);
        }
        if let Some(most) = rules.max_length.filter(|most| length > *most) {
            let (reason, text) = match value {
                Value::Array(_) => {
                    (CauseReason::TooMany, format!("Too many: {length}: must have at most {most} items"))
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    (CauseReason::TooLong, format!("Too long: may not be more than {most} characters"))
                }
            };
            self.report(reason, path, text);
        }
    }

    fn one_of(&mut self, rules: &Rules, value: &Value, path: &FieldPath<'_>) {
        if rules.one_of.is_empty() || rules.one_of.contains(value) {
            return;
        }
        let supported = rules.one_of.iter().map(shown).collect::<Vec<_>>().join(", ");
        let near = value.as_str().and_then(|text| closest(text, rules.one_of.iter().filter_map(Value::as_str)));
        let hint = near.map(|name| format!(" (did you mean \"{name}\"?)")).unwrap_or_default();
        let text = format!("Unsupported value: {}: supported values: {supported}{hint}", shown(value));
        self.report(CauseReason::NotSupported, path, text);
    }

    fn duplicates(&mut self, list: &super::List, items: &[Value], path: &FieldPath<'_>) {
        // Server-side apply could not tell such items apart. Ports and env are exempt: upstream accepts duplicates there.
        let unique = match &list.list_type {
            super::ListType::Atomic => return,
            super::ListType::Set => true,
            super::ListType::Map(keys) => keys.len() == 1,
        };
        if !unique || matches!(path.name(), Some("env" | "ownerReferences")) {
            return;
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = crate::apply::item_identity(list, item) else { continue };
            if !seen.insert(identity) {
                let item_path = path.index(index);
                match (&list.list_type, item) {
                    (super::ListType::Map(keys), Value::Object(map)) => {
                        let key = keys.first().map(AsRef::as_ref).unwrap_or_default();
                        let shown = shown(map.get(key).unwrap_or(&Value::Null));
                        self.report(CauseReason::Duplicate, &item_path.field(key), format!("Duplicate value: {shown}"));
                    }
                    _ => self.report(CauseReason::Duplicate, &item_path, format!("Duplicate value: {}", shown(item))),
                }
            }
        }
    }

    fn narrow(&mut self, number: &Value, path: &FieldPath<'_>) {
        if number.as_f64().is_some_and(|float| float < f64::from(i32::MIN) || float > f64::from(u32::MAX)) {
            self.report(
                CauseReason::Invalid,
                path,
                format!("Invalid value: {number}: {path} in body must be a 32-bit integer"),
            );
        }
    }

    fn quantity(&mut self, text: &str, path: &FieldPath<'_>) {
        let problem = match text.parse::<Quantity>() {
            Ok(_) => return,
            // In the words of the API server, which tools look for.
            Err(QuantityError::Malformed(_)) => {
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned()
            }
            Err(error @ (QuantityError::TooLarge(_) | QuantityError::TooFine(_))) => error.to_string(),
        };
        self.report(CauseReason::Invalid, path, format!("Invalid value: {}: {problem}", shown(&Value::from(text))));
    }

    fn format(&mut self, format: Format, text: &str, path: &FieldPath<'_>) {
        match format {
            Format::Plain => {}
            // Upstream reads an empty time as no time.
            Format::DateTime if text.is_empty() || text.parse::<jiff::Timestamp>().is_ok() => {}
            Format::DateTime => {
                let shown = shown(&Value::from(text));
                let message = format!("Invalid value: {shown}: must be a time such as 2026-01-31T15:04:05Z");
                self.report(CauseReason::TypeInvalid, path, message);
            }
            Format::Byte => {
                use base64::Engine as _;
                let compact: String = text.chars().filter(|letter| !matches!(letter, '\n' | '\r')).collect();
                if base64::engine::general_purpose::STANDARD.decode(compact).is_ok() {
                    return;
                }
                // The value may be a secret that somebody forgot to encode: it is not repeated.
                self.report(CauseReason::Invalid, path, "Invalid value: must be base64".to_owned());
            }
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if super::is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shape_name(shape: &Shape) -> String {
    match shape {
        Shape::Any => "any".to_owned(),
        Shape::Object(_) => "object".to_owned(),
        Shape::List(_) => "array".to_owned(),
        Shape::String(_) => "string".to_owned(),
        Shape::Integer { .. } => "integer".to_owned(),
        Shape::Number => "number".to_owned(),
        Shape::Boolean => "boolean".to_owned(),
        Shape::IntOrString | Shape::Quantity => "integer,string".to_owned(),
        Shape::Union(alternatives) => {
            alternatives.iter().map(|alternative| shape_name(&alternative.shape)).collect::<Vec<_>>().join(" or ")
        }
    }
}

/// A value as it stands in a message, cut where it would drown the message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

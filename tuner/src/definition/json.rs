//! Between the tables of TOML and JSON: an experiment's object has the keys of its file.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};
use toml::de::{DeTable, DeValue};

use super::table::value;

/// A table as JSON. Times become texts; numbers that JSON does not have become `null`.
pub(super) fn of_table(table: &DeTable<'_>) -> Map<String, Json> {
    table.iter().map(|(name, one)| (name.get_ref().to_string(), of_value(one.get_ref()))).collect()
}

fn of_value(one: &DeValue<'_>) -> Json {
    match one {
        DeValue::Array(items) => items.iter().map(|item| of_value(item.get_ref())).collect(),
        DeValue::Table(table) => Json::Object(of_table(table)),
        DeValue::Datetime(time) => Json::String(time.to_string()),
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Integer(_) | DeValue::Float(_) => {
            value(one).and_then(|value| serde_json::to_value(value).ok()).unwrap_or(Json::Null)
        }
    }
}

/// A table as the text of a TOML file, which says the same. What is `null` is left out.
pub(super) fn to_text(table: &Map<String, Json>) -> String {
    let mut out = String::new();
    for (name, value) in table.iter().filter(|(_, value)| !value.is_null()) {
        out.push_str(&quoted(name));
        out.push_str(" = ");
        write(value, &mut out);
        out.push('\n');
    }
    out
}

fn write(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("\"\""),
        Json::Bool(_) | Json::Number(_) => {
            // Writing to a text does not fail.
            let _ = write!(out, "{value}");
        }
        Json::String(text) => out.push_str(&quoted(text)),
        Json::Array(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Json::Object(entries) => {
            out.push('{');
            for (at, (name, value)) in entries.iter().filter(|(_, value)| !value.is_null()).enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(name));
                out.push('=');
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// A basic string: JSON's, which may not hold a delete character either.
fn quoted(text: &str) -> String {
    Json::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007f")
}

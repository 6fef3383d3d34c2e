//! Objects as JSON, YAML or names.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

/// Output formats of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with every column
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// JSON or YAML, for commands whose answer is one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Markup {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Prints a value as JSON or YAML.
pub(crate) fn print(out: &mut dyn Write, value: &Value, markup: Markup) -> io::Result<()> {
    match markup {
        Markup::Json => {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        }
        Markup::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
            write!(out, "{text}")?;
            if text.ends_with('\n') { Ok(()) } else { writeln!(out) }
        }
    }
}

/// Takes `metadata.managedFields` away, which nobody wants to read.
pub(crate) fn without_managed_fields(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        without_managed_fields(item);
    }
}

//! Aligned columns, as kubectl prints them.

use std::io::{self, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

/// Columns with their rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// From a `meta.k8s.io/v1 Table`, with the namespace in front if wanted.
    pub(crate) fn of_server(table: &Value, wide: bool, namespace: bool) -> Self {
        let columns: Vec<(usize, &str)> = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(index, column)| (index, column["name"].as_str().unwrap_or_default()))
            .collect();
        let head = columns.iter().map(|(_, name)| name.to_uppercase());
        let row = |row: &Value| {
            let cells = columns.iter().map(|(index, _)| cell(&row["cells"][*index]));
            let namespace = namespace.then(|| text(&row["object"]["metadata"]["namespace"]));
            namespace.into_iter().chain(cells).collect()
        };
        Self {
            head: namespace.then(|| "NAMESPACE".to_owned()).into_iter().chain(head).collect(),
            rows: table["rows"].as_array().into_iter().flatten().map(row).collect(),
        }
    }

    /// Prints the table; the last column is not padded.
    pub(crate) fn print(&self, out: &mut dyn Write, with_head: bool) -> io::Result<()> {
        let lines = || with_head.then_some(&self.head).into_iter().chain(&self.rows);
        let width =
            |column: usize| lines().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        for row in lines() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.width() + 3));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_low_priority_ones_hidden() {
        let table = json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "State"}, {"name": "Image", "priority": 1}],
            "rows": [{"cells": ["a", "Running", "x"]}, {"cells": ["longer-name", null, "y"]}],
        });
        let mut out = Vec::new();
        Table::of_server(&table, false, false).print(&mut out, true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME          STATE\na             Running\nlonger-name   <none>\n"
        );
    }
}

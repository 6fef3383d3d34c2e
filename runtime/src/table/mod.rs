//! Tables for `kubectl get`: rows are made by the server, so that every client shows the same.

mod age;
mod cell;
mod cluster;
mod path;
mod pod;
mod workload;

use serde_json::{Value, json};

use crate::kinds::{Column, Kind};

pub use age::human as human_seconds;
pub use path::find as find_path;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`: what `kubectl get --show-labels -w` needs.
    #[default]
    Metadata,
    /// All of it.
    Whole,
}

/// A `meta.k8s.io/v1` Table of objects. `with_header` is false for all but the first event of a watch.
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    row_object: RowObject,
    with_header: bool,
    now_ms: i64,
) -> Value {
    let columns = if with_header { columns(kind) } else { Value::Array(Vec::new()) };
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, row_object, now_ms)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Metadata alone, as clients ask for it that need no more (garbage collectors, `kubectl delete`, `--show-labels`).
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

fn columns(kind: &Kind) -> Value {
    let definition = |column: &Column| {
        // Kubernetes' own kinds show ages as texts; a definition of a custom kind says what stands behind them.
        let is_text = kind.builtin && column.kind == "date";
        json!({
            "name": column.name, "type": if is_text { "string" } else { column.kind },
            "format": column.format, "description": column.description, "priority": column.priority,
        })
    };
    kind.columns.iter().map(definition).collect()
}

fn row(kind: &Kind, object: &Value, row_object: RowObject, now_ms: i64) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|column| cell_of(kind, column, object, now_ms)).collect();
    let mut row = json!({"cells": cells});
    if (kind.group, kind.plural) == ("", "pods")
        && let Some(condition) = pod::condition(object)
    {
        row["conditions"] = json!([condition]);
    }
    match row_object {
        RowObject::None => {}
        RowObject::Metadata => row["object"] = partial(object),
        RowObject::Whole => row["object"] = object.clone(),
    }
    row
}

fn cell_of(kind: &Kind, column: &Column, object: &Value, now_ms: i64) -> Value {
    // Kubernetes' own kinds first: their cells say `<none>` and the like where a path finds nothing.
    if kind.builtin
        && let Some(cell) = computed(kind, &column.name.to_lowercase(), object, now_ms)
    {
        return cell;
    }
    if let Some(json_path) = column.json_path {
        return match path::cell(object, json_path) {
            // Only dates are rewritten; an absent one is unknown, as kubectl says of a CRD's date column.
            Some(Value::String(time)) if column.kind == "date" => Value::from(age::since(Some(&time), now_ms)),
            Some(value @ (Value::Bool(_) | Value::Number(_))) if column.kind == "string" => {
                Value::from(value.to_string())
            }
            Some(value) => value,
            None if column.kind == "date" => Value::from("<unknown>"),
            None if !kind.builtin => Value::Null,
            None => Value::from(""),
        };
    }
    computed(kind, &column.name.to_lowercase(), object, now_ms).unwrap_or(Value::Null)
}

/// A cell that is no field; `None` for a column that nobody computes.
fn computed(kind: &Kind, column: &str, object: &Value, now_ms: i64) -> Option<Value> {
    match column {
        "name" => return Some(object["metadata"]["name"].clone()),
        "age" => return Some(Value::from(age::of(object, now_ms))),
        _ => {}
    }
    match (kind.group, kind.plural) {
        ("", "pods") => pod::cell(object, column, now_ms),
        ("batch", "jobs") => workload::job(object, column, now_ms),
        ("trainyard.dev", "trainingjobs") => workload::training_job(object, column, now_ms),
        ("apps", "deployments") => workload::deployment(object, column),
        ("apps", "replicasets") => workload::replica_set(object, column),
        ("", "nodes") => cluster::node(object, column),
        ("", "services") => cluster::service(object, column),
        (_, "events") => cluster::event(object, column, now_ms),
        ("", "persistentvolumeclaims") => cluster::volume_claim(object, column),
        ("", "persistentvolumes") => cluster::volume(object, column),
        ("", "resourcequotas") => cluster::quota(object, column),
        (_, plural) => cluster::other(plural, object, column),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::registry;

    #[test]
    fn every_column_without_a_path_is_computed() {
        for kind in registry().iter() {
            for column in kind.columns.iter().filter(|column| column.json_path.is_none()) {
                let computed = computed(kind, &column.name.to_lowercase(), &json!({}), 0);
                assert!(computed.is_some(), "{} of {}", column.name, kind.plural);
            }
        }
    }

    #[test]
    fn a_secrets_row_does_not_hold_what_is_secret() {
        let Some(kind) = registry().find("secrets") else { return };
        let secret = json!({"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}});
        let table = table(kind, [&secret], RowObject::Metadata, true, 0).to_string();
        assert!(table.contains("\"s\"") && !table.contains("aHVudGVyMg"), "{table}");
    }
}

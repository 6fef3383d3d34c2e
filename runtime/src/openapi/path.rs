//! The paths of the API: what clients look up is mostly which parameters a verb takes.

use serde_json::{Map, Value, json};

use super::convert::Dialect;
use crate::kinds::Kind;

/// The path items of one kind.
pub(super) fn paths(kind: &Kind, definition: &str, dialect: Dialect, out: &mut Map<String, Value>) {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let (base, scope) = if kind.namespaced {
        out.insert(format!("{root}/{}", kind.plural), json!({"get": operation(kind, "list", definition, dialect)}));
        (format!("{root}/namespaces/{{namespace}}/{}", kind.plural), "namespace")
    } else {
        (format!("{root}/{}", kind.plural), "")
    };
    let common = |named: bool| {
        let mut parameters = Vec::new();
        if named {
            parameters.push(parameter("name", "path", "name of the object", "string", dialect));
        }
        if !scope.is_empty() {
            parameters.push(parameter(
                "namespace",
                "path",
                "object name and auth scope, such as for teams and projects",
                "string",
                dialect,
            ));
        }
        parameters.push(parameter(
            "pretty",
            "query",
            "If 'true', then the output is pretty printed.",
            "string",
            dialect,
        ));
        parameters
    };
    let verbs = |verbs: &[(&str, &str)], named: bool| {
        let mut item = Map::new();
        for (method, action) in verbs {
            item.insert((*method).to_owned(), operation(kind, action, definition, dialect));
        }
        item.insert("parameters".to_owned(), Value::Array(common(named)));
        Value::Object(item)
    };
    if kind.read_only {
        out.insert(base.clone(), verbs(&[("get", "list")], false));
        out.insert(format!("{base}/{{name}}"), verbs(&[("get", "get")], true));
    } else {
        out.insert(base.clone(), verbs(&[("get", "list"), ("post", "post"), ("delete", "deletecollection")], false));
        out.insert(
            format!("{base}/{{name}}"),
            verbs(&[("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")], true),
        );
    }
    if kind.status && !kind.read_only {
        out.insert(
            format!("{base}/{{name}}/status"),
            verbs(&[("get", "get"), ("put", "put"), ("patch", "patch")], true),
        );
    }
}

fn parameter(name: &str, place: &str, description: &str, kind: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place, "description": description});
    let Value::Object(map) = &mut parameter else { return parameter };
    if place == "path" {
        map.insert("required".to_owned(), json!(true));
    }
    map.insert("uniqueItems".to_owned(), json!(true));
    match dialect {
        Dialect::V2 => drop(map.insert("type".to_owned(), json!(kind))),
        Dialect::V3 => {
            map.shift_remove("uniqueItems");
            map.insert("schema".to_owned(), json!({"type": kind, "uniqueItems": true}));
        }
    }
    parameter
}

fn operation(kind: &Kind, action: &str, definition: &str, dialect: Dialect) -> Value {
    let target = dialect.reference(&if action == "list" { format!("{definition}List") } else { definition.to_owned() });
    let mut parameters = Vec::new();
    let mut query = |name: &str, description: &str, kind: &str| {
        parameters.push(parameter(name, "query", description, kind, dialect))
    };
    let writes = matches!(action, "post" | "put" | "patch");
    if writes || action == "delete" || action == "deletecollection" {
        query(
            "dryRun",
            "When present, indicates that modifications should not be persisted. The only valid value is All.",
            "string",
        );
    }
    if writes {
        query("fieldManager", "The name of the actor or entity that makes these changes.", "string");
        query("fieldValidation", "How unknown and duplicate fields are treated: Ignore, Warn or Strict.", "string");
    }
    if action == "patch" {
        query("force", "Take fields from other managers. Only for apply patches.", "boolean");
    }
    if action == "list" || action == "deletecollection" {
        query("labelSelector", "Only objects with these labels.", "string");
        query("fieldSelector", "Only objects with these fields.", "string");
        query("limit", "At most this many objects in one answer.", "integer");
        query("continue", "Go on after an earlier answer.", "string");
        query("resourceVersion", "Not older than this version.", "string");
    }
    if action == "list" {
        query("watch", "Send changes as they happen.", "boolean");
    }
    let ok = match dialect {
        Dialect::V2 => json!({"description": "OK", "schema": {"$ref": target}}),
        Dialect::V3 => json!({"description": "OK", "content": {"application/json": {"schema": {"$ref": target}}}}),
    };
    let mut operation = json!({
        "description": format!("{action} {}", kind.kind),
        "operationId": format!("{action}{}{}{}", kind.group.replace('.', "_"), kind.version, kind.kind),
        "parameters": parameters,
        "responses": {"200": ok},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
    });
    if let (true, Value::Object(map)) = (writes, &mut operation) {
        let body =
            if action == "patch" { json!({"type": "object"}) } else { json!({"$ref": dialect.reference(definition)}) };
        match dialect {
            Dialect::V2 => {
                if let Some(Value::Array(parameters)) = map.get_mut("parameters") {
                    parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
                }
            }
            Dialect::V3 => drop(map.insert("requestBody".to_owned(), json!({"content": {"*/*": {"schema": body}}}))),
        }
    }
    operation
}

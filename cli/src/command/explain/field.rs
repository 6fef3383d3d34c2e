//! The fields of a kind, from the server's OpenAPI documents.

use std::io::{self, Write};

use serde_json::Value;
use trainyard_runtime_core::schema::closest;

use crate::api::Api;
use crate::error::CliError;
use crate::output::style;
use crate::resource::Resource;

/// References may go in a circle; no schema is nested deeper than this.
const MAX_HOPS: usize = 32;

/// Prints what a kind, or a field of it, is.
pub(crate) async fn print(api: &Api, kind: &Resource, path: &[String]) -> Result<u8, CliError> {
    let root = if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    };
    let document = api.get(&format!("/openapi/v3/{root}")).await?;
    let schemas = &document["components"]["schemas"];
    let is_kind = |schema: &Value| {
        let names = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
        names.into_iter().any(|name| name["kind"] == kind.kind.as_str() && name["group"] == kind.group.as_str())
    };
    let mut at =
        schemas.as_object().into_iter().flatten().map(|(_, schema)| schema).find(|schema| is_kind(schema)).ok_or_else(
            || CliError::NotFound {
                what: format!("the description of {}", kind.kind),
                hint: "the server publishes none for this kind".to_owned(),
            },
        )?;
    let mut walked = kind.plural.clone();
    let mut description = text(at, "description");
    for step in path {
        let holder = resolve(schemas, at);
        let fields = holder["properties"].as_object();
        let next = fields
            .and_then(|fields| fields.get(step))
            .or_else(|| holder.get("additionalProperties").filter(|inner| inner.is_object()));
        at = next.ok_or_else(|| {
            let near = closest(step, fields.into_iter().flatten().map(|(name, _)| name.as_str()));
            CliError::Usage {
                message: format!("{walked} has no field `{step}`"),
                hint: near.map_or_else(
                    || format!("`trainyard explain {walked}` lists its fields"),
                    |near| format!("did you mean `{near}`?"),
                ),
            }
        })?;
        walked = format!("{walked}.{step}");
        description = text(at, "description").or_else(|| text(resolve(schemas, at), "description"));
    }
    show(&mut anstream::stdout().lock(), schemas, &walked, at, description.as_deref())?;
    Ok(0)
}

fn text(schema: &Value, key: &str) -> Option<String> {
    schema[key].as_str().map(str::to_owned)
}

/// Follows references, and goes into the items of lists.
fn resolve<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let mut at = schema;
    for _ in 0..MAX_HOPS {
        let reference = at["$ref"].as_str().or_else(|| at["allOf"][0]["$ref"].as_str());
        at = match reference.and_then(|name| name.rsplit('/').next()) {
            Some(name) => &schemas[name],
            None if at["items"].is_object() => &at["items"],
            None => return at,
        };
    }
    at
}

/// `integer`, `[]Container`, `map[string]string`.
fn type_name(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|name| name.rsplit(['/', '.']).next()) {
        return name.to_owned();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    match schema["type"].as_str() {
        Some("array") => format!("[]{}", type_name(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map[string]{}", type_name(&schema["additionalProperties"]))
        }
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

fn show(out: &mut dyn Write, schemas: &Value, path: &str, schema: &Value, description: Option<&str>) -> io::Result<()> {
    let strong = style::STRONG;
    writeln!(out, "{strong}{path}{strong:#} <{}>", type_name(schema))?;
    if let Some(description) = description {
        writeln!(out, "  {}", description.replace('\n', "\n  "))?;
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        writeln!(out, "  One of: {}", values.join(", "))?;
    }
    let holder = resolve(schemas, schema);
    let required: Vec<&str> = holder["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(fields) = holder["properties"].as_object() else { return Ok(()) };
    writeln!(out, "\nFields:")?;
    for (name, field) in fields {
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        writeln!(out, "  {strong}{name}{strong:#} <{}{must}>", type_name(field))?;
        if let Some(description) = text(field, "description").or_else(|| text(resolve(schemas, field), "description")) {
            // The first paragraph is enough in a list.
            let first = description.split("\n\n").next().unwrap_or_default().replace('\n', " ");
            writeln!(out, "    {first}")?;
        }
    }
    Ok(())
}

//! What cells are made of.

use serde_json::{Map, Value};

/// The items of a list; nothing where it is none.
pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string; empty where it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number; 0 where it is none.
pub(super) fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// How many keys.
pub(super) fn size(value: &Value) -> usize {
    value.as_object().map_or(0, Map::len)
}

/// A string, or a word for its absence.
pub(super) fn text_or(value: &Value, absent: &str) -> Value {
    Value::from(value.as_str().filter(|t| !t.is_empty()).unwrap_or(absent))
}

/// Several strings with commas between; `<none>` for none.
pub(super) fn join<'a>(parts: impl Iterator<Item = &'a str>) -> Value {
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    Value::from(if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") })
}

/// `a=b,c=d` of a map; `<none>` for an empty one.
pub(super) fn pairs(map: &Value) -> Value {
    let entries = map.as_object().into_iter().flatten();
    let pairs: Vec<String> = entries.map(|(key, value)| format!("{key}={}", super::path::text(value))).collect();
    join(pairs.iter().map(String::as_str))
}

/// A LabelSelector in the form that is typed.
pub(super) fn selector(selector: &Value) -> Value {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(key, value)| format!("{key}={}", text(value))).collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values = items(&expression["values"]).map(text).collect::<Vec<_>>().join(",");
        parts.push(match text(&expression["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    join(parts.iter().map(String::as_str))
}

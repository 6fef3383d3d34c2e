//! What an experiment says, in lines.

use serde_json::{Map, Value as Json};

/// A setting is cut off after so many characters.
const LONGEST: usize = 600;
/// So many settings at the most.
const MOST: usize = 400;

/// Each setting with its path. The values of environment variables are left out: a page is passed on, and they may be secrets.
pub(super) fn lines(spec: &Map<String, Json>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (name, value) in spec {
        walk(name.clone(), value, &mut lines);
    }
    lines.truncate(MOST);
    lines
}

/// Tables are gone into, which an API server lets nest no deeper than a stack is.
fn walk(path: String, value: &Json, lines: &mut Vec<(String, String)>) {
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            let is_env = path.ends_with(".env");
            for (name, value) in entries {
                let path = format!("{path}.{name}");
                if is_env { lines.push((path, "…".to_owned())) } else { walk(path, value, lines) }
            }
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            for (at, item) in items.iter().enumerate() {
                let is_env = path.ends_with(".env");
                match item.get("name").and_then(Json::as_str).filter(|_| is_env) {
                    Some(name) => lines.push((format!("{path}.{name}"), "…".to_owned())),
                    None => walk(format!("{path}[{at}]"), item, lines),
                }
            }
        }
        Json::String(text) => lines.push((path, cut(text))),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
            lines.push((path, cut(&value.to_string())));
        }
    }
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(LONGEST).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

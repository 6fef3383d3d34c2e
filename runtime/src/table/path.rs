//! The part of JSONPath that printer columns use: `.a.b`, `['a.b']`, `[0]`, `[-1:]`, `[*]` and
//! `[?(@.type=="Ready")]`.

use serde_json::Value;

/// Everything at `path`, in order. Nothing where the path is not there, or is none.
pub fn find<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![root];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() && !found.is_empty() {
        let Some((step, after)) = step(rest) else { return Vec::new() };
        found = found.into_iter().flat_map(|value| step.of(value)).collect();
        rest = after;
    }
    found
}

/// The first value at `path` as a table cell: `None` where there is nothing.
pub(super) fn cell(root: &Value, path: &str) -> Option<Value> {
    let found = find(root, path);
    match found.as_slice() {
        [] | [Value::Null] => None,
        [one @ (Value::Array(_) | Value::Object(_))] => Some(Value::from(one.to_string())),
        [one] => Some((*one).clone()),
        several => Some(Value::from(several.iter().map(|v| text(v)).collect::<Vec<_>>().join(","))),
    }
}

/// A scalar without quotes.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

enum Step<'p> {
    Field(&'p str),
    Index(i64),
    /// `[from:]`
    From(i64),
    All,
    Where(&'p str, &'p str),
}

impl Step<'_> {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(*name).into_iter().collect(),
            Self::Index(at) => items.get(position(*at, items.len())).into_iter().collect(),
            Self::From(at) => items.iter().skip(position(*at, items.len())).collect(),
            Self::All => items.iter().collect(),
            Self::Where(path, wanted) => {
                items.iter().filter(|item| find(item, path).first().is_some_and(|v| text(v) == *wanted)).collect()
            }
        }
    }
}

/// Counted from the end where negative; from the first where there are not so many.
fn position(at: i64, len: usize) -> usize {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    usize::try_from(if at < 0 { (len + at).max(0) } else { at }).unwrap_or(usize::MAX)
}

fn step(path: &str) -> Option<(Step<'_>, &str)> {
    if let Some(inside) = path.strip_prefix('[') {
        let (inner, rest) = inside.split_once(']')?;
        // A quoted key or value may itself contain a bracket; printer columns never do.
        return Some((bracket(inner)?, rest));
    }
    let name = path.strip_prefix('.').unwrap_or(path);
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (name, rest) = name.split_at(end);
    if name.is_empty() && rest.starts_with('[') {
        return step(rest);
    }
    (!name.is_empty()).then_some((Step::Field(name), rest))
}

fn bracket(inner: &str) -> Option<Step<'_>> {
    let quoted = |text: &str| text.len() >= 2 && (text.starts_with('\'') || text.starts_with('"'));
    if inner == "*" {
        return Some(Step::All);
    }
    if quoted(inner) {
        return Some(Step::Field(inner.trim_matches(['\'', '"'])));
    }
    if let Some(condition) = inner.strip_prefix("?(@").and_then(|c| c.strip_suffix(')')) {
        let (path, wanted) = condition.split_once("==")?;
        return Some(Step::Where(path.trim(), wanted.trim().trim_matches(['\'', '"'])));
    }
    if let Some(from) = inner.strip_suffix(':') {
        return from.parse().ok().map(Step::From);
    }
    inner.parse().ok().map(Step::Index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_find_their_values() {
        let job = json!({"metadata": {"name": "j", "annotations": {"a.b/c": "x"}}, "status": {"conditions": [
            {"type": "Created", "status": "True"}, {"type": "Running", "status": "False"}]}});
        let table = [
            (".metadata.name", Some(json!("j"))),
            ("{.metadata.name}", Some(json!("j"))),
            (".metadata.annotations['a.b/c']", Some(json!("x"))),
            (".status.conditions[-1:].type", Some(json!("Running"))),
            (".status.conditions[0].type", Some(json!("Created"))),
            (".status.conditions[*].type", Some(json!("Created,Running"))),
            (".status.conditions[?(@.type==\"Running\")].status", Some(json!("False"))),
            (".status.nothing.here", None),
            (".status.conditions[7].type", None),
            ("[", None),
        ];
        for (path, expected) in table {
            assert_eq!(cell(&job, path), expected, "{path}");
        }
        assert_eq!(cell(&json!({"status": {"conditions": []}}), ".status.conditions[-1:].type"), None);
    }
}

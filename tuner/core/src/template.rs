//! What a trial runs: a manifest with places for the values of parameters.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Places for what is no parameter.
pub const OWN: [&str; 5] = ["trial.name", "trial.number", "trial.parameters", "trial.checkpoint", "trial.parent"];

/// The values for the places of a template; `None` for a parameter that is not used.
pub type Words = BTreeMap<String, Option<String>>;

/// The names in braces in the texts of a manifest: `{lr}`.
#[must_use]
pub fn places(template: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(template, &mut found);
    found
}

fn collect(template: &Value, found: &mut BTreeSet<String>) {
    match template {
        Value::String(text) => found.extend(pieces(text).filter_map(|piece| piece.name).map(str::to_owned)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(entries) => entries.values().for_each(|entry| collect(entry, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The manifest with words in their places. Names in braces that are no places stay as they are. A text with the place of a
/// parameter that is not used goes: the item of its list, or the entry of its table.
#[must_use]
pub fn fill(template: &Value, words: &Words) -> Value {
    filled(template, words).unwrap_or(Value::Null)
}

fn filled(template: &Value, words: &Words) -> Option<Value> {
    Some(match template {
        Value::String(text) => Value::String(fill_text(text, words)?),
        Value::Array(items) => items.iter().filter_map(|item| filled(item, words)).collect(),
        Value::Object(entries) => {
            let kept = entries.iter().filter_map(|(name, entry)| Some((name.clone(), filled(entry, words)?)));
            // A variable without its value would be an empty one.
            let is_left_out = |kept: &Map<String, Value>| {
                entries.contains_key("name") && entries.contains_key("value") && !kept.contains_key("value")
            };
            Value::Object(Some(kept.collect::<Map<_, _>>()).filter(|kept| !is_left_out(kept))?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => template.clone(),
    })
}

fn fill_text(text: &str, words: &Words) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        out.push_str(piece.before);
        match piece.name.map(|name| (name, words.get(name))) {
            Some((_, Some(word))) => out.push_str(word.as_deref()?),
            Some((name, None)) => {
                out.push('{');
                out.push_str(name);
                out.push('}');
            }
            None => {}
        }
    }
    Some(out)
}

/// A part of a text: what stands before a name in braces, and the name; the last part has none.
struct Piece<'text> {
    before: &'text str,
    name: Option<&'text str>,
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut from = 0;
        while let Some(start) = whole[from..].find('{').map(|at| from + at) {
            let inner = &whole[start + 1..];
            let end = inner.find(|sign: char| !(sign.is_alphanumeric() || matches!(sign, '_' | '-' | '.' | '/')));
            match end {
                Some(end) if end > 0 && inner[end..].starts_with('}') => {
                    rest = Some(&inner[end + 1..]);
                    return Some(Piece { before: &whole[..start], name: Some(&inner[..end]) });
                }
                _ => from = start + 1,
            }
        }
        rest = None;
        Some(Piece { before: whole, name: None })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words() -> Words {
        [("lr", Some("0.1")), ("momentum", None), ("trial.name", Some("wine-3"))]
            .into_iter()
            .map(|(name, word)| (name.to_owned(), word.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn words_go_to_their_places() {
        let template =
            json!({"command": ["sh", "-c", "echo ${HOME} {} {lr}{lr} {trial.name} { lr } {\"a\": {lr}}"], "n": 3});
        let expected = "echo ${HOME} {} 0.10.1 wine-3 { lr } {\"a\": 0.1}";
        assert_eq!(fill(&template, &words()), json!({"command": ["sh", "-c", expected], "n": 3}));
        let expected: BTreeSet<String> = ["HOME", "lr", "trial.name"].map(str::to_owned).into();
        assert_eq!(places(&template), expected);
    }

    #[test]
    fn what_is_not_used_goes() {
        let template = json!({
            "command": ["train", "--lr={lr}", "--momentum={momentum}"],
            "env": [{"name": "M", "value": "{momentum}"}, {"name": "L", "value": "{lr}"}],
            "labels": {"m": "{momentum}", "l": "{lr}"},
        });
        let expected = json!({
            "command": ["train", "--lr=0.1"],
            "env": [{"name": "L", "value": "0.1"}],
            "labels": {"l": "0.1"},
        });
        assert_eq!(fill(&template, &words()), expected);
    }
}

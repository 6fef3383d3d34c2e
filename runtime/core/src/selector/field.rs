//! Field selectors: `status.phase!=Running,spec.nodeName=`.

use std::borrow::Cow;

use serde_json::Value;

use super::SelectorError;

/// One term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// `metadata.name`, `spec.nodeName`, …
    pub path: String,
    /// The value to compare with.
    pub value: String,
    /// `=`/`==` (true) or `!=`.
    pub equal: bool,
}

/// All terms must hold. Which paths a kind offers is for the caller to check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The terms.
    pub requirements: Vec<FieldRequirement>,
}

/// What absent fields stand for where it is not the empty string.
const ABSENT: &[(&str, &str)] =
    &[("spec.unschedulable", "false"), ("status.successful", "0"), ("spec.hostNetwork", "false")];

impl FieldSelector {
    /// Parses `a=b,c!=d`; `\`, `,` and `=` in values are escaped by `\`.
    ///
    /// # Errors
    /// When a term has no operator or an escape is broken.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (path, equal, value) = split_term(term).ok_or_else(|| SelectorError {
                message: format!("invalid selector: '{text}'; can't understand '{term}'"),
            })?;
            requirements.push(FieldRequirement { path: path.to_owned(), value: unescape(value)?, equal });
        }
        Ok(Self { requirements })
    }

    /// Whether every term holds of an object.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|r| (field_text(object, &r.path) == r.value) == r.equal)
    }

    /// The value that the selector insists on for a path, as `metadata.name=x` does.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.path == path).map(|r| r.value.as_str())
    }
}

fn field_text<'a>(object: &'a Value, path: &str) -> Cow<'a, str> {
    let mut at = Some(object);
    for part in path.split('.') {
        at = at.and_then(|v| v.get(part));
    }
    if path == "source" {
        // Who made an event says so in one of two places.
        let named =
            at.and_then(|source| source.get("component")).and_then(Value::as_str).filter(|name| !name.is_empty());
        return Cow::Borrowed(named.or_else(|| object.get("reportingComponent")?.as_str()).unwrap_or_default());
    }
    match at {
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(Value::Bool(flag)) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        Some(Value::Number(number)) => Cow::Owned(number.to_string()),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => {
            Cow::Borrowed(ABSENT.iter().find(|(p, _)| *p == path).map_or("", |(_, text)| text))
        }
    }
}

fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let splits = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (path, rest) = term.split_at(at);
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((path.trim(), equal, value));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(other) => {
                    return Err(SelectorError { message: format!("invalid escape \\{other} in {value:?}") });
                }
                None => return Err(SelectorError { message: format!("{value:?} ends in a lone backslash") }),
            },
            ',' | '=' => {
                return Err(SelectorError { message: format!("unescaped {c:?} in the value {value:?}") });
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

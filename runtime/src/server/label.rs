//! Keys and values of labels. Pure.

use serde_json::Value;
use trainyard_runtime_core::schema::{Cause, CauseReason};

/// The API's limit on the name part of a key and on a value.
const NAME_CHARS: usize = 63;
/// The API's limit on the prefix of a key.
const PREFIX_CHARS: usize = 253;

const NAME_WORDS: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_WORDS: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with labels.
pub(super) fn invalid(labels: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let mut refuse = |shown: &str, words: &str| {
            causes.push(Cause {
                reason: CauseReason::Invalid,
                field: "metadata.labels".to_owned(),
                message: format!("Invalid value: {shown:?}: {words}"),
            });
        };
        let (prefix, name) = key.split_once('/').unwrap_or(("", key));
        if !is_name(name) {
            refuse(key, NAME_WORDS);
        } else if name.len() > NAME_CHARS || prefix.len() > PREFIX_CHARS {
            refuse(key, "name part must be no more than 63 bytes, prefix part no more than 253 bytes");
        }
        // Values that are no strings are the schema's business.
        let Some(value) = value.as_str() else { continue };
        if value.len() > NAME_CHARS {
            refuse(value, "must be no more than 63 bytes");
        } else if !value.is_empty() && !is_name(value) {
            refuse(value, VALUE_WORDS);
        }
    }
    causes
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_checked_as_the_api_server_does() {
        for good in [json!({}), json!({"a": ""}), json!({"x.y/z-1": "A.b_c"}), Value::Null] {
            assert_eq!(invalid(&good), [], "{good}");
        }
        for bad in [json!({"bad label": "x"}), json!({"a": "-x"}), json!({"a": "x".repeat(64)}), json!({"x/": "y"})] {
            assert_eq!(invalid(&bad).len(), 1, "{bad}");
        }
    }
}

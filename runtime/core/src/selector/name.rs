//! Which label keys and values are legal, and the API server's words where they are not.

/// Longest label value and longest name part of a label key.
const PART_CHARS: usize = 63;
/// Longest prefix of a label key.
const PREFIX_CHARS: usize = 253;

const NAME_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_TEXT: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start \
     and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. \
     'example.com/MyName')";
const PREFIX_TEXT: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
     characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
     and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with the key of a label or annotation (or the name of a finalizer); empty when nothing is.
#[must_use]
pub fn key_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let (prefix, name) = match key.split_once('/') {
        Some((_, rest)) if rest.contains('/') => return vec![QUALIFIED_TEXT.to_owned()],
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if prefix.len() > PREFIX_CHARS {
                problems.push(format!("prefix part must be no more than {PREFIX_CHARS} characters"));
            }
            if !is_subdomain(prefix) {
                problems.push(PREFIX_TEXT.to_owned());
            }
        }
        None => {}
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > PART_CHARS {
        problems.push(format!("name part must be no more than {PART_CHARS} characters"));
    }
    if !is_part(name) {
        problems.push(NAME_TEXT.to_owned());
    }
    problems
}

/// What is wrong with the value of a label; empty when nothing is.
#[must_use]
pub fn value_problems(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > PART_CHARS {
        problems.push(format!("must be no more than {PART_CHARS} characters"));
    }
    if !value.is_empty() && !is_part(value) {
        problems.push(VALUE_TEXT.to_owned());
    }
    problems
}

/// DNS-1123 subdomain, but for its length.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

/// DNS-1123 label, but for its length.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    is_framed(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), |c| c == '-')
}

fn is_part(text: &str) -> bool {
    is_framed(text, |c| c.is_ascii_alphanumeric(), |c| matches!(c, '-' | '_' | '.'))
}

/// Begins and ends with an `edge`, and has nothing but edges and `inner`s between.
fn is_framed(text: &str, edge: impl Fn(char) -> bool, inner: impl Fn(char) -> bool) -> bool {
    text.chars().next().is_some_and(&edge)
        && text.chars().last().is_some_and(&edge)
        && text.chars().all(|c| edge(c) || inner(c))
}

//! Label and field selectors: text on the first line, a JSON object of labels on the rest.

use std::collections::BTreeMap;

use serde_json::Value;
use trainyard_runtime_core::selector::{FieldSelector, LabelSelector};

/// One input.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (selector, object) = text.split_once('\n').unwrap_or((text, "{}"));
    let labels: BTreeMap<String, String> = serde_json::from_str(object).unwrap_or_default();
    if let Ok(parsed) = LabelSelector::parse(selector) {
        let _ = parsed.matches(|key| labels.get(key).map(String::as_str));
    }
    let value: Value = serde_json::from_str(object).unwrap_or_default();
    if let Ok(parsed) = FieldSelector::parse(selector) {
        let _ = parsed.matches(&value);
    }
    if let Ok(parsed) = LabelSelector::from_json(&value) {
        let _ = parsed.matches(|key| labels.get(key).map(String::as_str));
    }
}

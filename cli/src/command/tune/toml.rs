//! A configuration as lines of TOML.

use serde_json::{Map, Value};

/// A line for each value that is there, in this order.
pub(super) fn lines<'names>(names: impl Iterator<Item = &'names str>, values: &Map<String, Value>) -> String {
    let line = |name: &str| Some(format!("{} = {}\n", key(name), values.get(name)?));
    names.filter_map(line).collect()
}

fn key(name: &str) -> String {
    let is_bare = |sign: char| sign.is_ascii_alphanumeric() || "_-".contains(sign);
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { Value::from(name).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_value_can_be_read_again() {
        let values = serde_json::json!({"lr": 1e-5, "big": 1e30, "depth": 3, "a b": "x\"y", "on": true, "whole": 2.0});
        let text = lines(["a b", "lr", "big", "none", "depth", "on", "whole"].into_iter(), values.as_object().unwrap());
        assert_eq!(text, "\"a b\" = \"x\\\"y\"\nlr = 0.00001\nbig = 1e+30\ndepth = 3\non = true\nwhole = 2.0\n");
    }
}

//! What kube-apiserver asks of a custom object at the places that its scale is read from.

use serde_json::Value;
use trainyard_runtime_core::schema::{Cause, CauseReason};

use crate::kinds::Scale;

/// What is wrong there, in the words of the accessors of `k8s.io/apimachinery`.
pub(in crate::kinds) fn check_scale(scale: Scale, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut wrong = |path: &str, value: &str, why: String| {
        let message = format!("Invalid value: {value}: {why}");
        causes.push(Cause { reason: CauseReason::Invalid, field: path.to_owned(), message });
    };
    for path in [scale.spec_replicas, scale.status_replicas] {
        match found(object, path) {
            Ok(None) => {}
            Ok(Some(value)) => match value.as_i64() {
                Some(number) if number < 0 => {
                    wrong(path, &number.to_string(), "should be a non-negative integer".to_owned())
                }
                Some(_) => {}
                None => wrong(path, "0", unlike(path, value, "int64")),
            },
            Err(why) => wrong(path, "0", why),
        }
    }
    match found(object, scale.selector) {
        Ok(None | Some(Value::String(_))) => {}
        Ok(Some(value)) => wrong(scale.selector, "\"\"", unlike(scale.selector, value, "string")),
        Err(why) => wrong(scale.selector, "\"\"", why),
    }
    causes
}

/// What is at a dotted path; nothing where something on the way is absent, or null.
fn found<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let (mut value, mut at) = (object, String::new());
    for step in path.trim_start_matches('.').split('.') {
        at.push('.');
        at.push_str(step);
        match value {
            Value::Null => return Ok(None),
            Value::Object(map) => match map.get(step) {
                Some(inner) => value = inner,
                None => return Ok(None),
            },
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(unlike(&at, value, "map[string]interface {}"));
            }
        }
    }
    Ok(Some(value))
}

fn unlike(at: &str, value: &Value, expected: &str) -> String {
    let (shown, seen) = in_go(value);
    let expected = expected.replace("interface {}", "interface{}");
    format!("{at} accessor error: {shown} is of the type {seen}, expected {expected}")
}

/// A value as Go prints it, and its type there.
fn in_go(value: &Value) -> (String, &'static str) {
    match value {
        Value::Null => ("<nil>".to_owned(), "<nil>"),
        Value::Bool(yes) => (yes.to_string(), "bool"),
        Value::Number(number) if number.is_i64() => (number.to_string(), "int64"),
        Value::Number(number) => (number.to_string(), "float64"),
        Value::String(text) => (text.clone(), "string"),
        Value::Array(items) => {
            let shown: Vec<String> = items.iter().map(|item| in_go(item).0).collect();
            (format!("[{}]", shown.join(" ")), "[]interface {}")
        }
        Value::Object(map) => {
            let mut shown: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", in_go(value).0)).collect();
            shown.sort_unstable();
            (format!("map[{}]", shown.join(" ")), "map[string]interface {}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_of_replicas_is_one_that_there_can_be() {
        let scale = Scale { spec_replicas: ".spec.w.n", status_replicas: ".status.n", selector: ".status.s" };
        let told = |object: Value| -> Vec<String> {
            check_scale(scale, &object).iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
        };
        assert_eq!(told(json!({"spec": {"w": {"n": 0}}, "status": {"n": 1, "s": "a=b"}})), [""; 0]);
        assert_eq!(told(json!({"spec": null})), [""; 0]);
        assert_eq!(
            told(json!({"spec": {"w": {"n": -1}}})),
            [".spec.w.n: Invalid value: -1: should be a non-negative integer"]
        );
        let none = ".spec.w.n: Invalid value: 0: .spec.w.n accessor error: <nil> is of the type <nil>, expected int64";
        assert_eq!(told(json!({"spec": {"w": {"n": null}}})), [none]);
        let text = ".spec.w.n: Invalid value: 0: .spec.w accessor error: x is of the type string, expected map[string]interface{}";
        assert_eq!(told(json!({"spec": "x"})), [text]);
        let list = ".status.s: Invalid value: \"\": .status.s accessor error: [1 map[a:b]] is of the type []interface {}, expected string";
        assert_eq!(told(json!({"status": {"s": [1, {"a": "b"}]}})), [list]);
    }
}

//! Paths into a document as Kubernetes writes them: `spec.containers[0].name`, `metadata.labels[a.b/c]`.

use serde_json::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field of a mapping.
    Field(String),
    /// An item of a list.
    Item(usize),
}

/// `base` with a field appended.
pub(crate) fn field(base: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$');
    match (plain, base.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{base}.{name}"),
        (false, _) => format!("{base}[{name}]"),
    }
}

/// `base` with a list index appended.
pub(crate) fn item(base: &str, index: usize) -> String {
    format!("{base}[{index}]")
}

/// The path without its last step.
pub(crate) fn parent(path: &str) -> &str {
    let cut = if path.ends_with(']') { path.rfind('[') } else { path.rfind(['.', ']']) };
    match cut {
        Some(at) if path.as_bytes()[at] == b']' => &path[..=at],
        Some(at) => &path[..at],
        None => "",
    }
}

/// The last field's name, for messages.
pub(crate) fn last(path: &str) -> &str {
    path[parent(path).len()..].trim_matches(['.', '[', ']'])
}

/// Takes a path apart. Anything between brackets that is no number is a field's name.
pub(crate) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (name, after) = inner.split_once(']').unwrap_or((inner, ""));
            steps.push(name.parse().map_or_else(|_| Step::Field(name.to_owned()), Step::Item));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Field(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

/// One spelling for each path: API servers write keys of maps in brackets.
pub(crate) fn canonical(path: &str) -> String {
    steps(path).into_iter().fold(String::new(), |base, step| match step {
        Step::Field(name) => field(&base, &name),
        Step::Item(index) => item(&base, index),
    })
}

/// Sets the value at a path, making mappings on the way. Says which step does not fit.
pub(crate) fn set(root: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let mut at = root;
    let mut walked = String::new();
    for step in steps(path) {
        at = match step {
            Step::Field(name) => {
                if at.is_null() {
                    *at = Value::Object(serde_json::Map::new());
                }
                let here = if walked.is_empty() { "the document".to_owned() } else { format!("`{walked}`") };
                walked = field(&walked, &name);
                at.as_object_mut().ok_or_else(|| format!("{here} is no mapping"))?.entry(name).or_insert(Value::Null)
            }
            Step::Item(index) => {
                let here = walked.clone();
                walked = item(&walked, index);
                let list = at.as_array_mut().ok_or_else(|| format!("`{here}` is no list"))?;
                let length = list.len();
                list.get_mut(index).ok_or_else(|| format!("`{here}` has {length} items, there is no [{index}]"))?
            }
        };
    }
    *at = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parents_lead_to_the_root() {
        assert_eq!(parent("spec.containers[0].name"), "spec.containers[0]");
        assert_eq!(parent("spec.containers[0]"), "spec.containers");
        assert_eq!(parent("metadata.labels[a.b/c]"), "metadata.labels");
        assert_eq!(parent("spec"), "");
        assert_eq!(last("metadata.labels[a.b/c]"), "a.b/c");
        assert_eq!(last("spec.replicas"), "replicas");
    }

    #[test]
    fn keys_in_brackets_are_the_same_as_fields() {
        assert_eq!(canonical("spec.specs[Worker].replicas"), "spec.specs.Worker.replicas");
        assert_eq!(canonical("metadata.labels[a.b/c]"), "metadata.labels[a.b/c]");
        assert_eq!(canonical("a[0].b"), "a[0].b");
    }

    #[test]
    fn setting_makes_mappings_and_refuses_to_go_through_scalars() {
        let mut value = json!({"spec": {"list": [{"a": 1}], "n": 3}});
        set(&mut value, "spec.env.KEY", json!("v")).unwrap();
        set(&mut value, "spec.list[0].a", json!(2)).unwrap();
        assert_eq!(value["spec"]["env"]["KEY"], "v");
        assert_eq!(value["spec"]["list"][0]["a"], 2);
        assert!(set(&mut value, "spec.n.x", json!(1)).unwrap_err().contains("`spec.n` is no mapping"));
        assert!(set(&mut value, "spec.list[4].a", json!(1)).unwrap_err().contains("there is no [4]"));
    }
}

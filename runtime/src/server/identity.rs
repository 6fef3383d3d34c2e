//! Which kind an object says it is of: in a body, and after a patch. Pure.

use serde_json::{Map, Value, json};
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::store::FieldCause;

use super::check::{Writer, cannot_be_handled};
use super::query::FieldValidation;
use super::status::{ApiError, Subject};
use crate::kinds::{Kind, registry};

impl Writer {
    /// Says what it is, and is what the path says. A custom object of another kind still says so: that is not valid.
    pub(super) fn identified(&self, value: Value) -> Result<Value, ApiError> {
        self.identified_by(value, self.kind.builtin)
    }

    /// Keys of bodies of Kubernetes' own kinds are read in any case.
    pub(super) fn identified_by(&self, mut value: Value, in_any_case: bool) -> Result<Value, ApiError> {
        let kind = self.kind;
        if value.is_null() && kind.builtin {
            value = json!({});
        }
        let Some(root) = value.as_object_mut() else {
            let problem = if value.is_null() { "Object 'Kind' is missing in 'null'" } else { "the JSON is no object" };
            return Err(ApiError::bad_request(match kind.builtin {
                true => format!("{} the JSON of the body is no object", cannot_be_handled(kind)),
                false => format!("the object provided is unrecognized (must be of type {}): {problem}", kind.kind),
            }));
        };
        let (version_given, kind_given) = (given(root, "apiVersion", in_any_case)?, given(root, "kind", in_any_case)?);
        if kind_given == "Status" && kind.builtin && root.get("status").is_some_and(|status| !status.is_string()) {
            return Err(ApiError::bad_request("the JSON of the body has a Status of which the status is no string"));
        }
        if kind.builtin {
            registered(kind, &version_given, &kind_given)?;
            root.insert("kind".to_owned(), Value::from(kind.kind));
        } else {
            self.defined(root, &version_given, &kind_given)?;
        }
        root.insert("apiVersion".to_owned(), Value::from(kind.api_version()));
        match root.get("metadata") {
            Some(Value::Object(_)) => {}
            None | Some(Value::Null) => {
                root.insert("metadata".to_owned(), json!({}));
            }
            Some(_) => {
                return Err(ApiError::bad_request(format!("{} metadata is not an object", cannot_be_handled(kind))));
            }
        }
        Ok(value)
    }

    /// Custom objects say both what they are and in which version.
    fn defined(&self, root: &Map<String, Value>, version: &str, kind: &str) -> Result<(), ApiError> {
        let expected = self.kind.api_version();
        if kind.is_empty() {
            let shown = Value::from(root.clone());
            if self.validation == FieldValidation::Ignore {
                let told = format!("{} Object 'Kind' is missing in '{shown}' (JSON)", cannot_be_handled(self.kind));
                return Err(ApiError::bad_request(told));
            }
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{shown}' ({shown})",
                self.kind.kind
            )));
        }
        if root.get("apiVersion").is_some_and(Value::is_null) {
            return Err(ApiError::bad_request("the JSON of the body has an apiVersion that is none"));
        }
        if version != expected {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({expected})"
            ))
            .warning(&self.of_no_schema(root, version, kind)));
        }
        Ok(())
    }

    /// Warnings for what another version of the same kind would say: nothing is known of it.
    fn of_no_schema(&self, root: &Map<String, Value>, version: &str, kind: &str) -> Vec<String> {
        let another = version.split_once('/').is_some_and(|(group, other)| {
            group == self.kind.group && other != self.kind.version && kind == self.kind.kind
        });
        let known = ["apiVersion", "kind", "metadata"];
        let unknown = root.keys().filter(|key| !known.contains(&key.as_str()));
        match another && self.validation != FieldValidation::Ignore {
            true => unknown.map(|key| format!("unknown field \"{key}\"")).collect(),
            false => Vec::new(),
        }
    }

    /// An object that a patch made, by what it says it is, where that is not read as what a body says.
    pub(super) fn patched_into(&self, name: &str, patched: &Value) -> Result<(), ApiError> {
        let Some(root) = patched.as_object() else { return Ok(()) };
        let version = match root.get("apiVersion") {
            None | Some(Value::Null) => "",
            Some(Value::String(text)) => text,
            Some(_) => return Ok(()),
        };
        if self.kind.builtin {
            return if version.is_empty() { Err(self.of_the_inner_version(name, root)) } else { Ok(()) };
        }
        let Some(kind) = root.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty()) else {
            return Ok(());
        };
        if version.is_empty() {
            return Err(ApiError::fault("Object 'apiVersion' is missing in 'object has no apiVersion field'"));
        }
        type_causes(self.kind, version, kind, name)
            .map_err(|error| error.preceded_by(self.of_no_schema(root, version, kind)))
    }

    /// Without a version kube-apiserver reads an object as one of its own structs, in which nothing has the name that it has
    /// outside; the object has no name then.
    fn of_the_inner_version(&self, name: &str, root: &Map<String, Value>) -> ApiError {
        let mut fields: Vec<&str> = root.keys().map(String::as_str).collect();
        fields.retain(|field| !matches!(*field, "apiVersion" | "kind"));
        if self.kind.status && !fields.contains(&"status") {
            fields.push("status");
        }
        fields.sort_unstable();
        let unknown: Vec<String> = fields.iter().map(|field| format!("unknown field \"{field}\"")).collect();
        match self.validation {
            FieldValidation::Strict => ApiError::unreadable(&format!("strict decoding error: {}", unknown.join(", "))),
            FieldValidation::Warn => super::write::unnamed(name).warning(&unknown),
            FieldValidation::Ignore => super::write::unnamed(name),
        }
    }
}

/// What a body says in a field; of Kubernetes' own kinds it is read by decoders that do not look at the case of its name.
fn given(root: &Map<String, Value>, field: &str, in_any_case: bool) -> Result<String, ApiError> {
    let alike = |key: &str| if in_any_case { key.eq_ignore_ascii_case(field) } else { key == field };
    let mut said = String::new();
    for (_, value) in root.iter().filter(|(key, _)| alike(key)) {
        match value {
            Value::Null => {}
            Value::String(text) => said.clone_from(text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                let told = format!("the JSON of the body has a {field} that is no string");
                return Err(ApiError::bad_request(told));
            }
        }
    }
    Ok(said)
}

/// Kinds that are read whichever version says that it has them. An object is none of them either.
const OF_EVERY_VERSION: [&str; 5] = ["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"];

/// Kubernetes' own kinds need not be told, but nothing else may be.
fn registered(kind: &Kind, version_given: &str, kind_given: &str) -> Result<(), ApiError> {
    let api_version = kind.api_version();
    let is_it = |given: &str, expected: &str| given.is_empty() || given == expected;
    if is_it(version_given, &api_version) && is_it(kind_given, kind.kind) {
        return Ok(());
    }
    let given = if kind_given.is_empty() { kind.kind } else { kind_given };
    let version_given = if version_given.is_empty() { &api_version } else { version_given };
    let (_, version) = version_given.rsplit_once('/').unwrap_or(("", version_given));
    let group = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    if !OF_EVERY_VERSION.contains(&given) && registry().by_api_version(version_given, given).is_none() {
        let told = format!("no kind \"{given}\" is registered for version \"{version_given}\"");
        return Err(ApiError::bad_request(format!(
            "{given} in version \"{version}\" cannot be handled as a {}: {told}",
            kind.kind
        )));
    }
    Err(ApiError::bad_request(format!(
        "{given} in version \"{version}\" cannot be handled as a {}: converting ({version}.{given}) to ({group}.{}): \
         unknown conversion",
        kind.kind, kind.kind
    )))
}

/// 422 for a custom object that says that it is of another kind than it is; nothing else of it is looked at.
pub(super) fn type_causes(expected: &Kind, version: &str, kind: &str, name: &str) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for (field, said, must) in [("kind", kind, expected.kind), ("apiVersion", version, expected.api_version().as_str())]
    {
        if said != must {
            let message = format!("Invalid value: {said:?}: must be {must}");
            causes.push(FieldCause { field: field.to_owned(), reason: CauseReason::Invalid.as_str(), message });
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let (group, _) = version.split_once('/').unwrap_or(("", version));
    Err(ApiError::invalid(Subject::new(group, kind, name), causes))
}

#[cfg(test)]
mod tests {
    use trainyard_runtime_core::store::Part;

    use super::*;

    fn writer(plural: &str) -> Writer {
        Writer {
            kind: registry().find(plural).expect("the kind is served"),
            manager: "test".to_owned(),
            validation: FieldValidation::Warn,
            part: Part::Main,
            subresource: None,
            duplicates: Vec::new(),
        }
    }

    fn refused(outcome: Result<Value, ApiError>) -> String {
        outcome.expect_err("it is refused").message().to_owned()
    }

    #[test]
    fn kubernetes_own_kinds_are_named_in_any_case_and_others_are_not_taken_for_them() {
        let maps = writer("configmaps");
        assert_eq!(maps.identified(json!({})).expect("it needs no name")["kind"], "ConfigMap");
        assert!(maps.identified(json!({"KIND": "ConfigMap", "apiVersion": "v1"})).is_ok());
        assert!(
            refused(maps.identified(json!({"Kind": "X"}))).ends_with("no kind \"X\" is registered for version \"v1\"")
        );
        let told = refused(maps.identified(json!({"kind": "Pod"})));
        assert!(told.ends_with("converting (v1.Pod) to (core.ConfigMap): unknown conversion"), "{told}");
        let told = refused(maps.identified(json!({"kind": "Status", "apiVersion": "v1"})));
        assert!(told.ends_with("converting (v1.Status) to (core.ConfigMap): unknown conversion"), "{told}");
    }

    #[test]
    fn a_custom_object_says_its_version_and_one_of_another_kind_is_not_valid() {
        let jobs = writer("pytorchjobs");
        let told = refused(jobs.identified(json!({"kind": "Pod", "apiVersion": "v1"})));
        assert_eq!(told, "the API version in the data (v1) does not match the expected API version (kubeflow.org/v1)");
        assert!(refused(jobs.identified(json!({"kind": "PyTorchJob"}))).starts_with("the API version in the data ()"));
        let other = json!({"kind": "MPIJob", "apiVersion": "kubeflow.org/v1", "metadata": {"name": "a"}});
        assert_eq!(jobs.identified(other.clone()).expect("it can be read")["kind"], "MPIJob");
        let told = jobs.patched_into("a", &other).expect_err("it is refused");
        assert_eq!(
            told.message(),
            "MPIJob.kubeflow.org \"a\" is invalid: kind: Invalid value: \"MPIJob\": must be PyTorchJob"
        );
        let none = json!({"kind": "PyTorchJob", "metadata": {"name": "a"}});
        assert_eq!(jobs.patched_into("a", &none).expect_err("it is refused").code(), 400);
    }

    #[test]
    fn an_object_that_a_patch_leaves_without_a_version_has_no_name() {
        let maps = writer("configmaps");
        assert!(maps.patched_into("a", &json!({"apiVersion": "v1", "metadata": {}})).is_ok());
        let error = maps.patched_into("a", &json!({"kind": "ConfigMap", "metadata": {}})).expect_err("it is refused");
        assert!(error.message().contains("name must be provided"), "{}", error.message());
    }
}

//! The priority of a new pod: that of its PriorityClass, which must be there.

use serde_json::Value;
use trainyard_runtime_core::store::{Key, ListQuery, Resource};

use super::Api;
use super::check::map_at;
use super::status::{ApiError, Subject};

/// Classes that every cluster has.
const SYSTEM: [(&str, i64); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// What a class gives its pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    /// The class, if the pod did not name it itself.
    class: Option<String>,
    priority: i64,
    never_preempts: bool,
}

impl Given {
    /// What the class that a new pod names gives it, or the default one. A class that is not there, or a number that is not the
    /// class's, is refused.
    pub(super) fn to(api: &Api, pod: &Value) -> Result<Self, ApiError> {
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
        let given = Self::by_class(api, name).ok_or_else(|| {
            ApiError::forbidden(subject(pod), &format!("no PriorityClass with name {name} was found"))
        })?;
        match pod["spec"]["priority"].as_i64() {
            Some(asked) if asked != given.priority => {
                let why = format!(
                    "the integer value of priority ({asked}) must not be provided in pod spec; priority admission \
                     controller computed {} from the given PriorityClass name",
                    given.priority
                );
                Err(ApiError::forbidden(subject(pod), &why))
            }
            Some(_) | None => Ok(given),
        }
    }

    fn by_class(api: &Api, name: &str) -> Option<Self> {
        let resource = Resource::new("scheduling.k8s.io", "priorityclasses");
        if name.is_empty() {
            // Of several defaults the least counts.
            let classes = api.store.list(&resource, &ListQuery::default()).map(|page| page.items).unwrap_or_default();
            let defaults = classes.iter().map(|class| class.value()).filter(|class| class["globalDefault"] == true);
            let class = defaults.min_by_key(|class| class["value"].as_i64());
            let named = |class: &Value| class["metadata"]["name"].as_str().map(str::to_owned);
            return Some(class.map_or_else(Self::default, |class| Self { class: named(class), ..Self::of(class) }));
        }
        if let Ok(class) = api.store.get(&Key::new(resource, "", name)) {
            return Some(Self::of(class.value()));
        }
        let (_, priority) = SYSTEM.into_iter().find(|(system, _)| *system == name)?;
        Some(Self { priority, ..Self::default() })
    }

    fn of(class: &Value) -> Self {
        let priority = class["value"].as_i64().unwrap_or_default();
        Self { class: None, priority, never_preempts: class["preemptionPolicy"] == "Never" }
    }

    /// Writes it into the pod; a priority of 0 is what one without has.
    pub(super) fn write(&self, pod: &mut Value) {
        let Some(spec) = map_at(pod, "spec") else { return };
        if let Some(class) = &self.class {
            spec.insert("priorityClassName".to_owned(), Value::from(class.as_str()));
        }
        if self.priority != 0 {
            spec.insert("priority".to_owned(), Value::from(self.priority));
        }
        if self.never_preempts {
            spec.entry("preemptionPolicy").or_insert_with(|| Value::from("Never"));
        }
    }
}

fn subject(pod: &Value) -> Subject {
    let name = pod["metadata"]["name"].as_str().or(pod["metadata"]["generateName"].as_str()).unwrap_or_default();
    Subject::new("", "pods", name)
}

//! Every kind that the API serves, as data.

pub(crate) mod annotation;
mod column;
mod default;
mod rule;
mod source;
mod table;
mod warning;

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use trainyard_runtime_core::schema::{self, Cause, CauseReason, Schema};

pub use column::Column;
pub(crate) use source::{METADATA, json_schema};

/// One kind of the API.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// `PyTorchJob`
    pub kind: &'static str,
    /// `pytorchjobs`
    pub plural: &'static str,
    /// `pytorchjob`
    pub singular: &'static str,
    /// `po`, `svc`…
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource, so that writes to the object leave the status alone and the other way round.
    pub status: bool,
    /// The scale subresource, if any.
    pub scale: Option<Scale>,
    /// Other subresources (`log`, `binding`…).
    pub subresources: &'static [&'static str],
    /// All columns of `kubectl get`, NAME and AGE among them.
    pub columns: &'static [Column],
    /// Whether the kind stands in Kubernetes itself (its defaults are stored) or came as a CustomResourceDefinition (its objects are stored as written).
    pub builtin: bool,
    /// Whether clients may change objects (CustomResourceDefinitions are read-only here).
    pub read_only: bool,
    /// The same objects are stored under this kind (`events.k8s.io/v1` Event is a view of `v1` Event).
    pub stored_as: Option<(&'static str, &'static str)>,
    schema: OnceLock<Arc<Schema>>,
}

/// Where the replica counts of a scalable kind are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// `.spec.replicas`
    pub spec_replicas: &'static str,
    /// `.status.replicas`
    pub status_replicas: &'static str,
    /// `.status.selector` (a string), or `.spec.selector` (a LabelSelector)
    pub selector: &'static str,
}

impl Kind {
    /// `apiVersion` of the objects: `v1`, `batch/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `kind` of lists of the objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// `pods`, `pytorchjobs.kubeflow.org`: how messages name the resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The schema, built when it is first wanted.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| source::build(self))
    }

    /// Writes the defaults that the API server stores with new objects. Kinds that came as CustomResourceDefinitions are kept as written.
    pub fn apply_defaults(&self, object: &mut Value) {
        schema::default(self.schema(), object);
        if self.builtin {
            default::fill(self, object);
        }
    }

    /// A text about a field in the words of its kind: in a map of a custom kind a key stands behind a dot.
    pub(crate) fn told(&self, text: &str) -> String {
        if self.builtin { text.to_owned() } else { with_dotted_keys(text) }
    }

    /// Causes in the words of the kind.
    pub(crate) fn tell(&self, causes: &mut [Cause]) {
        for cause in causes {
            let told = self.told(&cause.field);
            cause.message = cause.message.replace(&cause.field, &told);
            cause.field = told;
        }
    }

    /// Everything about `object` that its schema does not allow and, if that is nothing, what its kind's own rules do not.
    pub fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut causes = schema::validate(self.schema(), object);
        if self.builtin {
            // Its own rules know of these lists, and of what must be there.
            let own = matches!(self.kind, "Deployment" | "ReplicaSet" | "Job" | "Pod" | "Service" | "Event");
            causes.retain(|cause| match cause.reason {
                CauseReason::Duplicate => !rule::OWN_LISTS.iter().any(|list| cause.field.contains(list)),
                CauseReason::Required => !own,
                CauseReason::Invalid
                | CauseReason::TypeInvalid
                | CauseReason::NotSupported
                | CauseReason::TooLong
                | CauseReason::TooMany
                | CauseReason::Forbidden
                | CauseReason::NotFound => true,
            });
        }
        self.tell(&mut causes);
        causes.extend(self.scale_causes(object));
        // The rules read on where types are right.
        let readable = causes.iter().all(|cause| match cause.reason {
            CauseReason::Duplicate | CauseReason::NotSupported => true,
            // The rules of these kinds say what else is missing beside a selector.
            CauseReason::Required => false,
            CauseReason::Invalid
            | CauseReason::TypeInvalid
            | CauseReason::TooLong
            | CauseReason::TooMany
            | CauseReason::Forbidden
            | CauseReason::NotFound => false,
        });
        if self.builtin && readable {
            for cause in rule::check(self, object) {
                if !causes.contains(&cause) {
                    causes.push(cause);
                }
            }
        }
        causes
    }

    /// What is wrong with the numbers of replicas of a custom object.
    pub fn scale_causes(&self, object: &Value) -> Vec<Cause> {
        self.scale.filter(|_| !self.builtin).map_or_else(Vec::new, |scale| rule::check_scale(scale, object))
    }

    /// What is wrong with a change of `old` as it was written: with what says nothing, which is not kept.
    pub fn validate_written(&self, old: &Value, written: &Value) -> Vec<Cause> {
        if self.builtin { rule::check_written(self, old, written) } else { Vec::new() }
    }

    /// What is wrong with a change of `old`'s status to that of `new`.
    pub fn validate_status(&self, old: &Value, new: &Value) -> Vec<Cause> {
        if self.builtin { rule::check_status(self, old, new) } else { Vec::new() }
    }

    /// What a client is told of a valid object that may not do what its writer thinks; `old` is what it was.
    pub fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        if self.builtin { warning::of(self, old, new) } else { warning::of_custom(old, new) }
    }

    /// What a change of `old` to `new` must not touch.
    pub fn validate_update(&self, old: &Value, new: &Value) -> Vec<Cause> {
        if self.builtin { rule::check_update(self, old, new) } else { Vec::new() }
    }
}

/// `a[Key].b[0]` as `a.Key.b[0]`.
fn with_dotted_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once(']') {
            Some((key, behind))
                if key.starts_with(|c: char| c.is_ascii_alphabetic()) && !key.contains([' ', '"', ',']) =>
            {
                out.push('.');
                out.push_str(key);
                rest = behind;
            }
            _ => {
                out.push('[');
                rest = after;
            }
        }
    }
    out + rest
}

/// All kinds.
#[derive(Debug)]
pub struct Registry {
    kinds: Vec<Kind>,
}

/// The registry of this binary.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry { kinds: table::kinds() })
}

impl Registry {
    /// All kinds, in the order of discovery.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter()
    }

    /// Groups with their versions, the preferred one first.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        for kind in &self.kinds {
            match groups.iter_mut().find(|(group, _)| *group == kind.group) {
                Some((_, versions)) if versions.contains(&kind.version) => {}
                Some((_, versions)) => versions.push(kind.version),
                None => groups.push((kind.group, vec![kind.version])),
            }
        }
        groups
    }

    /// The kinds of one group and version.
    pub fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
    }

    /// By group, version and kind.
    pub fn by_gvk(&self, group: &str, version: &str, name: &str) -> Option<&Kind> {
        self.of(group, version).find(|kind| kind.kind == name)
    }

    /// By `apiVersion` and `kind` of a manifest.
    pub fn by_api_version(&self, api_version: &str, name: &str) -> Option<&Kind> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.by_gvk(group, version, name)
    }

    /// By the parts of a URL.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<&Kind> {
        self.of(group, version).find(|kind| kind.plural == plural)
    }

    /// By group and plural, in the preferred version.
    pub fn by_plural(&self, group: &str, plural: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.group == group && kind.plural == plural)
    }

    /// By what a person types: plural, singular, kind or short name in any case, or `plural.group`, `plural.version.group`.
    pub fn find(&self, word: &str) -> Option<&Kind> {
        let word = word.to_lowercase();
        let named = |kind: &&Kind, name: &str| {
            kind.plural == name
                || kind.singular == name
                || kind.short_names.contains(&name)
                || kind.kind.to_lowercase() == name
        };
        if let Some(found) = self.kinds.iter().find(|kind| named(kind, &word)) {
            return Some(found);
        }
        let (name, rest) = word.split_once('.')?;
        self.kinds.iter().filter(|kind| named(kind, name)).find(|kind| {
            rest == kind.group
                || rest.split_once('.').map_or(rest, |(version, _)| version) == kind.version
                    && rest.ends_with(kind.group)
        })
    }
}

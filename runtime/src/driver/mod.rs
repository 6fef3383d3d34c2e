//! The controller driver: the one asynchronous shell around every pure `plan` function.
//!
//! It observes (a watch-fed [`Cache`] per kind), calls the plan function, carries the answer out ([`apply`]), and
//! decides nothing. It is level-triggered and never polls: a key is planned when one of its objects changed, when a
//! plan asked to be woken, or when an action failed and its back-off ran out. A key is not planned again before the
//! caches have seen what its last plan wrote ([`Expectation`]), so no core ever has to reason about its own echo.

pub mod apply;
pub mod cache;
mod controller;
mod event;
mod metrics;
mod queue;

use std::fmt;

use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta};
use serde_json::Value;
use trainyard_proto::plan::ObjectRef;

pub use cache::{Cache, Expectation, Probes};
pub use controller::{Controller, PlanFn, TraceFn};
pub use event::EventSink;
pub use metrics::{DriverMetrics, metrics};
pub use queue::Queue;

/// What a controller plans for: one object's coordinates within its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl From<&ObjectRef> for Key {
    fn from(object: &ObjectRef) -> Self {
        Self::new(object.namespace.clone(), object.name.clone())
    }
}

impl From<&ObjectMeta> for Key {
    fn from(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// The resource of a kind, by its `apiVersion`.
#[must_use]
pub fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// A dynamic object as JSON. Items of a list come without their kind, so it is put in.
#[must_use]
pub fn as_value(object: &DynamicObject, api_version: &str, kind: &str) -> Value {
    // An object that came as JSON goes back to JSON.
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    value["apiVersion"] = Value::from(api_version);
    value["kind"] = Value::from(kind);
    value
}

/// Milliseconds since the epoch: the clock that shells hand to cores.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

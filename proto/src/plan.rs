//! What a decision core answers: actions to carry out, and why.
//!
//! Cores return a [`Plan`]; `runtime::driver` carries its actions out and decides nothing. Every action that changes
//! an existing object names the object's uid (and, where the core looked at its spec, the generation it looked at), so
//! that an action planned from an old view is refused instead of hitting a successor of the same name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One object, by coordinates. `namespace` is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `v1`, `batch/v1`, `trainyard.dev/v1alpha1`, …
    pub api_version: String,
    /// `Pod`, `PyTorchJob`, …
    pub kind: String,
    /// Empty for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Which incarnation of an object an action is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// `metadata.uid` of the object the core saw. Applying refuses any other uid.
    pub uid: Option<String>,
    /// `metadata.resourceVersion` to insist on; `None` where a last-writer-wins merge is right.
    pub resource_version: Option<String>,
}

/// One effect on the API. Data only: JSON bodies are complete Kubernetes objects or merge patches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Action {
    /// POST a complete object. An object of that name with the same controller owner counts as done.
    Create {
        /// Where it goes.
        object: ObjectRef,
        /// The whole object.
        body: Value,
    },
    /// DELETE with the given grace and propagation policy. Absent counts as done.
    Delete {
        /// What goes.
        object: ObjectRef,
        /// The incarnation meant.
        fence: Fence,
        /// `gracePeriodSeconds`; `None` for the object's own.
        grace_seconds: Option<i64>,
        /// Why, for the log.
        reason: String,
    },
    /// Merge patch (RFC 7396) on the main resource.
    Patch {
        /// What changes.
        object: ObjectRef,
        /// The incarnation meant.
        fence: Fence,
        /// The merge patch.
        patch: Value,
    },
    /// Merge patch (RFC 7396) on the status subresource.
    PatchStatus {
        /// What changes.
        object: ObjectRef,
        /// The incarnation meant.
        fence: Fence,
        /// The merge patch, starting at the object root (`{"status": …}`).
        patch: Value,
    },
    /// Bind a pod to a node: sets `spec.nodeName` and takes our scheduling gate off.
    Bind {
        /// The pod.
        pod: ObjectRef,
        /// The incarnation meant.
        fence: Fence,
        /// The node chosen.
        node: String,
    },
    /// Record an event; repeated ones are counted up, not repeated.
    Event {
        /// `involvedObject`.
        regarding: ObjectRef,
        /// uid of `involvedObject`.
        uid: String,
        /// `Normal` or `Warning`.
        severity: EventSeverity,
        /// CamelCase reason.
        reason: String,
        /// One sentence.
        message: String,
    },
}

impl Action {
    /// The object that it is about.
    #[must_use]
    pub fn subject(&self) -> &ObjectRef {
        match self {
            Self::Create { object, .. }
            | Self::Delete { object, .. }
            | Self::Patch { object, .. }
            | Self::PatchStatus { object, .. } => object,
            Self::Bind { pod, .. } => pod,
            Self::Event { regarding, .. } => regarding,
        }
    }

    /// Whether this one may be carried out at the same time as the one before it in a plan, and so as all that joined that
    /// one: creations of different objects (a service and the pods behind it then share a commit), deletions of one kind,
    /// bindings, changes of different objects of one kind.
    #[must_use]
    pub fn joins(&self, first: &Self) -> bool {
        match (first, self) {
            (Self::Create { object: x, .. }, Self::Create { object: y, .. }) => x.kind != y.kind || x.name != y.name,
            (Self::Delete { object: x, .. }, Self::Delete { object: y, .. }) => x.kind == y.kind && x.name != y.name,
            (Self::Bind { .. }, Self::Bind { .. }) => true,
            (Self::Patch { object: x, .. }, Self::Patch { object: y, .. }) => x.kind == y.kind && x.name != y.name,
            (
                Self::Create { .. }
                | Self::Delete { .. }
                | Self::Bind { .. }
                | Self::Patch { .. }
                | Self::PatchStatus { .. }
                | Self::Event { .. },
                _,
            ) => false,
        }
    }
}

/// `type` of a Kubernetes event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventSeverity {
    /// Things went as they should.
    Normal,
    /// The user should look.
    Warning,
}

/// Why something is where it is: a closed code of its core, with the sentence and the numbers behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// What it is about.
    pub subject: ObjectRef,
    /// CamelCase code, from the core's closed list.
    pub code: String,
    /// One sentence with the numbers in it.
    pub message: String,
    /// What the user can do about it, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The answer of a controller core to one view.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In the order in which they are to be carried out; a failed one stops the rest of this plan.
    pub actions: Vec<Action>,
    /// Why things are where they are.
    pub reasons: Vec<Reason>,
    /// When to plan again though nothing was observed, in milliseconds since the epoch.
    pub wake_at_ms: Option<i64>,
}

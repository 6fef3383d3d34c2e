//! What can be asked of the store, and what it answers.

use std::sync::Arc;

use serde_json::Value;

use super::object::{Key, Object, Resource};

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// POST.
    Create(Create),
    /// PUT, and every patch once it has been computed.
    Update(Update),
    /// DELETE.
    Delete(Delete),
}

/// What creating needs beyond the object, since a core has no randomness of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// The uid it gets if it is created.
    pub uid: String,
    /// Five characters to put after `metadata.generateName`.
    pub suffix: String,
    /// Keep the body's `status` though the kind has a status subresource. For callers that set the first status
    /// themselves (a new pod is `Pending`) and have thrown the user's away.
    pub keep_status: bool,
}

/// POST a new object.
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    /// Which resource.
    pub resource: Resource,
    /// The namespace of the request; empty for cluster-scoped resources.
    pub namespace: String,
    /// The object.
    pub value: Value,
    /// Uid, name suffix and first status.
    pub new: NewObject,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Part {
    /// The main resource: `status` stays as it is, where the kind has a status subresource.
    #[default]
    Main,
    /// The status subresource: everything but `status` stays as it is.
    Status,
    /// Everything, for subresources that reach across (`binding`, `finalize`, `scale`).
    Whole,
}

/// PUT a whole object.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Which object.
    pub key: Key,
    /// The new object. Its `metadata.uid` and `metadata.resourceVersion`, where present, are preconditions.
    pub value: Value,
    /// Which part of it counts.
    pub part: Part,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
}

/// What must hold of the stored object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

/// `propagationPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes at once, what it owns follows.
    Background,
    /// What it owns (and blocks its deletion) goes first.
    Foreground,
    /// What it owns stays and forgets its owner.
    Orphan,
}

/// DELETE an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Which object.
    pub key: Key,
    /// What must hold of it.
    pub preconditions: Preconditions,
    /// `gracePeriodSeconds`; `None` for the object's own.
    pub grace_seconds: Option<i64>,
    /// `propagationPolicy`; `None` for the default: background, or what the object's finalizers already say.
    pub propagation: Option<Propagation>,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
}

impl Delete {
    /// An unconditional delete with all defaults.
    #[must_use]
    pub fn of(key: Key) -> Self {
        Self { key, preconditions: Preconditions::default(), grace_seconds: None, propagation: None, dry_run: false }
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A new object is there.
    Created,
    /// The object changed.
    Updated,
    /// The write said what was so already; the resourceVersion did not move.
    Unchanged,
    /// The object is marked for deletion and waits for finalizers or its grace period.
    Deleting,
    /// The object is gone.
    Deleted,
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The object after the write; its last state if it is gone.
    pub object: Arc<Object>,
    /// What happened (or would have, in a dry run).
    pub effect: Effect,
}

/// How a change shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The object was created or replaced.
    Put,
    /// The object is gone.
    Delete,
}

/// One committed change: what watchers are told from.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The resourceVersion of the change; equal to the object's.
    pub resource_version: u64,
    /// Put or gone.
    pub kind: ChangeKind,
    /// The object after the change; for a deletion its last state at the deletion's resourceVersion.
    pub object: Arc<Object>,
    /// What was there before.
    pub previous: Option<Arc<Object>>,
}

impl Change {
    /// The same with its objects as text alone.
    pub(crate) fn as_text(&self) -> Self {
        Self {
            object: Arc::new(self.object.as_text()),
            previous: self.previous.as_ref().map(|previous| Arc::new(previous.as_text())),
            ..self.clone()
        }
    }
}

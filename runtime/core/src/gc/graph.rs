//! Who owns whom, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::store::{Change, ChangeKind, Key, Object};

use super::plan::{FOREGROUND, NAMESPACE_FINALIZER, ORPHAN};

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `uid` of the owner.
    pub uid: Arc<str>,
    /// `blockOwnerDeletion`.
    pub blocks: bool,
}

/// What the collector knows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) key: Key,
    pub(crate) owners: Vec<Owner>,
    pub(crate) deleting: bool,
    /// Has finalizer `foregroundDeletion`.
    pub(crate) foreground: bool,
    /// Has finalizer `orphan`.
    pub(crate) orphan: bool,
    /// A namespace that still has its own finalizer.
    pub(crate) unfinalized: bool,
}

impl Node {
    /// Waits for its dependents.
    pub(crate) fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    fn of(object: &Object) -> Self {
        let owners = object.metadata().get("ownerReferences").and_then(Value::as_array);
        let owner = |o: &Value| {
            let uid = o.get("uid").and_then(Value::as_str)?;
            let blocks = o.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false);
            Some(Owner { uid: uid.into(), blocks })
        };
        let spec_finalizers = crate::store::strings(object.value().pointer("/spec/finalizers"));
        Self {
            key: object.key().clone(),
            owners: owners.into_iter().flatten().filter_map(owner).collect(),
            deleting: object.is_deleting(),
            foreground: object.finalizers().any(|f| f == FOREGROUND),
            orphan: object.finalizers().any(|f| f == ORPHAN),
            unfinalized: is_namespace(object.key()) && spec_finalizers.into_iter().any(|f| f == NAMESPACE_FINALIZER),
        }
    }
}

pub(crate) fn is_namespace(key: &Key) -> bool {
    key.resource.group.is_empty() && &*key.resource.plural == "namespaces"
}

/// The mirror. See the module's page.
#[derive(Debug, Default)]
pub struct Graph {
    pub(crate) nodes: BTreeMap<Arc<str>, Node>,
    /// Owner uid (also of absent owners) to the uids of what it owns.
    pub(crate) dependents: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Namespace name to the uids of what is in it.
    pub(crate) members: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Namespace name to the uid of its object.
    pub(crate) namespaces: BTreeMap<Arc<str>, Arc<str>>,
    /// What has to be looked at.
    pub(crate) dirty: BTreeSet<Arc<str>>,
}

impl Graph {
    /// Starts from everything that is there.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Arc<Object>>) -> Self {
        let mut graph = Self::default();
        for object in objects {
            graph.put(&object.on_its_own());
        }
        graph
    }

    /// Takes a change in, in the order of resourceVersions.
    pub fn observe(&mut self, change: &Change) {
        match change.kind {
            ChangeKind::Put => self.put(&change.object),
            ChangeKind::Delete => self.remove(change.object.uid()),
        }
    }

    /// Looks at an object again, after an action that was planned for it failed.
    pub fn retry(&mut self, uid: &str) {
        if let Some((uid, _)) = self.nodes.get_key_value(uid) {
            self.dirty.insert(Arc::clone(uid));
        }
    }

    fn put(&mut self, object: &Object) {
        let node = Node::of(object);
        let uid = Arc::clone(object.uid());
        let before = self.nodes.get(&uid).cloned();
        if before.as_ref() == Some(&node) {
            return;
        }
        if let Some(before) = &before {
            self.unlink(&uid, before);
            if before.owners != node.owners || before.waits() != node.waits() {
                // An owner may no longer be blocked.
                self.dirty.extend(before.owners.iter().map(|o| Arc::clone(&o.uid)));
            }
        }
        self.link(&uid, &node);
        if node.waits() && !before.as_ref().is_some_and(Node::waits) {
            // What it owns goes first.
            self.dirty.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        self.dirty.insert(Arc::clone(&uid));
        self.nodes.insert(uid, node);
    }

    fn remove(&mut self, uid: &Arc<str>) {
        let Some(node) = self.nodes.remove(uid) else { return };
        self.unlink(uid, &node);
        self.dirty.remove(uid);
        self.dirty.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        self.dirty.extend(node.owners.iter().map(|o| Arc::clone(&o.uid)));
        self.dirty.extend(self.namespaces.get(&node.key.namespace).cloned());
    }

    fn link(&mut self, uid: &Arc<str>, node: &Node) {
        for owner in &node.owners {
            self.dependents.entry(Arc::clone(&owner.uid)).or_default().insert(Arc::clone(uid));
        }
        if !node.key.namespace.is_empty() {
            self.members.entry(Arc::clone(&node.key.namespace)).or_default().insert(Arc::clone(uid));
        }
        if is_namespace(&node.key) {
            self.namespaces.insert(Arc::clone(&node.key.name), Arc::clone(uid));
        }
    }

    fn unlink(&mut self, uid: &Arc<str>, node: &Node) {
        for owner in &node.owners {
            take(&mut self.dependents, &owner.uid, uid);
        }
        take(&mut self.members, &node.key.namespace, uid);
        if is_namespace(&node.key) {
            self.namespaces.remove(&node.key.name);
        }
    }

    /// Derives the invariants anew; empty when all hold.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut dependents: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        let mut members: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        let mut found = Vec::new();
        for (uid, node) in &self.nodes {
            for owner in &node.owners {
                dependents.entry(Arc::clone(&owner.uid)).or_default().insert(Arc::clone(uid));
            }
            if !node.key.namespace.is_empty() {
                members.entry(Arc::clone(&node.key.namespace)).or_default().insert(Arc::clone(uid));
            }
            if !keys.insert(&node.key) {
                found.push(format!("GC-3: two nodes under {}", node.key));
            }
        }
        if dependents != self.dependents {
            found.push(format!("GC-1: {:?} is not {dependents:?}", self.dependents));
        }
        if members != self.members {
            found.push(format!("GC-2: {:?} is not {members:?}", self.members));
        }
        found
    }
}

fn take(map: &mut BTreeMap<Arc<str>, BTreeSet<Arc<str>>>, at: &Arc<str>, uid: &Arc<str>) {
    if let Some(set) = map.get_mut(at) {
        set.remove(uid);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

//! What to do about the objects that changed.

use std::sync::Arc;

use crate::store::{Key, Propagation};

use super::graph::{Graph, Node, is_namespace};

/// By it an owner waits for what it owns.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// By it an owner waits until what it owns has forgotten it.
pub(crate) const ORPHAN: &str = "orphan";
/// By it a namespace waits until it is empty; stands in `spec.finalizers`.
pub(crate) const NAMESPACE_FINALIZER: &str = "kubernetes";

/// One write. `uid` is its precondition: another object of the same name is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete the object.
    Delete {
        /// Which.
        key: Key,
        /// Which incarnation.
        uid: Arc<str>,
        /// How what it owns is treated.
        propagation: Propagation,
    },
    /// Take these owners off `metadata.ownerReferences`.
    RemoveOwners {
        /// Of which object.
        key: Key,
        /// Which incarnation.
        uid: Arc<str>,
        /// The owners' uids.
        owners: Vec<Arc<str>>,
    },
    /// Set `blockOwnerDeletion: false` on every owner reference.
    Unblock {
        /// Of which object.
        key: Key,
        /// Which incarnation.
        uid: Arc<str>,
    },
    /// Take a finalizer off `metadata.finalizers`.
    RemoveFinalizer {
        /// Of which object.
        key: Key,
        /// Which incarnation.
        uid: Arc<str>,
        /// Which finalizer.
        finalizer: &'static str,
    },
    /// Take the finalizer off `spec.finalizers` of an empty namespace.
    FinalizeNamespace {
        /// Which namespace.
        key: Key,
        /// Which incarnation.
        uid: Arc<str>,
    },
}

/// An action and what it was planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The object that was looked at: the one to look at again ([`Graph::retry`]) when the action fails. Often it is not
    /// the one that is written: a namespace has what is in it deleted.
    pub cause: Arc<str>,
    /// The write.
    pub action: Action,
}

impl Action {
    /// The object that is written.
    #[must_use]
    pub fn target(&self) -> (&Key, &Arc<str>) {
        match self {
            Self::Delete { key, uid, .. }
            | Self::RemoveOwners { key, uid, .. }
            | Self::Unblock { key, uid }
            | Self::RemoveFinalizer { key, uid, .. }
            | Self::FinalizeNamespace { key, uid } => (key, uid),
        }
    }
}

/// How an object's owners stand.
struct Standing {
    /// Some owner is present and does not wait for its dependents.
    solid: bool,
    /// Some owner is present and waits for its dependents.
    waiting: bool,
    /// Owners that are absent, or wait: references to them may be taken off while another owner is solid.
    loose: Vec<Arc<str>>,
}

impl Graph {
    /// What has to be done about what changed since the last call.
    pub fn plan(&mut self) -> Vec<Step> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut steps = Vec::new();
        for uid in &dirty {
            // An owner that is absent is in the list for the sake of its dependents only.
            let Some(node) = self.nodes.get(uid) else { continue };
            let mut actions = Vec::new();
            if is_namespace(&node.key) && node.deleting {
                self.empty_namespace(uid, node, &mut actions);
            }
            self.collect(uid, node, &mut actions);
            steps.extend(actions.into_iter().map(|action| Step { cause: Arc::clone(uid), action }));
        }
        steps
    }

    fn empty_namespace(&self, uid: &Arc<str>, node: &Node, actions: &mut Vec<Action>) {
        let members = self.members.get(&node.key.name);
        for (member, inside) in members.into_iter().flatten().filter_map(|m| self.nodes.get_key_value(m)) {
            if !inside.deleting {
                actions.push(Action::Delete {
                    key: inside.key.clone(),
                    uid: Arc::clone(member),
                    propagation: Propagation::Background,
                });
            }
        }
        if members.is_none() && node.unfinalized {
            actions.push(Action::FinalizeNamespace { key: node.key.clone(), uid: Arc::clone(uid) });
        }
    }

    fn collect(&self, uid: &Arc<str>, node: &Node, actions: &mut Vec<Action>) {
        if node.deleting {
            if node.orphan {
                self.release_orphans(uid, node, actions);
            }
            if node.foreground {
                self.finish_foreground(uid, node, actions);
            }
            return;
        }
        if node.owners.is_empty() {
            return;
        }
        let standing = self.standing(node);
        let (key, uid) = (node.key.clone(), Arc::clone(uid));
        if standing.solid {
            if !standing.loose.is_empty() {
                actions.push(Action::RemoveOwners { key, uid, owners: standing.loose });
            }
            return;
        }
        let waited_for = standing.waiting && self.dependents.contains_key(&uid);
        if waited_for && self.dependents_of(&uid).any(|(_, d)| d.waits()) {
            // A dependent is itself waiting: in a circle nobody would ever begin.
            actions.push(Action::Unblock { key: key.clone(), uid: Arc::clone(&uid) });
        }
        let propagation = if waited_for || node.foreground {
            Propagation::Foreground
        } else if node.orphan {
            Propagation::Orphan
        } else {
            Propagation::Background
        };
        actions.push(Action::Delete { key, uid, propagation });
    }

    /// An owner being deleted in the foreground: done when nothing blocks it any more.
    fn finish_foreground(&self, uid: &Arc<str>, node: &Node, actions: &mut Vec<Action>) {
        let blocked = self
            .dependents_of(uid)
            .any(|(_, d)| d.owners.iter().any(|o| o.uid == *uid && o.blocks) && same_home(node, d));
        if !blocked {
            let (key, uid) = (node.key.clone(), Arc::clone(uid));
            actions.push(Action::RemoveFinalizer { key, uid, finalizer: FOREGROUND });
        }
    }

    /// An owner being deleted without its dependents: they forget it first.
    fn release_orphans(&self, uid: &Arc<str>, node: &Node, actions: &mut Vec<Action>) {
        let mut free = true;
        for (dependent, inside) in self.dependents_of(uid) {
            free = false;
            let (key, owners) = (inside.key.clone(), vec![Arc::clone(uid)]);
            actions.push(Action::RemoveOwners { key, uid: Arc::clone(dependent), owners });
        }
        if free {
            let (key, uid) = (node.key.clone(), Arc::clone(uid));
            actions.push(Action::RemoveFinalizer { key, uid, finalizer: ORPHAN });
        }
    }

    fn standing(&self, node: &Node) -> Standing {
        let mut standing = Standing { solid: false, waiting: false, loose: Vec::new() };
        for owner in &node.owners {
            let present = self.nodes.get(&owner.uid);
            if node.key.namespace.is_empty() && present.is_some_and(|o| !o.key.namespace.is_empty()) {
                // A mistake of whoever wrote the reference, and no reason to delete a cluster's object.
                standing.solid = true;
                continue;
            }
            match present.filter(|o| same_home(o, node)) {
                None => standing.loose.push(Arc::clone(&owner.uid)),
                Some(present) if present.waits() => {
                    standing.waiting = true;
                    standing.loose.push(Arc::clone(&owner.uid));
                }
                Some(_) => standing.solid = true,
            }
        }
        standing
    }

    fn dependents_of(&self, uid: &Arc<str>) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get_key_value(d))
    }
}

/// An owner is in its dependent's namespace, or in none.
fn same_home(owner: &Node, dependent: &Node) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == dependent.key.namespace
}

//! Commands staged on top of the committed state, to be made durable and then committed together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::command::{Change, ChangeKind, Command, Effect, NewObject, Outcome, Part};
use super::error::StoreError;
use super::object::{Key, Object, Resource};
use super::state::Store;
use super::{delete, depth, write};

/// Staged commands. Each sees the ones before it; nobody else sees any of them before [`Store::commit`].
#[derive(Debug)]
pub struct Batch {
    base: u64,
    resource_version: u64,
    changes: Vec<Change>,
    overlay: BTreeMap<Key, Option<Arc<Object>>>,
}

/// What a batch means for the disk: rows named by [`Object::birth`].
#[derive(Debug, Default)]
pub struct Rows {
    /// Rows to write.
    pub puts: Vec<Arc<Object>>,
    /// Rows to remove.
    pub deletes: Vec<u64>,
    /// The last removal of each resource that something was removed from.
    pub removals: Vec<(Resource, u64)>,
}

/// What one command decides before it is staged.
pub(crate) enum Decision {
    /// Nothing to do; the answer is the present object.
    Keep(Arc<Object>),
    /// Store this value under this key.
    Put { key: Key, uid: Arc<str>, value: Value, effect: Effect },
    /// Remove the object.
    Remove {
        /// The present object.
        current: Arc<Object>,
        /// What watchers are told instead of the present state.
        last: Option<Value>,
        /// What to answer instead of what watchers are told: an update that ends a deletion is answered as an update.
        answer: Option<Value>,
    },
}

impl Batch {
    /// An empty batch on top of the committed state.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self {
            base: store.resource_version,
            resource_version: store.next_base(),
            changes: Vec::new(),
            overlay: BTreeMap::new(),
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Whether nothing was staged (dry runs and no-ops stage nothing).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The resourceVersion that the store will be at.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.resource_version
    }

    /// An object as this batch sees it.
    #[must_use]
    pub fn get<'a>(&'a self, store: &'a Store, key: &Key) -> Option<&'a Arc<Object>> {
        match self.overlay.get(key) {
            Some(staged) => staged.as_ref(),
            None => store.get(key),
        }
    }

    /// Stages one command.
    ///
    /// # Errors
    /// When the command is refused; nothing is staged then.
    pub fn step(&mut self, store: &Store, now_ms: i64, command: Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Create(create) => {
                let dry_run = create.dry_run;
                let decision = write::create(self, store, now_ms, create)?;
                self.carry_out(store, decision, dry_run)
            }
            Command::Update(update) => {
                let dry_run = update.dry_run;
                let current = self
                    .get(store, &update.key)
                    .map(Object::on_its_own)
                    .ok_or_else(|| StoreError::not_found(&update.key))?;
                let decision = write::update(store, &current, update.value, update.part)?;
                self.carry_out(store, decision, dry_run)
            }
            Command::Delete(delete) => {
                let current = self
                    .get(store, &delete.key)
                    .map(Object::on_its_own)
                    .ok_or_else(|| StoreError::not_found(&delete.key))?;
                let decision = delete::delete(store, now_ms, &current, &delete)?;
                self.carry_out(store, decision, delete.dry_run)
            }
        }
    }

    /// Reads, computes and writes as one: `change` is given the present object (or `None`) and says the new one, or
    /// refuses. A value for an absent object creates it, with `new`. No other write can come between.
    ///
    /// # Errors
    /// What `change` says, or why its answer is refused; nothing is staged then.
    pub fn transact<E: From<StoreError>>(
        &mut self,
        store: &Store,
        now_ms: i64,
        request: Transact,
        change: impl FnOnce(Option<&Object>) -> Result<Value, E>,
    ) -> Result<Outcome, E> {
        let current = self.get(store, &request.key).map(Object::on_its_own);
        let value = change(current.as_deref())?;
        let decision = match &current {
            Some(current) => write::update(store, current, value, request.part)?,
            None => write::create_named(self, store, now_ms, &request.key, value, &request.new)?,
        };
        Ok(self.carry_out(store, decision, request.dry_run)?)
    }

    fn carry_out(&mut self, store: &Store, decision: Decision, dry_run: bool) -> Result<Outcome, StoreError> {
        match decision {
            Decision::Keep(object) => Ok(Outcome { object, effect: Effect::Unchanged }),
            Decision::Put { key, uid, value, effect } => {
                let previous = self.get(store, &key).cloned();
                // A dry run shows the version that is there, if any, since the one to come is not known.
                let version = match (&previous, dry_run) {
                    (previous, true) => previous.as_ref().map_or(0, |object| object.resource_version()),
                    (_, false) => self.resource_version + 1,
                };
                depth::check_depth(&key, previous.as_deref(), &value)?;
                let birth = previous.as_ref().map_or(version, |p| p.birth());
                let object = Arc::new(Object::file(key, uid, version, birth, value));
                let (size_bytes, limit_bytes) = (object.json().len(), store.limits.object_bytes);
                if size_bytes > limit_bytes {
                    let (resource, name) = (object.key().resource.clone(), object.key().name.to_string());
                    return Err(StoreError::TooLarge { resource, name, size_bytes, limit_bytes });
                }
                if !dry_run {
                    self.stage(ChangeKind::Put, Arc::clone(&object), previous);
                }
                Ok(Outcome { object, effect })
            }
            Decision::Remove { current, last, answer } => {
                // Watchers hear that a pod was told to end before they hear that it is gone.
                let told = last.as_ref().filter(|last| *last != current.value()).filter(|_| !dry_run);
                if let Some(told) = told {
                    let (key, uid) = (current.key().clone(), Arc::clone(current.uid()));
                    let version = self.resource_version + 1;
                    let object = Arc::new(Object::file(key, uid, version, current.birth(), told.clone()));
                    self.stage(ChangeKind::Put, object, Some(Arc::clone(&current)));
                }
                let version = if dry_run { current.resource_version() } else { self.resource_version + 1 };
                let file = |value, version| {
                    let (key, uid) = (current.key().clone(), Arc::clone(current.uid()));
                    Arc::new(Object::file(key, uid, version, current.birth(), value))
                };
                let last = file(last.unwrap_or_else(|| current.value().clone()), version);
                let object = match answer {
                    Some(value) => file(value, current.resource_version()),
                    None => Arc::clone(&last),
                };
                if !dry_run {
                    let previous = self.get(store, current.key()).cloned();
                    self.stage(ChangeKind::Delete, last, previous);
                }
                Ok(Outcome { object, effect: Effect::Deleted })
            }
        }
    }

    fn stage(&mut self, kind: ChangeKind, object: Arc<Object>, previous: Option<Arc<Object>>) {
        self.resource_version += 1;
        let now = match kind {
            ChangeKind::Put => Some(Arc::clone(&object)),
            ChangeKind::Delete => None,
        };
        self.overlay.insert(object.key().clone(), now);
        self.changes.push(Change { resource_version: self.resource_version, kind, object, previous });
    }

    /// The net effect on the disk.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut puts: BTreeMap<u64, &Arc<Object>> = BTreeMap::new();
        let mut deletes: BTreeSet<u64> = BTreeSet::new();
        let mut removals: BTreeMap<&Resource, u64> = BTreeMap::new();
        for change in &self.changes {
            let birth = change.object.birth();
            match change.kind {
                ChangeKind::Put => {
                    puts.insert(birth, &change.object);
                }
                ChangeKind::Delete => {
                    puts.remove(&birth);
                    removals.insert(&change.object.key().resource, change.resource_version);
                    // Born in this batch: never was on disk.
                    if birth <= self.base {
                        deletes.insert(birth);
                    }
                }
            }
        }
        Rows {
            puts: puts.into_values().cloned().collect(),
            deletes: deletes.into_iter().collect(),
            removals: removals.into_iter().map(|(r, v)| (r.clone(), v)).collect(),
        }
    }
}

/// What a read-modify-write is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transact {
    /// Which object.
    pub key: Key,
    /// Which part of the computed value counts.
    pub part: Part,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
    /// Used if the object is absent and the function gives a value all the same.
    pub new: NewObject,
}

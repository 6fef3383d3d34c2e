//! The store's invariants, derived anew. See the table on the module's page.

use std::collections::{BTreeMap, BTreeSet};

use super::command::ChangeKind;
use super::object::{Object, Resource};
use super::state::{Store, Window};
use super::write::is_held;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `ST-1` … `ST-8`.
    pub invariant: &'static str,
    /// What was found.
    pub message: String,
}

impl Store {
    /// Derives every invariant anew; empty when all hold. Costs time in proportion to everything stored.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut versions = BTreeSet::new();
        let mut uids = BTreeSet::new();
        for object in self.objects.values() {
            self.check_object(object, &mut found);
            if !versions.insert(object.resource_version()) {
                fail(&mut found, "ST-1", format!("{} shares its resourceVersion", object.key()));
            }
            if !uids.insert(object.uid().clone()) {
                fail(&mut found, "ST-3", format!("{} shares its uid", object.key()));
            }
        }
        for (resource, window) in &self.windows {
            self.check_window(resource, window, &mut found);
        }
        found
    }

    /// The cheap part of [`Store::check`], after a commit in debug builds: full only while the store is small, so that
    /// large tests stay linear.
    #[cfg(debug_assertions)]
    pub(crate) fn check_touched(&self, touched: &[Resource]) {
        const SMALL: usize = 64;
        let changes: usize = touched.iter().filter_map(|r| self.windows.get(r)).map(|w| w.changes.len()).sum();
        if self.objects.len() + changes <= SMALL {
            let found = self.check();
            assert!(found.is_empty(), "store invariants broken: {found:?}");
        }
    }

    fn check_object(&self, object: &Object, found: &mut Vec<Violation>) {
        let key = object.key();
        if object.resource_version() > self.resource_version || object.birth() > object.resource_version() {
            fail(found, "ST-1", format!("{key} is at {} of {}", object.resource_version(), self.resource_version));
        }
        let text = |field: &str| object.metadata().get(field).and_then(|v| v.as_str()).unwrap_or_default();
        let agrees = text("name") == &*key.name
            && text("namespace") == &*key.namespace
            && text("uid") == &**object.uid()
            && text("resourceVersion") == object.resource_version().to_string();
        if !agrees {
            fail(found, "ST-2", format!("{key} says {:?}", object.metadata()));
        }
        let Some(rules) = self.rules.get(&key.resource) else { return };
        let grace = object.deletion_grace_seconds().unwrap_or(0);
        let changed = object.birth() < object.resource_version();
        if changed && object.is_deleting() && grace == 0 && !is_held(rules, object.value()) {
            fail(found, "ST-4", format!("{key} lingers"));
        }
        let home = super::object::Key::namespace_object(key.namespace.clone());
        if rules.namespaced && self.rules.contains_key(&home.resource) && !self.objects.contains_key(&home) {
            fail(found, "ST-6", format!("{key} has no namespace"));
        }
        if rules.generation != object.generation().is_some_and(|g| g >= 1) {
            fail(found, "ST-8", format!("{key} has generation {:?}", object.generation()));
        }
    }

    fn check_window(&self, resource: &Resource, window: &Window, found: &mut Vec<Violation>) {
        let mut last = window.floor;
        let mut ends = BTreeMap::new();
        for change in &window.changes {
            if change.resource_version <= last {
                fail(found, "ST-5", format!("{resource}: {} follows {last}", change.resource_version));
            }
            last = change.resource_version;
            ends.insert(change.object.key(), change);
        }
        if last != window.last || last > self.resource_version {
            fail(found, "ST-5", format!("{resource}: ends at {last}, not {}", window.last));
        }
        for (key, change) in ends {
            let stored = self.objects.get(key).map(|o| o.resource_version());
            let expected = match change.kind {
                ChangeKind::Put => Some(change.resource_version),
                ChangeKind::Delete => None,
            };
            if stored != expected {
                fail(found, "ST-7", format!("{key}: stored {stored:?}, last change {expected:?}"));
            }
        }
    }
}

fn fail(found: &mut Vec<Violation>, invariant: &'static str, message: String) {
    found.push(Violation { invariant, message });
}

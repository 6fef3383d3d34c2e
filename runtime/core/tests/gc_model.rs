//! The garbage collector on the real store: random ownership graphs, deleted in every way, driven to a fixpoint.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_runtime_core::gc::{Action, Graph};
use trainyard_runtime_core::store::{
    Batch, Command, Create, Delete, Key, Limits, NewObject, Part, Preconditions, Propagation, Resource, ResourceRules,
    Store, StoreError, Transact,
};

const NOW_MS: i64 = 1_700_000_000_000;

fn things() -> Resource {
    Resource::new("example.com", "things")
}

fn uid(i: usize) -> String {
    format!("uid-{i}")
}

fn key(i: usize) -> Key {
    Key::new(things(), "home", format!("t{i}"))
}

struct World {
    store: Store,
    graph: Graph,
    seen: u64,
}

impl World {
    fn new() -> Self {
        let rules = [ResourceRules::namespaces(), ResourceRules::plain(things(), true), ResourceRules::pods()];
        let store = Store::new(rules, Limits::default());
        let mut world = Self { store, graph: Graph::default(), seen: 0 };
        world.create(Resource::namespaces(), "", "ns-uid", json!({ "metadata": { "name": "home" } }));
        world
    }

    fn create(&mut self, resource: Resource, namespace: &str, uid: &str, value: Value) {
        let new = NewObject { uid: uid.to_owned(), suffix: String::new(), keep_status: true };
        let create = Create { resource, namespace: namespace.to_owned(), value, new, dry_run: false };
        self.store.step(NOW_MS, Command::Create(create)).unwrap();
    }

    fn thing(&mut self, i: usize, owners: &[(String, bool)], finalizers: &[&str]) {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(uid, blocks)| {
                json!({ "apiVersion": "example.com/v1", "kind": "Thing", "name": uid, "uid": uid, "blockOwnerDeletion": blocks })
            })
            .collect();
        let name = format!("t{i}");
        let meta = json!({ "name": name, "ownerReferences": owners, "finalizers": finalizers });
        self.create(things(), "home", &uid(i), json!({ "metadata": meta }));
    }

    fn delete(&mut self, key: Key, propagation: Propagation) -> Result<(), StoreError> {
        let delete = Delete { propagation: Some(propagation), ..Delete::of(key) };
        self.store.step(NOW_MS, Command::Delete(delete)).map(drop)
    }

    fn observe(&mut self) {
        for change in self.store.changes_since(self.seen).unwrap() {
            self.seen = change.resource_version;
            self.graph.observe(&change);
        }
        assert_eq!(self.graph.check(), Vec::<String>::new());
    }

    fn edit(&mut self, key: &Key, uid: &str, edit: impl FnOnce(&mut Value)) {
        let mut batch = Batch::new(&self.store);
        let new = NewObject { uid: String::new(), suffix: String::new(), keep_status: false };
        let request = Transact { key: key.clone(), part: Part::Whole, dry_run: false, new };
        let done = batch.transact(&self.store, NOW_MS, request, |current| {
            let current = current.filter(|c| **c.uid() == *uid).ok_or_else(|| StoreError::not_found(key))?;
            let mut value = current.value().clone();
            edit(&mut value);
            Ok::<_, StoreError>(value)
        });
        match done {
            Ok(_) | Err(StoreError::NotFound { .. }) => {
                self.store.commit(batch);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Delete { key, uid, propagation } => {
                let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
                let delete = Delete { preconditions, propagation: Some(propagation), ..Delete::of(key) };
                match self.store.step(NOW_MS, Command::Delete(delete)) {
                    Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Precondition { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Action::RemoveOwners { key, uid, owners } => self.edit(&key, &uid, |value| {
                let list = value.pointer_mut("/metadata/ownerReferences").unwrap().as_array_mut().unwrap();
                list.retain(|o| !owners.iter().any(|gone| o["uid"] == **gone));
            }),
            Action::Unblock { key, uid } => self.edit(&key, &uid, |value| {
                for owner in value.pointer_mut("/metadata/ownerReferences").unwrap().as_array_mut().unwrap() {
                    owner["blockOwnerDeletion"] = json!(false);
                }
            }),
            Action::RemoveFinalizer { key, uid, finalizer } => self.edit(&key, &uid, |value| {
                if let Some(list) = value.pointer_mut("/metadata/finalizers") {
                    list.as_array_mut().unwrap().retain(|f| f != finalizer);
                }
            }),
            Action::FinalizeNamespace { key, uid } => {
                self.edit(&key, &uid, |value| value["spec"]["finalizers"] = json!([]));
            }
        }
        assert_eq!(self.store.check(), vec![]);
    }

    /// Plans and acts until nothing is left to do; the order of a plan's actions must not matter.
    fn settle(&mut self, reverse: bool) {
        self.settle_failing(reverse, &[]);
    }

    /// The same, where some of the writes fail once: `failures` says which, in the order of acting.
    fn settle_failing(&mut self, reverse: bool, failures: &[bool]) {
        let mut failures = failures.iter().copied();
        let mut failed: Vec<Arc<str>> = Vec::new();
        for _ in 0..128 {
            self.observe();
            let mut steps = self.graph.plan();
            if steps.is_empty() && failed.is_empty() {
                assert!(self.graph.plan().is_empty());
                return;
            }
            if steps.is_empty() {
                failed.drain(..).for_each(|cause| self.graph.retry(&cause));
            }
            if reverse {
                steps.reverse();
            }
            for step in steps {
                if failures.next() == Some(true) { failed.push(step.cause) } else { self.act(step.action) }
            }
        }
        panic!("the collector does not come to rest");
    }

    fn left(&self) -> BTreeSet<String> {
        self.store.objects().filter(|o| o.key().resource == things()).map(|o| o.uid().to_string()).collect()
    }
}

/// Which objects must be left: those that have no owners, or some owner that is left (or was orphaned away).
fn expected(owners: &BTreeMap<usize, Vec<String>>, deleted: usize, orphan: bool) -> BTreeSet<String> {
    let mut alive: BTreeSet<String> = owners.keys().map(|i| uid(*i)).collect();
    alive.remove(&uid(deleted));
    loop {
        let next: BTreeSet<String> = owners
            .iter()
            .filter(|(i, refs)| {
                let refs: Vec<&String> = refs.iter().filter(|r| !(orphan && **r == uid(deleted))).collect();
                alive.contains(&uid(**i)) && (refs.is_empty() || refs.iter().any(|r| alive.contains(*r)))
            })
            .map(|(i, _)| uid(*i))
            .collect();
        if next == alive {
            return alive;
        }
        alive = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the graph (owners are earlier objects, so it is acyclic) and the policy, exactly the objects that have
    /// lost all their owners go, nothing lingers, and the collector comes to rest in either order of acting, and where
    /// some of its writes fail.
    #[test]
    fn exactly_the_abandoned_are_collected(
        edges in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..3), 1..8),
        root in any::<prop::sample::Index>(),
        policy in 0..3usize,
        reverse in any::<bool>(),
        failures in prop::collection::vec(any::<bool>(), 0..12),
        whole_namespace in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut owners: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (i, list) in edges.iter().enumerate() {
            let mut refs: Vec<(String, bool)> = Vec::new();
            for (index, blocks) in list {
                if i > 0 && !refs.iter().any(|(u, _)| *u == uid(index.index(i))) {
                    refs.push((uid(index.index(i)), *blocks));
                }
            }
            owners.insert(i, refs.iter().map(|(u, _)| u.clone()).collect());
            world.thing(i, &refs, &[]);
        }
        world.settle(reverse);
        prop_assert_eq!(world.left().len(), edges.len(), "nothing is collected while all owners are there");
        let root = root.index(edges.len());
        let propagation = [Propagation::Background, Propagation::Foreground, Propagation::Orphan][policy];
        world.delete(key(root), propagation).unwrap();
        if whole_namespace {
            world.delete(Key::namespace_object("home"), Propagation::Background).unwrap();
            world.settle_failing(reverse, &failures);
            prop_assert!(world.store.is_empty(), "{:?}", world.left());
            return Ok(());
        }
        world.settle_failing(reverse, &failures);
        prop_assert_eq!(world.left(), expected(&owners, root, propagation == Propagation::Orphan));
        prop_assert!(world.store.objects().all(|o| !o.is_deleting()));
        // References to what is gone are gone too, where the object stays.
        let left = world.left();
        for object in world.store.objects() {
            let refs = object.metadata().get("ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default();
            prop_assert!(refs.iter().all(|r| left.contains(r["uid"].as_str().unwrap())), "{:?}", refs);
        }
        // A graph built from scratch has nothing to do either.
        let objects: Vec<_> = world.store.objects().map(Arc::clone).collect();
        prop_assert!(Graph::new(&objects).plan().is_empty());
    }
}

#[test]
fn foreground_waits_for_a_blocking_dependent_with_a_finalizer() {
    let mut world = World::new();
    world.thing(0, &[], &[]);
    world.thing(1, &[(uid(0), true)], &["example.com/hold"]);
    world.delete(key(0), Propagation::Foreground).unwrap();
    world.settle(false);
    assert_eq!(world.left(), BTreeSet::from([uid(0), uid(1)]));
    assert!(world.store.get(&key(1)).unwrap().is_deleting());
    world.edit(&key(1), &uid(1), |v| v["metadata"]["finalizers"] = json!([]));
    world.settle(false);
    assert_eq!(world.left(), BTreeSet::new());
}

#[test]
fn a_circle_of_foreground_owners_is_cut() {
    let mut world = World::new();
    world.thing(0, &[(uid(1), true)], &[]);
    world.thing(1, &[(uid(0), true)], &[]);
    world.settle(false);
    assert_eq!(world.left().len(), 2, "they hold each other");
    world.delete(key(0), Propagation::Foreground).unwrap();
    world.settle(false);
    assert_eq!(world.left(), BTreeSet::new());
}

#[test]
fn an_owner_in_another_namespace_is_no_owner() {
    let mut world = World::new();
    world.create(Resource::namespaces(), "", "other", json!({ "metadata": { "name": "other" } }));
    world.create(things(), "other", "uid-0", json!({ "metadata": { "name": "t0" } }));
    world.thing(1, &[(uid(0), false)], &[]);
    world.settle(false);
    assert_eq!(world.left(), BTreeSet::from([uid(0)]));
}

#[test]
fn a_cluster_object_is_not_lost_to_an_owner_in_a_namespace() {
    let mut world = World::new();
    world.thing(0, &[], &[]);
    let owner = json!({ "apiVersion": "example.com/v1", "kind": "Thing", "name": "t0", "uid": uid(0) });
    let value = json!({ "metadata": { "name": "other", "ownerReferences": [owner] } });
    world.create(Resource::namespaces(), "", "other-uid", value);
    world.settle(false);
    assert!(world.store.get(&Key::namespace_object("other")).is_some());
}

#[test]
fn a_namespace_is_emptied_before_it_goes_and_takes_nothing_new() {
    let mut world = World::new();
    world.thing(0, &[], &["example.com/hold"]);
    world.thing(1, &[], &[]);
    world.delete(Key::namespace_object("home"), Propagation::Background).unwrap();
    let namespace = world.store.get(&Key::namespace_object("home")).unwrap();
    assert_eq!(namespace.value()["status"]["phase"], "Terminating");
    let new = NewObject { uid: "late".to_owned(), suffix: String::new(), keep_status: false };
    let value = json!({ "metadata": { "name": "late" } });
    let create = Create { resource: things(), namespace: "home".to_owned(), value, new, dry_run: false };
    let refused = world.store.step(NOW_MS, Command::Create(create)).unwrap_err();
    assert!(matches!(refused, StoreError::Terminating { .. }), "{refused}");
    world.settle(false);
    assert_eq!(world.left(), BTreeSet::from([uid(0)]), "its finalizer holds it, and the namespace with it");
    assert!(world.store.get(&Key::namespace_object("home")).is_some());
    world.edit(&key(0), &uid(0), |v| v["metadata"]["finalizers"] = json!([]));
    world.settle(false);
    assert!(world.store.is_empty());
}

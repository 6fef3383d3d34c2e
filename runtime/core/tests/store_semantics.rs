//! The rules of the API that are easier to read as stories: each was compared with a real kube-apiserver.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use trainyard_runtime_core::selector::Selector;
use trainyard_runtime_core::store::{
    At, Batch, Command, Create, Delete, Effect, Key, Limits, ListQuery, NewObject, Object, Outcome, Part,
    Preconditions, Propagation, Resource, ResourceRules, Store, StoreError, Transact, Update, WatchEvent, WatchQuery,
};

const NOW_MS: i64 = 1_700_000_000_000;

fn widgets() -> Resource {
    Resource::new("example.com", "widgets")
}

fn pods() -> Resource {
    Resource::new("", "pods")
}

struct World {
    store: Store,
    now_ms: i64,
    uids: u32,
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let rules = [
            ResourceRules::namespaces(),
            ResourceRules::pods(),
            ResourceRules::custom(widgets(), true),
            ResourceRules::plain(Resource::new("", "configmaps"), true),
        ];
        let mut world = Self { store: Store::new(rules, limits), now_ms: NOW_MS, uids: 0 };
        world.create(&Resource::namespaces(), json!({ "metadata": { "name": "home" } })).unwrap();
        world
    }

    fn create(&mut self, resource: &Resource, value: Value) -> Result<Outcome, StoreError> {
        self.create_with(resource, value, false, false)
    }

    fn create_with(
        &mut self,
        resource: &Resource,
        value: Value,
        keep_status: bool,
        dry_run: bool,
    ) -> Result<Outcome, StoreError> {
        self.uids += 1;
        let namespace = if *resource == Resource::namespaces() { "" } else { "home" };
        let new = NewObject { uid: format!("uid-{}", self.uids), suffix: "abcde".to_owned(), keep_status };
        let create = Create { resource: resource.clone(), namespace: namespace.to_owned(), value, new, dry_run };
        self.store.step(self.now_ms, Command::Create(create))
    }

    fn update(&mut self, key: &Key, part: Part, edit: impl FnOnce(&mut Value)) -> Result<Outcome, StoreError> {
        let mut value = self.store.get(key).map_or(json!({}), |o| o.value().clone());
        edit(&mut value);
        self.store.step(self.now_ms, Command::Update(Update { key: key.clone(), value, part, dry_run: false }))
    }

    fn delete(&mut self, key: &Key, grace: Option<i64>, propagation: Option<Propagation>) -> Outcome {
        let delete = Delete { grace_seconds: grace, propagation, ..Delete::of(key.clone()) };
        self.store.step(self.now_ms, Command::Delete(delete)).unwrap()
    }

    fn pod(&mut self, name: &str, spec: Value, finalizers: &[&str]) -> Key {
        let value = json!({ "metadata": { "name": name, "finalizers": finalizers }, "spec": spec });
        self.create(&pods(), value).unwrap();
        Key::new(pods(), "home", name)
    }

    fn meta(&self, key: &Key, field: &str) -> Value {
        self.store.get(key).map_or(Value::Null, |o| o.value()["metadata"][field].clone())
    }
}

fn widget(name: &str) -> Key {
    Key::new(widgets(), "home", name)
}

#[test]
fn creating_fills_in_what_the_server_owns() {
    let mut world = World::new();
    let value = json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {
            "generateName": "w-", "uid": "mine", "generation": 7, "selfLink": "/x",
            "deletionTimestamp": "2020-01-01T00:00:00Z", "creationTimestamp": "2020-01-01T00:00:00Z",
        },
        "spec": {}, "status": { "phase": "Done" },
    });
    let made = world.create(&widgets(), value).unwrap().object;
    assert_eq!(
        *made.value(),
        json!({
            "apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {
                "generateName": "w-", "name": "w-abcde", "namespace": "home", "uid": "uid-2", "generation": 1,
                "resourceVersion": "2", "creationTimestamp": "2023-11-14T22:13:20Z",
            },
            "spec": {},
        })
    );
    // The same suffix drawn twice is for the caller to try again.
    let again = world.create(&widgets(), json!({ "metadata": { "generateName": "w-" } })).unwrap_err();
    assert!(matches!(again, StoreError::AlreadyExists { .. }));
    let long = "w".repeat(80);
    let made = world.create(&widgets(), json!({ "metadata": { "generateName": long } })).unwrap().object;
    assert_eq!(made.key().name.len(), 63);
    let kept = world.create_with(
        &pods(),
        json!({ "metadata": { "name": "p" }, "status": { "phase": "Pending" } }),
        true,
        false,
    );
    assert_eq!(kept.unwrap().object.value()["status"]["phase"], "Pending");
}

#[test]
fn wrong_creations_are_refused_with_the_field() {
    let mut world = World::new();
    let owners = json!([{ "apiVersion": "v1", "kind": "", "name": "a", "uid": "" }]);
    let two = json!([
        { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true },
        { "apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "v", "controller": true },
    ]);
    let table = [
        (json!({}), "metadata.name: Required value: name or generateName is required"),
        (json!({ "name": "Upper" }), "metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain"),
        (json!({ "name": "x".repeat(254) }), "must be no more than 253 characters"),
        (json!({ "name": "a/b" }), "metadata.name: Invalid value: \"a/b\""),
        (json!({ "name": "a..b" }), "metadata.name: Invalid value"),
        (json!({ "name": "a", "namespace": "b" }), "the namespace of the provided object does not match"),
        (
            json!({ "name": "a", "labels": { "bad label": "x y" } }),
            "[metadata.labels: Invalid value: \"bad label\": name part must consist of alphanumeric characters, '-', '_' \
             or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
             '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), metadata.labels: \
             Invalid value: \"x y\": a valid label must be an empty string or consist of",
        ),
        (json!({ "name": "a", "labels": { "a/b/c": "" } }), "with an optional DNS subdomain prefix and '/'"),
        (json!({ "name": "a", "labels": { "UP/c": "" } }), "prefix part a lowercase RFC 1123 subdomain must"),
        (json!({ "name": "a", "labels": { "/c": "" } }), "prefix part must be non-empty"),
        (json!({ "name": "a", "annotations": { "a/": "" } }), "\"a/\": name part must be non-empty"),
        (json!({ "name": "a", "annotations": { "a": "x".repeat(263_000) } }), "may not be more than 262144 bytes"),
        (json!({ "name": "a", "finalizers": ["a b"] }), "metadata.finalizers: Invalid value: \"a b\": name part"),
        (json!({ "name": "a", "resourceVersion": "4" }), "resourceVersion should not be set"),
        (
            json!({ "name": "a", "ownerReferences": owners }),
            "[metadata.ownerReferences.kind: Invalid value: \"\": must not be empty, metadata.ownerReferences.uid: \
             Invalid value: \"\": must not be empty]",
        ),
        (json!({ "name": "a", "ownerReferences": two }), "Found \"true\" in references for Pod/p and Pod/q"),
    ];
    for (meta, expected) in table {
        let refused = world.create(&widgets(), json!({ "metadata": meta })).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let unknown = world.create(&Resource::new("", "nonsense"), json!({ "metadata": { "name": "a" } })).unwrap_err();
    assert!(matches!(unknown, StoreError::BadRequest { .. }));
    let big = json!({ "metadata": { "name": "a" }, "data": "x".repeat(2 << 20) });
    assert!(matches!(world.create(&widgets(), big), Err(StoreError::TooLarge { .. })));
    assert_eq!(world.store.resource_version(), 1);
}

#[test]
fn what_is_told_about_metadata_is_bounded() {
    let mut world = World::new();
    let owner =
        |n: usize| json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": n.to_string(), "controller": n < 2 });
    let owned = |count: usize| {
        let owners: Vec<Value> = (0..count).map(owner).collect();
        json!({ "metadata": { "name": format!("w{count}"), "ownerReferences": owners } })
    };
    let causes = |done: Result<Outcome, StoreError>| match done {
        Err(StoreError::Invalid { causes, .. }) => causes,
        other => panic!("{other:?}"),
    };
    let many = causes(world.create(&widgets(), owned(65)));
    assert_eq!(
        (many.len(), many[0].field.as_str(), many[0].reason),
        (1, "metadata.ownerReferences", "FieldValueTooMany")
    );
    let two_controllers = causes(world.create(&widgets(), owned(64)));
    assert_eq!(two_controllers.len(), 1);
    assert!(two_controllers[0].message.len() < 2_000, "{}", two_controllers[0].message);
    let one_controller: Vec<Value> = (1..65).map(owner).collect();
    let value = json!({ "metadata": { "name": "fine", "ownerReferences": one_controller } });
    assert!(world.create(&widgets(), value).is_ok(), "64 are allowed");
    let labels: Value = (0..5_000).map(|n| (format!("-{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let value = json!({ "metadata": { "name": "labels", "labels": labels, "annotations": labels } });
    assert!(causes(world.create(&widgets(), value)).len() < 150);
}

#[test]
fn spec_and_status_are_written_apart_and_generations_count_specs() {
    let mut world = World::new();
    world.create(&widgets(), json!({ "metadata": { "name": "w" }, "spec": { "n": 1 } })).unwrap();
    let key = widget("w");
    let both = |v: &mut Value| {
        v["spec"] = json!({ "n": 2 });
        v["status"] = json!({ "seen": 2 });
        v["metadata"]["labels"] = json!({ "a": "b" });
    };
    world.update(&key, Part::Status, both).unwrap();
    let now = world.store.get(&key).unwrap().value().clone();
    assert_eq!((&now["spec"]["n"], &now["status"]["seen"]), (&json!(1), &json!(2)));
    assert_eq!((&now["metadata"]["generation"], &now["metadata"]["labels"]), (&json!(1), &Value::Null));
    world.update(&key, Part::Main, both).unwrap();
    world.update(&key, Part::Main, |v| v["status"] = json!({ "seen": 9 })).unwrap();
    let now = world.store.get(&key).unwrap().value().clone();
    assert_eq!((&now["spec"]["n"], &now["status"]["seen"]), (&json!(2), &json!(2)));
    assert_eq!((&now["metadata"]["generation"], &now["metadata"]["labels"]["a"]), (&json!(2), &json!("b")));
    // Built-in kinds let the status write change labels.
    let pod = world.pod("p", json!({}), &[]);
    world.update(&pod, Part::Status, both).unwrap();
    assert_eq!(world.meta(&pod, "labels"), json!({ "a": "b" }));
}

#[test]
fn saying_the_same_again_changes_nothing() {
    let mut world = World::new();
    let managed = |time: &str| json!([{ "manager": "m", "operation": "Apply", "time": time }]);
    world.create(&widgets(), json!({ "metadata": { "name": "w", "managedFields": managed("1") } })).unwrap();
    let before = world.store.resource_version();
    let same = world.update(&widget("w"), Part::Main, |_| {}).unwrap();
    assert_eq!(same.effect, Effect::Unchanged);
    let timed = world.update(&widget("w"), Part::Main, |v| v["metadata"]["managedFields"] = managed("2")).unwrap();
    assert_eq!(timed.effect, Effect::Unchanged);
    let server = world.update(&widget("w"), Part::Main, |v| {
        v["metadata"]["generation"] = json!(8);
        v["metadata"]["creationTimestamp"] = json!(null);
        v["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    });
    assert_eq!(server.unwrap().effect, Effect::Unchanged, "these are the server's");
    assert_eq!(world.store.resource_version(), before);
}

#[test]
fn updates_insist_on_identity_and_version() {
    let mut world = World::new();
    world.create(&widgets(), json!({ "metadata": { "name": "w" } })).unwrap();
    let refused = |w: &mut World, field: &str, value: Value| {
        let field = field.to_owned();
        w.update(&widget("w"), Part::Main, move |v| v["metadata"][field] = value).unwrap_err()
    };
    let uid = refused(&mut world, "uid", json!("other"));
    let text = "Key: /registry/example.com/widgets/home/w, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
                UID in precondition: other, UID in object meta: uid-2";
    assert!(matches!(&uid, StoreError::Conflict { message, .. } if message.contains(text)), "{uid}");
    let version = refused(&mut world, "resourceVersion", json!("1"));
    assert!(version.to_string().contains("the object has been modified; please apply your changes"), "{version}");
    let none = refused(&mut world, "resourceVersion", json!(""));
    assert!(none.to_string().contains("metadata.resourceVersion: Invalid value: 0: must be specified"), "{none}");
    let name = refused(&mut world, "name", json!("v"));
    assert_eq!(name.to_string(), "the name of the object (v) does not match the name on the URL (w)");
    let cm = Resource::new("", "configmaps");
    world.create(&cm, json!({ "metadata": { "name": "c" } })).unwrap();
    let put = Update {
        key: Key::new(cm, "home", "c"),
        value: json!({ "metadata": { "name": "c" }, "data": { "a": "b" } }),
        part: Part::Main,
        dry_run: false,
    };
    assert_eq!(world.store.step(NOW_MS, Command::Update(put)).unwrap().effect, Effect::Updated, "built-in kinds may");
}

#[test]
fn pods_are_deleted_gracefully() {
    let mut world = World::new();
    // Nobody runs it: gone at once, and its last state says that it was told to end.
    let unbound = world.pod("unbound", json!({}), &[]);
    let gone = world.delete(&unbound, None, None);
    assert_eq!(gone.effect, Effect::Deleted);
    assert_eq!(gone.object.value()["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(gone.object.generation(), Some(2));
    // Its node ends it, within the grace asked for; it can be hurried, not delayed.
    let bound = world.pod("bound", json!({ "nodeName": "n1", "terminationGracePeriodSeconds": 60 }), &[]);
    assert_eq!(world.delete(&bound, Some(10), None).effect, Effect::Deleting);
    assert_eq!(world.meta(&bound, "deletionTimestamp"), "2023-11-14T22:13:30Z");
    assert_eq!(world.delete(&bound, Some(20), None).effect, Effect::Unchanged);
    assert_eq!(world.delete(&bound, None, None).effect, Effect::Unchanged);
    world.now_ms += 2_000;
    assert_eq!(world.delete(&bound, Some(5), None).effect, Effect::Deleting);
    assert_eq!(world.meta(&bound, "deletionTimestamp"), "2023-11-14T22:13:25Z");
    assert_eq!(world.meta(&bound, "deletionGracePeriodSeconds"), 5);
    assert_eq!(world.meta(&bound, "generation"), 2);
    assert_eq!(world.delete(&bound, Some(0), None).effect, Effect::Deleted);
    // Its own grace, where none is asked for; thirty seconds where it says none.
    let own = world.pod("own", json!({ "nodeName": "n1", "terminationGracePeriodSeconds": 60 }), &[]);
    world.delete(&own, None, None);
    assert_eq!(world.meta(&own, "deletionGracePeriodSeconds"), 60);
    let default = world.pod("default", json!({ "nodeName": "n1" }), &[]);
    world.delete(&default, None, None);
    assert_eq!(world.meta(&default, "deletionGracePeriodSeconds"), 30);
    // One that has ended needs none.
    let ended = world.pod("ended", json!({ "nodeName": "n1" }), &[]);
    world.update(&ended, Part::Status, |v| v["status"] = json!({ "phase": "Failed" })).unwrap();
    assert_eq!(world.delete(&ended, None, None).effect, Effect::Deleted);
    // With a finalizer it stays, whatever the grace, until the finalizer goes too.
    let held = world.pod("held", json!({ "nodeName": "n1" }), &["a.b/c"]);
    world.delete(&held, Some(10), None);
    assert_eq!(world.delete(&held, Some(0), None).effect, Effect::Deleting);
    assert_eq!(world.delete(&held, Some(0), None).effect, Effect::Unchanged);
    let released = world.update(&held, Part::Main, |v| v["metadata"]["finalizers"] = json!([])).unwrap();
    assert_eq!(released.effect, Effect::Deleted);
    // A pod that still has grace is not removed by an update.
    let finalizers = world.pod("grace", json!({ "nodeName": "n1" }), &["a.b/c"]);
    world.delete(&finalizers, Some(10), None);
    let kept = world.update(&finalizers, Part::Main, |v| v["metadata"]["finalizers"] = json!([])).unwrap();
    assert_eq!(kept.effect, Effect::Updated);
    assert_eq!(world.store.check(), vec![]);
}

#[test]
fn propagation_is_kept_as_finalizers() {
    let mut world = World::new();
    world.create(&widgets(), json!({ "metadata": { "name": "w" } })).unwrap();
    let key = widget("w");
    world.delete(&key, None, Some(Propagation::Foreground));
    assert_eq!(world.meta(&key, "finalizers"), json!(["foregroundDeletion"]));
    assert_eq!(world.meta(&key, "deletionGracePeriodSeconds"), 0);
    assert_eq!(world.meta(&key, "generation"), 2);
    world.delete(&key, None, Some(Propagation::Orphan));
    assert_eq!(world.meta(&key, "finalizers"), json!(["orphan"]));
    assert_eq!(world.delete(&key, None, None).effect, Effect::Unchanged, "the default keeps what was said");
    let added = world.update(&key, Part::Main, |v| v["metadata"]["finalizers"] = json!(["orphan", "a.b/c"]));
    let text = "found new finalizers []string{\"a.b/c\"}";
    assert!(added.unwrap_err().to_string().ends_with(text));
    assert_eq!(world.delete(&key, None, Some(Propagation::Background)).effect, Effect::Deleted);
    let stale = Delete {
        preconditions: Preconditions { uid: Some("old".to_owned()), resource_version: None },
        ..Delete::of(Key::namespace_object("home"))
    };
    let refused = world.store.step(NOW_MS, Command::Delete(stale)).unwrap_err();
    assert!(refused.to_string().contains("the UID in the precondition (old) does not match the UID in record (uid-1)"));
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let mut world = World::new();
    let made = world.create_with(&widgets(), json!({ "metadata": { "name": "w" } }), false, true).unwrap();
    assert_eq!((made.effect, &*made.object.key().name), (Effect::Created, "w"));
    assert_eq!(made.object.value()["metadata"].get("resourceVersion"), None, "it is at no version");
    assert!(world.store.get(&widget("w")).is_none());
    world.create(&widgets(), json!({ "metadata": { "name": "w" } })).unwrap();
    let delete = Delete { dry_run: true, ..Delete::of(widget("w")) };
    assert_eq!(world.store.step(NOW_MS, Command::Delete(delete)).unwrap().effect, Effect::Deleted);
    assert!(world.store.get(&widget("w")).is_some());
    assert_eq!(world.store.resource_version(), 2);
}

#[test]
fn a_transaction_creates_what_is_absent_and_sees_its_batch() {
    let world = World::new();
    let mut batch = Batch::new(&world.store);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let new = NewObject { uid: "u".to_owned(), suffix: String::new(), keep_status: false };
        let request = Transact { key: widget("w"), part: Part::Main, dry_run: false, new };
        let outcome = batch.transact(&world.store, NOW_MS, request, |current| {
            let mut value = current.map_or(json!({ "spec": { "n": 0 } }), |c| c.value().clone());
            value["spec"]["n"] = json!(value["spec"]["n"].as_u64().unwrap() + 1);
            Ok::<_, StoreError>(value)
        });
        let outcome = outcome.unwrap();
        counts.push((outcome.effect, outcome.object.value()["spec"]["n"].as_u64().unwrap()));
    }
    assert_eq!(counts, [(Effect::Created, 1), (Effect::Updated, 2), (Effect::Updated, 3)]);
    let rows = batch.rows();
    assert_eq!((rows.puts.len(), rows.deletes.len()), (1, 0), "one row on disk, however often it changed");
}

/// As with an apply or a PUT of an object that is not there; a POST says nothing of the end.
#[test]
fn what_is_made_to_end_ends_with_its_next_change() {
    let mut world = World::new();
    let ending = json!({ "metadata": { "deletionTimestamp": "2020-01-01T00:00:00Z" }, "spec": { "n": 0 } });
    for name in ["changed", "deleted"] {
        let new = NewObject { uid: name.to_owned(), suffix: String::new(), keep_status: false };
        let request = Transact { key: widget(name), part: Part::Main, dry_run: false, new };
        let mut batch = Batch::new(&world.store);
        batch.transact(&world.store, NOW_MS, request, |_| Ok::<_, StoreError>(ending.clone())).unwrap();
        world.store.commit(batch);
        assert_eq!(world.meta(&widget(name), "deletionTimestamp"), "2020-01-01T00:00:00Z");
    }
    assert_eq!(world.store.check(), [], "nobody has touched them");
    let changed = world.update(&widget("changed"), Part::Main, |v| v["spec"]["n"] = json!(1)).unwrap();
    assert_eq!(changed.effect, Effect::Deleted);
    assert_eq!(world.delete(&widget("deleted"), None, None).effect, Effect::Deleted);
    assert!(world.store.get(&widget("changed")).is_none() && world.store.get(&widget("deleted")).is_none());
}

#[test]
fn watches_start_as_asked() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.create(&widgets(), json!({ "metadata": { "name": name, "labels": { "n": name } } })).unwrap();
    }
    let start = |world: &World, version: Option<u64>, initial: Option<bool>, labels: &str| {
        let query = WatchQuery {
            namespace: None,
            selector: Selector::parse(labels, "").unwrap(),
            resource_version: version,
            send_initial: initial,
        };
        let start = world.store.watch(&widgets(), &query)?;
        let told = |e: &WatchEvent| match e {
            WatchEvent::Added(o) => format!("+{}", o.key().name),
            WatchEvent::Modified(o) => format!("~{}", o.key().name),
            WatchEvent::Deleted(o) => format!("-{}", o.key().name),
            WatchEvent::Bookmark { resource_version, initial_end } => format!("@{resource_version} {initial_end}"),
        };
        Ok::<_, StoreError>((start.initial.iter().map(told).collect::<Vec<_>>(), start.cursor))
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(start(&world, None, None, "").unwrap(), (vec!["+a".to_owned(), "+b".to_owned()], 3));
    assert_eq!(start(&world, Some(0), None, "n=b").unwrap(), (vec!["+b".to_owned()], 3));
    assert_eq!(start(&world, Some(2), None, "").unwrap(), (none.clone(), 2));
    assert_eq!(start(&world, None, Some(false), "").unwrap(), (none.clone(), 3));
    let list = vec!["+a".to_owned(), "+b".to_owned(), "@3 true".to_owned()];
    assert_eq!(start(&world, Some(1), Some(true), "").unwrap(), (list, 3));
    let future = start(&world, Some(99), None, "").unwrap_err();
    assert_eq!(future.to_string(), "Timeout: Too large resource version: 99, current: 3");
    assert_eq!(start(&world, Some(2), None, "x").unwrap(), (none, 2), "a selector that selects nothing is no error");
}

#[test]
fn objects_enter_and_leave_a_selector() {
    let mut world = World::new();
    world.create(&widgets(), json!({ "metadata": { "name": "w", "labels": { "on": "yes" } } })).unwrap();
    let from = world.store.resource_version() - 1;
    world.update(&widget("w"), Part::Main, |v| v["metadata"]["labels"] = json!({ "on": "no" })).unwrap();
    world.update(&widget("w"), Part::Main, |v| v["metadata"]["labels"] = json!({ "on": "yes", "x": "y" })).unwrap();
    world.delete(&widget("w"), None, None);
    let query = WatchQuery { selector: Selector::parse("on=yes", "").unwrap(), ..WatchQuery::default() };
    let (events, _) = world.store.follow(&widgets(), &query, from, 100).unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|e| match e {
            WatchEvent::Added(o) => ("added", o.resource_version(), o.label("on").unwrap()),
            WatchEvent::Modified(o) => ("modified", o.resource_version(), o.label("on").unwrap()),
            WatchEvent::Deleted(o) => ("deleted", o.resource_version(), o.label("on").unwrap()),
            WatchEvent::Bookmark { .. } => panic!("none was asked for"),
        })
        .collect();
    // What leaves the selector is told in its last matching state, at the version of the change.
    assert_eq!(told, [("added", 2, "yes"), ("deleted", 3, "yes"), ("added", 4, "yes"), ("deleted", 5, "yes")]);
}

#[test]
fn lists_refuse_what_they_cannot_show() {
    let mut world = World::new();
    world.create(&widgets(), json!({ "metadata": { "name": "w" } })).unwrap();
    let list = |world: &World, query: ListQuery| world.store.list(&widgets(), &query).map(|p| p.items.len());
    let at = |at: At| ListQuery { at, ..ListQuery::default() };
    assert_eq!(list(&world, at(At::NotOlderThan(1))).unwrap(), 1);
    assert_eq!(list(&world, at(At::Exact(1))).unwrap(), 0);
    assert!(matches!(list(&world, at(At::Exact(9))), Err(StoreError::FutureVersion { .. })));
    let token = |t: &str| ListQuery { continue_token: Some(t.to_owned()), ..ListQuery::default() };
    let refused = list(&world, token("nonsense")).unwrap_err().to_string();
    assert_eq!(
        refused,
        "invalid continue token: continue key is not valid: invalid character '\\u009e' looking for beginning of value"
    );
    for broken in ["!", "e30", "eyJydiI6MX0"] {
        assert!(matches!(list(&world, token(broken)), Err(StoreError::BadRequest { .. })), "{broken}");
    }
}

#[test]
fn events_go_after_their_hour() {
    let mut world = World::new();
    let hour = 3_600_000;
    let event = |name: &str, last: Value| json!({ "metadata": { "name": name }, "lastTimestamp": last });
    let configmaps = Resource::new("", "configmaps");
    world.create(&configmaps, event("old", json!(null))).unwrap();
    world.create(&configmaps, event("seen-again", json!("2023-11-14T22:43:20Z"))).unwrap();
    let all: Vec<_> = world.store.objects().filter(|o| o.key().resource == configmaps).cloned().collect();
    let expired = |now_ms| {
        let gone = trainyard_runtime_core::gc::expired_events(&all, now_ms, hour);
        gone.iter().map(|o| o.key().name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(expired(NOW_MS + hour), Vec::<String>::new());
    assert_eq!(expired(NOW_MS + hour + 1), ["old"]);
    assert_eq!(expired(NOW_MS + hour + hour / 2 + 1), ["old", "seen-again"]);
}

#[test]
fn a_dump_is_replayed_to_the_same_answers() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.create(&widgets(), json!({ "metadata": { "name": name } })).unwrap();
    }
    world.delete(&widget("b"), None, None);
    let dump = world.store.dump();
    let rules = [ResourceRules::namespaces(), ResourceRules::custom(widgets(), true)];
    let mut replayed = World { store: Store::replay(rules, Limits::default(), &dump).unwrap(), ..world };
    assert_eq!(replayed.store.dump(), dump);
    assert_eq!(replayed.store.check(), vec![]);
    let old = WatchQuery { resource_version: Some(3), ..WatchQuery::default() };
    assert!(matches!(replayed.store.watch(&widgets(), &old), Err(StoreError::Expired { .. })));
    let made = replayed.create(&widgets(), json!({ "metadata": { "name": "b" } })).unwrap();
    assert_eq!(made.object.resource_version(), 5);
    let broken = Store::replay([], Limits::default(), &json!({ "objects": [{}] })).unwrap_err();
    assert!(broken.contains("group and plural are missing"), "{broken}");
}

/// What an object says does not depend on whether the store still holds it as a value.
#[test]
fn old_objects_are_kept_as_text_and_say_the_same() {
    let limits = Limits { parsed_bytes: 1000, window_bytes: 0, ..Limits::default() };
    let widgets = Resource::new("example.com", "widgets");
    let mut store = Store::new([ResourceRules::plain(widgets.clone(), false)], limits);
    for n in 0..20 {
        let value = json!({"metadata": {"labels": {"n": n.to_string()}}, "data": "x".repeat(200)});
        let key = Key::new(widgets.clone(), "", format!("w{n}"));
        let new = NewObject { uid: format!("u{n}"), suffix: String::new(), keep_status: false };
        let mut batch = Batch::new(&store);
        let request = Transact { key, part: Part::Main, dry_run: false, new };
        batch.transact::<StoreError>(&store, 1, request, |_| Ok(value)).expect("created");
        store.commit(batch);
    }
    let page = store.list(&widgets, &ListQuery::default()).expect("listed");
    assert_eq!(page.items.len(), 20);
    for object in &page.items {
        let n = object.label("n").expect("a label");
        assert_eq!(*object.key().name, format!("w{n}"));
        assert_eq!(object.value().to_string(), **object.json());
    }
    assert_eq!(store.check(), []);
}

/// A watcher that comes late is told the same, whatever is kept of the changes as values.
#[test]
fn old_changes_are_kept_as_text_and_are_told_the_same() {
    let maps = Resource::new("", "configmaps");
    let told = |window_values: usize| {
        let mut world = World::with(Limits { window_values, ..Limits::default() });
        let begin = world.store.resource_version();
        let labels = |n: usize| json!({"side": if n.is_multiple_of(2) { "even" } else { "odd" }});
        for n in 0..6 {
            let meta = json!({"metadata": {"name": format!("w{n}"), "labels": labels(n)}});
            world.create(&maps, meta).unwrap();
            let key = Key::new(maps.clone(), "home", "w0");
            world.update(&key, Part::Main, |value| value["metadata"]["labels"] = labels(n + 1)).unwrap();
        }
        assert_eq!(world.store.check(), []);
        let selector = Selector::parse("side=even", "").unwrap();
        let query = WatchQuery { resource_version: Some(begin), selector, ..WatchQuery::default() };
        let (changes, _) = world.store.unseen(&maps, begin, 100).unwrap();
        let told: Vec<WatchEvent> = changes.iter().filter_map(|change| query.sees(change)).collect();
        assert!(told.len() > 6, "{told:?}");
        told
    };
    assert_eq!(told(0), told(100));
}

/// From before there was a limit: such an object can be changed and let go, but gets no more owners.
#[test]
fn an_object_with_too_many_owners_can_still_be_changed() {
    let owner = |n: usize| json!({"apiVersion": "v1", "kind": "Widget", "name": "o", "uid": format!("o{n}")});
    let owners = |count: usize| Value::from((0..count).map(owner).collect::<Vec<_>>());
    let meta = json!({"name": "w", "uid": "u", "resourceVersion": "7", "finalizers": ["x.example/a"],
        "ownerReferences": owners(70)});
    let stored = Object::restore(widgets(), 7, &json!({"metadata": meta}).to_string()).unwrap();
    let rules = [ResourceRules::plain(widgets(), false)];
    let mut world = World { store: Store::new(rules, Limits::default()), now_ms: NOW_MS, uids: 0 };
    world.store.restore_object(stored);
    let key = Key::new(widgets(), "", "w");
    let more = world.update(&key, Part::Main, |value| value["metadata"]["ownerReferences"] = owners(71)).unwrap_err();
    assert!(more.to_string().contains("must have at most 70 items"), "{more}");
    world.update(&key, Part::Main, |value| value["metadata"]["finalizers"] = json!([])).unwrap();
    world.update(&key, Part::Main, |value| value["metadata"]["ownerReferences"] = owners(68)).unwrap();
    let again = world.update(&key, Part::Main, |value| value["metadata"]["ownerReferences"] = owners(69));
    assert!(again.is_err(), "what is gone does not come back");
    world.update(&key, Part::Main, |value| value["metadata"]["ownerReferences"] = owners(64)).unwrap();
}

//! The store against a model that is too simple to be wrong: a map per resourceVersion.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_runtime_core::selector::Selector;
use trainyard_runtime_core::store::{
    At, Batch, Command, Create, Delete, Effect, FieldCause, Key, Limits, ListQuery, NewObject, Object, Outcome, Part,
    Preconditions, Propagation, Resource, ResourceRules, Store, StoreError, Transact, Update, WatchEvent, WatchQuery,
};

const NOW_MS: i64 = 1_700_000_000_000;
const NAMES: [&str; 3] = ["a", "b", "c"];
const NAMESPACES: [&str; 2] = ["left", "right"];
const LABELS: [&str; 2] = ["red", "blue"];

#[derive(Clone, Debug)]
enum Op {
    Create { name: usize, ns: usize, label: usize, held: bool },
    Put { name: usize, ns: usize, label: usize, data: u8, fresh: bool },
    Status { name: usize, ns: usize, data: u8 },
    Increment { name: usize, ns: usize },
    Delete { name: usize, ns: usize, foreground: bool },
    Release { name: usize, ns: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let at = (0..NAMES.len(), 0..NAMESPACES.len());
    prop_oneof![
        3 => (at.clone(), 0..2usize, any::<bool>())
            .prop_map(|((name, ns), label, held)| Op::Create { name, ns, label, held }),
        3 => (at.clone(), 0..2usize, 0..3u8, prop::bool::weighted(0.8))
            .prop_map(|((name, ns), label, data, fresh)| Op::Put { name, ns, label, data, fresh }),
        2 => (at.clone(), 0..3u8).prop_map(|((name, ns), data)| Op::Status { name, ns, data }),
        2 => at.clone().prop_map(|(name, ns)| Op::Increment { name, ns }),
        2 => (at.clone(), any::<bool>()).prop_map(|((name, ns), foreground)| Op::Delete { name, ns, foreground }),
        1 => at.prop_map(|(name, ns)| Op::Release { name, ns }),
    ]
}

/// What the model knows of an object.
#[derive(Clone, Debug, PartialEq)]
struct Thing {
    version: u64,
    label: usize,
    data: u8,
    status: Option<u8>,
    count: u64,
    finalizers: Vec<&'static str>,
    deleting: bool,
    generation: i64,
}

type World = BTreeMap<(usize, usize), Thing>;

/// The model: the present world, and every world that was.
#[derive(Debug, Default)]
struct Model {
    version: u64,
    world: World,
    history: BTreeMap<u64, World>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Done(Effect),
    NotFound,
    Exists,
    Conflict,
}

impl Model {
    fn commit(&mut self, at: (usize, usize), thing: Option<Thing>) {
        self.version += 1;
        match thing {
            Some(mut thing) => {
                thing.version = self.version;
                self.world.insert(at, thing);
            }
            None => {
                self.world.remove(&at);
            }
        }
        self.history.insert(self.version, self.world.clone());
    }

    fn change(&mut self, at: (usize, usize), edit: impl FnOnce(&mut Thing)) -> Answer {
        let Some(old) = self.world.get(&at).cloned() else { return Answer::NotFound };
        let mut new = old.clone();
        edit(&mut new);
        if (new.label, new.data, new.count) != (old.label, old.data, old.count) && new.data != old.data {
            new.generation += 1;
        }
        if new == old {
            return Answer::Done(Effect::Unchanged);
        }
        if new.deleting && new.finalizers.is_empty() {
            self.commit(at, None);
            return Answer::Done(Effect::Deleted);
        }
        self.commit(at, Some(new));
        Answer::Done(Effect::Updated)
    }

    fn run(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Create { name, ns, label, held } => {
                if self.world.contains_key(&(ns, name)) {
                    return Answer::Exists;
                }
                let finalizers = if held { vec!["example.com/hold"] } else { Vec::new() };
                let thing = Thing {
                    version: 0,
                    label,
                    data: 0,
                    status: None,
                    count: 0,
                    finalizers,
                    deleting: false,
                    generation: 1,
                };
                self.commit((ns, name), Some(thing));
                Answer::Done(Effect::Created)
            }
            Op::Put { name, ns, label, data, fresh } => match self.world.get(&(ns, name)) {
                None => Answer::NotFound,
                Some(_) if !fresh => Answer::Conflict,
                Some(_) => self.change((ns, name), |t| (t.label, t.data) = (label, data)),
            },
            Op::Status { name, ns, data } => self.change((ns, name), |t| t.status = Some(data)),
            Op::Increment { name, ns } => self.change((ns, name), |t| t.count += 1),
            Op::Delete { name, ns, foreground } => {
                let Some(old) = self.world.get(&(ns, name)).cloned() else { return Answer::NotFound };
                let mut new = old.clone();
                new.finalizers.retain(|f| *f != "foregroundDeletion");
                if foreground {
                    new.finalizers.push("foregroundDeletion");
                }
                if new.finalizers.is_empty() {
                    self.commit((ns, name), None);
                    return Answer::Done(Effect::Deleted);
                }
                new.generation += i64::from(!old.deleting);
                new.deleting = true;
                let mut sorted = (old.clone(), new.clone());
                sorted.0.finalizers.sort_unstable();
                sorted.1.finalizers.sort_unstable();
                if sorted.0 == sorted.1 && old.finalizers == new.finalizers {
                    return Answer::Done(Effect::Unchanged);
                }
                self.commit((ns, name), Some(new));
                Answer::Done(Effect::Deleting)
            }
            Op::Release { name, ns } => self.change((ns, name), |t| t.finalizers.clear()),
        }
    }
}

fn widgets() -> Resource {
    Resource::new("example.com", "widgets")
}

fn key(ns: usize, name: usize) -> Key {
    Key::new(widgets(), NAMESPACES[ns], NAMES[name])
}

fn fresh_object(uid: &mut u64) -> NewObject {
    *uid += 1;
    NewObject { uid: format!("uid-{uid}"), suffix: "xxxxx".to_owned(), keep_status: false }
}

fn new_store(limits: Limits) -> Store {
    let rules = [
        ResourceRules::namespaces(),
        ResourceRules { unconditional_update: true, ..ResourceRules::custom(widgets(), true) },
    ];
    let mut store = Store::new(rules, limits);
    for (i, name) in NAMESPACES.iter().enumerate() {
        let create = Create {
            resource: Resource::namespaces(),
            namespace: String::new(),
            value: json!({ "metadata": { "name": name } }),
            new: NewObject { uid: format!("ns-{i}"), suffix: String::new(), keep_status: false },
            dry_run: false,
        };
        store.step(NOW_MS, Command::Create(create)).unwrap();
    }
    store
}

/// Runs an operation on a batch over the real store.
fn run(store: &Store, batch: &mut Batch, uid: &mut u64, op: &Op) -> Result<Outcome, StoreError> {
    match *op {
        Op::Create { name, ns, label, held } => {
            let mut value = json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": { "name": NAMES[name], "labels": { "colour": LABELS[label] } },
                "spec": { "data": 0 },
                "status": { "dropped": true },
            });
            if held {
                value["metadata"]["finalizers"] = json!(["example.com/hold"]);
            }
            let create = Create {
                resource: widgets(),
                namespace: NAMESPACES[ns].to_owned(),
                value,
                new: fresh_object(uid),
                dry_run: false,
            };
            batch.step(store, NOW_MS, Command::Create(create))
        }
        Op::Put { name, ns, label, data, fresh } => {
            let mut value = batch.get(store, &key(ns, name)).map_or(json!({}), |o| o.value().clone());
            value["metadata"]["labels"]["colour"] = json!(LABELS[label]);
            value["spec"] = json!({ "data": data });
            // Status writes through the main resource are ignored.
            value["status"] = json!({ "from": "main" });
            if !fresh {
                value["metadata"]["resourceVersion"] = json!("1");
            }
            batch.step(
                store,
                NOW_MS,
                Command::Update(Update { key: key(ns, name), value, part: Part::Main, dry_run: false }),
            )
        }
        Op::Status { name, ns, data } => {
            let mut value = batch.get(store, &key(ns, name)).map_or(json!({}), |o| o.value().clone());
            // Spec writes through the status are ignored.
            value["spec"] = json!({ "data": 77 });
            value["status"] = json!({ "data": data });
            batch.step(
                store,
                NOW_MS,
                Command::Update(Update { key: key(ns, name), value, part: Part::Status, dry_run: false }),
            )
        }
        Op::Increment { name, ns } => edit(store, batch, uid, key(ns, name), |value| {
            let count = value.pointer("/metadata/annotations/count").and_then(Value::as_str).unwrap_or("0");
            let next = count.parse::<u64>().unwrap() + 1;
            value["metadata"]["annotations"]["count"] = json!(next.to_string());
        }),
        Op::Delete { name, ns, foreground } => {
            let propagation = Some(if foreground { Propagation::Foreground } else { Propagation::Background });
            batch.step(store, NOW_MS, Command::Delete(Delete { propagation, ..Delete::of(key(ns, name)) }))
        }
        Op::Release { name, ns } => edit(store, batch, uid, key(ns, name), |value| {
            value["metadata"].as_object_mut().unwrap().remove("finalizers");
        }),
    }
}

fn edit(
    store: &Store,
    batch: &mut Batch,
    uid: &mut u64,
    key: Key,
    change: impl FnOnce(&mut Value),
) -> Result<Outcome, StoreError> {
    let request = Transact { key: key.clone(), part: Part::Main, dry_run: false, new: fresh_object(uid) };
    batch.transact(store, NOW_MS, request, |current| {
        let mut value = current.ok_or_else(|| StoreError::not_found(&key))?.value().clone();
        change(&mut value);
        Ok(value)
    })
}

fn answer(result: &Result<Outcome, StoreError>) -> Answer {
    match result {
        Ok(outcome) => Answer::Done(outcome.effect),
        Err(StoreError::NotFound { .. }) => Answer::NotFound,
        Err(StoreError::AlreadyExists { .. }) => Answer::Exists,
        Err(StoreError::Conflict { .. }) => Answer::Conflict,
        Err(other) => panic!("unexpected {other}"),
    }
}

/// An object in the model's terms.
fn thing(object: &Object) -> Thing {
    let value = object.value();
    Thing {
        version: object.resource_version(),
        label: LABELS.iter().position(|l| object.label("colour") == Some(l)).unwrap(),
        data: u8::try_from(value["spec"]["data"].as_u64().unwrap()).unwrap(),
        status: value.pointer("/status/data").map(|d| u8::try_from(d.as_u64().unwrap()).unwrap()),
        count: object.annotation("count").map_or(0, |c| c.parse().unwrap()),
        finalizers: object
            .finalizers()
            .map(|f| if f == "foregroundDeletion" { "foregroundDeletion" } else { "example.com/hold" })
            .collect(),
        deleting: object.is_deleting(),
        generation: object.generation().unwrap(),
    }
}

fn place(object: &Object) -> (usize, usize) {
    let ns = NAMESPACES.iter().position(|n| **n == *object.key().namespace).unwrap();
    (ns, NAMES.iter().position(|n| **n == *object.key().name).unwrap())
}

fn selectors() -> Vec<(Option<&'static str>, Selector)> {
    vec![
        (None, Selector::default()),
        (Some("left"), Selector::default()),
        (None, Selector::parse("colour=red", "").unwrap()),
        (Some("right"), Selector::parse("colour notin (red)", "").unwrap()),
        (None, Selector::parse("", "metadata.name=a").unwrap()),
        (None, Selector::parse("colour", "metadata.name!=b").unwrap()),
    ]
}

fn selects(namespace: Option<&str>, number: usize, at: (usize, usize), thing: &Thing) -> bool {
    let here = namespace.is_none_or(|n| n == NAMESPACES[at.0]);
    here && match number {
        2 => LABELS[thing.label] == "red",
        3 => LABELS[thing.label] != "red",
        4 => NAMES[at.1] == "a",
        5 => NAMES[at.1] != "b",
        _ => true,
    }
}

fn listed(store: &Store, namespace: Option<&str>, selector: &Selector, at: At) -> Result<World, StoreError> {
    let query =
        ListQuery { namespace: namespace.map(str::to_owned), selector: selector.clone(), at, ..ListQuery::default() };
    Ok(store.list(&widgets(), &query)?.items.iter().map(|o| (place(o), thing(o))).collect())
}

/// Applies watch events to a list, insisting on their sense.
fn replay(mut world: World, events: Vec<WatchEvent>) -> World {
    let mut last = 0;
    for event in events {
        let object = match &event {
            WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o) => o.clone(),
            WatchEvent::Bookmark { .. } => panic!("no bookmark was asked for"),
        };
        assert!(object.resource_version() > last, "events rise");
        last = object.resource_version();
        let at = place(&object);
        match event {
            WatchEvent::Added(o) => assert!(world.insert(at, thing(&o)).is_none(), "added twice"),
            WatchEvent::Modified(o) => assert!(world.insert(at, thing(&o)).is_some(), "modified what was not there"),
            WatchEvent::Deleted(_) => assert!(world.remove(&at).is_some(), "deleted what was not there"),
            WatchEvent::Bookmark { .. } => {}
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// ST-1 … ST-8, the model's answers, exact lists and complete watches, from every resourceVersion and under
    /// selectors; a dropped batch leaves no trace.
    #[test]
    fn store_agrees_with_the_model(batches in prop::collection::vec((prop::collection::vec(op(), 1..6), prop::bool::weighted(0.85)), 1..16)) {
        let mut store = new_store(Limits::default());
        let mut uid = 0;
        let start = store.resource_version();
        let mut model = Model { version: start, ..Model::default() };
        model.history.insert(start, World::new());
        for (ops, keep) in &batches {
            let before = store.resource_version();
            let mut staged = Model { version: model.version, world: model.world.clone(), history: BTreeMap::new() };
            let mut batch = Batch::new(&store);
            for op in ops {
                let result = run(&store, &mut batch, &mut uid, op);
                prop_assert_eq!(answer(&result), staged.run(op), "{:?}", op);
                prop_assert_eq!(batch.resource_version(), staged.version, "{:?}", op);
                prop_assert_eq!(store.resource_version(), before, "staging shows nothing");
            }
            if *keep {
                store.commit(batch);
                model.version = staged.version;
                model.world = staged.world;
                model.history.append(&mut staged.history);
            }
            prop_assert_eq!(store.check(), vec![]);
            prop_assert_eq!(listed(&store, None, &Selector::default(), At::Latest).unwrap(), model.world.clone());
        }
        for (number, (namespace, selector)) in selectors().into_iter().enumerate() {
            let filter = |world: &World| -> World {
                world.iter().filter(|(at, t)| selects(namespace, number, **at, t)).map(|(k, v)| (*k, v.clone())).collect()
            };
            for (version, world) in &model.history {
                let seen = listed(&store, namespace, &selector, At::Exact(*version)).unwrap();
                prop_assert_eq!(&seen, &filter(world), "list at {}", version);
                let query = WatchQuery {
                    namespace: namespace.map(str::to_owned),
                    selector: selector.clone(),
                    resource_version: Some(*version),
                    send_initial: None,
                };
                let watch = store.watch(&widgets(), &query).unwrap();
                prop_assert!(watch.initial.is_empty());
                // In small reads, as a slow connection would.
                let (mut cursor, mut events) = (watch.cursor, Vec::new());
                while cursor < store.resource_version() {
                    let (mut more, next) = store.follow(&widgets(), &query, cursor, 2).unwrap();
                    events.append(&mut more);
                    cursor = next;
                }
                prop_assert_eq!(replay(seen, events), filter(&model.world), "watch from {}", version);
            }
        }
    }

    /// Pages show the state of the first page, whatever is written between them.
    #[test]
    fn pages_are_consistent(ops in prop::collection::vec(op(), 8..40), between in prop::collection::vec(op(), 0..12), limit in 1..4usize) {
        let mut store = new_store(Limits::default());
        let mut uid = 0;
        let mut step = |store: &mut Store, op: &Op| {
            let mut batch = Batch::new(store);
            if run(store, &mut batch, &mut uid, op).is_ok() {
                store.commit(batch);
            }
        };
        for op in &ops {
            step(&mut store, op);
        }
        for (namespace, selector) in selectors() {
            let whole = listed(&store, namespace, &selector, At::Latest).unwrap();
            let mut query = ListQuery {
                namespace: namespace.map(str::to_owned), selector: selector.clone(), limit: Some(limit), ..ListQuery::default()
            };
            let mut between = between.iter();
            let (mut seen, mut version) = (World::new(), None);
            loop {
                let page = store.list(&widgets(), &query).unwrap();
                prop_assert!(page.items.len() <= limit);
                prop_assert_eq!(*version.get_or_insert(page.resource_version), page.resource_version);
                seen.extend(page.items.iter().map(|o| (place(o), thing(o))));
                let Some(token) = page.continue_token else { break };
                query.continue_token = Some(token);
                if let Some(op) = between.next() {
                    step(&mut store, op);
                }
            }
            prop_assert_eq!(seen, whole);
        }
    }

    /// With a small window, the store either answers completely or says `Expired`; never with holes.
    #[test]
    fn a_small_window_expires_and_never_lies(ops in prop::collection::vec(op(), 10..60), window in 1..6usize) {
        let mut store = new_store(Limits { window_changes: window, ..Limits::default() });
        let mut uid = 0;
        let start = store.resource_version();
        let mut model = Model { version: start, ..Model::default() };
        model.history.insert(start, World::new());
        for op in &ops {
            let mut batch = Batch::new(&store);
            if run(&store, &mut batch, &mut uid, op).is_ok() {
                store.commit(batch);
            }
            model.run(op);
        }
        prop_assert_eq!(store.check(), vec![]);
        let mut expired_before = true;
        for (version, world) in &model.history {
            let query = WatchQuery { resource_version: Some(*version), ..WatchQuery::default() };
            match store.watch(&widgets(), &query) {
                Err(StoreError::Expired { .. }) => {
                    prop_assert!(expired_before, "once readable, later ones are too");
                    let gone = matches!(
                        listed(&store, None, &Selector::default(), At::Exact(*version)),
                        Err(StoreError::Expired { .. })
                    );
                    prop_assert!(gone);
                    prop_assert!(model.version - version > window as u64, "the window keeps what it promises");
                }
                Err(other) => panic!("unexpected {other}"),
                Ok(watch) => {
                    expired_before = false;
                    let (events, _) = store.follow(&widgets(), &query, watch.cursor, 1000).unwrap();
                    prop_assert_eq!(replay(world.clone(), events), model.world.clone());
                }
            }
        }
    }

    /// No lost update: however increments and other writes interleave, every acknowledged increment counts.
    #[test]
    fn no_update_is_lost(ops in prop::collection::vec(op(), 0..60)) {
        let mut store = new_store(Limits::default());
        let mut uid = 0;
        let create = Op::Create { name: 0, ns: 0, label: 0, held: false };
        let mut expected = 0;
        for op in std::iter::once(&create).chain(&ops).filter(|op| !matches!(op, Op::Delete { .. })) {
            let mut batch = Batch::new(&store);
            let done = run(&store, &mut batch, &mut uid, op).is_ok();
            store.commit(batch);
            expected += u64::from(done && matches!(op, Op::Increment { name: 0, ns: 0 }));
        }
        prop_assert_eq!(thing(store.get(&key(0, 0)).unwrap()).count, expected);
    }
}

/// Two clients read the same version; the second write is refused.
#[test]
fn the_second_writer_of_a_version_conflicts() {
    let mut store = new_store(Limits::default());
    let mut uid = 0;
    let mut batch = Batch::new(&store);
    run(&store, &mut batch, &mut uid, &Op::Create { name: 0, ns: 0, label: 0, held: false }).unwrap();
    store.commit(batch);
    let seen = store.get(&key(0, 0)).unwrap().value().clone();
    let put = |data: u8| {
        let mut value = seen.clone();
        value["spec"]["data"] = json!(data);
        Command::Update(Update { key: key(0, 0), value, part: Part::Main, dry_run: false })
    };
    assert_eq!(store.step(NOW_MS, put(1)).unwrap().effect, Effect::Updated);
    let refused = store.step(NOW_MS, put(2)).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    let delete = Delete {
        preconditions: Preconditions { uid: None, resource_version: Some("3".to_owned()) },
        ..Delete::of(key(0, 0))
    };
    assert!(matches!(store.step(NOW_MS, Command::Delete(delete)), Err(StoreError::Precondition { .. })));
}

/// Values of every shape that JSON can say, some of them nested about as deep as is allowed.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let small = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    (small, prop_oneof![Just(0..4_usize), Just(88..140)].prop_flat_map(|levels| levels), any::<bool>()).prop_map(
        |(inner, levels, lists)| {
            (0..levels).fold(inner, |inner, _| if lists { json!([inner]) } else { json!({ "a": inner }) })
        },
    )
}

proptest! {
    /// Whatever is accepted, by whichever way in, can be read back: a store opens again.
    #[test]
    fn what_is_accepted_can_be_read_back(first in value(), second in value(), status in value()) {
        let resource = Resource::new("example.com", "widgets");
        let mut store = Store::new([ResourceRules::custom(resource.clone(), false)], Limits::default());
        let key = Key::new(resource.clone(), "", "w");
        let new = || NewObject { uid: "u-1".to_owned(), suffix: "abcde".to_owned(), keep_status: false };
        let mut accepted = Vec::new();
        let mut refused = Vec::new();
        let mut tell = |done: Result<Outcome, StoreError>| match done {
            Ok(outcome) => accepted.push(outcome.object),
            Err(error) => refused.push(error),
        };
        let value = json!({ "metadata": { "name": "w" }, "spec": first });
        tell(store.step(NOW_MS, Command::Create(Create {
            resource: resource.clone(), namespace: String::new(), value, new: new(), dry_run: false,
        })));
        let put = |field: &'static str, value: Value, part, store: &Store| {
            let mut whole = store.get(&key).map_or_else(|| json!({ "metadata": { "name": "w" } }), |o| o.value().clone());
            whole[field] = value;
            Command::Update(Update { key: key.clone(), value: whole, part, dry_run: false })
        };
        let command = put("spec", second.clone(), Part::Main, &store);
        tell(store.step(NOW_MS, command));
        let command = put("status", status, Part::Status, &store);
        tell(store.step(NOW_MS, command));
        let mut batch = Batch::new(&store);
        let request = Transact { key: Key::new(resource.clone(), "", "v"), part: Part::Main, dry_run: false, new: NewObject { uid: "u-2".to_owned(), ..new() } };
        tell(batch.transact(&store, NOW_MS, request, |_| Ok(json!({ "spec": second }))));
        for object in &accepted {
            let back = Object::restore(resource.clone(), object.birth(), object.json());
            prop_assert!(back.is_ok(), "{back:?}");
        }
        for error in refused {
            let deep = |causes: &[FieldCause]| {
                causes.iter().all(|cause| cause.field.starts_with("spec") || cause.field.starts_with("status"))
            };
            let expected = matches!(&error, StoreError::Invalid { causes, .. } if deep(causes))
                || matches!(&error, StoreError::NotFound { .. });
            prop_assert!(expected, "{error}");
        }
    }
}

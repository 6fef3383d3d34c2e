//! Watches on the living store, and the collector that lives on them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use trainyard_runtime::gc;
use trainyard_runtime::store::{
    DeleteOptions, Key, Limits, Options, Propagation, Resource, ResourceRules, Store, StoreError, WatchEvent,
    WatchOptions, WatchQuery, WriteOptions,
};

/// Nothing here takes longer, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

fn widgets() -> Resource {
    Resource::new("example.com", "widgets")
}

fn key(name: &str) -> Key {
    Key::new(widgets(), "home", name)
}

struct World {
    store: Store,
    _folder: tempfile::TempDir,
}

async fn world(change: impl FnOnce(&mut Options)) -> World {
    let folder = tempfile::tempdir().unwrap();
    let rules = vec![ResourceRules::namespaces(), ResourceRules::custom(widgets(), true), ResourceRules::pods()];
    let mut options = Options::new(folder.path().join("store.db"), rules);
    change(&mut options);
    let store = Store::open(options).await.unwrap();
    let namespace = json!({ "metadata": { "name": "home" } });
    store.create(&Resource::namespaces(), "", namespace, WriteOptions::default()).await.unwrap();
    World { store, _folder: folder }
}

async fn create(store: &Store, name: &str, meta: Value) -> String {
    let mut value = json!({ "metadata": meta });
    value["metadata"]["name"] = json!(name);
    let outcome = store.create(&widgets(), "home", value, WriteOptions::default()).await.unwrap();
    outcome.object.uid().to_string()
}

async fn touch(store: &Store, name: &str, n: u64) {
    let edit = move |current: Option<&trainyard_runtime::store::Object>| {
        let mut value = current.unwrap().value().clone();
        value["spec"] = json!({ "n": n });
        Ok::<_, StoreError>(value)
    };
    store.transact(&key(name), WriteOptions::default(), edit).await.unwrap();
}

fn owned_by(uid: &str) -> Value {
    json!({ "ownerReferences": [
        { "apiVersion": "example.com/v1", "kind": "Widget", "name": "owner", "uid": uid, "blockOwnerDeletion": true },
    ] })
}

/// Waits until the resource is empty (or holds only what is expected), told by a watch.
async fn wait_for(store: &Store, resource: &Resource, expected: &[&str]) {
    let mut watch = store.watch(resource, WatchQuery::default(), WatchOptions::default()).unwrap();
    let wait = async {
        loop {
            let page = store.list(resource, &Default::default()).unwrap();
            let names: Vec<&str> = page.items.iter().map(|o| &*o.key().name).collect();
            if names == expected {
                return;
            }
            watch.next().await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the collector gets there");
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order_while_it_happens() {
    let World { store, _folder } = world(|_| {}).await;
    let watch = store.watch(&widgets(), WatchQuery::default(), WatchOptions::default()).unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            create(&store, "w", json!({})).await;
            for n in 0..50 {
                touch(&store, "w", n).await;
            }
            store.delete(&key("w"), DeleteOptions::default()).await.unwrap();
        })
    };
    let events: Vec<_> = tokio::time::timeout(DEADLINE, watch.into_stream().take(52).collect()).await.unwrap();
    writer.await.unwrap();
    let events: Vec<WatchEvent> = events.into_iter().map(Result::unwrap).collect();
    assert!(matches!(&events[0], WatchEvent::Added(_)));
    assert!(matches!(&events[51], WatchEvent::Deleted(_)));
    let numbers = events[1..51].iter().map(|e| match e {
        WatchEvent::Modified(o) => o.value()["spec"]["n"].as_u64().unwrap(),
        WatchEvent::Added(_) | WatchEvent::Deleted(_) | WatchEvent::Bookmark { .. } => panic!("{e:?}"),
    });
    assert!(numbers.eq(0..50));
}

#[tokio::test]
async fn a_slow_watcher_is_closed_and_costs_nothing() {
    let limits = Limits { window_changes: 16, ..Limits::default() };
    let World { store, _folder } = world(|o| o.limits = limits).await;
    create(&store, "w", json!({})).await;
    let mut watch = store.watch(&widgets(), WatchQuery::default(), WatchOptions::default()).unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    for n in 0..40 {
        touch(&store, "w", n).await;
    }
    let closed = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap();
    assert!(matches!(closed, Some(Err(StoreError::Expired { .. }))), "{closed:?}");
    assert!(watch.next().await.is_none(), "it is over");
}

#[tokio::test]
async fn watches_are_limited() {
    let World { store, _folder } = world(|o| o.max_watches = 2).await;
    let open = || store.watch(&widgets(), WatchQuery::default(), WatchOptions::default());
    let (first, _second) = (open().unwrap(), open().unwrap());
    assert!(matches!(open(), Err(StoreError::TooMany { .. })));
    drop(first);
    open().unwrap();
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_when_nothing_else_does() {
    let World { store, _folder } = world(|_| {}).await;
    let mut watch = store.watch(&widgets(), WatchQuery::default(), WatchOptions { bookmarks: true }).unwrap();
    let version = store.resource_version();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!(event, WatchEvent::Bookmark { resource_version: version, initial_end: false });
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner() {
    let World { store, _folder } = world(|_| {}).await;
    gc::spawn(store.clone());
    let owner = create(&store, "owner", json!({})).await;
    let child = create(&store, "child", owned_by(&owner)).await;
    create(&store, "grandchild", owned_by(&child)).await;
    create(&store, "bystander", json!({})).await;
    for (policy, stays) in
        [(Propagation::Background, false), (Propagation::Foreground, false), (Propagation::Orphan, true)]
    {
        let options = DeleteOptions { propagation: Some(policy), ..DeleteOptions::default() };
        store.delete(&key("owner"), options).await.unwrap();
        let left: &[&str] = if stays { &["bystander", "child", "grandchild"] } else { &["bystander"] };
        wait_for(&store, &widgets(), left).await;
        if !stays {
            let owner = create(&store, "owner", json!({})).await;
            let child = create(&store, "child", owned_by(&owner)).await;
            create(&store, "grandchild", owned_by(&child)).await;
        }
    }
    assert!(store.get(&key("child")).unwrap().metadata().get("ownerReferences").is_none());
    store.close().await;
}

#[tokio::test]
async fn a_deleted_namespace_empties_and_goes() {
    let World { store, _folder } = world(|_| {}).await;
    gc::spawn(store.clone());
    for n in 0..100 {
        create(&store, &format!("w{n}"), json!({})).await;
    }
    create(&store, "held", json!({ "finalizers": ["example.com/hold"] })).await;
    store.delete(&Key::namespace_object("home"), DeleteOptions::default()).await.unwrap();
    wait_for(&store, &widgets(), &["held"]).await;
    assert!(store.get(&Key::namespace_object("home")).unwrap().is_deleting());
    let resource = widgets();
    let late = store.create(&resource, "home", json!({ "metadata": { "name": "late" } }), WriteOptions::default());
    assert!(matches!(late.await, Err(StoreError::Terminating { .. })));
    let release = |current: Option<&trainyard_runtime::store::Object>| {
        let mut value = current.unwrap().value().clone();
        value["metadata"].as_object_mut().unwrap().remove("finalizers");
        Ok::<_, StoreError>(value)
    };
    store.transact(&key("held"), WriteOptions::default(), release).await.unwrap();
    wait_for(&store, &Resource::namespaces(), &[]).await;
    store.close().await;
}

/// What lost its owner while nobody looked is found at the start.
#[tokio::test]
async fn the_collector_catches_up_when_it_starts() {
    let World { store, _folder } = world(|_| {}).await;
    create(&store, "abandoned", owned_by("long-gone")).await;
    let collector = gc::spawn(store.clone());
    wait_for(&store, &widgets(), &[]).await;
    store.close().await;
    tokio::time::timeout(DEADLINE, collector).await.expect("it ends with the store").unwrap();
}

//! What is known of one kind, kept current by a watch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::api::{Api, DynamicObject};
use kube::core::Resource;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainyard_proto::plan::ObjectRef;

use super::Key;
use crate::task;

/// What a kind must be so that it can be cached.
pub trait Cacheable:
    Resource<DynamicType: Clone + Eq + Hash + Send + Sync> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}
impl<K> Cacheable for K where
    K: Resource<DynamicType: Clone + Eq + Hash + Send + Sync>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Told about each change: the object before and after. Called in the watch task, so it must be quick.
pub type Listener<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// Every object of one kind, as the watch last told, without its `managedFields`: no plan looks at them, and they would be half
/// of what is kept of a pod, and of what copying one costs.
pub struct Cache<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K> {
    state: RwLock<State<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    by_owner: HashMap<String, BTreeSet<Key>>,
    seen_version: u64,
    lists_started: u64,
    lists_done: u64,
    relist: Option<BTreeMap<Key, Arc<K>>>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            seen_version: 0,
            lists_started: 0,
            lists_done: 0,
            relist: None,
        }
    }
}

type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

fn key_of<K: Resource>(object: &K) -> Key {
    Key::from(object.meta())
}

fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn controller_uid<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl<K: Resource> State<K> {
    fn put(&mut self, object: K) -> Change<K> {
        self.seen_version = self.seen_version.max(version_of(&object));
        let key = key_of(&object);
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), Arc::clone(&new));
        if let Some(uid) = old.as_deref().and_then(controller_uid) {
            self.unindex(uid, &key);
        }
        if let Some(uid) = controller_uid(new.as_ref()) {
            self.by_owner.entry(uid.to_owned()).or_default().insert(key);
        }
        (old, Some(new))
    }

    fn remove(&mut self, key: &Key, version: u64) -> Change<K> {
        self.seen_version = self.seen_version.max(version);
        let old = self.objects.remove(key);
        if let Some(uid) = old.as_deref().and_then(controller_uid) {
            self.unindex(uid, key);
        }
        (old, None)
    }

    fn unindex(&mut self, uid: &str, key: &Key) {
        if let Some(keys) = self.by_owner.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(uid);
            }
        }
    }

    fn replace(&mut self, fresh: BTreeMap<Key, Arc<K>>) -> Vec<Change<K>>
    where
        K: Clone,
    {
        let gone: Vec<Key> = self.objects.keys().filter(|key| !fresh.contains_key(*key)).cloned().collect();
        let mut changes: Vec<Change<K>> = gone.iter().map(|key| self.remove(key, 0)).collect();
        for (key, object) in fresh {
            let same = self.objects.get(&key).is_some_and(|known| {
                known.meta().uid == object.meta().uid && known.meta().resource_version == object.meta().resource_version
            });
            if !same {
                changes.push(self.put(Arc::unwrap_or_clone(object)));
            }
        }
        self.lists_done = self.lists_started;
        changes
    }
}

impl Cache<DynamicObject> {
    /// A cache of a kind that is known by name only; see [`Cache::start_untyped`].
    pub fn start_dynamic(api: Api<DynamicObject>, label: Option<&str>, stop: CancellationToken) -> Self {
        let label = label.map(str::to_owned);
        Self::start_from(stop, move || untyped(api.clone(), label.as_deref()))
    }

    /// The same, of objects as they are after `view` has changed them: for those that are read in the words of another kind.
    pub fn start_viewed(api: Api<DynamicObject>, view: fn(&mut DynamicObject), stop: CancellationToken) -> Self {
        Self::start_from(stop, move || {
            untyped(api.clone(), None).map(move |event| event.map(|event| event.modify(view))).boxed()
        })
    }
}

/// What a watch tells.
type Events<K> = BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>;

fn untyped(api: Api<DynamicObject>, label: Option<&str>) -> Events<DynamicObject> {
    let config = watcher::Config::default();
    watcher(api, label.into_iter().fold(config, watcher::Config::labels)).default_backoff().boxed()
}

/// The event of a kind. An object that cannot be read as one of it is left out.
fn read_as<K: Cacheable>(event: watcher::Event<DynamicObject>) -> Option<watcher::Event<K>> {
    Some(match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(typed(object)?),
        watcher::Event::Apply(object) => watcher::Event::Apply(typed(object)?),
        watcher::Event::Delete(object) => watcher::Event::Delete(typed(object)?),
    })
}

fn typed<K: Cacheable>(object: DynamicObject) -> Option<K> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let read = serde_json::to_value(object).and_then(serde_json::from_value);
    let kind = std::any::type_name::<K>();
    read.inspect_err(|error| tracing::warn!(kind, name, %error, "an object that cannot be read is left out")).ok()
}

impl<K: Cacheable> Cache<K> {
    /// Fill a cache from `api` and keep it current until `stop`.
    pub fn start(api: Api<K>, stop: CancellationToken) -> Self {
        Self::start_from(stop, move || watcher(api.clone(), watcher::Config::default()).default_backoff().boxed())
    }

    /// The same through a watch that does not know the kind, of the objects that have the label, if one is given. The program holds
    /// such a watch once for all kinds, and each object is read twice: for kinds of which few objects change in a second.
    pub fn start_untyped(api: Api<DynamicObject>, label: Option<&str>, stop: CancellationToken) -> Self {
        let label = label.map(str::to_owned);
        Self::start_from(stop, move || {
            let events = untyped(api.clone(), label.as_deref());
            events.filter_map(async |event| event.map(read_as).transpose()).boxed()
        })
    }

    fn start_from(stop: CancellationToken, events: impl Fn() -> Events<K> + Send + 'static) -> Self {
        let cache = Self::detached();
        let followed = cache.clone();
        // It ends with `stop`. A follower that begins anew lists everything again, so nothing is missed.
        drop(task::keep_until("cache", "controllers act on an old view of this kind", stop, move || {
            let (cache, events) = (followed.clone(), events());
            async move { cache.follow(events).await }
        }));
        cache
    }

    /// A cache that no watch feeds: for kinds that the API server does not have, and for tests.
    pub fn detached() -> Self {
        Self {
            inner: Arc::new(Inner {
                state: RwLock::new(State::default()),
                listeners: RwLock::new(Vec::new()),
                synced: watch::Sender::new(false),
            }),
        }
    }

    async fn follow(&self, mut events: Events<K>) {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.observe(event),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Take in one watch event.
    pub fn observe(&self, event: watcher::Event<K>) {
        let event = event.modify(|object| object.meta_mut().managed_fields = None);
        let mut state = self.write();
        let changes = match event {
            watcher::Event::Init => {
                state.lists_started += 1;
                state.relist = Some(BTreeMap::new());
                return;
            }
            watcher::Event::InitApply(object) => {
                if let Some(relist) = &mut state.relist {
                    relist.insert(key_of(&object), Arc::new(object));
                }
                return;
            }
            watcher::Event::InitDone => {
                let fresh = state.relist.take().unwrap_or_default();
                state.replace(fresh)
            }
            watcher::Event::Apply(object) => vec![state.put(object)],
            watcher::Event::Delete(object) => vec![state.remove(&key_of(&object), version_of(&object))],
        };
        drop(state);
        // Synced before the listeners run: whoever they wake may plan at once.
        self.inner.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        let listeners = self.inner.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for (old, new) in &changes {
            for listener in listeners.iter() {
                listener(old.as_ref(), new.as_ref());
            }
        }
    }

    fn failed(&self, error: &watcher::Error) {
        // A kind that the server does not have is an empty kind; the watcher goes on asking with its back-off.
        if let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error
            && status.code == 404
        {
            self.inner.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
            tracing::debug!(kind = std::any::type_name::<K>(), "API server does not have this kind");
            return;
        }
        tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch interrupted, resuming");
    }

    /// Tell `listener` about every change from now on, and about what is there already.
    pub fn subscribe(&self, listener: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        let mut listeners = self.inner.listeners.write().unwrap_or_else(PoisonError::into_inner);
        for object in self.list() {
            listener(None, Some(&object));
        }
        listeners.push(Box::new(listener));
    }

    /// Wait for the first complete list.
    pub async fn ready(&self) {
        let mut synced = self.inner.synced.subscribe();
        // An error means that the sender is gone, which `self` holds.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// The first complete list has arrived.
    pub fn is_ready(&self) -> bool {
        *self.inner.synced.borrow()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.inner.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// Every object whose controller owner has this uid, by name.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let Some(keys) = state.by_owner.get(uid) else { return Vec::new() };
        keys.iter().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Whether there is an object whose controller owner has this uid.
    pub fn owns_any(&self, uid: &str) -> bool {
        self.read().by_owner.contains_key(uid)
    }

    /// Every object, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Every object of one namespace whose name begins so, by name. Costs no more than what it answers.
    pub fn named(&self, namespace: &str, prefix: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let from = Key::new(namespace, prefix);
        let range = state.objects.range(from..);
        range
            .take_while(|(key, _)| key.namespace == namespace && key.name.starts_with(prefix))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Every object of one namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let from = Key::new(namespace, "");
        state
            .objects
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, o)| Arc::clone(o))
            .collect()
    }
}

/// The questions that expectations ask of a cache, whatever its kind.
pub trait Probe: Send + Sync {
    /// The list that would have to be complete so that a write made now is known to be in it.
    fn next_list(&self) -> u64;
    /// The write that got `version` is in the cache, or is known to have been superseded.
    fn has_seen(&self, key: &Key, version: u64, list: u64) -> bool;
    /// The version of the object that is known.
    fn version(&self, key: &Key) -> Option<u64>;
    /// The object is gone, or known in a later version than `version`, or a complete list of this number has come.
    fn has_moved(&self, key: &Key, version: u64, list: u64) -> bool;
    /// The incarnation `uid` is gone or on its way out.
    fn has_left(&self, key: &Key, uid: Option<&str>) -> bool;
    /// The uid of the incarnation known.
    fn uid(&self, key: &Key) -> Option<String>;
}

impl<K: Cacheable> Probe for Cache<K> {
    fn next_list(&self) -> u64 {
        self.read().lists_started + 1
    }

    fn has_seen(&self, key: &Key, version: u64, list: u64) -> bool {
        let state = self.read();
        state.seen_version >= version
            || state.lists_done >= list
            || state.objects.get(key).is_some_and(|object| version_of(object.as_ref()) >= version)
    }

    fn version(&self, key: &Key) -> Option<u64> {
        self.read().objects.get(key).map(|object| version_of(object.as_ref()))
    }

    fn has_moved(&self, key: &Key, version: u64, list: u64) -> bool {
        let state = self.read();
        state.lists_done >= list || state.objects.get(key).is_none_or(|object| version_of(object.as_ref()) > version)
    }

    fn has_left(&self, key: &Key, uid: Option<&str>) -> bool {
        let state = self.read();
        state.objects.get(key).is_none_or(|object| {
            let meta = object.meta();
            meta.deletion_timestamp.is_some() || uid.is_some_and(|uid| meta.uid.as_deref() != Some(uid))
        })
    }

    fn uid(&self, key: &Key) -> Option<String> {
        self.read().objects.get(key).and_then(|object| object.meta().uid.clone())
    }
}

/// The caches by kind, for asking whether they have caught up with our own writes.
#[derive(Clone, Default)]
pub struct Probes {
    by_kind: Arc<HashMap<(String, String), Arc<dyn Probe>>>,
}

impl Probes {
    /// From (apiVersion, kind, cache).
    pub fn new(caches: impl IntoIterator<Item = (String, String, Arc<dyn Probe>)>) -> Self {
        Self { by_kind: Arc::new(caches.into_iter().map(|(version, kind, probe)| ((version, kind), probe)).collect()) }
    }

    pub(super) fn of(&self, object: &ObjectRef) -> Option<&Arc<dyn Probe>> {
        self.by_kind.get(&(object.api_version.clone(), object.kind.clone()))
    }
}

/// One write of ours that a cache has to show before the key that made it is planned again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The object at this resource version or a later one.
    Seen {
        /// What was written.
        object: ObjectRef,
        /// The version that the write got.
        version: u64,
        /// A complete list of this number counts too.
        list: u64,
    },
    /// The object in a later version than was known when it was written to. For writes that are answered without the version
    /// that they made: another write in between is taken for it, and a plan that comes too early for that is refused by the server.
    Moved {
        /// What was written.
        object: ObjectRef,
        /// The version that was known before.
        version: u64,
        /// A complete list of this number counts too.
        list: u64,
    },
    /// The object gone, or marked as going.
    Left {
        /// What was deleted.
        object: ObjectRef,
        /// Which incarnation.
        uid: Option<String>,
    },
}

impl Expectation {
    /// The cache shows it. True for kinds without a cache.
    pub fn is_met(&self, probes: &Probes) -> bool {
        match self {
            Self::Seen { object, version, list } => {
                probes.of(object).is_none_or(|probe| probe.has_seen(&Key::from(object), *version, *list))
            }
            Self::Moved { object, version, list } => {
                probes.of(object).is_none_or(|probe| probe.has_moved(&Key::from(object), *version, *list))
            }
            Self::Left { object, uid } => {
                probes.of(object).is_none_or(|probe| probe.has_left(&Key::from(object), uid.as_deref()))
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, version: u64, owner: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "namespace": "default", "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": version.to_string(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": owner, "uid": owner, "controller": true}],
        }}))
        .unwrap()
    }

    fn listed(cache: &Cache<Pod>, pods: impl IntoIterator<Item = Pod>) {
        cache.observe(watcher::Event::Init);
        for pod in pods {
            cache.observe(watcher::Event::InitApply(pod));
        }
        cache.observe(watcher::Event::InitDone);
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
    }

    #[test]
    fn follows_lists_and_changes_and_knows_owners() {
        let cache: Cache<Pod> = Cache::detached();
        assert!(!cache.is_ready());
        listed(&cache, [pod("a", 1, "x"), pod("b", 2, "y")]);
        assert!(cache.is_ready());
        assert_eq!(names(&cache.owned_by("x")), ["a"]);
        cache.observe(watcher::Event::Apply(pod("a", 3, "y")));
        assert_eq!(names(&cache.owned_by("y")), ["a", "b"]);
        assert!(cache.owned_by("x").is_empty());
        cache.observe(watcher::Event::Delete(pod("b", 4, "y")));
        assert_eq!(names(&cache.list_in("default")), ["a"]);
        assert_eq!(names(&cache.named("default", "a")), ["a"]);
        assert!(cache.named("default", "ab").is_empty() && cache.named("defaul", "a").is_empty());
        assert!(cache.list_in("defaul").is_empty() && cache.list_in("default2").is_empty());
    }

    #[test]
    fn nothing_is_kept_of_who_wrote_which_field() {
        let cache: Cache<Pod> = Cache::detached();
        let written = |name: &str| {
            let mut pod = pod(name, 1, "x");
            let fields = json!([{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}]);
            pod.metadata.managed_fields = serde_json::from_value(fields).unwrap();
            pod
        };
        listed(&cache, [written("a")]);
        cache.observe(watcher::Event::Apply(written("b")));
        assert_eq!(names(&cache.list()), ["a", "b"]);
        assert!(cache.list().iter().all(|pod| pod.metadata.managed_fields.is_none()));
    }

    #[test]
    fn a_new_list_tells_listeners_only_what_changed() {
        let cache: Cache<Pod> = Cache::detached();
        listed(&cache, [pod("stays", 1, "x"), pod("changes", 2, "x"), pod("goes", 3, "x")]);
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        cache.subscribe(move |old, new| {
            let object = new.or(old).unwrap();
            heard.lock().unwrap().push(format!("{} {}", object.metadata.name.as_deref().unwrap(), new.is_some()));
        });
        assert_eq!(told.lock().unwrap().len(), 3, "a listener hears first of what is there");
        told.lock().unwrap().clear();
        listed(&cache, [pod("stays", 1, "x"), pod("changes", 5, "x"), pod("comes", 6, "x")]);
        assert_eq!(*told.lock().unwrap(), ["goes false", "changes true", "comes true"]);
    }

    #[test]
    fn a_write_of_ours_is_expected_until_the_watch_shows_it_or_a_later_list_is_complete() {
        let cache: Cache<Pod> = Cache::detached();
        listed(&cache, [pod("a", 1, "x")]);
        let probes = Probes::new([("v1".to_owned(), "Pod".to_owned(), Arc::new(cache.clone()) as Arc<dyn Probe>)]);
        let object = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: "default".to_owned(),
            name: "b".to_owned(),
        };
        let wrote = Expectation::Seen { object: object.clone(), version: 7, list: cache.next_list() };
        assert!(!wrote.is_met(&probes));
        cache.observe(watcher::Event::Apply(pod("a", 6, "x")));
        assert!(!wrote.is_met(&probes));
        cache.observe(watcher::Event::Apply(pod("c", 8, "x")));
        assert!(wrote.is_met(&probes), "a watch is in order: what is later includes it");
        let wrote = Expectation::Seen { object: object.clone(), version: 9, list: cache.next_list() };
        listed(&cache, []);
        assert!(wrote.is_met(&probes), "it was made and deleted while the watch was away");
        cache.observe(watcher::Event::Apply(pod("b", 10, "x")));
        let moved = Expectation::Moved { object: object.clone(), version: 10, list: cache.next_list() };
        cache.observe(watcher::Event::Apply(pod("c", 11, "x")));
        assert!(!moved.is_met(&probes), "another object says nothing of a write without a version");
        cache.observe(watcher::Event::Apply(pod("b", 12, "x")));
        assert!(moved.is_met(&probes));
        let left = Expectation::Left { object, uid: Some("uid-of-b".to_owned()) };
        assert!(!left.is_met(&probes));
        cache.observe(watcher::Event::Delete(pod("b", 13, "x")));
        assert!(left.is_met(&probes));
    }
}

//! The committed state: objects, kept changes, the resourceVersion.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::batch::Batch;
use super::command::{Change, ChangeKind, Command, Outcome};
use super::error::StoreError;
use super::object::{Key, Object, Resource};
use super::rules::ResourceRules;

/// How much is kept and accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes kept per resource, for watchers to resume from. A watcher may lag more than a second behind even at
    /// 3,000 writes a second before it must list again, and minutes at the pace of real jobs.
    pub window_changes: usize,
    /// JSON bytes of kept changes per resource.
    pub window_bytes: usize,
    /// Changes per resource that are kept as values beside their text: watchers that follow are no further behind, and look at values only
    /// if they select by labels or fields.
    pub window_values: usize,
    /// JSON bytes of the objects that are held as values too. Far above what the jobs of a machine take, so that these are
    /// never parsed twice; 48 MiB of memory when a store is large.
    pub parsed_bytes: usize,
    /// Largest object. etcd's request limit is 1.5 MiB; our SDK callers stay below it.
    pub object_bytes: usize,
    /// Caps `limit=`. A list without a limit is whole, as from the API server.
    pub page_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window_changes: 4096,
            window_bytes: 4 << 20,
            window_values: 64,
            parsed_bytes: 8 << 20,
            object_bytes: 3 << 19,
            page_items: 10_000,
        }
    }
}

/// The kept changes of one resource, and up to where they have been dropped.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Rising by resourceVersion.
    pub(crate) changes: VecDeque<Arc<Change>>,
    /// Everything after this resourceVersion is in `changes`.
    pub(crate) floor: u64,
    /// resourceVersion of the last change, kept or not.
    pub(crate) last: u64,
    /// JSON bytes of `changes`.
    pub(crate) bytes: usize,
}

impl Window {
    /// The kept changes after `resource_version`, or `None` where some of them have been dropped.
    pub(crate) fn since(&self, resource_version: u64) -> Option<impl DoubleEndedIterator<Item = &Arc<Change>>> {
        if resource_version < self.floor {
            return None;
        }
        let start = self.changes.partition_point(|c| c.resource_version <= resource_version);
        Some(self.changes.range(start..))
    }

    fn push(&mut self, change: Arc<Change>, limits: &Limits) {
        self.last = change.resource_version;
        self.bytes += change.object.json().len();
        self.changes.push_back(change);
        // Parsed, a change takes six times as much, and few watchers come so late.
        let late = self.changes.len().checked_sub(limits.window_values + 1);
        if let Some(change) = late.and_then(|place| self.changes.get_mut(place)) {
            *change = Arc::new(change.as_text());
        }
        while self.changes.len() > limits.window_changes || self.bytes > limits.window_bytes {
            let Some(dropped) = self.changes.pop_front() else { break };
            self.bytes -= dropped.object.json().len();
            self.floor = dropped.resource_version;
        }
    }
}

/// Which objects the store holds as values beside their text: the last ones written.
#[derive(Debug, Default)]
struct Parsed {
    /// Key, resourceVersion and JSON bytes, in order of writing.
    objects: VecDeque<(Key, u64, usize)>,
    bytes: usize,
}

impl Parsed {
    fn put(&mut self, object: &Object) {
        let bytes = object.json().len();
        self.bytes += bytes;
        self.objects.push_back((object.key().clone(), object.resource_version(), bytes));
    }
}

/// Every object and the last changes of each resource. See the module's page.
#[derive(Debug)]
pub struct Store {
    pub(crate) rules: BTreeMap<Resource, ResourceRules>,
    pub(crate) limits: Limits,
    pub(crate) resource_version: u64,
    /// Versions up to this were given to changes that came to nothing. Nobody has seen them, and nobody gets them again.
    burned: u64,
    pub(crate) objects: BTreeMap<Key, Arc<Object>>,
    pub(crate) windows: BTreeMap<Resource, Window>,
    parsed: Parsed,
}

impl Store {
    /// An empty store at resourceVersion 0.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = ResourceRules>, limits: Limits) -> Self {
        Self {
            rules: rules.into_iter().map(|r| (r.resource.clone(), r)).collect(),
            limits,
            resource_version: 0,
            burned: 0,
            objects: BTreeMap::new(),
            windows: BTreeMap::new(),
            parsed: Parsed::default(),
        }
    }

    /// Files an object read from disk. Only before the first command.
    pub fn restore_object(&mut self, object: Object) {
        let version = object.resource_version();
        self.restore_resource(&object.key().resource.clone(), version);
        self.objects.insert(object.key().clone(), Arc::new(object));
    }

    /// Says that the last change of `resource` before a restart was `version`: older watches must list again.
    pub fn restore_resource(&mut self, resource: &Resource, version: u64) {
        let window = self.windows.entry(resource.clone()).or_default();
        window.last = window.last.max(version);
        window.floor = window.last;
        self.skip_to(version);
    }

    /// Never hands out resourceVersions up to `version` (again).
    pub fn skip_to(&mut self, version: u64) {
        self.resource_version = self.resource_version.max(version);
    }

    /// Does not hand out the versions of a batch that came to nothing again. The version that readers are told stays: it is
    /// all that they could come back with after a restart.
    pub fn burn(&mut self, batch: &Batch) {
        self.burned = self.burned.max(batch.resource_version());
    }

    /// Where the versions of the next batch begin.
    pub(crate) fn next_base(&self) -> u64 {
        self.resource_version.max(self.burned)
    }

    /// The resourceVersion of the last commit.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.resource_version
    }

    /// The last change of this resource.
    #[must_use]
    pub fn resource_last(&self, resource: &Resource) -> u64 {
        self.windows.get(resource).map_or(0, |w| w.last)
    }

    /// The rules of a resource, if it is known.
    #[must_use]
    pub fn rules(&self, resource: &Resource) -> Option<&ResourceRules> {
        self.rules.get(resource)
    }

    /// How much is kept and accepted.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Every object of every resource, in key order.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no object at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Objects of one resource, of one namespace or of all, in key order, after a position.
    pub(crate) fn range<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: Option<&'a str>,
        after: Option<&(Arc<str>, Arc<str>)>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> + use<'a> {
        let start = match after {
            Some((ns, name)) => Bound::Excluded(Key::new(resource.clone(), ns.clone(), name.clone())),
            None => Bound::Included(Key::new(resource.clone(), namespace.unwrap_or_default(), "")),
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(k, _)| k.resource == *resource && namespace.is_none_or(|ns| *k.namespace == *ns))
    }

    /// Stages and commits one command, for callers without a disk.
    ///
    /// # Errors
    /// When the command is refused; nothing has changed then.
    pub fn step(&mut self, now_ms: i64, command: Command) -> Result<Outcome, StoreError> {
        let mut batch = Batch::new(self);
        let outcome = batch.step(self, now_ms, command)?;
        self.commit(batch);
        Ok(outcome)
    }

    /// Makes a batch visible. Returns the resources that changed.
    ///
    /// # Panics
    /// When another batch was committed after this one was begun: the shell has one writer.
    pub fn commit(&mut self, batch: Batch) -> Vec<Resource> {
        assert_eq!(batch.base(), self.resource_version, "one writer: a batch is committed before the next is begun");
        let changes = batch.into_changes();
        self.resource_version = changes.last().map_or(self.resource_version, |last| last.resource_version);
        let mut touched: Vec<Resource> = Vec::new();
        for change in changes {
            let key = change.object.key();
            match change.kind {
                ChangeKind::Put => {
                    self.objects.insert(key.clone(), Arc::clone(&change.object));
                    self.parsed.put(&change.object);
                }
                ChangeKind::Delete => {
                    self.objects.remove(key);
                }
            }
            if !touched.contains(&key.resource) {
                touched.push(key.resource.clone());
            }
            self.windows.entry(key.resource.clone()).or_default().push(Arc::new(change), &self.limits);
        }
        self.keep_old_ones_as_text();
        #[cfg(debug_assertions)]
        self.check_touched(&touched);
        touched
    }

    fn keep_old_ones_as_text(&mut self) {
        while self.parsed.bytes > self.limits.parsed_bytes {
            let Some((key, version, bytes)) = self.parsed.objects.pop_front() else { break };
            self.parsed.bytes -= bytes;
            // A later write of it has its own place in the row.
            if let Some(object) = self.objects.get_mut(&key).filter(|object| object.resource_version() == version) {
                *object = Arc::new(object.as_text());
            }
        }
    }

    /// The changes of all resources after `resource_version`, in order.
    ///
    /// # Errors
    /// `Expired` when some of them have been dropped: start again from [`Store::objects`].
    pub fn changes_since(&self, resource_version: u64) -> Result<Vec<Arc<Change>>, StoreError> {
        let mut all = Vec::new();
        for window in self.windows.values().filter(|w| w.last > resource_version) {
            let Some(changes) = window.since(resource_version) else {
                return Err(StoreError::Expired {
                    message: format!("the changes after {resource_version} are no longer kept; list again"),
                });
            };
            all.extend(changes.cloned());
        }
        all.sort_by_key(|c| c.resource_version);
        Ok(all)
    }
}

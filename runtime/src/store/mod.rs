//! The object store: `runtime_core::store` on a disk, shared by everything in the process.
//!
//! One task writes. It takes whatever commands wait, stages them in one batch, makes the batch durable with one commit
//! (WAL, `synchronous=FULL`), publishes it, and only then answers: an acknowledged write is on disk, a failed one has
//! changed nothing, and nobody has seen a state that the disk does not hold. Commands that arrive during a commit make
//! up the next batch, so that sixty-four writers share an fsync and a single one waits for nothing but its own.
//!
//! Reading takes a short lock on the memory state. A [`Watch`] is a cursor into the changes that the core keeps.

mod disk;
mod metrics;
mod open;
mod room;
mod watch;
mod writer;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub use metrics::register as register_metrics;
pub(crate) use open::put_aside;
pub use open::{OpenError, Options, UnreadableRow, UnreadableRows};
pub use trainyard_runtime_core::store::{
    At, Change, ChangeKind, Create, Delete, Effect, FieldCause, Key, Limits, ListQuery, NameRule, NewObject, Object,
    Outcome, Page, Part, Preconditions, Propagation, Resource, ResourceRules, StoreError, Transact, Update, WatchEvent,
    WatchQuery,
};
pub use watch::{Changes, Watch, WatchOptions};

use trainyard_runtime_core::store::{Batch, Command, Store as State};
use writer::{Job, Message, Stage};

/// A handle to the store; cloning is cheap. The writer ends when the last handle is gone or after [`Store::close`].
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<writer::Shared>,
    queue: mpsc::Sender<Message>,
    watch_permits: Arc<tokio::sync::Semaphore>,
}

/// The body of a DELETE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What must hold of the object.
    pub preconditions: Preconditions,
    /// `gracePeriodSeconds`; `None` for the object's own.
    pub grace_seconds: Option<i64>,
    /// `propagationPolicy`.
    pub propagation: Option<Propagation>,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
}

/// What is particular about a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Which part of the object counts.
    pub part: Part,
    /// Answer what would happen and change nothing.
    pub dry_run: bool,
    /// When it is a creation: keep the value's `status` (see [`NewObject::keep_status`]).
    pub keep_status: bool,
    /// It finishes a deletion: taken on a full disk too, where other writes are refused.
    pub frees: bool,
}

impl Store {
    /// Opens (or creates) the database at `options.path` and loads every object.
    ///
    /// # Errors
    /// When the file cannot be opened, is not ours, or holds something unreadable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// One object.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, key: &Key) -> Result<Arc<Object>, StoreError> {
        self.shared.state().get(key).map(Object::on_its_own).ok_or_else(|| StoreError::not_found(key))
    }

    /// One page of a resource.
    ///
    /// # Errors
    /// `Expired`, `FutureVersion` or `BadRequest`, see the core's `list`.
    pub fn list(&self, resource: &Resource, query: &ListQuery) -> Result<Page, StoreError> {
        // Objects are parsed and selected without the lock: writers wait for it.
        let candidates = self.shared.state().candidates(resource, query)?;
        Ok(candidates.select())
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// `Expired` or `FutureVersion` for the start, `TooMany` when the limit of watches is reached.
    pub fn watch(&self, resource: &Resource, query: WatchQuery, options: WatchOptions) -> Result<Watch, StoreError> {
        Watch::begin(&self.shared, &self.watch_permits, resource, query, options)
    }

    /// Follows the changes of all resources from `resource_version` on, as the garbage collector does.
    #[must_use]
    pub fn changes(&self, resource_version: u64) -> Changes {
        Changes::begin(&self.shared, resource_version)
    }

    /// A consistent look at everything: the resourceVersion and all objects.
    #[must_use]
    pub fn snapshot(&self) -> (u64, Vec<Arc<Object>>) {
        let state = self.shared.state();
        (state.resource_version(), state.objects().cloned().collect())
    }

    /// The resourceVersion of the last commit.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.shared.state().resource_version()
    }

    /// The rules of a resource, if it is known.
    #[must_use]
    pub fn rules(&self, resource: &Resource) -> Option<ResourceRules> {
        self.shared.state().rules(resource).cloned()
    }

    /// POST: creates an object, naming it from `generateName` where it has no name.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Outcome, StoreError> {
        let create = Create {
            resource: resource.clone(),
            namespace: namespace.to_owned(),
            value,
            new: new_object(options.keep_status),
            dry_run: options.dry_run,
        };
        self.run(false, move |batch, state, now_ms| batch.step(state, now_ms, Command::Create(create))).await
    }

    /// PUT: replaces an object. `metadata.uid` and `metadata.resourceVersion` in the value are preconditions.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn update(&self, key: &Key, value: Value, options: WriteOptions) -> Result<Outcome, StoreError> {
        let update = Update { key: key.clone(), value, part: options.part, dry_run: options.dry_run };
        self.run(false, move |batch, state, now_ms| batch.step(state, now_ms, Command::Update(update))).await
    }

    /// Reads, computes and writes as one: no other write comes between, and nothing is retried. `change` is given the
    /// present object (`None` where there is none) and answers the whole new value, or refuses. A value for an absent
    /// object creates it.
    ///
    /// It runs on the one writer: it must be quick and must not block. A `resourceVersion` that it leaves in the value
    /// is a precondition that holds by itself; one that the client gave is checked by putting it there.
    ///
    /// # Errors
    /// What `change` says, or why the store refuses its answer; nothing has changed then.
    pub async fn transact<E, F>(&self, key: &Key, options: WriteOptions, change: F) -> Result<Outcome, E>
    where
        E: From<StoreError> + Send + 'static,
        F: FnOnce(Option<&Object>) -> Result<Value, E> + Send + 'static,
    {
        let request = Transact {
            key: key.clone(),
            part: options.part,
            dry_run: options.dry_run,
            new: new_object(options.keep_status),
        };
        self.run(options.frees, move |batch, state, now_ms| batch.transact(state, now_ms, request, change)).await
    }

    /// DELETE, with grace, finalizers and propagation as the object's kind has them.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<Outcome, StoreError> {
        let delete = Delete {
            key: key.clone(),
            preconditions: options.preconditions,
            grace_seconds: options.grace_seconds,
            propagation: options.propagation,
            dry_run: options.dry_run,
        };
        self.run(true, move |batch, state, now_ms| batch.step(state, now_ms, Command::Delete(delete))).await
    }

    /// Finishes what is queued, folds the write-ahead log into the database and closes it. Later writes are refused.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // An error means that the writer had ended already, which is as good.
            let _ = closed.await;
        }
    }

    /// Waits until nothing can be written any more: after [`Store::close`], or when the writer has failed.
    pub async fn ended(&self) {
        self.shared.ended().cancelled().await;
    }

    /// Whether nothing can be written any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.ended().is_cancelled()
    }

    /// Makes the writer panic, as a bug would.
    #[cfg(test)]
    pub(crate) async fn break_writer(&self) {
        let stage: Stage = Box::new(|_, _| Box::new(|_| panic!("a bug in the writer")));
        let sent = self.queue.send(Message::Job(Job { stage, frees: false })).await;
        assert!(sent.is_ok(), "there is a writer");
        self.ended().await;
    }

    async fn run<E, F>(&self, frees: bool, stage: F) -> Result<Outcome, E>
    where
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Batch, &State, i64) -> Result<Outcome, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let stage: Stage = Box::new(move |batch, state| {
            let staged = stage(batch, state, now_ms());
            // A caller that has gone away needs no answer.
            Box::new(move |stored: Result<(), &StoreError>| {
                let _ = answer.send(match (staged, stored) {
                    (Ok(outcome), Ok(())) => Ok(outcome),
                    (Ok(_), Err(failed)) => Err(E::from(failed.clone())),
                    (Err(refused), _) => Err(refused),
                });
            })
        });
        self.queue.send(Message::Job(Job { stage, frees })).await.map_err(|_| E::from(closed()))?;
        answered.await.unwrap_or_else(|_| Err(E::from(closed())))
    }
}

fn closed() -> StoreError {
    StoreError::Storage { message: "the store is closed".to_owned() }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn new_object(keep_status: bool) -> NewObject {
    NewObject { uid: random_uid(), suffix: random_suffix(), keep_status }
}

/// A version 4 UUID.
fn random_uid() -> String {
    let bits: u128 = rand::random();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Five characters as the API server draws them: no vowels, so no words.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_writer_is_known_however_it_comes() {
        let home = tempfile::tempdir().expect("a folder");
        let widgets = Resource::new("example.com", "widgets");
        let rules = || vec![ResourceRules::plain(widgets.clone(), false)];
        let create = |store: &Store, name: &str| {
            let (store, value) = (store.clone(), serde_json::json!({ "metadata": { "name": name } }));
            let widgets = widgets.clone();
            async move { store.create(&widgets, "", value, WriteOptions::default()).await }
        };
        let store = Store::open(Options::new(home.path().join("store.db"), rules())).await.expect("opens");
        create(&store, "before").await.expect("stored");
        let from = Some(store.resource_version());
        let query = WatchQuery { resource_version: from, ..WatchQuery::default() };
        let mut watch = store.watch(&widgets, query, WatchOptions::default()).expect("watches");
        assert!(!store.has_ended());
        store.break_writer().await;
        assert!(store.has_ended());
        assert!(watch.next().await.is_none(), "watches end");
        assert!(matches!(create(&store, "after").await, Err(StoreError::Storage { .. })));
        let again = Store::open(Options::new(home.path().join("store.db"), rules())).await.expect("opens");
        assert_eq!(again.snapshot().1.len(), 1, "what was acknowledged is there");
        again.close().await;
        assert!(again.has_ended());
    }
}

//! The garbage collector at work: follows every change, carries `runtime_core::gc`'s decisions out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use trainyard_runtime_core::gc::{Action, Graph, Step, expired_events};
use trainyard_runtime_core::store::{Key, ListQuery, Object, Preconditions, Resource, StoreError};

use crate::store::{Changes, DeleteOptions, Store, WriteOptions};
use crate::task;

/// Writes in flight at a time: one group commit's worth.
const CONCURRENT_WRITES: usize = 64;
/// Before a failed write (a full disk, say) is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Events live as long as the API server keeps them.
const EVENT_TTL_MS: i64 = 3_600_000;
/// How often old events are looked for; they outlive their hour by at most this.
const EVENT_SWEEP: Duration = Duration::from_secs(60);

/// Starts collecting; ends when the store closes.
pub fn spawn(store: Store) -> tokio::task::JoinHandle<()> {
    task::keep("garbage collector", "what deleted objects owned stays, namespaces stay Terminating", move || {
        run(store.clone())
    })
}

async fn run(store: Store) {
    let mut sweep = tokio::time::interval(EVENT_SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut graph, mut changes) = begin(&store);
    // What failed waits for its time even when other things change.
    let mut failed: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut retry_at = Instant::now();
    loop {
        let now_failed = carry_out(&store, graph.plan()).await;
        if failed.is_empty() {
            // What fails later does not put off what waits already.
            retry_at = Instant::now() + RETRY_AFTER;
        }
        failed.extend(now_failed);
        tokio::select! {
            next = changes.next() => match next {
                Some(Ok(batch)) => batch.iter().for_each(|change| graph.observe(change)),
                Some(Err(error)) => {
                    tracing::info!(%error, "garbage collector: fell behind, starts from a snapshot");
                    (graph, changes) = begin(&store);
                }
                None => return,
            },
            _ = sweep.tick() => sweep_events(&store).await,
            () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {
                std::mem::take(&mut failed).iter().for_each(|uid| graph.retry(uid));
            }
        }
    }
}

fn begin(store: &Store) -> (Graph, Changes) {
    let (version, objects) = store.snapshot();
    (Graph::new(&objects), store.changes(version))
}

/// Returns the uids of objects that have to be looked at again, since a write for their sake failed.
async fn carry_out(store: &Store, steps: Vec<Step>) -> BTreeSet<Arc<str>> {
    futures::stream::iter(steps)
        .map(|Step { cause, action }| async move {
            let uid = Arc::clone(action.target().1);
            match act(store, action).await {
                // Gone or replaced: the change is on its way to the graph.
                Ok(_)
                | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. } | StoreError::Precondition { .. }) => {
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, %uid, %cause, "garbage collector: a write failed and is tried again");
                    Some(cause)
                }
            }
        })
        .buffer_unordered(CONCURRENT_WRITES)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn act(store: &Store, action: Action) -> Result<(), StoreError> {
    match action {
        Action::Delete { key, uid, propagation } => {
            let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
            let options = DeleteOptions { preconditions, propagation: Some(propagation), ..DeleteOptions::default() };
            store.delete(&key, options).await.map(drop)
        }
        Action::RemoveOwners { key, uid, owners } => {
            edit(store, key, uid, move |object| {
                retain(object, "/metadata/ownerReferences", |owner| {
                    let uid = owner.get("uid").and_then(Value::as_str);
                    !owners.iter().any(|gone| uid == Some(gone))
                });
            })
            .await
        }
        Action::Unblock { key, uid } => {
            edit(store, key, uid, |object| {
                let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
                for owner in owners.into_iter().flatten().filter_map(Value::as_object_mut) {
                    owner.insert("blockOwnerDeletion".to_owned(), json!(false));
                }
            })
            .await
        }
        Action::RemoveFinalizer { key, uid, finalizer } => {
            edit(store, key, uid, move |object| {
                retain(object, "/metadata/finalizers", |f| f.as_str() != Some(finalizer));
            })
            .await
        }
        Action::FinalizeNamespace { key, uid } => {
            edit(store, key, uid, |object| {
                retain(object, "/spec/finalizers", |f| f.as_str() != Some("kubernetes"));
            })
            .await
        }
    }
}

/// Changes this incarnation of the object, across its parts, or finds that it is gone.
async fn edit(
    store: &Store,
    key: Key,
    uid: Arc<str>,
    change: impl FnOnce(&mut Value) + Send + 'static,
) -> Result<(), StoreError> {
    let options = WriteOptions { part: crate::store::Part::Whole, frees: true, ..WriteOptions::default() };
    let missing = StoreError::not_found(&key);
    store
        .transact(&key, options, move |current: Option<&Object>| {
            let current = current.filter(|c| *c.uid() == uid).ok_or(missing)?;
            let mut value = current.value().clone();
            change(&mut value);
            Ok::<_, StoreError>(value)
        })
        .await
        .map(drop)
}

/// Filters a list in place, and takes an empty one away.
fn retain(object: &mut Value, at: &str, keep: impl Fn(&Value) -> bool) {
    let Some(list) = object.pointer_mut(at).and_then(Value::as_array_mut) else { return };
    list.retain(keep);
    if list.is_empty()
        && let Some((parent, field)) = at.rsplit_once('/')
        && let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut)
    {
        parent.remove(field);
    }
}

async fn sweep_events(store: &Store) {
    for resource in [Resource::new("", "events"), Resource::new("events.k8s.io", "events")] {
        // A list without limit and at the latest state cannot be refused.
        let Ok(page) = store.list(&resource, &ListQuery::default()) else { continue };
        let old = expired_events(&page.items, now_ms(), EVENT_TTL_MS);
        futures::stream::iter(old)
            .for_each_concurrent(CONCURRENT_WRITES, |event| async move {
                let uid = Some(event.uid().to_string());
                let version = Some(event.resource_version().to_string());
                let preconditions = Preconditions { uid, resource_version: version };
                let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
                if let Err(error) = store.delete(event.key(), options).await {
                    tracing::debug!(%error, "garbage collector: an old event stays until the next sweep");
                }
            })
            .await;
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

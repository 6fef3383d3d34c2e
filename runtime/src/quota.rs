//! Keeps the status of ResourceQuotas true: it follows every change, and counts again what a change touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::MissedTickBehavior;
use trainyard_runtime_core::quota::{self, Amounts};
use trainyard_runtime_core::store::{Change, Key, ListQuery, Object, Part, Resource, StoreError};

use crate::store::{Changes, Store, WriteOptions};
use crate::task;

/// Everything is counted again this often, as by kube-controller-manager (`--resource-quota-sync-period`).
const RESYNC: Duration = Duration::from_secs(300);
/// Before a status that could not be written (a full disk, say) is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Starts counting; ends when the store closes.
pub(crate) fn spawn(store: Store) {
    // Its end needs no waiting for: it ends with the store.
    drop(task::keep("resource quotas", "the status of ResourceQuotas is not kept up to date", move || {
        run(store.clone())
    }));
}

async fn run(store: Store) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = store.changes(store.resource_version());
    let mut stale: BTreeSet<Arc<str>> = BTreeSet::new();
    loop {
        tokio::select! {
            next = changes.next() => match next {
                Some(Ok(batch)) => stale.extend(touched(&store, &batch)),
                Some(Err(_)) => changes = restarted(&store, &mut stale),
                None => return,
            },
            _ = resync.tick() => stale.extend(limited(&store)),
            () = tokio::time::sleep(RETRY_AFTER), if !stale.is_empty() => {}
        }
        let mut failed = BTreeSet::new();
        for namespace in std::mem::take(&mut stale) {
            if let Err(error) = refresh(&store, &namespace).await {
                tracing::warn!(%error, %namespace, "the status of a ResourceQuota was not written and is tried again");
                failed.insert(namespace);
            }
        }
        stale = failed;
    }
}

/// Fell behind: all is counted again.
fn restarted(store: &Store, stale: &mut BTreeSet<Arc<str>>) -> Changes {
    let changes = store.changes(store.resource_version());
    stale.extend(limited(store));
    changes
}

/// The namespaces that have a quota.
fn limited(store: &Store) -> Vec<Arc<str>> {
    let quotas = list(store, &quotas(), None);
    quotas.iter().map(|quota| Arc::clone(&quota.key().namespace)).collect()
}

/// The namespaces with a quota in which something changed what it counts for.
fn touched(store: &Store, batch: &[Arc<Change>]) -> BTreeSet<Arc<str>> {
    let mut has_quota: BTreeMap<&str, bool> = BTreeMap::new();
    let mut touched = BTreeSet::new();
    for change in batch {
        let key = change.object.key();
        if key.namespace.is_empty() || touched.contains(&key.namespace) {
            continue;
        }
        let limited = *has_quota
            .entry(&key.namespace)
            .or_insert_with(|| !list(store, &quotas(), Some(key.namespace.to_string())).is_empty());
        if limited && counts_otherwise(change) {
            touched.insert(Arc::clone(&key.namespace));
        }
    }
    touched
}

fn counts_otherwise(change: &Change) -> bool {
    let resource = &change.object.key().resource;
    let Some(previous) = &change.previous else { return true };
    let gone = change.kind == trainyard_runtime_core::store::ChangeKind::Delete;
    gone || *resource == quotas()
        || quota::usage(resource, previous.value()) != quota::usage(resource, change.object.value())
}

/// Counts a namespace again and writes the status of its quotas, where it says something else.
async fn refresh(store: &Store, namespace: &str) -> Result<(), StoreError> {
    for limit in list(store, &quotas(), Some(namespace.to_owned())) {
        let status = quota::status(limit.value(), &used(store, namespace, limit.value()));
        if limit.value()["status"] != status {
            write(store, limit.key(), Arc::clone(limit.uid()), status).await?;
        }
    }
    Ok(())
}

fn used(store: &Store, namespace: &str, limit: &Value) -> Amounts {
    let mut used = Amounts::new();
    for resource in quota::counted(limit) {
        for object in list(store, &resource, Some(namespace.to_owned())) {
            if quota::covers(limit, &resource, object.value()) {
                quota::add(&mut used, quota::usage(&resource, object.value()));
            }
        }
    }
    used
}

async fn write(store: &Store, key: &Key, uid: Arc<str>, status: Value) -> Result<(), StoreError> {
    let options = WriteOptions { part: Part::Status, ..WriteOptions::default() };
    let missing = StoreError::not_found(key);
    let written = store.transact(key, options, move |current: Option<&Object>| {
        let current = current.filter(|current| *current.uid() == uid).ok_or(missing)?;
        let mut value = current.value().clone();
        value["status"] = status;
        Ok::<_, StoreError>(value)
    });
    match written.await {
        // Gone meanwhile, or changed: the change is on its way here.
        Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn quotas() -> Resource {
    Resource::new("", "resourcequotas")
}

fn list(store: &Store, resource: &Resource, namespace: Option<String>) -> Vec<Arc<Object>> {
    // A list without limit and at the latest state cannot be refused.
    store.list(resource, &ListQuery { namespace, ..ListQuery::default() }).map(|page| page.items).unwrap_or_default()
}

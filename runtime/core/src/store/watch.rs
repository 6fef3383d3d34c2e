//! Watches: cursors into the kept changes, seen through a selector.

use std::sync::Arc;

use crate::selector::Selector;

use super::command::{Change, ChangeKind};
use super::error::StoreError;
use super::list::{Candidates, ListQuery};
use super::object::{Object, Resource};
use super::state::Store;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchQuery {
    /// One namespace, or all (`None`; also for cluster-scoped resources).
    pub namespace: Option<String>,
    /// Which objects. One that begins to match is `Added`, one that ceases to is `Deleted`.
    pub selector: Selector,
    /// Where to start. `None` and 0: the present objects as `Added`, then changes.
    pub resource_version: Option<u64>,
    /// `sendInitialEvents`: `Some(true)` sends the present objects and a closing bookmark, `Some(false)` sends none.
    pub send_initial: Option<bool>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The object is there, or began to match.
    Added(Arc<Object>),
    /// The object changed and matches still.
    Modified(Arc<Object>),
    /// The object is gone or matches no more; its last matching state, at the resourceVersion of the change.
    Deleted(Arc<Object>),
    /// Everything up to this resourceVersion has been told.
    Bookmark {
        /// Where to resume.
        resource_version: u64,
        /// It closes the initial events: carries annotation `k8s.io/initial-events-end: "true"`.
        initial_end: bool,
    },
}

/// A watch that has begun.
#[derive(Clone, Debug)]
pub struct WatchStart {
    /// What to tell first.
    pub initial: Vec<WatchEvent>,
    /// Where [`Store::follow`] goes on.
    pub cursor: u64,
}

/// What a watch begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The objects that are there, where they are to be told.
    present: Option<Candidates>,
    cursor: u64,
    /// The end of them is told too.
    told: bool,
}

impl Beginning {
    /// The events to tell first.
    #[must_use]
    pub fn start(self) -> WatchStart {
        let Self { present, cursor, told } = self;
        let items = present.map(|candidates| candidates.select().items).unwrap_or_default();
        let mut initial: Vec<WatchEvent> = items.into_iter().map(WatchEvent::Added).collect();
        if told {
            initial.push(WatchEvent::Bookmark { resource_version: cursor, initial_end: true });
        }
        WatchStart { initial, cursor }
    }
}

impl Store {
    /// Begins a watch.
    ///
    /// # Errors
    /// As [`Store::begin_watch`].
    pub fn watch(&self, resource: &Resource, query: &WatchQuery) -> Result<WatchStart, StoreError> {
        Ok(self.begin_watch(resource, query)?.start())
    }

    /// What a watch begins with. Like [`Store::candidates`] it looks into no object: that is [`Beginning::start`].
    ///
    /// # Errors
    /// `Expired` when changes after the asked resourceVersion are no longer kept, `FutureVersion` when it is not there
    /// yet.
    pub fn begin_watch(&self, resource: &Resource, query: &WatchQuery) -> Result<Beginning, StoreError> {
        let from = query.resource_version.filter(|v| *v > 0);
        if let Some(asked) = from.filter(|v| *v > self.resource_version) {
            return Err(StoreError::FutureVersion { asked, current: self.resource_version });
        }
        let present = match (query.send_initial, from) {
            (Some(true), _) | (None, None) => true,
            (Some(false), _) | (None, Some(_)) => false,
        };
        if !present {
            let cursor = from.unwrap_or(self.resource_version);
            self.expect_kept(resource, cursor)?;
            return Ok(Beginning { present: None, cursor, told: false });
        }
        let list =
            ListQuery { namespace: query.namespace.clone(), selector: query.selector.clone(), ..ListQuery::default() };
        let present = Some(self.candidates(resource, &list)?);
        Ok(Beginning { present, cursor: self.resource_version, told: query.send_initial == Some(true) })
    }

    /// What happened after `cursor`, seen through the query, of at most `limit` changes, and the new cursor.
    ///
    /// # Errors
    /// As [`Store::unseen`].
    pub fn follow(
        &self,
        resource: &Resource,
        query: &WatchQuery,
        cursor: u64,
        limit: usize,
    ) -> Result<(Vec<WatchEvent>, u64), StoreError> {
        let (changes, cursor) = self.unseen(resource, cursor, limit)?;
        Ok((changes.iter().filter_map(|change| query.sees(change)).collect(), cursor))
    }

    /// The changes after `cursor`, at most `limit`, and the new cursor. It looks into no object: that is
    /// [`WatchQuery::sees`].
    ///
    /// # Errors
    /// `Expired` when the watcher was too slow and changes it has not seen are no longer kept.
    pub fn unseen(
        &self,
        resource: &Resource,
        cursor: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), StoreError> {
        let Some(window) = self.windows.get(resource) else { return Ok((Vec::new(), self.resource_version)) };
        let mut unseen = window.since(cursor).ok_or_else(|| expired_watch(cursor, window.floor))?;
        let changes: Vec<Arc<Change>> = unseen.by_ref().take(limit).cloned().collect();
        let cursor = match (unseen.next(), changes.last()) {
            (Some(_), last) => last.map_or(cursor, |last| last.resource_version),
            (None, _) => self.resource_version.max(cursor),
        };
        Ok((changes, cursor))
    }

    fn expect_kept(&self, resource: &Resource, cursor: u64) -> Result<(), StoreError> {
        match self.windows.get(resource) {
            Some(window) if cursor < window.floor => Err(expired_watch(cursor, window.floor)),
            Some(_) | None => Ok(()),
        }
    }
}

fn expired_watch(cursor: u64, floor: u64) -> StoreError {
    StoreError::Expired { message: format!("too old resource version: {cursor} ({})", floor + 1) }
}

impl WatchQuery {
    /// How a change looks to somebody who sees only what the selector selects.
    #[must_use]
    pub fn sees(&self, change: &Change) -> Option<WatchEvent> {
        let object = &change.object;
        if self.namespace.as_deref().is_some_and(|ns| *object.key().namespace != *ns) {
            return None;
        }
        let before = change.previous.as_ref().is_some_and(|p| self.selector.matches(p));
        let after = match change.kind {
            ChangeKind::Put => self.selector.matches(object),
            ChangeKind::Delete => false,
        };
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(WatchEvent::Added(Arc::clone(object))),
            (true, true) => Some(WatchEvent::Modified(Arc::clone(object))),
            (true, false) => Some(WatchEvent::Deleted(last_seen(change))),
        }
    }
}

/// The last state that the watcher knew, at the resourceVersion of the change, as the API server sends it.
fn last_seen(change: &Change) -> Arc<Object> {
    match (change.kind, &change.previous) {
        (ChangeKind::Put, Some(previous)) => Arc::new(previous.at_version(change.resource_version)),
        (ChangeKind::Delete, _) | (ChangeKind::Put, None) => Arc::clone(&change.object),
    }
}

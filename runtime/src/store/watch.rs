//! Following changes: of one resource through a selector, or of everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use trainyard_runtime_core::store::{Change, Resource, StoreError, WatchEvent, WatchQuery};

use super::writer::Shared;

/// Changes read from the state at once: bounds what a watch holds, and how long it locks.
const READ_CHANGES: usize = 256;
/// Between bookmarks, as the API server has it (about a minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// What is particular about a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
}

/// A running watch. It ends with an error (`Expired` when the reader was too slow) or when the store closes.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    resource: Resource,
    query: WatchQuery,
    cursor: u64,
    ready: VecDeque<WatchEvent>,
    signal: watch::Receiver<u64>,
    bookmark_at: Option<Instant>,
    failed: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        permits: &Arc<Semaphore>,
        resource: &Resource,
        query: WatchQuery,
        options: WatchOptions,
    ) -> Result<Self, StoreError> {
        let permit = Arc::clone(permits).try_acquire_owned().map_err(|_| StoreError::TooMany {
            message: "too many watches are open; close some, or try again later".to_owned(),
        })?;
        // Subscribed before the state is read, so that no commit falls between.
        let signal = shared.signal(resource);
        // Objects are parsed and selected without the lock: writers wait for it.
        let beginning = shared.state().begin_watch(resource, &query)?;
        let start = beginning.start();
        Ok(Self {
            shared: Arc::clone(shared),
            resource: resource.clone(),
            query,
            cursor: start.cursor,
            ready: start.initial.into(),
            signal,
            bookmark_at: options.bookmarks.then(|| Instant::now() + BOOKMARK_EVERY),
            failed: false,
            _permit: permit,
        })
    }

    /// The next event; waits for one. `None` after an error, or when the store has closed. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, StoreError>> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.failed {
                return None;
            }
            match self.bookmark_at {
                None => self.signal.changed().await.ok()?,
                Some(at) => match tokio::time::timeout_at(at, self.signal.changed()).await {
                    Ok(changed) => changed.ok()?,
                    Err(_) => {
                        self.bookmark_at = Some(Instant::now() + BOOKMARK_EVERY);
                        return Some(Ok(WatchEvent::Bookmark { resource_version: self.cursor, initial_end: false }));
                    }
                },
            }
        }
    }

    /// An event that is there already, without waiting: for writing several in one go.
    pub fn try_next(&mut self) -> Option<Result<WatchEvent, StoreError>> {
        while self.ready.is_empty() && !self.failed {
            self.signal.mark_unchanged();
            let read = self.shared.state().unseen(&self.resource, self.cursor, READ_CHANGES);
            match read {
                Ok((changes, cursor)) => {
                    self.cursor = cursor;
                    self.ready.extend(changes.iter().filter_map(|change| self.query.sees(change)));
                    if changes.len() < READ_CHANGES {
                        break;
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, StoreError>> + Send {
        futures::stream::unfold(self, |mut watch| async move { watch.next().await.map(|event| (event, watch)) })
    }
}

/// Follows every change of every resource.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    cursor: u64,
    signal: watch::Receiver<u64>,
}

impl Changes {
    pub(super) fn begin(shared: &Arc<Shared>, cursor: u64) -> Self {
        Self { shared: Arc::clone(shared), cursor, signal: shared.any_signal() }
    }

    /// The changes since the last call, in order; waits until there are some. `None` when the store has closed.
    ///
    /// # Errors
    /// `Expired` when changes in between are no longer kept: start again from a snapshot.
    pub async fn next(&mut self) -> Option<Result<Vec<Arc<Change>>, StoreError>> {
        loop {
            self.signal.mark_unchanged();
            let read = self.shared.state().changes_since(self.cursor);
            match read {
                Ok(changes) => {
                    if let Some(last) = changes.last() {
                        self.cursor = last.resource_version;
                        return Some(Ok(changes));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
            self.signal.changed().await.ok()?;
        }
    }
}

//! Opening a store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

use trainyard_runtime_core::store::{Limits, ResourceRules, Store as State};

use super::Store;
use super::disk::Disk;
use super::writer::{QUEUE_COMMANDS, Shared, write_all};

/// Where a store lies and how it treats its objects.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; created if it is absent, in a folder that exists.
    pub path: PathBuf,
    /// The resources that can be stored.
    pub rules: Vec<ResourceRules>,
    /// Sizes and windows.
    pub limits: Limits,
    /// Watches at a time. A watch costs a cursor and a wake-up per commit of its resource, about 1 KiB.
    pub max_watches: usize,
    /// Largest database file; writes beyond it are refused as on a full disk. `None` for the disk's own limit.
    pub max_bytes: Option<u64>,
    /// Rows that are put aside if they cannot be read, by the numbers that [`OpenError::Unreadable`] gives them. Their objects
    /// count as deleted from then on. (Events and leases are put aside unasked.)
    pub put_aside: Vec<i64>,
}

impl Options {
    /// Defaults for everything but the place and the resources.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, rules: Vec<ResourceRules>) -> Self {
        let limits = Limits::default();
        Self { path: path.into(), rules, limits, max_watches: 4096, max_bytes: None, put_aside: Vec::new() }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be opened, or the database in it does not answer.
    #[error("cannot open the object store {path}: {source}; check the folder's permissions and free space")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A later version wrote it.
    #[error("the object store {path} has schema version {found}, this program knows {known}; use the newer trainyard")]
    Newer {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// Objects in it that others depend on are damaged.
    #[error(
        "the object store {path} holds what cannot be read: {rows}; nothing was changed. Restore a backup of it, or start \
         once with {PUT_ASIDE}={} in the environment: these objects then count as deleted, what they own and the data of \
         their volumes is removed, and their rows are kept in the table \"quarantine\" of the file", rows.numbers()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Each with its reason.
        rows: UnreadableRows,
    },
}

/// The environment variable with [`Options::put_aside`], separated by commas.
pub(crate) const PUT_ASIDE: &str = "TRAINYARD_PUT_ASIDE";
/// Rows told at once: with more, a backup is the way.
const TOLD_ROWS: usize = 8;

/// A row that cannot be read and must not be missing.
#[derive(Debug)]
pub struct UnreadableRow {
    /// Its number in the file.
    pub row: i64,
    /// Resource, namespace and name, as far as they can be told.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Some of them.
#[derive(Debug)]
pub struct UnreadableRows(pub Vec<UnreadableRow>);

impl UnreadableRows {
    fn numbers(&self) -> String {
        let numbers: Vec<String> = self.0.iter().take(TOLD_ROWS).map(|row| row.row.to_string()).collect();
        numbers.join(",")
    }
}

impl fmt::Display for UnreadableRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, UnreadableRow { row, object, reason }) in self.0.iter().take(TOLD_ROWS).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}row {row} ({object}: {reason})")?;
        }
        match self.0.len().saturating_sub(TOLD_ROWS) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What the environment says of [`Options::put_aside`].
pub(crate) fn put_aside() -> Vec<i64> {
    let given = std::env::var(PUT_ASIDE).unwrap_or_default();
    given.split(',').filter_map(|number| number.trim().parse().ok()).collect()
}

impl OpenError {
    pub(super) fn database(path: &Path, source: sqlx::Error) -> Self {
        Self::Database { path: path.to_owned(), source }
    }
}

pub(super) async fn open(options: Options) -> Result<Store, OpenError> {
    let mut disk = Disk::open(&options.path, options.max_bytes).await?;
    let mut state = State::new(options.rules, options.limits);
    disk.load(&options.path, &options.put_aside, &mut state).await?;
    let shared = Arc::new(Shared::new(state));
    let (queue, commands) = mpsc::channel(QUEUE_COMMANDS);
    tokio::spawn(write_all(Arc::clone(&shared), disk, commands));
    Ok(Store { shared, queue, watch_permits: Arc::new(Semaphore::new(options.max_watches)) })
}

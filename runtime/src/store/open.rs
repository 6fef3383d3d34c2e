//! Opening a store.

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
}

impl Options {
    /// Defaults for everything but the place and the resources.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, rules: Vec<ResourceRules>) -> Self {
        Self { path: path.into(), rules, limits: Limits::default(), max_watches: 4096, max_bytes: None }
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
}

impl OpenError {
    pub(super) fn database(path: &Path, source: sqlx::Error) -> Self {
        Self::Database { path: path.to_owned(), source }
    }
}

pub(super) async fn open(options: Options) -> Result<Store, OpenError> {
    let mut disk = Disk::open(&options.path, options.max_bytes).await?;
    let mut state = State::new(options.rules, options.limits);
    disk.load(&options.path, &mut state).await?;
    let shared = Arc::new(Shared::new(state));
    let (queue, commands) = mpsc::channel(QUEUE_COMMANDS);
    tokio::spawn(write_all(Arc::clone(&shared), disk, commands));
    Ok(Store { shared, queue, watch_permits: Arc::new(Semaphore::new(options.max_watches)) })
}

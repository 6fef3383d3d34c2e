//! The records database: what changes too fast, or is kept too long, for an API object.
//!
//! Metric points of jobs while they run, and a summary of every finished run. It is an ordinary SQLite file that any
//! tool can read; the tables are `metric_points` and `runs`.

mod point;
mod run;
mod schema;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use thiserror::Error;

pub use point::{MetricPoint, PointQuery};
pub use run::{Run, RunQuery};

/// One writes (SQLite allows no more), the others read beside it.
const CONNECTIONS: u32 = 3;
/// Reader connections are closed after this, so that an idle server is small.
const IDLE: Duration = Duration::from_secs(60);

/// Why the records could not be read or written.
#[derive(Debug, Error)]
pub enum RecordsError {
    /// The file cannot be opened.
    #[error("cannot open the records {path}: {source}; check the folder's permissions and free space")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A later version wrote the file.
    #[error("the records {path} have schema version {found}, this program knows {known}; use the newer trainyard")]
    Newer {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// A statement failed.
    #[error("cannot {doing} in the records: {source}")]
    Query {
        /// `store metric points`, …
        doing: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A row holds what no version of this program writes.
    #[error("the records are damaged: {message}; move the file away to start anew, or restore a backup")]
    Broken {
        /// Which row, and what is wrong with it.
        message: String,
    },
}

/// A handle to the records; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Records {
    pool: SqlitePool,
}

impl Records {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, or a later version wrote it.
    pub async fn open(path: &Path) -> Result<Self, RecordsError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .idle_timeout(IDLE)
            .connect_with(options)
            .await
            .map_err(|source| RecordsError::Open { path: path.to_owned(), source })?;
        schema::migrate(&pool, path).await?;
        Ok(Self { pool })
    }

    /// Finishes what is running and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> RecordsError {
    move |source| RecordsError::Query { doing, source }
}

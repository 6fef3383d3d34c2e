//! The schema, and how older files reach it.

use std::path::Path;

use sqlx::sqlite::SqlitePool;
use sqlx::{Executor, Row};

use super::{RecordsError, failed};

/// Step `n` leads from schema version `n` to `n + 1`, which is kept in `PRAGMA user_version`. Never change a step that
/// was released; append one.
const STEPS: &[&str] = &["
CREATE TABLE metric_points (
    job_uid TEXT NOT NULL,
    name TEXT NOT NULL,
    rank INTEGER NOT NULL,
    step INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    job TEXT NOT NULL,
    value REAL, -- NULL is not-a-number, which SQLite cannot hold
    PRIMARY KEY (job_uid, name, rank, step, at_ms)
) WITHOUT ROWID;
CREATE TABLE runs (
    job_uid TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    phase TEXT NOT NULL,
    exit_code INTEGER,
    started_ms INTEGER,
    finished_ms INTEGER NOT NULL,
    final_metrics TEXT NOT NULL,
    summary TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_by_end ON runs (finished_ms);
PRAGMA user_version = 1;
"];

pub(super) async fn migrate(pool: &SqlitePool, path: &Path) -> Result<(), RecordsError> {
    let doing = failed("bring the schema up to date");
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(&doing)?;
    let row = transaction.fetch_one("PRAGMA user_version").await.map_err(&doing)?;
    let found: i64 = row.get(0);
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(RecordsError::Newer { path: path.to_owned(), found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute(*step).await.map_err(&doing)?;
    }
    transaction.commit().await.map_err(&doing)
}

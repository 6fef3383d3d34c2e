//! The database file: one row per object, named by the resourceVersion of its birth.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Connection, Executor, QueryBuilder, Row, Sqlite};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use trainyard_runtime_core::store::{Key, Object, Resource, Rows, Store as State};

use super::open::{OpenError, UnreadableRow, UnreadableRows};
use super::room::Room;

/// Kept in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;
/// `tombstones` remembers the last removal per resource: with the objects' own versions it says how far a watch from
/// before a restart can still be resumed.
const SCHEMA: &str = "
CREATE TABLE objects (
    birth INTEGER PRIMARY KEY,
    resource TEXT NOT NULL,
    json TEXT NOT NULL
);
CREATE TABLE tombstones (
    resource TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
";
/// Rows that could not be read, whole, with the reason: made when there is the first, and never read by this program.
const QUARANTINE: &str = "
CREATE TABLE IF NOT EXISTS quarantine (
    birth INTEGER NOT NULL,
    resource TEXT NOT NULL,
    json TEXT NOT NULL,
    reason TEXT NOT NULL
)";
/// What an object says of itself that is JSON but no object to us, nested too deep for instance; SQLite reads a thousand
/// levels.
const FACTS_OF: &str = "
SELECT CAST(json_extract(CAST(json AS TEXT), '$.metadata.resourceVersion') AS INTEGER),
    CAST(json_extract(CAST(json AS TEXT), '$.metadata.namespace') AS TEXT),
    CAST(json_extract(CAST(json AS TEXT), '$.metadata.name') AS TEXT)
FROM objects WHERE birth = ? AND json_valid(CAST(json AS TEXT))";
/// What owns nothing and stands for nothing outside of the store: resource and group. The absence of anything else means
/// that it was deleted, and with it go its pods or its data.
const LEAVES: [(&str, &str); 2] = [("events", ""), ("leases", "coordination.k8s.io")];
/// Versions left out where the last one is unknown: more than an object gets in a life.
const UNKNOWN_VERSIONS: u64 = 1_000_000;
/// Rows per statement. Powers of two up to it are used, so that the statement cache holds all shapes.
const STATEMENT_ROWS: usize = 128;
/// Committed bytes after which the log is folded into the database beside the writer. Large enough to be rare (once
/// a second at full load), small enough to be replayed in milliseconds on opening.
const CHECKPOINT_BYTES: usize = 8 << 20;
/// What a deletion writes into the log, about: the pages of its row, its tombstone and the way to them.
const DELETE_BYTES: usize = 3 * 4096;
/// Log size at which the writer stops and folds it itself, so that the log is bounded under endless load.
const LOG_LIMIT_BYTES: u64 = 32 << 20;

/// The writer's side of the database.
#[derive(Debug)]
pub(super) struct Disk {
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    log: PathBuf,
    written: usize,
    folding: Arc<AtomicBool>,
    room: Room,
    full: bool,
}

impl Disk {
    pub(super) async fn open(path: &Path, max_bytes: Option<u64>) -> Result<Self, OpenError> {
        // Secrets are in it: nobody else reads it. SQLite gives its log the same mode.
        let create = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        create.map_err(|e| OpenError::database(path, sqlx::Error::Io(e)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            // Folding is done beside the writer, see `fold`.
            .pragma("wal_autocheckpoint", "0")
            // A full /tmp is not to fail a commit.
            .pragma("temp_store", "MEMORY")
            .pragma("journal_size_limit", LOG_LIMIT_BYTES.to_string());
        let mut connection =
            SqliteConnection::connect_with(&options).await.map_err(|e| OpenError::database(path, e))?;
        migrate(&mut connection, path).await?;
        if let Some(bytes) = max_bytes {
            limit_size(&mut connection, bytes).await.map_err(|e| OpenError::database(path, e))?;
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        let room = Room::new(log.clone());
        Ok(Self { connection, options, log, written: 0, folding: Arc::default(), room, full: false })
    }

    /// Reads everything into `state`. A row that is no object is put aside where that harms nothing, or where it is among
    /// `put_aside`; else the store is not opened, for what belongs to the object would be deleted.
    pub(super) async fn load(&mut self, path: &Path, put_aside: &[i64], state: &mut State) -> Result<(), OpenError> {
        let database = |e| OpenError::database(path, e);
        let rows = sqlx::query("SELECT birth, resource, json FROM objects ORDER BY birth")
            .fetch_all(&mut self.connection)
            .await
            .map_err(database)?;
        // Neighbours are mostly of one resource, and share its names in memory.
        let mut last = Resource::new("", "");
        let mut bad = Vec::new();
        for row in rows {
            let birth: i64 = row.get(0);
            match read_row(&row, birth, &mut last) {
                Ok(object) => state.restore_object(object),
                Err(reason) => {
                    let resource = parse_resource(text(&row, 1).unwrap_or_default());
                    bad.push(BadRow { birth, resource, reason, facts: Facts::default() });
                }
            }
        }
        let rows = sqlx::query("SELECT resource, version FROM tombstones")
            .fetch_all(&mut self.connection)
            .await
            .map_err(database)?;
        for row in rows {
            let (resource, version): (&str, i64) = (row.get(0), row.get(1));
            state.restore_resource(&parse_resource(resource), u64::try_from(version).unwrap_or(0));
        }
        for row in &mut bad {
            row.facts = Facts::of(&mut self.connection, row.birth).await.map_err(database)?;
        }
        let (aside, kept): (Vec<_>, Vec<_>) =
            bad.into_iter().partition(|row| row.is_leaf() || put_aside.contains(&row.birth));
        if !kept.is_empty() {
            let rows = kept.into_iter().map(BadRow::into_unreadable).collect();
            return Err(OpenError::Unreadable { path: path.to_owned(), rows: UnreadableRows(rows) });
        }
        if !aside.is_empty() {
            quarantine(&mut self.connection, state, &aside).await.map_err(database)?;
        }
        Ok(())
    }

    /// Why only deletions can be taken now, if it is so.
    pub(super) fn full(&mut self) -> Option<String> {
        self.full = !self.room.is_there();
        self.full.then(|| self.room.refusal())
    }

    /// Makes a batch durable: all of it or nothing.
    pub(super) async fn write(&mut self, rows: Rows) -> Result<(), sqlx::Error> {
        let bytes: usize = rows.puts.iter().map(|o| o.json().len()).sum::<usize>() + rows.deletes.len() * DELETE_BYTES;
        if rows.deletes.is_empty() && rows.puts.len() <= STATEMENT_ROWS && rows.puts.len().is_power_of_two() {
            // One statement is its own transaction.
            put(&mut self.connection, &rows.puts).await?;
        } else {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let mut rest = rows.puts.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(previous_power_of_two(rest.len()).min(STATEMENT_ROWS));
                put(&mut transaction, now).await?;
                rest = later;
            }
            delete(&mut transaction, &rows).await?;
            transaction.commit().await?;
        }
        self.written += bytes;
        self.fold().await;
        Ok(())
    }

    /// Folds the log into the database: usually beside the writer, which only goes on appending; by the writer itself
    /// when the log has grown to its limit.
    async fn fold(&mut self) {
        let log_bytes = || std::fs::metadata(&self.log).map_or(0, |m| m.len());
        // On a full disk the log starts over as early as can be, so that the room behind it lasts.
        let enough = if self.full { CHECKPOINT_BYTES / 16 } else { CHECKPOINT_BYTES };
        if self.written >= enough && !self.folding.swap(true, Ordering::AcqRel) {
            self.written = 0;
            if log_bytes() > LOG_LIMIT_BYTES {
                checkpoint(&mut self.connection, "PRAGMA wal_checkpoint(TRUNCATE)").await;
                self.folding.store(false, Ordering::Release);
                return;
            }
            let (options, folding) = (self.options.clone(), Arc::clone(&self.folding));
            tokio::spawn(async move {
                let _folding = Folding(folding);
                match SqliteConnection::connect_with(&options).await {
                    Ok(mut connection) => {
                        checkpoint(&mut connection, "PRAGMA wal_checkpoint(PASSIVE)").await;
                        // The log stays as it is: the writer has it open.
                        let _ = connection.close().await;
                    }
                    Err(error) => tracing::warn!(%error, "object store: the log could not be folded; it grows on"),
                }
            });
        }
    }

    pub(super) async fn close(mut self) {
        checkpoint(&mut self.connection, "PRAGMA wal_checkpoint(TRUNCATE)").await;
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "object store: closing the database failed; every acknowledged write is stored");
        }
    }
}

/// A row that is no object.
struct BadRow {
    birth: i64,
    resource: Resource,
    reason: String,
    facts: Facts,
}

impl BadRow {
    fn is_leaf(&self) -> bool {
        LEAVES.contains(&(&*self.resource.plural, &*self.resource.group))
    }

    fn into_unreadable(self) -> UnreadableRow {
        let Facts { namespace, name, .. } = self.facts;
        let name = name.map(|name| Key::new(self.resource.clone(), namespace.unwrap_or_default(), name).to_string());
        let object = name.unwrap_or_else(|| format!("{}, name unknown", self.resource));
        UnreadableRow { row: self.birth, object, reason: self.reason }
    }
}

/// What can be told of a row that is no object.
#[derive(Default)]
struct Facts {
    version: Option<u64>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Facts {
    async fn of(connection: &mut SqliteConnection, birth: i64) -> Result<Self, sqlx::Error> {
        let found: Option<(Option<i64>, Option<String>, Option<String>)> =
            sqlx::query_as(FACTS_OF).bind(birth).fetch_optional(connection).await?;
        let (version, namespace, name) = found.unwrap_or_default();
        // What is no number is 0 to SQLite.
        let version = version.and_then(|version| u64::try_from(version).ok()).filter(|version| *version > 0);
        Ok(Self { version, namespace, name })
    }
}

/// A column's bytes as text, whatever SQLite holds them as.
fn text(row: &SqliteRow, column: usize) -> Result<&str, String> {
    let bytes: &[u8] = row.try_get_unchecked(column).map_err(|e| e.to_string())?;
    std::str::from_utf8(bytes).map_err(|e| e.to_string())
}

fn read_row(row: &SqliteRow, birth: i64, last: &mut Resource) -> Result<Object, String> {
    let resource = parse_resource(text(row, 1)?);
    if *last != resource {
        *last = resource;
    }
    let birth = u64::try_from(birth).map_err(|e| e.to_string())?;
    Object::restore(last.clone(), birth, text(row, 2)?)
}

/// Moves rows aside as they are, and says which. Whoever watched them must list again, now and after later restarts: their
/// removal is a change.
async fn quarantine(connection: &mut SqliteConnection, state: &mut State, bad: &[BadRow]) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    transaction.execute(QUARANTINE).await?;
    for row in bad {
        let known = row.facts.version.unwrap_or(state.resource_version() + UNKNOWN_VERSIONS);
        state.skip_to(known.max(u64::try_from(row.birth).unwrap_or(0)));
    }
    let version = state.resource_version() + 1;
    for row in bad {
        sqlx::query("INSERT INTO quarantine SELECT birth, resource, json, ? FROM objects WHERE birth = ?")
            .bind(&row.reason)
            .bind(row.birth)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM objects WHERE birth = ?").bind(row.birth).execute(&mut *transaction).await?;
        bury(&mut transaction, &row.resource, version).await?;
        state.restore_resource(&row.resource, version);
    }
    transaction.commit().await?;
    for BadRow { birth, resource, reason, .. } in bad {
        tracing::error!(
            row = birth,
            %resource,
            reason,
            "object store: a row cannot be read; it is kept in the table \"quarantine\" of store.db, and everything else goes on"
        );
    }
    Ok(())
}

/// Says that no folding is in progress when it is dropped, however the folding ended.
struct Folding(Arc<AtomicBool>);

impl Drop for Folding {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn checkpoint(connection: &mut SqliteConnection, pragma: &'static str) {
    if let Err(error) = connection.execute(pragma).await {
        tracing::warn!(%error, "object store: folding the log failed; it is tried again later");
    }
}

async fn put(connection: &mut SqliteConnection, objects: &[Arc<Object>]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO objects (birth, resource, json) ");
    query.push_values(objects, |mut row, object| {
        row.push_bind(sql_integer(object.birth()))
            .push_bind(resource_text(&object.key().resource))
            .push_bind(Arc::clone(object.json()));
    });
    query.push(" ON CONFLICT (birth) DO UPDATE SET json = excluded.json");
    query.build().execute(connection).await?;
    Ok(())
}

async fn delete(connection: &mut SqliteConnection, rows: &Rows) -> Result<(), sqlx::Error> {
    for birth in &rows.deletes {
        sqlx::query("DELETE FROM objects WHERE birth = ?").bind(sql_integer(*birth)).execute(&mut *connection).await?;
    }
    for (resource, version) in &rows.removals {
        bury(connection, resource, *version).await?;
    }
    Ok(())
}

/// Remembers the last removal of a resource.
async fn bury(connection: &mut SqliteConnection, resource: &Resource, version: u64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tombstones (resource, version) VALUES (?, ?)
         ON CONFLICT (resource) DO UPDATE SET version = excluded.version",
    )
    .bind(resource_text(resource))
    .bind(sql_integer(version))
    .execute(connection)
    .await?;
    Ok(())
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let database = |e| OpenError::database(path, e);
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(database)?;
    match version {
        0 => {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
            transaction.execute(SCHEMA).await.map_err(database)?;
            transaction.commit().await.map_err(database)
        }
        SCHEMA_VERSION => Ok(()),
        newer => Err(OpenError::Newer { path: path.to_owned(), found: newer, known: SCHEMA_VERSION }),
    }
}

async fn limit_size(connection: &mut SqliteConnection, bytes: u64) -> Result<(), sqlx::Error> {
    let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *connection).await?;
    let pages = bytes / u64::try_from(page).unwrap_or(4096).max(1);
    let pragma = format!("PRAGMA max_page_count = {pages}");
    connection.execute(sqlx::AssertSqlSafe(pragma)).await?;
    Ok(())
}

fn resource_text(resource: &Resource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

fn parse_resource(text: &str) -> Resource {
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    Resource::new(group, plural)
}

/// SQLite's integers are signed; a resourceVersion reaches 2^63 after 97 million years of 3,000 writes a second.
fn sql_integer(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn previous_power_of_two(n: usize) -> usize {
    1 << n.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What "acknowledged is on disk" rests on; losing power is nothing that a test can do.
    #[tokio::test]
    async fn each_commit_is_synced() {
        let home = tempfile::tempdir().expect("a folder");
        let mut disk = Disk::open(&home.path().join("store.db"), None).await.expect("opens");
        let journal: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut disk.connection).await.expect("answered");
        let synchronous: i64 =
            sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut disk.connection).await.expect("answered");
        // 2 is FULL: the log is synced at each commit; with 1 (NORMAL) only when it is folded.
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
    }
}

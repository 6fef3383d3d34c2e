//! Finished runs.

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Records, RecordsError, failed};

/// Runs in one answer where the query does not say.
const DEFAULT_RUNS: u32 = 100;
/// Most runs in one answer.
const MAX_RUNS: u32 = 10_000;

/// A finished run: what is left of a job when its objects are gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// uid of the job.
    pub job_uid: String,
    /// The job's namespace.
    pub namespace: String,
    /// The job's name.
    pub name: String,
    /// `TrainingJob`, `PyTorchJob`, …
    pub kind: String,
    /// `Succeeded`, `Failed`, …
    pub phase: String,
    /// The job's exit code, where its ranks ended by themselves.
    pub exit_code: Option<i32>,
    /// When its first rank started.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub finished_ms: i64,
    /// The last value of each metric, as a JSON object.
    pub final_metrics: Value,
    /// Everything else worth keeping (replicas, restarts, message, log folders…), as a JSON object.
    pub summary: Value,
}

/// Which runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only jobs of this name.
    pub name: Option<String>,
    /// Only runs that ended before this: for paging back in time.
    pub finished_before_ms: Option<i64>,
    /// At most so many; `None` for 100, 10,000 is the most.
    pub limit: Option<u32>,
}

impl Records {
    /// Stores a finished run; the same job again replaces what was stored of it.
    ///
    /// # Errors
    /// When the database refuses; nothing is stored then.
    pub async fn finish_run(&self, run: &Run) -> Result<(), RecordsError> {
        sqlx::query(
            "INSERT OR REPLACE INTO runs
             (job_uid, namespace, name, kind, phase, exit_code, started_ms, finished_ms, final_metrics, summary)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&run.job_uid)
        .bind(&run.namespace)
        .bind(&run.name)
        .bind(&run.kind)
        .bind(&run.phase)
        .bind(run.exit_code)
        .bind(run.started_ms)
        .bind(run.finished_ms)
        .bind(run.final_metrics.to_string())
        .bind(run.summary.to_string())
        .execute(&self.pool)
        .await
        .map_err(failed("store a finished run"))?;
        Ok(())
    }

    /// Finished runs, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn runs(&self, query: &RunQuery) -> Result<Vec<Run>, RecordsError> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT job_uid, namespace, name, kind, phase, exit_code, started_ms, finished_ms, final_metrics, summary
             FROM runs WHERE 1",
        );
        if let Some(namespace) = &query.namespace {
            sql.push(" AND namespace = ").push_bind(namespace);
        }
        if let Some(name) = &query.name {
            sql.push(" AND name = ").push_bind(name);
        }
        if let Some(before) = query.finished_before_ms {
            sql.push(" AND finished_ms < ").push_bind(before);
        }
        sql.push(" ORDER BY finished_ms DESC, job_uid LIMIT ");
        sql.push_bind(query.limit.unwrap_or(DEFAULT_RUNS).min(MAX_RUNS));
        let rows = sql.build().fetch_all(&self.pool).await.map_err(failed("read finished runs"))?;
        rows.iter().map(run).collect()
    }
}

fn run(row: &SqliteRow) -> Result<Run, RecordsError> {
    let columns = || -> Result<(Run, String, String), sqlx::Error> {
        let run = Run {
            job_uid: row.try_get(0)?,
            namespace: row.try_get(1)?,
            name: row.try_get(2)?,
            kind: row.try_get(3)?,
            phase: row.try_get(4)?,
            exit_code: row.try_get(5)?,
            started_ms: row.try_get(6)?,
            finished_ms: row.try_get(7)?,
            final_metrics: Value::Null,
            summary: Value::Null,
        };
        Ok((run, row.try_get(8)?, row.try_get(9)?))
    };
    let (mut run, final_metrics, summary) = columns().map_err(failed("read finished runs"))?;
    let parse = |column: &str, text: &str| {
        serde_json::from_str(text).map_err(|error| RecordsError::Broken {
            message: format!("{column} of run {} is not JSON: {error}", run.job_uid),
        })
    };
    let (metrics, rest) = (parse("final_metrics", &final_metrics)?, parse("summary", &summary)?);
    (run.final_metrics, run.summary) = (metrics, rest);
    Ok(run)
}

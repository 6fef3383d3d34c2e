//! Metric points.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Records, RecordsError, failed};

/// Rows per statement; eight values each stay far below SQLite's 32,766.
const STATEMENT_ROWS: usize = 256;
/// Most points in one answer: a curve of ten metrics over ten thousand steps.
const MAX_POINTS: u32 = 100_000;

/// One value of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricPoint {
    /// uid of the job: names are used again, uids are not.
    pub job_uid: String,
    /// The job's namespace.
    pub namespace: String,
    /// The job's name.
    pub job: String,
    /// The global rank that reported it.
    pub rank: u32,
    /// `loss`, `accuracy`, …
    pub name: String,
    /// The training step.
    pub step: i64,
    /// The value; may be infinite or not a number, as losses sometimes are.
    pub value: f64,
    /// When it was reported.
    pub at_ms: i64,
}

/// Which points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointQuery {
    /// Of this job.
    pub job_uid: String,
    /// Only this metric.
    pub name: Option<String>,
    /// Only this rank.
    pub rank: Option<u32>,
    /// Only later steps.
    pub after_step: Option<i64>,
    /// At most so many; `None` for 100,000, which is also the most.
    pub limit: Option<u32>,
}

impl Records {
    /// Stores points, all or none. The same point (job, metric, rank, step and time) again replaces the old one, so that
    /// a batch can be sent twice.
    ///
    /// # Errors
    /// When the database refuses; nothing is stored then.
    pub async fn append_points(&self, points: &[MetricPoint]) -> Result<(), RecordsError> {
        if points.is_empty() {
            return Ok(());
        }
        let doing = failed("store metric points");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(&doing)?;
        for chunk in points.chunks(STATEMENT_ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT OR REPLACE INTO metric_points (job_uid, name, rank, step, at_ms, namespace, job, value) ",
            );
            query.push_values(chunk, |mut row, point| {
                row.push_bind(&point.job_uid)
                    .push_bind(&point.name)
                    .push_bind(point.rank)
                    .push_bind(point.step)
                    .push_bind(point.at_ms)
                    .push_bind(&point.namespace)
                    .push_bind(&point.job)
                    .push_bind(Some(point.value).filter(|v| !v.is_nan()));
            });
            query.build().execute(&mut *transaction).await.map_err(&doing)?;
        }
        transaction.commit().await.map_err(&doing)
    }

    /// The points of a job, by metric, rank, step and time.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn points(&self, query: &PointQuery) -> Result<Vec<MetricPoint>, RecordsError> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT job_uid, namespace, job, rank, name, step, value, at_ms FROM metric_points WHERE job_uid = ",
        );
        sql.push_bind(&query.job_uid);
        if let Some(name) = &query.name {
            sql.push(" AND name = ").push_bind(name);
        }
        if let Some(rank) = query.rank {
            sql.push(" AND rank = ").push_bind(rank);
        }
        if let Some(step) = query.after_step {
            sql.push(" AND step > ").push_bind(step);
        }
        sql.push(" ORDER BY name, rank, step, at_ms LIMIT ");
        sql.push_bind(query.limit.unwrap_or(MAX_POINTS).min(MAX_POINTS));
        let rows = sql.build().fetch_all(&self.pool).await.map_err(failed("read metric points"))?;
        rows.iter().map(|row| point(row).map_err(failed("read metric points"))).collect()
    }

    /// Forgets the points reported before `at_ms`. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses; nothing is forgotten then.
    pub async fn forget_points_before(&self, at_ms: i64) -> Result<u64, RecordsError> {
        let done = sqlx::query("DELETE FROM metric_points WHERE at_ms < ?").bind(at_ms).execute(&self.pool).await;
        Ok(done.map_err(failed("forget metric points"))?.rows_affected())
    }
}

fn point(row: &SqliteRow) -> Result<MetricPoint, sqlx::Error> {
    Ok(MetricPoint {
        job_uid: row.try_get(0)?,
        namespace: row.try_get(1)?,
        job: row.try_get(2)?,
        rank: row.try_get(3)?,
        name: row.try_get(4)?,
        step: row.try_get(5)?,
        value: row.try_get::<Option<f64>, _>(6)?.unwrap_or(f64::NAN),
        at_ms: row.try_get(7)?,
    })
}

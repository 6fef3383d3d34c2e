//! The records database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::json;
use trainyard_runtime::records::{MetricPoint, PointQuery, Records, RecordsError, Run, RunQuery};

fn point(name: &str, rank: u32, step: i64, value: f64) -> MetricPoint {
    MetricPoint {
        job_uid: "u1".to_owned(),
        namespace: "default".to_owned(),
        job: "wine".to_owned(),
        rank,
        name: name.to_owned(),
        step,
        value,
        at_ms: 1_000 + step,
    }
}

fn run(uid: &str, namespace: &str, finished_ms: i64) -> Run {
    Run {
        job_uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: "wine".to_owned(),
        kind: "TrainingJob".to_owned(),
        phase: "Succeeded".to_owned(),
        exit_code: Some(0),
        started_ms: Some(5),
        finished_ms,
        final_metrics: json!({ "accuracy": 0.71 }),
        summary: json!({ "ranks": 4 }),
    }
}

#[tokio::test]
async fn points_come_back_in_order_and_only_those_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("records.db");
    let records = Records::open(&path).await.unwrap();
    let mut points: Vec<MetricPoint> =
        (0..700).flat_map(|s| [point("loss", 0, s, 1.0 / (s as f64 + 1.0)), point("loss", 1, s, 0.5)]).collect();
    points.push(point("grad", 0, 3, f64::NAN));
    points.push(point("grad", 0, 4, f64::INFINITY));
    points.push(MetricPoint { job_uid: "u2".to_owned(), ..point("loss", 0, 1, 9.0) });
    records.append_points(&points).await.unwrap();
    // Sent again after a lost answer: nothing doubles.
    records.append_points(&points[..10]).await.unwrap();
    records.append_points(&[]).await.unwrap();
    records.close().await;

    let records = Records::open(&path).await.unwrap();
    let of = |query: PointQuery| PointQuery { job_uid: "u1".to_owned(), ..query };
    let all = records.points(&of(PointQuery::default())).await.unwrap();
    assert_eq!(all.len(), 1402);
    assert!(all[0].value.is_nan() && all[1].value == f64::INFINITY);
    assert_eq!(all[2], point("loss", 0, 0, 1.0));
    let some = PointQuery {
        name: Some("loss".to_owned()),
        rank: Some(1),
        after_step: Some(690),
        limit: Some(5),
        ..PointQuery::default()
    };
    let steps: Vec<i64> = records.points(&of(some)).await.unwrap().iter().map(|p| p.step).collect();
    assert_eq!(steps, [691, 692, 693, 694, 695]);
    assert_eq!(records.forget_points_before(1_690).await.unwrap(), 2 * 690 + 2 + 1);
    assert_eq!(records.points(&of(PointQuery::default())).await.unwrap().len(), 20);
}

#[tokio::test]
async fn runs_are_listed_latest_first() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("records.db");
    let records = Records::open(&path).await.unwrap();
    for (uid, namespace, at) in [("a", "default", 10), ("b", "team", 30), ("c", "default", 20)] {
        records.finish_run(&run(uid, namespace, at)).await.unwrap();
    }
    // A second look at the same job replaces the first.
    let failed = Run { phase: "Failed".to_owned(), exit_code: None, ..run("a", "default", 10) };
    records.finish_run(&failed).await.unwrap();
    let uids = |runs: &[Run]| runs.iter().map(|r| r.job_uid.clone()).collect::<Vec<_>>();
    let all = records.runs(&RunQuery::default()).await.unwrap();
    assert_eq!(uids(&all), ["b", "c", "a"]);
    assert_eq!(all[2], failed);
    let own = RunQuery { namespace: Some("default".to_owned()), limit: Some(1), ..RunQuery::default() };
    assert_eq!(uids(&records.runs(&own).await.unwrap()), ["c"]);
    let earlier = RunQuery { finished_before_ms: Some(20), name: Some("wine".to_owned()), ..RunQuery::default() };
    assert_eq!(uids(&records.runs(&earlier).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    use sqlx::{Connection, Executor};
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("records.db");
    Records::open(&path).await.unwrap().close().await;
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    db.execute("PRAGMA user_version = 9").await.unwrap();
    db.close().await.unwrap();
    assert!(matches!(Records::open(&path).await, Err(RecordsError::Newer { found: 9, known: 1, .. })));
}

//! What trials told, for Katib's clients: its DBManager, at the address of the API.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use futures::FutureExt as _;
use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::Value as Json;
use tokio::sync::OnceCell;
use tonic::{Request, Response, Status};
use tower::Service as _;
use trainyard_proto::katib::manager::db_manager_server::{DbManager, DbManagerServer};
use trainyard_proto::katib::manager::{
    DeleteObservationLogReply, DeleteObservationLogRequest, GetObservationLogReply, GetObservationLogRequest, Metric,
    MetricLog, ObservationLog, ReportObservationLogReply, ReportObservationLogRequest,
};
use trainyard_runtime::driver::{Cache, Key, now_ms};
use trainyard_runtime::embedded::Guest;
use trainyard_runtime::records::{MetricPoint, PointQuery, Records, RecordsError};
use trainyard_tuner_core::log::Told;

use super::observer::Observer;

/// The paths of the service begin so.
const PREFIX: &str = "/api.v1.beta1.DBManager/";
/// Of these, those that change nothing.
const READS: &[&str] = &["/api.v1.beta1.DBManager/GetObservationLog"];

/// What trials that have ended told: points in the records, under the uid of the trial. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Journal {
    /// Where the records are; without it nothing is kept.
    file: Option<PathBuf>,
    records: Arc<OnceCell<Records>>,
    /// Greater than the numbers of all values that were pushed.
    next: Arc<AtomicI64>,
}

impl Journal {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, ..Self::default() }
    }

    async fn records(&self) -> Result<Option<&Records>, RecordsError> {
        let Some(file) = &self.file else { return Ok(None) };
        self.records.get_or_try_init(|| Records::open(file)).await.map(Some)
    }

    /// A number for the first of so many values that are pushed: greater than all before, also than those of an earlier process.
    pub(super) fn numbers(&self, count: usize) -> i64 {
        let (count, now) = (i64::try_from(count).unwrap_or(i64::MAX), now_ms().saturating_mul(1000));
        let next = |next: i64| Some(next.max(now).saturating_add(count));
        let before = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.unwrap_or_else(|before| before).max(now)
    }

    /// Keeps values that a trial told, in their order, from this number on. The same again changes nothing.
    pub(super) async fn keep(&self, trial: &Key, uid: &str, from: i64, told: &[Told]) -> Result<(), RecordsError> {
        let Some(records) = self.records().await? else { return Ok(()) };
        let point = |(at, told): (usize, &Told)| {
            Some(MetricPoint {
                job_uid: uid.to_owned(),
                namespace: trial.namespace.clone(),
                job: trial.name.clone(),
                rank: 0,
                name: told.name.clone(),
                step: from.saturating_add(i64::try_from(at).unwrap_or(i64::MAX)),
                value: told.text.trim().parse().ok()?,
                at_ms: told.at_ms.unwrap_or(0),
            })
        };
        let points: Vec<MetricPoint> = told.iter().enumerate().filter_map(point).collect();
        records.append_points(&points).await
    }

    /// What is kept of a trial, in its order.
    pub(super) async fn kept(&self, uid: &str) -> Result<Vec<Told>, RecordsError> {
        let Some(records) = self.records().await? else { return Ok(Vec::new()) };
        let query = PointQuery { job_uid: uid.to_owned(), ..PointQuery::default() };
        let mut points = records.points(&query).await?;
        points.sort_by_key(|point| point.step);
        let told =
            |point: MetricPoint| Told { at_ms: Some(point.at_ms), name: point.name, text: point.value.to_string() };
        Ok(points.into_iter().map(told).collect())
    }
}

/// The service.
#[derive(Clone)]
struct Manager {
    trials: Cache<DynamicObject>,
    observer: Observer,
}

/// The service as something that the server answers for.
pub(super) fn guest(trials: Cache<DynamicObject>, observer: Observer) -> Guest {
    let server = DbManagerServer::new(Manager { trials, observer });
    let answer = move |request: http::Request<Body>| {
        let mut server = server.clone();
        async move {
            match server.call(request).await {
                Ok(response) => response.map(Body::new),
                Err(never) => match never {},
            }
        }
        .boxed()
    };
    Guest { prefix: PREFIX, reads: READS, kind: ("kubeflow.org", "trials"), answer: Arc::new(answer) }
}

impl Manager {
    /// The trial of a name, which the contract does not give a namespace: of several the one that was made last.
    fn trial(&self, name: &str) -> Result<(Key, String), Status> {
        let named = self.trials.list().into_iter().filter(|trial| trial.metadata.name.as_deref() == Some(name));
        let last = named.max_by_key(|trial| trial.metadata.creation_timestamp.as_ref().map(|made| made.0));
        let last = last.ok_or_else(|| Status::not_found(format!("there is no trial {name}")))?;
        Ok((Key::from(&last.metadata), last.metadata.uid.clone().unwrap_or_default()))
    }

    fn has_ended(&self, trial: &Key) -> bool {
        self.trials.get(trial).is_none_or(|trial| {
            let phase = trial.data.pointer("/status/phase").and_then(Json::as_str);
            matches!(phase, Some("Succeeded" | "Failed" | "Stopped"))
        })
    }
}

fn time(text: &str, field: &str) -> Result<Option<i64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse::<Timestamp>().map(|time| Some(time.as_millisecond()));
    read.map_err(|error| Status::invalid_argument(format!("{field} is no time of RFC 3339: {error}")))
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands on")]
fn broken(error: RecordsError) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl DbManager for Manager {
    async fn report_observation_log(
        &self,
        request: Request<ReportObservationLogRequest>,
    ) -> Result<Response<ReportObservationLogReply>, Status> {
        let request = request.into_inner();
        let (trial, uid) = self.trial(&request.trial_name)?;
        if self.has_ended(&trial) {
            return Err(Status::failed_precondition(format!("trial {} has ended", trial.name)));
        }
        let mut told = Vec::new();
        for log in request.observation_log.unwrap_or_default().metric_logs {
            let metric = log.metric.unwrap_or_default();
            if metric.value.trim().parse::<f64>().is_err() {
                let message = format!("{} is no number: {}", metric.name, metric.value);
                return Err(Status::invalid_argument(message));
            }
            let at_ms = time(&log.time_stamp, "time_stamp")?.filter(|at_ms| *at_ms > 0).unwrap_or_else(now_ms);
            told.push(Told { at_ms: Some(at_ms), name: metric.name, text: metric.value });
        }
        self.observer.pushed(&trial, &uid, told).await.map_err(broken)?;
        Ok(Response::new(ReportObservationLogReply {}))
    }

    async fn get_observation_log(
        &self,
        request: Request<GetObservationLogRequest>,
    ) -> Result<Response<GetObservationLogReply>, Status> {
        let request = request.into_inner();
        let (trial, uid) = self.trial(&request.trial_name)?;
        let (from, to) = (time(&request.start_time, "start_time")?, time(&request.end_time, "end_time")?);
        let told = match self.observer.told(&trial) {
            Some(told) => told,
            None => self.observer.journal.kept(&uid).await.map_err(broken)?,
        };
        let is_wanted = |told: &Told| {
            let at_ms = told.at_ms.unwrap_or(0);
            (request.metric_name.is_empty() || told.name == request.metric_name)
                && from.is_none_or(|from| at_ms >= from)
                && to.is_none_or(|to| at_ms <= to)
        };
        let log = |told: Told| MetricLog {
            time_stamp: Timestamp::from_millisecond(told.at_ms.unwrap_or(0)).unwrap_or_default().to_string(),
            metric: Some(Metric { name: told.name, value: told.text }),
        };
        let metric_logs = told.into_iter().filter(is_wanted).map(log).collect();
        Ok(Response::new(GetObservationLogReply { observation_log: Some(ObservationLog { metric_logs }) }))
    }

    async fn delete_observation_log(
        &self,
        request: Request<DeleteObservationLogRequest>,
    ) -> Result<Response<DeleteObservationLogReply>, Status> {
        self.trial(&request.get_ref().trial_name)?;
        Err(Status::unimplemented("what a trial told is kept; delete its experiment"))
    }
}

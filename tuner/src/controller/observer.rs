//! Follows what the pods of trials write.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{AsyncBufReadExt as _, AsyncReadExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trainyard_runtime::driver::{Cache, Key, Queue, now_ms};
use trainyard_runtime::records::RecordsError;
use trainyard_tuner_core::control::Seen;
use trainyard_tuner_core::log;
use trainyard_tuner_core::manifest::katib::{CONTAINER, Source};
use trainyard_tuner_core::objective::Objective;
use trainyard_tuner_core::observation::Observation;

use super::dialect::Dialect;
use super::katib::{Collectors, Told};
use super::manager::Journal;

/// A trial that goes on telling is looked at so often.
const PACE: Duration = Duration::from_secs(1);
/// What a trial tells first is looked at after this: many end before, and then it is written once what they came to.
const FIRST: Duration = Duration::from_millis(200);
/// Before a log that ended early is read anew.
const PAUSE: Duration = Duration::from_millis(200);
/// So often a log is begun that breaks off.
const FAILURES: u32 = 8;
/// A line is taken to end after so many bytes.
const LONGEST: u64 = 1 << 20;

/// Labels by which the first pod of a job is known, among those that have them.
const INDICES: [&str; 3] =
    ["training.kubeflow.org/replica-index", "batch.kubernetes.io/job-completion-index", "jobset.sigs.k8s.io/job-index"];
/// The role of a pod.
const ROLE: &str = "training.kubeflow.org/replica-type";

/// What is known of one pod.
struct Followed {
    /// The uid of the job that it belongs to.
    job: Option<String>,
    /// Grows from pod to pod: seconds alone would not tell those apart that failed at once.
    arrival: (i64, u64),
    is_leader: bool,
    can_be_read: bool,
    has_succeeded: bool,
    /// Stops the task that reads, once there is one.
    reader: Option<CancellationToken>,
    observation: Observation,
    /// When it first told something.
    told: Option<Instant>,
    /// What is shown of it until then, and a little longer.
    nothing: Observation,
    /// The pod has ended, and its log was read to the end.
    is_read: bool,
}

impl Followed {
    fn new(pod: &Pod) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let role = labels.and_then(|labels| labels.get(ROLE)).map(String::as_str);
        let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |created| created.0.as_millisecond());
        let version = pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        Self {
            job: super::owner(&pod.metadata).map(|(uid, _)| uid),
            arrival: (created, version.unwrap_or(0)),
            is_leader: matches!(role, Some("master" | "chief" | "launcher")),
            can_be_read: false,
            has_succeeded: false,
            reader: None,
            observation: Observation::new(0),
            told: None,
            nothing: Observation::new(0),
            is_read: false,
        }
    }

    fn seen(&self) -> Seen<'_> {
        match (self.is_read, self.has_succeeded) {
            (false, _) if self.told.is_some_and(|told| told.elapsed() < FIRST) => Seen::Part(&self.nothing),
            (false, _) => Seen::Part(&self.observation),
            (true, true) => Seen::Whole(&self.observation),
            (true, false) => Seen::Broken(&self.observation),
        }
    }
}

/// Of the pods of a job, the one that tells for it: its first pod, and of several that were made one after the other the one that
/// succeeded, or else the last.
fn telling<'pods>(pods: impl Iterator<Item = &'pods Followed>) -> Option<&'pods Followed> {
    pods.max_by_key(|pod| (pod.is_leader, pod.has_succeeded, pod.arrival))
}

/// Cloning shares it.
#[derive(Clone)]
pub(super) struct Observer {
    dialect: Dialect,
    /// How metrics are found in what the trials of other systems write.
    pub(super) collectors: Collectors,
    /// Where what they told is kept.
    pub(super) journal: Journal,
    client: kube::Client,
    pods: Cache<Pod>,
    queue: Queue,
    stop: CancellationToken,
    /// By trial, then by uid of the pod.
    all: Arc<Mutex<HashMap<Key, BTreeMap<String, Followed>>>>,
}

impl Observer {
    /// Wakes trials in the queue when there is something new about them.
    pub(super) fn new(
        (dialect, journal): (Dialect, &Journal),
        client: kube::Client,
        pods: Cache<Pod>,
        queue: Queue,
        stop: CancellationToken,
    ) -> Self {
        let collectors = Collectors::default();
        Self { dialect, collectors, journal: journal.clone(), client, pods, queue, stop, all: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, BTreeMap<String, Followed>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod came, changed or went.
    pub(super) fn pod(&self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Some(pod) = new.or(old) else { return };
        let labels = pod.metadata.labels.as_ref();
        let named = labels.and_then(|labels| labels.get(self.dialect.trial_label()));
        let (Some(trial), Some(uid)) = (named, pod.metadata.uid.clone()) else { return };
        let is_first = |label: &str| labels.and_then(|labels| labels.get(label)).is_none_or(|index| index == "0");
        if !INDICES.into_iter().all(is_first) {
            return;
        }
        let trial = Key::new(pod.metadata.namespace.clone().unwrap_or_default(), trial.clone());
        let (can_be_read, has_succeeded) =
            (matches!(phase(pod), Some("Running" | "Succeeded" | "Failed")), has_succeeded(pod));
        let mut all = self.lock();
        if new.is_none() {
            let Some(pods) = all.get_mut(&trial) else { return };
            // What it told counts if that was all.
            let is_lost = pods.get(&uid).is_some_and(|pod| !matches!(pod.seen(), Seen::Whole(_)));
            if is_lost && let Some(lost) = pods.remove(&uid) {
                lost.reader.iter().for_each(CancellationToken::cancel);
            }
            if pods.is_empty() {
                all.remove(&trial);
            }
        } else {
            let pods = all.entry(trial.clone()).or_default();
            let followed = pods.entry(uid).or_insert_with(|| Followed::new(pod));
            if (followed.can_be_read, followed.has_succeeded) == (can_be_read, has_succeeded) {
                return;
            }
            (followed.can_be_read, followed.has_succeeded) = (can_be_read, has_succeeded);
        }
        drop(all);
        self.queue.wake(trial);
    }

    /// The trial has ended, or is gone.
    pub(super) fn forget(&self, trial: &Key) {
        let told = self.collectors.forget(trial);
        let pods = self.lock().remove(trial);
        if let (Some(told), Some(pod)) = (told, telling(pods.iter().flat_map(BTreeMap::values)))
            && told.collector.source() != &Source::Pushed
            && !pod.observation.log().values().is_empty()
        {
            let (this, trial, values) = (self.clone(), trial.clone(), pod.observation.log().values().to_vec());
            tokio::spawn(async move { this.keep(&trial, &told, &values).await });
        }
        for pod in pods.into_iter().flat_map(BTreeMap::into_values) {
            pod.reader.iter().for_each(CancellationToken::cancel);
        }
    }

    /// What a trial that runs told so far, if it has.
    pub(super) fn told(&self, trial: &Key) -> Option<Vec<log::Told>> {
        let all = self.lock();
        let told = telling(all.get(trial)?.values())?.observation.log().values().to_vec();
        Some(told).filter(|told| !told.is_empty())
    }

    /// Takes in what a trial tells by itself.
    pub(super) async fn pushed(&self, trial: &Key, uid: &str, values: Vec<log::Told>) -> Result<(), RecordsError> {
        self.journal.keep(trial, uid, self.journal.numbers(values.len()), &values).await?;
        if let Some(told) = self.collectors.get(trial) {
            for pod in self.lock().get_mut(trial).into_iter().flat_map(BTreeMap::values_mut) {
                pod.observation.told(values.clone(), told.collector.names(), &told.objectives, now_ms());
            }
        }
        self.queue.wake(trial.clone());
        Ok(())
    }

    /// What a trial told is kept for who asks later; what it told by itself is there already, and counts.
    async fn read_all(&self, trial: &Key, uid: &str) {
        let Some(told) = self.collectors.get(trial) else { return };
        if told.collector.source() == &Source::Pushed {
            match self.journal.kept(&told.uid).await {
                Ok(values) => {
                    self.change(trial, uid, |pod| {
                        pod.observation = Observation::new(told.objectives.len());
                        pod.observation.told(values, told.collector.names(), &told.objectives, now_ms());
                    });
                }
                Err(error) => tracing::warn!(%trial, %error, "what a trial told by itself cannot be read"),
            }
        } else if let Some(values) = self.change(trial, uid, |pod| pod.observation.log().values().to_vec()) {
            self.keep(trial, &told, &values).await;
        }
    }

    async fn keep(&self, trial: &Key, told: &Told, values: &[log::Told]) {
        if let Err(error) = self.journal.keep(trial, &told.uid, 0, values).await {
            tracing::warn!(%trial, %error, "what a trial told on its way is not kept");
        }
    }

    /// Does something with what was seen of the pods of a trial's job, and sees to it that they are read.
    pub(super) fn with<T>(
        &self,
        trial: &Key,
        job: Option<&str>,
        objectives: &[Objective],
        act: impl FnOnce(Seen<'_>) -> T,
    ) -> T {
        let mut all = self.lock();
        let Some((pods, job)) = all.get_mut(trial).zip(job) else { return act(Seen::Nothing) };
        // Others have its labels, or had its name.
        let is_its = |pod: &Followed| pod.job.as_deref() == Some(job);
        let unread = pods.iter_mut().filter(|(_, pod)| is_its(pod) && pod.can_be_read && pod.reader.is_none());
        for (uid, pod) in unread {
            let stop = self.stop.child_token();
            pod.reader = Some(stop.clone());
            pod.observation = Observation::new(objectives.len());
            let reading = self.clone().read(trial.clone(), uid.clone(), objectives.to_vec());
            tokio::spawn(async move {
                tokio::select! { () = reading => {}, () = stop.cancelled() => {} }
            });
        }
        act(telling(pods.values().filter(|pod| is_its(pod) && pod.reader.is_some()))
            .map_or(Seen::Nothing, Followed::seen))
    }

    /// Reads a pod's log to its end, from its beginning as often as it breaks off.
    async fn read(self, trial: Key, uid: String, objectives: Vec<Objective>) {
        let mut failures = 0;
        loop {
            let Some(pod) = self.pod_of(&trial, &uid) else { return };
            if let Err(error) = self.follow(&trial, &uid, &pod, &objectives).await {
                failures += 1;
                tracing::warn!(%trial, %error, failures, "the log of a trial's pod broke off, reading it again");
                // What is not there any more will not come back.
                if failures < FAILURES {
                    tokio::time::sleep(PAUSE * failures).await;
                    self.change(&trial, &uid, |pod| pod.observation = Observation::new(objectives.len()));
                    continue;
                }
            }
            // The end of the log may be told before that of the pod.
            let deadline = Instant::now() + PACE;
            while Instant::now() < deadline {
                let pod = self.pod_of(&trial, &uid);
                if pod.as_ref().is_none_or(|pod| matches!(phase(pod), Some("Succeeded" | "Failed"))) {
                    self.read_all(&trial, &uid).await;
                    self.change(&trial, &uid, |followed| {
                        followed.is_read = true;
                        followed.has_succeeded |= pod.is_some_and(|pod| has_succeeded(&pod));
                    });
                    self.queue.wake(trial);
                    return;
                }
                tokio::time::sleep(PAUSE / 10).await;
            }
            tokio::time::sleep(PAUSE).await;
            self.change(&trial, &uid, |pod| pod.observation = Observation::new(objectives.len()));
        }
    }

    fn pod_of(&self, trial: &Key, uid: &str) -> Option<Arc<Pod>> {
        let of_trial = |pod: &Arc<Pod>| {
            pod.metadata.uid.as_deref() == Some(uid)
                && pod.metadata.labels.as_ref().and_then(|labels| labels.get(self.dialect.trial_label()))
                    == Some(&trial.name)
        };
        // Pods are named after their job, and the job after its trial.
        self.pods.named(&trial.namespace, &trial.name).into_iter().find(of_trial)
    }

    fn change<T>(&self, trial: &Key, uid: &str, act: impl FnOnce(&mut Followed) -> T) -> Option<T> {
        self.lock().get_mut(trial).and_then(|pods| pods.get_mut(uid)).map(act)
    }

    async fn follow(&self, trial: &Key, uid: &str, pod: &Pod, objectives: &[Objective]) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &trial.namespace);
        let first = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|first| first.name.clone());
        let telling = pod.metadata.annotations.as_ref().and_then(|all| all.get(CONTAINER)).cloned();
        let container = telling.or(first);
        let collector = self.collectors.get(trial);
        let mut reader = collector.as_deref().map(|told| (told.collector.reader(), told.collector.names()));
        let params = LogParams { follow: true, container, ..LogParams::default() };
        let output = api.log_stream(pod.metadata.name.as_deref().unwrap_or_default(), &params).await?;
        let mut output = std::pin::pin!(output);
        let mut told: Option<Instant> = None;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if output.as_mut().take(LONGEST).read_until(b'\n', &mut bytes).await? == 0 {
                return Ok(());
            }
            // Logs may hold anything; what is no UTF-8 is replaced, not refused.
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches('\n');
            let is_new = self.change(trial, uid, |pod| {
                let doubtful = pod.observation.is_doubtful();
                let is_told = match &mut reader {
                    None => pod.observation.line(line, objectives),
                    Some((reader, names)) => pod.observation.told(reader.read(line), names, objectives, now_ms()),
                };
                let is_new = is_told || pod.observation.is_doubtful() != doubtful;
                pod.told = pod.told.or_else(|| is_new.then(Instant::now));
                is_new
            });
            if is_new == Some(true) {
                // A moment later than it is shown from.
                let due = told.map_or(FIRST + PAUSE / 10, |told| PACE.saturating_sub(told.elapsed()));
                if due.is_zero() || told.is_none() {
                    told = Some(Instant::now());
                }
                self.queue.wake_in(trial.clone(), due);
            }
        }
    }
}

/// Why a log could not be read on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error(transparent)]
    Broken(#[from] std::io::Error),
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|status| status.phase.as_deref())
}

fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == Some("Succeeded")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use serde_json::json;
    use trainyard_proto::tuning::TRIAL;

    use super::*;

    fn pod(version: u64, job: &str, role: &str, phase: &str) -> Pod {
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "e-0", "uid": job, "controller": true}]);
        let pod = json!({
            "metadata": {
                "name": format!("e-0-{version}"), "namespace": "n", "uid": format!("p-{version}"), "ownerReferences": owner,
                "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {TRIAL: "e-0", ROLE: role},
            },
            "status": {"phase": phase},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn followed(version: u64, role: &str, phase: &str) -> Followed {
        let pod = pod(version, "j", role, phase);
        Followed { has_succeeded: has_succeeded(&pod), is_read: true, ..Followed::new(&pod) }
    }

    #[test]
    fn the_pod_that_succeeded_tells_for_its_job() {
        let told = |pods: &[Followed]| {
            let best = telling(pods.iter()).unwrap();
            (best.arrival.1, matches!(best.seen(), Seen::Whole(_)))
        };
        let [first, again, last] =
            [(1, "Failed"), (2, "Failed"), (3, "Running")].map(|(at, phase)| followed(at, "worker", phase));
        assert_eq!(told(&[first, again, last]), (3, false), "made within one second, and one after the other");
        let [done, late] = [(4, "Succeeded"), (5, "Failed")].map(|(at, phase)| followed(at, "worker", phase));
        assert_eq!(told(&[late, done]), (4, true));
        let [worker, master] = [(6, "worker"), (7, "master")].map(|(at, role)| followed(at, role, "Failed"));
        assert_eq!(told(&[followed(8, "worker", "Succeeded"), master, worker]), (7, false));
    }

    #[tokio::test]
    async fn pods_of_another_job_say_nothing_about_a_trial() {
        let client = kube::Client::new(
            tower::service_fn(|_: http::Request<kube::client::Body>| {
                std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
            }),
            "default",
        );
        let observer = Observer::new(
            (Dialect::Own, &Journal::default()),
            client,
            Cache::detached(),
            Queue::default(),
            CancellationToken::new(),
        );
        for (version, job) in [(1, "old"), (2, "j")] {
            observer.pod(None, Some(&Arc::new(pod(version, job, "worker", "Running"))));
        }
        let trial = Key::new("n", "e-0");
        let seen = |job| observer.with(&trial, job, &[], |seen| !matches!(seen, Seen::Nothing));
        assert_eq!([seen(None), seen(Some("another")), seen(Some("j"))], [false, false, true]);
        let read = |version: u64| observer.change(&trial, &format!("p-{version}"), |pod| pod.reader.is_some());
        assert_eq!((read(1), read(2)), (Some(false), Some(true)), "and their logs are not read");
    }
}

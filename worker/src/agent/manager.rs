//! The agent's main loop: what the API says of pods, services and claims, handed to the pods' tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use trainyard_proto::plan::EventSeverity;

use super::RESTARTED;
use super::claim::{self, ClaimKey};
use super::folder::{self, PodFolder, PodRecord};
use super::shared::Shared;
use super::task::{Message, Task};
use crate::shim::now_ms;

/// How a task goes about its pod. Tests have others.
type Work = fn(Task, mpsc::UnboundedReceiver<Message>) -> BoxFuture<'static, ()>;

/// A pod that has a task, or had one that panicked and gets another soon.
struct Managed {
    /// Nobody listens while the next task is waited for.
    task: mpsc::UnboundedSender<Message>,
    /// The object as last seen.
    pod: Box<Pod>,
    gone: bool,
    /// Panics so far.
    panics: u32,
}

/// The wait before the task that follows one that panicked; it doubles from there.
const PANIC_PAUSE_MS: u64 = 250;
const PANIC_PAUSE_MAX_MS: u64 = 60_000;

pub(super) struct Manager {
    shared: Arc<Shared>,
    work: Work,
    pods: BTreeMap<String, Managed>,
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
    /// Waits before pods get their next task.
    pauses: JoinSet<String>,
    /// Records of an earlier agent whose pods have not been seen in the API yet.
    left_over: BTreeMap<String, PodRecord>,
    listed: Option<BTreeSet<String>>,
    /// All pods were listed once.
    pods_known: bool,
    /// The claims that each unfinished pod uses.
    uses: BTreeMap<String, BTreeSet<ClaimKey>>,
    /// Uids of claims.
    claims_listed: Option<BTreeSet<String>>,
    /// Deleted claims that wait for their pods, by uid.
    ending_claims: BTreeMap<String, PersistentVolumeClaim>,
}

impl Manager {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let left_over = folder::records(&shared.config.home);
        for (uid, record) in &left_over {
            shared.gpus.restore(uid, record.gpus.clone());
            // Addresses in use are not given away before their pods are seen again.
            shared.names.lock().unwrap_or_else(PoisonError::into_inner).put_pod(&record.pod, Some(&record.ip));
        }
        Self {
            shared,
            work: |task, messages| task.run(messages).boxed(),
            pods: BTreeMap::new(),
            tasks: JoinSet::new(),
            uids: HashMap::new(),
            pauses: JoinSet::new(),
            left_over,
            listed: None,
            pods_known: false,
            uses: BTreeMap::new(),
            claims_listed: None,
            ending_claims: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let client = || self.shared.client.clone();
        let mut pods = Box::pin(observe::<Pod>(Api::all(client())));
        let mut services = Box::pin(observe::<Service>(Api::all(client())));
        let mut claims = Box::pin(observe::<PersistentVolumeClaim>(Api::all(client())));
        loop {
            tokio::select! {
                // Names first: a pod may ask for them in its first millisecond.
                biased;
                _ = stop.changed() => break,
                Some(event) = services.next() => self.on_service(event),
                Some(event) = pods.next() => self.on_pod(event),
                Some(event) = claims.next() => self.on_claim(event),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                Some(Ok(uid)) = self.pauses.join_next() => self.begin_again(uid),
            }
        }
        // Tasks end when nobody can talk to them any more; their shims go on.
        self.pods.clear();
        self.tasks.shutdown().await;
    }

    fn on_service(&mut self, event: Event<Service>) {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match event {
            Event::Init | Event::InitDone => false,
            Event::InitApply(service) | Event::Apply(service) => names.put_service(&service),
            Event::Delete(service) => names.remove_service(&service),
        };
        if changed {
            names.refresh(&self.shared.config.home);
        }
    }

    fn on_claim(&mut self, event: Event<PersistentVolumeClaim>) {
        let shared = self.shared.clone();
        match event {
            Event::Init => self.claims_listed = Some(BTreeSet::new()),
            // One that was made since the list began is not to be taken for one that is gone.
            Event::InitApply(claim) | Event::Apply(claim) => self.claim_seen(claim),
            Event::Delete(claim) => {
                self.ending_claims.remove(claim.metadata.uid.as_deref().unwrap_or_default());
                tokio::spawn(async move { claim::release(&shared.client, &shared.config.home, &claim).await });
            }
            Event::InitDone => {
                let Some(listed) = self.claims_listed.take() else { return };
                tokio::spawn(async move { claim::reconcile(&shared.client, &shared.config.home, &listed).await });
            }
        }
    }

    fn claim_seen(&mut self, claim: PersistentVolumeClaim) {
        let Some(uid) = claim.metadata.uid.clone() else { return };
        if let Some(listed) = &mut self.claims_listed {
            listed.insert(uid.clone());
        }
        if claim::waits_for_pods(&claim) {
            self.ending_claims.insert(uid, claim);
            self.let_claims_go();
        }
    }

    /// Deleted claims go when the last pod that uses them has ended. Nothing is known before all pods are listed.
    fn let_claims_go(&mut self) {
        if self.ending_claims.is_empty() || self.listed.is_some() || !self.pods_known {
            return;
        }
        let used: BTreeSet<&ClaimKey> = self.uses.values().flatten().collect();
        let free: Vec<String> = self
            .ending_claims
            .iter()
            .filter(|(_, claim)| !used.contains(&claim::key(claim)))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in free {
            let Some(claim) = self.ending_claims.remove(&uid) else { continue };
            let client = self.shared.client.clone();
            tokio::spawn(async move { claim::unprotect(&client, &claim).await });
        }
    }

    fn on_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.seen(pod);
            }
            Event::Apply(pod) => self.seen(pod),
            Event::Delete(pod) => {
                if let Some(uid) = &pod.metadata.uid {
                    self.gone(&uid.clone());
                }
            }
            Event::InitDone => {
                self.forget_unlisted();
                self.pods_known = true;
            }
        }
        self.let_claims_go();
    }

    /// After a full list: what is not in it was deleted while nobody looked.
    fn forget_unlisted(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        let known: BTreeSet<String> =
            self.pods.keys().chain(self.left_over.keys()).chain(self.uses.keys()).cloned().collect();
        for uid in known.into_iter().filter(|uid| !listed.contains(uid)) {
            self.gone(&uid);
        }
    }

    fn seen(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.uses.insert(uid.clone(), claim::used_by(&pod));
        {
            let known = self.left_over.get(&uid).map(|record| record.ip.clone());
            let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.put_pod(&pod, known.as_deref()) {
                names.refresh(&self.shared.config.home);
            }
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node != Some(self.shared.config.node_name.as_str()) {
            return;
        }
        if let Some(managed) = self.pods.get_mut(&uid) {
            (*managed.pod).clone_from(&pod);
            let _ = managed.task.send(Message::Seen(Box::new(pod)));
            return;
        }
        let record = self.take_on(&uid, pod);
        self.spawn(uid, record, false, 0);
    }

    fn gone(&mut self, uid: &str) {
        self.uses.remove(uid);
        {
            let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.remove_pod(uid) {
                names.refresh(&self.shared.config.home);
            }
        }
        if let Some(managed) = self.pods.get_mut(uid) {
            managed.gone = true;
            let _ = managed.task.send(Message::Gone);
        } else if let Some(record) = self.left_over.remove(uid) {
            self.spawn(uid.to_owned(), record, true, 0);
        }
    }

    /// The record of a pod: the earlier agent's, or a new one.
    fn take_on(&mut self, uid: &str, pod: Pod) -> PodRecord {
        if let Some(record) = self.left_over.remove(uid) {
            return PodRecord { pod, ..record };
        }
        let names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        PodRecord {
            ip: names.ip(uid).unwrap_or("127.0.0.1").to_owned(),
            gpus: Vec::new(),
            accepted_ms: started.map_or_else(now_ms, |time| time.0.as_millisecond()),
            outside: Vec::new(),
            image_event_sent: false,
            given: BTreeMap::new(),
            pod,
        }
    }

    fn spawn(&mut self, uid: String, record: PodRecord, gone: bool, panics: u32) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let managed = Managed { task: sender, pod: Box::new(record.pod.clone()), gone, panics };
        let task = Task::new(self.shared.clone(), &uid, record, gone);
        self.pods.insert(uid.clone(), managed);
        let spawned = self.tasks.spawn((self.work)(task, receiver));
        self.uids.insert(spawned.id(), uid);
    }

    /// A pod that its task has let go of is forgotten; a task that panicked is followed by another.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        let Err(error) = ended else {
            self.pods.remove(&uid);
            return;
        };
        let Some(managed) = self.pods.get_mut(&uid) else { return };
        tracing::error!(uid, %error, "the task of a pod ended badly and is begun again; please report this");
        let message = format!("the node agent's task of this pod ended badly ({error}); it is begun again");
        self.shared.pod_event(&managed.pod, EventSeverity::Warning, RESTARTED, message);
        let pause = Duration::from_millis((PANIC_PAUSE_MS << managed.panics.min(16)).min(PANIC_PAUSE_MAX_MS));
        managed.panics = managed.panics.saturating_add(1);
        self.pauses.spawn(async move {
            tokio::time::sleep(pause).await;
            uid
        });
    }

    /// The next task finds the pod's containers by what their shims wrote.
    fn begin_again(&mut self, uid: String) {
        let Some(Managed { pod, gone, panics, .. }) = self.pods.remove(&uid) else { return };
        if let Ok(record) = PodFolder::new(&self.shared.config.home, &uid).read_record() {
            self.left_over.insert(uid.clone(), record);
        }
        let record = self.take_on(&uid, *pod);
        self.spawn(uid, record, gone, panics);
    }
}

/// A watch that never ends: failures are logged and waited out.
fn observe<K>(api: Api<K>) -> impl Stream<Item = Event<K>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default()).default_backoff().filter_map(|event| async move {
        event.inspect_err(|error| tracing::warn!(%error, "a watch of the node agent was interrupted")).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;
    use trainyard_runtime::embedded::{Embedded, Options};

    use super::*;
    use crate::agent::config::AgentConfig;
    use crate::agent::disk::DiskWatch;

    static BEGUN: AtomicU32 = AtomicU32::new(0);
    static NOTED: tokio::sync::Notify = tokio::sync::Notify::const_new();

    fn panics_once(_: Task, mut messages: mpsc::UnboundedReceiver<Message>) -> BoxFuture<'static, ()> {
        async move {
            assert!(BEGUN.fetch_add(1, Ordering::Relaxed) > 0, "the first time it fails");
            NOTED.notify_one();
            while messages.recv().await.is_some() {}
        }
        .boxed()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_that_panicked_is_followed_by_another_though_nothing_happens_to_its_pod() {
        let home = tempfile::tempdir().expect("a folder");
        let server = Embedded::open(Options::new(home.path())).await.expect("a server");
        let config = AgentConfig { node_name: "node".to_owned(), ..AgentConfig::for_home(home.path()) };
        let disk = DiskWatch::new().expect("a watch");
        let mut manager = Manager::new(Arc::new(Shared::new(server.client(), config, disk)));
        manager.work = panics_once;
        let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"nodeName": "node", "containers": [{"name": "c"}]}});
        manager.seen(serde_json::from_value(pod).expect("a pod"));
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(manager.run(stopped));
        tokio::time::timeout(Duration::from_secs(60), NOTED.notified()).await.expect("another task");
        assert_eq!(BEGUN.load(Ordering::Relaxed), 2);
        stop.send_replace(true);
        running.await.expect("the manager ends");
    }
}

//! The agent's main loop: what the API says of pods, services and claims, handed to the pods' tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use super::claim::{self, ClaimKey};
use super::folder::{self, PodFolder, PodRecord};
use super::shared::Shared;
use super::task::{Message, Task};
use crate::shim::now_ms;

pub(super) struct Manager {
    shared: Arc<Shared>,
    pods: BTreeMap<String, mpsc::UnboundedSender<Message>>,
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
    /// Records of an earlier agent whose pods have not been seen in the API yet.
    left_over: BTreeMap<String, PodRecord>,
    listed: Option<BTreeSet<String>>,
    /// All pods were listed once.
    pods_known: bool,
    /// The claims that each unfinished pod uses.
    uses: BTreeMap<String, BTreeSet<ClaimKey>>,
    claims_listed: Option<BTreeSet<ClaimKey>>,
    /// Deleted claims that wait for their pods.
    ending_claims: BTreeMap<ClaimKey, PersistentVolumeClaim>,
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
            pods: BTreeMap::new(),
            tasks: JoinSet::new(),
            uids: HashMap::new(),
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
            Event::InitApply(claim) => {
                if let Some(listed) = &mut self.claims_listed {
                    listed.insert(claim::key(&claim));
                }
                self.claim_seen(claim);
            }
            Event::Apply(claim) => {
                // One that was made since the list began is not to be taken for one that is gone.
                if let Some(listed) = &mut self.claims_listed {
                    listed.insert(claim::key(&claim));
                }
                self.claim_seen(claim);
            }
            Event::Delete(claim) => {
                self.ending_claims.remove(&claim::key(&claim));
                tokio::spawn(async move { claim::release(&shared.client, &shared.config.home, &claim).await });
            }
            Event::InitDone => {
                let Some(listed) = self.claims_listed.take() else { return };
                tokio::spawn(async move { claim::reconcile(&shared.client, &shared.config.home, &listed).await });
            }
        }
    }

    fn claim_seen(&mut self, claim: PersistentVolumeClaim) {
        if claim::waits_for_pods(&claim) {
            self.ending_claims.insert(claim::key(&claim), claim);
            self.let_claims_go();
        }
    }

    /// Deleted claims go when the last pod that uses them has ended. Nothing is known before all pods are listed.
    fn let_claims_go(&mut self) {
        if self.listed.is_some() || !self.pods_known {
            return;
        }
        let used: BTreeSet<&ClaimKey> = self.uses.values().flatten().collect();
        let free: Vec<ClaimKey> = self.ending_claims.keys().filter(|key| !used.contains(key)).cloned().collect();
        for key in free {
            let Some(claim) = self.ending_claims.remove(&key) else { continue };
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
        if let Some(task) = self.pods.get(&uid) {
            let _ = task.send(Message::Seen(Box::new(pod)));
            return;
        }
        let record = self.take_on(&uid, pod);
        self.spawn(uid, record, false);
    }

    fn gone(&mut self, uid: &str) {
        self.uses.remove(uid);
        {
            let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.remove_pod(uid) {
                names.refresh(&self.shared.config.home);
            }
        }
        if let Some(task) = self.pods.get(uid) {
            let _ = task.send(Message::Gone);
        } else if let Some(record) = self.left_over.remove(uid) {
            self.spawn(uid.to_owned(), record, true);
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
            pod,
        }
    }

    fn spawn(&mut self, uid: String, record: PodRecord, gone: bool) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = Task::new(self.shared.clone(), &uid, record, gone);
        self.pods.insert(uid.clone(), sender);
        let spawned = self.tasks.spawn(task.run(receiver));
        self.uids.insert(spawned.id(), uid);
    }

    /// A pod that its task has let go of is taken on anew when it is seen again: after the end of the pod it is not, and
    /// after a panic the next task finds the containers by what their shims wrote.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        self.pods.remove(&uid);
        if let Err(error) = ended {
            tracing::error!(uid, %error, "the task of a pod ended badly; please report this");
            let folder = PodFolder::new(&self.shared.config.home, &uid);
            if let Ok(record) = folder.read_record() {
                self.left_over.insert(uid, record);
            }
        }
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

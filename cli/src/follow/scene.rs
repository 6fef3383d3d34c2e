//! What is watched: a job and every pod that it ever had, as last seen.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::outcome::Outcome;
use super::phase;
use crate::job;
use crate::target::Found;

pub(super) struct Scene {
    pub(super) found: Found,
    /// Last known state of every pod that the job ever had, by uid.
    pods: BTreeMap<String, Value>,
    gone: BTreeSet<String>,
}

impl Scene {
    pub(super) fn new(found: Found) -> Self {
        Self { found, pods: BTreeMap::new(), gone: BTreeSet::new() }
    }

    /// Whether this is the job, and not another one of its name.
    pub(super) fn is_job(&self, object: &Value) -> bool {
        uid(object) == self.found.uid()
    }

    pub(super) fn see_job(&mut self, object: Value) {
        self.found.object = object;
    }

    pub(super) fn see_pod(&mut self, pod: Value) {
        self.pods.insert(uid(&pod).to_owned(), pod);
    }

    pub(super) fn pod_gone(&mut self, pod: Value) {
        let uid = uid(&pod).to_owned();
        self.gone.insert(uid.clone());
        self.pods.insert(uid, pod);
    }

    /// All pods that exist: the others went away while nobody looked.
    pub(super) fn only_these_exist(&mut self, uids: &[String]) {
        let lost = self.pods.keys().filter(|uid| !uids.contains(uid)).cloned().collect::<Vec<_>>();
        self.gone.extend(lost);
    }

    /// Every pod that there ever was.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Value> {
        self.pods.values()
    }

    pub(super) fn pod_uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    pub(super) fn live_pods(&self) -> Vec<&Value> {
        self.pods.iter().filter(|(uid, _)| !self.gone.contains(*uid)).map(|(_, pod)| pod).collect()
    }

    /// Pods that have not ended.
    pub(super) fn left(&self) -> usize {
        self.live_pods().iter().filter(|pod| !phase::is_over(pod)).count()
    }

    /// Whether an object of this uid is the job or one of its pods.
    pub(super) fn holds(&self, uid: &str) -> bool {
        uid == self.found.uid() || self.pods.contains_key(uid)
    }

    /// Whether there was only one pod so far.
    pub(super) fn had_one_pod(&self) -> bool {
        // A pod that replaces another has its name.
        let names: BTreeSet<_> = self.pods.values().map(|pod| pod["metadata"]["name"].as_str()).collect();
        names.len() <= 1
    }

    /// Whether there is only one pod, and no other is to come: its lines need no name.
    pub(super) fn is_alone(&self) -> bool {
        self.had_one_pod() && !self.expects_more_pods()
    }

    fn expects_more_pods(&self) -> bool {
        let spec = &self.found.object["spec"];
        let roles = spec.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("ReplicaSpecs"));
        let of_roles: u64 = roles
            .flat_map(|(_, roles)| roles.as_object().into_iter().flatten())
            .map(|(_, role)| role["replicas"].as_u64().unwrap_or(1))
            .sum();
        let counts = [&spec["replicas"], &spec["trainer"]["numNodes"], &spec["parallelism"]];
        let plain = counts.iter().find_map(|count| count.as_u64()).unwrap_or(1);
        of_roles.max(plain) > 1
    }

    /// What the job says of its end. `until_available`: for a deployment that is when all its replicas are there.
    pub(super) fn outcome(&self, until_available: bool) -> Option<Outcome> {
        let job = &self.found.object;
        let available = until_available && is_available(job);
        job::end(job).map(Outcome::Ended).or(available.then_some(Outcome::Available))
    }

    /// Whether the job's controller says that it stopped the job.
    pub(super) fn says_suspended(&self) -> bool {
        let told = |condition: &Value| condition["type"] == "Suspended" && condition["status"] == "True";
        let conditions = self.found.object["status"]["conditions"].as_array();
        conditions.is_some_and(|conditions| conditions.iter().any(told))
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn is_available(deployment: &Value) -> bool {
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    deployment["status"]["availableReplicas"].as_i64().unwrap_or(0) >= wanted
        && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
}

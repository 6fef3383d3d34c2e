//! Taking pods and services away.

use std::collections::BTreeSet;

use trainyard_proto::plan::{Action, Fence, ObjectRef};

use super::planner::Planner;
use super::replica::{Observed, Standing};
use crate::model::{JobModel, PortWish, RestartScope};
use crate::{label, port};

impl Planner<'_> {
    /// Deletes the pods that a rule names, unless they are on their way out.
    pub(super) fn delete_pods(&mut self, which: impl Fn(&Observed<'_>) -> bool, reason: &str) {
        let actions = self.deletions(which, reason);
        self.push_after(actions);
    }

    /// Deletes the pods that have not ended, before the status says so: a planner that is interrupted in between comes to the
    /// same decision again.
    pub(super) fn delete_live_first(&mut self, reason: &str) {
        let actions = self.deletions(|pod| pod.is_live(), reason);
        self.push_before(actions);
    }

    fn deletions(&mut self, which: impl Fn(&Observed<'_>) -> bool, reason: &str) -> Vec<Action> {
        let going = self.pods.iter().filter(|pod| !pod.deleting && !self.deleted.contains(pod.uid) && which(pod));
        let (uids, actions): (Vec<String>, Vec<Action>) =
            going.map(|pod| (pod.uid.to_owned(), self.deletion(pod, reason))).unzip();
        self.deleted.extend(uids);
        actions
    }

    /// One that was given up with its node is not asked to end.
    fn deletion(&self, pod: &Observed<'_>, reason: &str) -> Action {
        if self.is_counted(pod) && self.is_out_of_reach(pod) {
            return self.removal(pod, reason);
        }
        self.delete("Pod", pod.name, Some(pod.uid), None, reason)
    }

    /// Deletes the failed pods that the ledger counts already.
    pub(super) fn delete_counted(&mut self) {
        let counted: BTreeSet<String> = self.ledger.counted.iter().cloned().collect();
        self.delete_pods(|pod| counted.contains(pod.uid), "the replica starts again");
    }

    /// Deletes the services that a rule names.
    pub(super) fn delete_services(&mut self, which: impl Fn(&str) -> bool, reason: &str) {
        let mut services: Vec<(&str, Option<&str>)> = self
            .view
            .services
            .iter()
            .filter(|service| self.subject.owns(&service.metadata) && service.metadata.deletion_timestamp.is_none())
            .map(|service| (service.metadata.name.as_deref().unwrap_or_default(), service.metadata.uid.as_deref()))
            .filter(|(name, _)| which(name))
            .collect();
        services.sort_unstable();
        let actions: Vec<Action> =
            services.iter().map(|(name, uid)| self.delete("Service", name, *uid, None, reason)).collect();
        self.push_after(actions);
    }

    /// Deletes pods of an older incarnation, and pods and services of replicas that are no longer wanted. Answers whether
    /// pods of an older incarnation are still there.
    pub(super) fn delete_foreign(&mut self, model: &JobModel) -> bool {
        let generation = self.ledger.generation;
        let wanted: BTreeSet<&str> = model.replicas().map(|(_, replica)| replica.name.as_str()).collect();
        let services: BTreeSet<&str> = model.services.iter().map(|service| service.name.as_str()).collect();
        let has_ended = |pod: &Observed<'_>| matches!(pod.standing, Standing::Succeeded | Standing::Failed);
        self.delete_pods(|pod| pod.shrunk && has_ended(pod), "it made room for others");
        self.delete_pods(|pod| pod.generation != generation, "it belongs to an earlier start of the gang");
        self.delete_pods(
            |pod| pod.generation == generation && !wanted.contains(pod.name),
            "the job has fewer replicas now",
        );
        let size = model.policy.min_available;
        self.delete_pods(
            |pod| pod.standing == Standing::Unbound && pod.gang_size.is_some_and(|of| of != size),
            "it waits for a gang of another size",
        );
        let changed = self.changed_while_waiting(model);
        self.delete_pods(|pod| changed.contains(pod.uid), "the job's template has changed while it waited");
        self.delete_services(|name| !services.contains(name), "the job has fewer replicas now");
        self.pods.iter().any(|pod| pod.generation != generation)
    }

    /// Uids of the pods without a node that are not what the job asks for any more: the user has lowered its resources, say,
    /// so that it can start.
    fn changed_while_waiting(&self, model: &JobModel) -> BTreeSet<String> {
        // A pod that is missing from a gang that ran whole is a failure, so none is taken out of such a one.
        let ran_whole = model.restart_scope == RestartScope::Gang && self.lifecycle.running;
        let waiting = |pod: &&Observed<'_>| pod.standing == Standing::Unbound && pod.template_hash.is_some();
        if ran_whole || !self.pods.iter().any(|pod| waiting(&pod)) {
            return BTreeSet::new();
        }
        let site = self.site(model);
        let hashes = site.template_hashes();
        let changed = |pod: &&Observed<'_>| hashes.get(pod.name).is_some_and(|hash| pod.template_hash != Some(hash));
        self.pods.iter().filter(waiting).filter(changed).map(|pod| pod.uid.to_owned()).collect()
    }

    pub(super) fn delete(
        &self,
        kind: &str,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<i64>,
        reason: &str,
    ) -> Action {
        Action::Delete {
            object: ObjectRef {
                api_version: "v1".to_owned(),
                kind: kind.to_owned(),
                namespace: self.subject.object.namespace.clone(),
                name: name.to_owned(),
            },
            fence: Fence { uid: uid.map(str::to_owned), resource_version: None },
            grace_seconds,
            reason: reason.to_owned(),
        }
    }

    /// The port on which the ranks meet: the one that the job has already, the user's, or a free one where pods share the
    /// machine's ports.
    pub(super) fn port(&self, model: &JobModel) -> u16 {
        let default = match model.port {
            PortWish::Fixed(number) => return number,
            PortWish::Default(number) if !self.view.config.embedded => return number,
            PortWish::Default(number) => number,
        };
        let pods = self.pods.iter().map(|pod| &pod.pod.metadata);
        let services =
            self.view.services.iter().map(|service| &service.metadata).filter(|meta| self.subject.owns(meta));
        let kept = services
            .chain(pods)
            .filter_map(|meta| meta.annotations.as_ref()?.get(label::MASTER_PORT)?.parse::<u16>().ok())
            .min();
        let key = format!("{}/{}/{}", self.subject.uid, self.subject.object.namespace, self.subject.name);
        kept.or_else(|| port::choose(&key, &self.view.busy_ports)).unwrap_or(default)
    }
}

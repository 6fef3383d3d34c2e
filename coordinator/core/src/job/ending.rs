//! The end of a job: its last status, its pods, and in the end itself.

use std::collections::BTreeSet;

use trainyard_proto::plan::{Action, EventSeverity, Fence};

use super::planner::{Planner, seconds};
use super::replica::Standing;
use super::{FailureCause, Finish, JobCode, Phase, Stage, narrate};
use crate::instant;
use crate::model::{CleanPods, JobModel};

impl Planner<'_> {
    pub(super) fn succeed(&mut self, model: &JobModel) {
        for (_, tally) in self.change.tallies.iter_mut().flatten() {
            tally.succeeded += tally.active;
            tally.active = 0;
        }
        let message = format!("{} is successfully completed.", self.title());
        self.change.exit_code = Some(0);
        self.event(EventSeverity::Normal, &format!("{}Succeeded", self.kind()), &message);
        self.end(Stage::Succeeded, message);
        self.clean_up(model);
    }

    pub(super) fn fail(&mut self, model: &JobModel, cause: FailureCause) {
        // Failures that were made good by a restart are not what ended it, though their pods may still be there.
        let failure =
            super::replica::first_failure(self.pods.iter().filter(|pod| !self.is_counted(pod)).map(|pod| pod.pod));
        let released = self.released(model).filter(|_| cause != FailureCause::Deadline);
        let message = match &released {
            Some(last) => narrate::released(&self.subject, model, cause, last, self.change.restarts),
            None => narrate::failure(&self.subject, model, cause, failure.as_ref(), self.change.restarts),
        };
        if matches!(cause, FailureCause::Deadline | FailureCause::BackoffLimit) {
            // A limit is there to end what runs, whatever is kept of pods that ended.
            self.delete_live_first(narrate::limit(cause));
        }
        // What is kept of a failed job is what ended, not what would start again and again.
        self.delete_pods(|pod| pod.wants_restart, "the job has failed");
        self.exit_events(model);
        let exit_code = released.map(|last| last.code).or_else(|| failure.as_ref().and_then(|first| first.exit_code));
        self.change.exit_code = exit_code.filter(|_| cause != FailureCause::Deadline);
        self.change.message = Some(message.clone());
        self.event(EventSeverity::Warning, &format!("{}Failed", self.kind()), &message);
        self.end(Stage::Failed(cause), message);
        self.clean_up(model);
        self.discount_deleted(model);
    }

    /// The last counts of a failed job leave out the pods that are ended with it.
    fn discount_deleted(&mut self, model: &JobModel) {
        let current = self.current(model);
        for ((_, tally), role) in self.change.tallies.iter_mut().flatten().zip(&model.roles) {
            let pods = role.replicas.iter().filter_map(|replica| current.get(&replica.name));
            let going = pods.filter(|pod| pod.standing == Standing::Active && self.deleted.contains(pod.uid)).count();
            tally.active -= i32::try_from(going).unwrap_or(0);
        }
    }

    /// Events for containers that ended with an exit code, when that is acted upon.
    pub(super) fn exit_events(&mut self, model: &JobModel) {
        let current = self.current(model);
        for (role, replica) in model.replicas() {
            let Some(pod) = current.get(&replica.name).filter(|pod| pod.standing == Standing::Failed) else { continue };
            if let Some(code) = super::replica::container_exit_code(pod.pod, &role.main_container) {
                let message = format!("Pod: {}.{} exited with code {code}", self.subject.object.namespace, pod.name);
                self.event(EventSeverity::Warning, "ExitedWithCode", &message);
            }
        }
    }

    /// What is to be done about a finished job: its pods, and in the end itself.
    pub(super) fn clean_up(&mut self, model: &JobModel) {
        self.take_back();
        match model.policy.clean_pods {
            // What has not begun is not what somebody wants to look at later: it would run for nothing.
            CleanPods::None => {
                self.delete_pods(|pod| pod.standing == Standing::Unbound, "the job has ended before it began")
            }
            CleanPods::Running => {
                let live: BTreeSet<String> =
                    self.pods.iter().filter(|pod| pod.is_live()).map(|pod| pod.name.to_owned()).collect();
                self.delete_pods(|pod| pod.is_live(), "the job has ended");
                self.delete_services(|name| live.contains(name), "the job has ended");
            }
            CleanPods::All => {
                self.delete_pods(|_| true, "the job has ended");
                self.delete_services(|_| true, "the job has ended");
            }
        }
        self.expire(model);
    }

    pub(super) fn expire(&mut self, model: &JobModel) {
        let succeeded = self.lifecycle.finished == Some(Finish::Succeeded) || self.change.phase == Phase::Succeeded;
        let code = if succeeded { JobCode::Succeeded } else { JobCode::Failed };
        let ended = self.change.completion_ms.map(seconds);
        let Some((ttl, ended)) = model.policy.ttl_ms.zip(ended).filter(|_| !model.policy.suspend) else {
            self.reason(code, "has ended", None);
            return;
        };
        let at = ended.saturating_add(ttl);
        if self.now_ms >= at {
            self.push_after(vec![Action::Delete {
                object: self.subject.object.clone(),
                fence: Fence { uid: self.subject.uid(), resource_version: None },
                grace_seconds: None,
                reason: "its time to live after its end is over".to_owned(),
            }]);
            self.reason(JobCode::Expired, "has ended, and its time to live is over", None);
        } else {
            self.wake_at(Some(at));
            self.reason(code, &format!("has ended, and is deleted at {}", instant::text(at)), None);
        }
    }

    pub(super) fn end(&mut self, stage: Stage, message: String) {
        self.change.completion_ms = Some(self.now_ms);
        self.change.phase = if stage == Stage::Succeeded { Phase::Succeeded } else { Phase::Failed };
        self.transition(stage, message);
    }
}

//! What the launchers of a job do, as far as it concerns its pods. They start ranks again by themselves; here a lost pod is
//! replaced, a gang that waits in vain starts again as a whole, and a failure that is not borne ends the job.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trainyard_proto::plan::EventSeverity;

use super::lost::{Known, lost_steps};
use super::planner::{Planner, has_failed};
use super::replica::{Observed, Standing};
use super::{FailureCause, JobCode, Meeting, Phase, Stage, narrate};
use crate::instant;
use crate::model::{JobModel, RestartScope, SuccessRule};
use crate::rendezvous::{self, LastFailure, Outcome, RendezvousView};

/// How long launchers have to come back to a control plane that has just started, before their pods are judged without
/// them. They knock several times a second.
const SETTLE_MS: i64 = 3_000;
/// How long the pods of a job that is over may take to say so by themselves, before they are ended with it.
const END_MS: i64 = 15_000;
/// How long launchers are awaited before that is noted where it costs a write of its own.
const MISSING_MS: i64 = 1_000;
/// Names of pods that are noted: of a job with a thousand of them all may be missing.
const MAX_MISSING: usize = 64;

impl<'view> Planner<'view> {
    /// The rendezvous, if launchers of this incarnation take part in one.
    pub(super) fn meeting(
        &self,
        model: &JobModel,
        current: &BTreeMap<String, Observed<'view>>,
    ) -> Option<&'view RendezvousView> {
        model.rendezvous.as_ref()?;
        let view = self.view.rendezvous.as_ref()?;
        current.values().any(|pod| view.joined.contains(pod.uid)).then_some(view)
    }

    /// Takes over what the launchers say: counts into the ledger, the rest into the status.
    pub(super) fn read_meeting(&mut self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) {
        let Some(meeting) = self.meeting(model, current) else { return };
        if self.ledger.mirror(meeting) {
            self.write_ledger();
            if self.lifecycle.running && meeting.outcome.is_none() {
                let last = meeting.last_failure.as_ref();
                let failed = last.map_or_else(|| "its ranks failed".to_owned(), |last| self.what_failed(last));
                let number = self.ledger.all_restarts();
                let of = model.policy.backoff_limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
                let message = format!("{} is restarting (restart {number}{of}): {failed}", self.title());
                self.transition(Stage::Restarting, message);
                (self.lifecycle.running, self.lifecycle.restarting) = (false, true);
            }
        }
        self.change.restarts = self.ledger.all_restarts();
        if meeting.ranks > 0 {
            self.change.ranks = Some(meeting.ranks);
        }
        let awaited = match meeting.stage {
            rendezvous::Stage::Joining | rendezvous::Stage::Recovering => true,
            rendezvous::Stage::Forming | rendezvous::Stage::Running => is_elastic(model),
            rendezvous::Stage::Ended => false,
        };
        let present = |name: &str| current.get(name).is_some_and(|pod| meeting.present.contains(pod.uid));
        let missing = model.replicas().map(|(_, replica)| &replica.name).filter(|name| awaited && !present(name));
        let told = Meeting {
            generation: meeting.generation,
            lost_steps: meeting.last_failure.as_ref().and_then(|last| lost_steps(last, self.known())),
            missing: missing.cloned().collect(),
            last_failure: meeting.last_failure.clone().map(|last| LastFailure { pod: self.pod_of(&last), ..last }),
            stalled: meeting.stalled.clone(),
            stragglers: meeting.stragglers.clone(),
            spares: meeting.spares,
        };
        self.blame_told(meeting);
        self.note_meeting(meeting, &told);
        self.change.meeting = Some(told);
    }

    /// Keeps what launchers say of a job whose status has no place for it, for whoever explains the job.
    fn note_meeting(&mut self, meeting: &RendezvousView, told: &Meeting) {
        if self.dialect.shows_launchers() {
            return;
        }
        // Launchers that come together at once are awaited by nobody: two writes less for each start.
        let due = meeting.since_ms.map_or(self.now_ms, |since| since.saturating_add(MISSING_MS));
        let is_due = self.now_ms >= due;
        if !is_due && !told.missing.is_empty() {
            self.wake_at(Some(due));
        }
        let missing = told.missing.iter().filter(|_| is_due).take(MAX_MISSING).cloned().collect();
        let known = self.ledger.meeting.as_ref().and_then(|known| known.last_failure.clone());
        let last_failure = told.last_failure.clone().or(known);
        let note = Meeting { missing, last_failure, spares: None, lost_steps: None, ..told.clone() };
        let worth =
            |note: &Meeting| note.last_failure.is_some() || !note.missing.is_empty() || !note.stalled.is_empty();
        let note = Some(note).filter(worth);
        if self.ledger.meeting != note {
            self.ledger.meeting = note;
            self.write_ledger();
        }
    }

    fn known(&self) -> Known<'_> {
        Known {
            status: self.view.job.get("status").unwrap_or(&Value::Null),
            progress: self.change.progress.as_ref(),
            checkpoint: self.change.checkpoint.as_ref(),
            names_folder: self.view.job.pointer("/spec/checkpoint").is_some(),
        }
    }

    fn pod_of(&self, last: &LastFailure) -> Option<String> {
        let uid = last.pod.as_deref()?;
        // Whoever knows no more than the status has its name already.
        let there = self.pods.iter().find(|pod| pod.uid == uid || pod.name == uid).map(|pod| pod.name.to_owned());
        there.or_else(|| last.place.pod.clone())
    }

    fn what_failed(&self, last: &LastFailure) -> String {
        narrate::what_failed(last, self.pod_of(last).as_deref())
    }

    pub(super) fn restarting_message(&self, model: &JobModel) -> Option<String> {
        let meeting = self.change.meeting.as_ref();
        let said = meeting.and_then(|meeting| {
            let last = meeting.last_failure.as_ref()?;
            let waits = narrate::unmet(&meeting.missing).map(|waits| format!("; {waits}")).unwrap_or_default();
            let of = model.policy.backoff_limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            let what = narrate::what_failed(last, last.pod.as_deref());
            Some(format!("{} is restarting (restart {}{of}): {what}{waits}", self.title(), self.ledger.all_restarts()))
        });
        said.or_else(|| self.lifecycle.message.clone())
    }

    /// Whether launchers that run may be about to join a rendezvous that has just begun: until they have, nobody knows
    /// whether what is missing was counted.
    pub(super) fn waits_for_launchers(&mut self, current: &BTreeMap<String, Observed<'view>>) -> bool {
        let Some(view) = self.view.rendezvous.as_ref().filter(|view| view.joined.is_empty()) else { return false };
        let Some(until) = view.since_ms.map(|since| since + SETTLE_MS).filter(|until| self.now_ms < *until) else {
            return false;
        };
        let runs = current.values().any(|pod| pod.standing == Standing::Active);
        let ended = current.values().any(|pod| pod.standing == Standing::Failed);
        if !(self.lifecycle.running && runs && ended) {
            return false;
        }
        self.change.phase = Phase::Running;
        self.change.message.clone_from(&self.lifecycle.message);
        self.reason(JobCode::WaitsForRanks, "waits for its launchers to come back to this control plane", None);
        self.wake_at(Some(until));
        true
    }

    /// Ends a job whose rendezvous bears a failure no more, when its pods have ended. Answers whether it is over.
    pub(super) fn end_released(&mut self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) -> bool {
        if self.has_succeeded(model, current) {
            return false;
        }
        let Some(meeting) = self.meeting(model, current) else { return false };
        let Some(Outcome::Failed(failure)) = &meeting.outcome else { return false };
        let until = meeting.since_ms.unwrap_or(self.now_ms) + END_MS;
        let ending = |pod: &Observed<'_>| pod.standing == Standing::Active && meeting.joined.contains(pod.uid);
        if self.now_ms < until && current.values().any(ending) {
            let what = meeting.last_failure.as_ref().map_or_else(|| failure.message.clone(), |l| self.what_failed(l));
            self.change.phase = if self.lifecycle.running { Phase::Running } else { Phase::Starting };
            self.reason(JobCode::Failed, &format!("is ending: {what}"), None);
            self.change.message = Some(what);
            self.wake_at(Some(until));
            return true;
        }
        let limit = model.policy.backoff_limit.filter(|limit| *limit > 0 && self.ledger.all_restarts() >= *limit);
        self.fail(model, if limit.is_some() { FailureCause::BackoffLimit } else { FailureCause::Replica });
        true
    }

    /// The failure that the rendezvous did not bear.
    pub(super) fn released(&self, model: &JobModel) -> Option<LastFailure> {
        let current = self.current(model);
        let meeting = self.meeting(model, &current)?;
        let Some(Outcome::Failed(_)) = &meeting.outcome else { return None };
        let last = meeting.last_failure.clone()?;
        Some(LastFailure { pod: self.pod_of(&last), ..last })
    }

    /// Replaces the pods of launchers that were lost. The rendezvous has counted them, and the others wait for the new ones.
    pub(super) fn replace_lost(
        &mut self,
        model: &JobModel,
        current: &BTreeMap<String, Observed<'view>>,
        meeting: &RendezvousView,
    ) {
        if meeting.outcome.as_ref().is_some_and(|outcome| *outcome != Outcome::Succeeded) {
            return;
        }
        let mut lost: Vec<Observed<'view>> = Vec::new();
        for (role, replica) in model.replicas() {
            let Some(pod) = current.get(&replica.name).filter(|pod| !self.is_counted(pod)) else { continue };
            // Whoever still counts as a member is not given up yet: the next look will tell.
            let is_lost = meeting.joined.contains(pod.uid) && !meeting.members.contains(pod.uid);
            let config = model.rendezvous.as_ref();
            if is_lost && has_failed(pod, role.restart) {
                lost.push(pod.clone());
            } else if config.is_some_and(|config| self.is_given_up(pod, meeting, config)) {
                self.count_as_failed(&role.name, pod);
                lost.push(pod.clone());
            }
        }
        if lost.is_empty() {
            return;
        }
        let seen: BTreeSet<String> = self.pods.iter().map(|pod| pod.uid.to_owned()).collect();
        self.ledger.counted.retain(|uid| seen.contains(uid));
        for pod in &lost {
            // What somebody took away, or went with its node, did not fail.
            let due = if pod.deleting || self.is_out_of_reach(pod) {
                self.now_ms
            } else {
                self.ledger.wait(pod.name, self.now_ms)
            };
            self.ledger.counted.push(pod.uid.to_owned());
            let when = if due > self.now_ms { format!(" at {}", instant::text(due)) } else { String::new() };
            let message = format!("The launcher of pod {} is gone: a new pod takes its place{when}", pod.name);
            self.event(EventSeverity::Warning, "PodReplaced", &message);
        }
        // Until the new pods run, what the status says is about the old ones.
        self.ledger.starting |= model.restart_scope == RestartScope::Gang;
        self.write_ledger();
    }

    /// Whether the success rule holds. Of an elastic job it leaves out pods that never came, but those that were lost while no
    /// control plane was there to count them trained as well as those that ended well.
    pub(super) fn has_succeeded(&self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) -> bool {
        if !super::tally::succeeded(model, current) {
            return false;
        }
        let told = self.meeting(model, current).and_then(|meeting| meeting.outcome.as_ref());
        let is_sure =
            model.success != SuccessRule::Elastic || model.rendezvous.is_none() || told == Some(&Outcome::Succeeded);
        is_sure || !current.values().any(|pod| pod.standing == Standing::Failed && !self.is_counted(pod))
    }

    /// Whether those that are left have waited long enough for the others: then all start again.
    pub(super) fn gang_is_due(
        &mut self,
        model: &JobModel,
        current: &BTreeMap<String, Observed<'view>>,
        meeting: &RendezvousView,
    ) -> bool {
        let Some(config) = &model.rendezvous else { return false };
        let waits = match meeting.stage {
            rendezvous::Stage::Recovering => true,
            rendezvous::Stage::Joining => self.lifecycle.running,
            rendezvous::Stage::Forming | rendezvous::Stage::Running | rendezvous::Stage::Ended => false,
        };
        let enough = meeting.present.len() >= config.least as usize;
        let Some(since) = meeting.since_ms.filter(|_| waits && !enough) else { return false };
        // A gang that was started again since then has all the time of a first start.
        let created = |pod: &Observed<'_>| pod.pod.metadata.creation_timestamp.as_ref().map_or(0, instant::ms);
        // One that runs, and is no member any more, has a launcher that obeys nobody.
        let stuck =
            |pod: &Observed<'_>| pod.standing == Standing::Active && !pod.deleting && meeting.joined.contains(pod.uid);
        let survives = |pod: &Observed<'_>| (meeting.members.contains(pod.uid) || stuck(pod)) && created(pod) <= since;
        if !current.values().any(survives) {
            return false;
        }
        // Until a pod that is lost has left nothing can take its place, were all started anew. Its successor has its own time.
        let absent = || current.values().filter(|pod| !meeting.members.contains(pod.uid));
        let is_leaving = absent().any(|pod| pod.deleting || self.is_counted(pod));
        let is_missing = model.replicas().any(|(_, replica)| !current.contains_key(&replica.name));
        if (is_leaving || is_missing) && !self.view.config.embedded {
            return false;
        }
        let newest = absent().filter(|pod| !meeting.joined.contains(pod.uid)).map(created).max();
        let at = newest.unwrap_or(since).max(since).saturating_add(config.return_ms);
        if self.now_ms < at {
            self.wake_at(Some(at));
        }
        self.now_ms >= at
    }
}

fn is_elastic(model: &JobModel) -> bool {
    model.rendezvous.as_ref().is_some_and(|config| config.least < config.most)
}

/// Whether launchers go on with these pods alone: what is missing may never have been there, or had to make room.
pub(super) fn goes_on_with(model: &JobModel, current: &BTreeMap<String, Observed<'_>>) -> bool {
    let here = current.values().filter(|pod| pod.standing == Standing::Active).count();
    is_elastic(model) && model.rendezvous.as_ref().is_some_and(|config| here >= config.least as usize)
}

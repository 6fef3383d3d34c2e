//! Starting replicas again: one alone, or the whole gang.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_proto::plan::EventSeverity;

use super::decision::Situation;
use super::planner::Planner;
use super::replica::{Observed, Standing};
use super::tally::tallies;
use super::{JobCode, Phase, Stage, narrate};
use crate::model::{JobModel, RestartScope};
use crate::{instant, label};

/// A replica that failed, or whose pod was taken away.
#[derive(Clone, Debug)]
pub(super) struct Lost<'view> {
    pub(super) pod: Option<Observed<'view>>,
    pub(super) retryable: bool,
}

impl<'view> Planner<'view> {
    pub(super) fn restart(
        &mut self,
        model: &JobModel,
        failed: &[Lost<'view>],
        situation: &Situation,
        scope: RestartScope,
    ) {
        let failure =
            super::replica::first_failure(failed.iter().filter_map(|lost| lost.pod.as_ref()).map(|pod| pod.pod));
        let mut message =
            narrate::restart(&self.subject, model, failure.as_ref(), situation.restarts, situation.wanted);
        self.exit_events(model);
        self.blame_lost(failed);
        let seen: BTreeSet<String> = self.pods.iter().map(|pod| pod.uid.to_owned()).collect();
        self.ledger.counted.retain(|uid| seen.contains(uid));
        let due = self.put_off(scope, failed);
        if due > self.now_ms {
            message = format!("{message}; it starts again at {}", instant::text(due));
        }
        match scope {
            RestartScope::Gang => {
                self.ledger.begin();
                self.ledger.restarts += 1;
                // The counts are those of the new generation, which has no pods yet.
                self.change.tallies = Some(tallies(model, &BTreeMap::new()));
            }
            RestartScope::Replica => {
                for pod in failed.iter().filter_map(|lost| lost.pod.as_ref()) {
                    self.ledger.restarts += 1 + pod.restarts;
                    self.ledger.counted.push(pod.uid.to_owned());
                }
                self.ledger.starting |= model.restart_scope == RestartScope::Gang;
            }
        }
        self.write_ledger();
        self.change.restarts = situation.restarts + situation.wanted;
        self.change.message = Some(message.clone());
        self.change.phase = Phase::Restarting;
        self.event(EventSeverity::Warning, &format!("{}Restarting", self.kind()), &message);
        self.transition(Stage::Restarting, message.clone());
        self.reason(JobCode::Restarting, &message, None);
    }

    /// Puts what failed on record, and off if it was not the first time. Answers when the last of it starts again. A pod
    /// that somebody took away did not fail: what replaces it need not wait.
    fn put_off(&mut self, scope: RestartScope, failed: &[Lost<'view>]) -> i64 {
        let now_ms = self.now_ms;
        let mut pods = failed.iter().filter_map(|lost| lost.pod.as_ref()).filter(|pod| !pod.deleting);
        match scope {
            RestartScope::Gang => pods.next().map_or(now_ms, |_| self.ledger.wait("", now_ms)),
            RestartScope::Replica => pods.map(|pod| self.ledger.wait(pod.name, now_ms)).max().unwrap_or(now_ms),
        }
    }

    /// A gang cannot go on in another size: all of it starts again, which is nobody's failure and counts as no restart.
    pub(super) fn resize(&mut self, model: &JobModel) {
        let message = format!("{} starts again with {} pods, as its spec says now", self.title(), model.size());
        self.begin_again(model, &message);
    }

    /// A gang that has to make room for another one waits for its turn again: nobody's failure either.
    pub(super) fn give_way(&mut self, model: &JobModel, preemptor: &str) {
        let message = format!("{} makes room for {preemptor}, and waits for its turn again", self.title());
        self.begin_again(model, &message);
    }

    fn begin_again(&mut self, model: &JobModel, message: &str) {
        self.ledger.begin();
        self.ledger.waits.clear();
        self.write_ledger();
        self.change.tallies = Some(tallies(model, &BTreeMap::new()));
        self.change.message = Some(message.to_owned());
        self.change.phase = Phase::Restarting;
        self.event(EventSeverity::Normal, &format!("{}Restarting", self.kind()), message);
        self.transition(Stage::Restarting, message.to_owned());
        self.reason(JobCode::Restarting, message, None);
    }
}

/// Whether pods that have a node belong to a gang of another size than the job has now.
pub(super) fn is_resized(model: &JobModel, current: &BTreeMap<String, Observed<'_>>) -> bool {
    let other = |pod: &Observed<'_>| pod.gang_size.is_some_and(|size| size != model.policy.min_available);
    model.restart_scope == RestartScope::Gang
        && current.values().any(|pod| pod.standing != Standing::Unbound && other(pod))
}

/// For whom pods of the job have to make room, if they have to.
pub(super) fn preempted<'view>(current: &BTreeMap<String, Observed<'view>>) -> Option<&'view str> {
    let told = |pod: &Observed<'view>| pod.pod.metadata.annotations.as_ref()?.get(label::PREEMPTED);
    current.values().find_map(told).map(String::as_str)
}

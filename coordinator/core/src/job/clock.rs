//! How long a job has been active, for `activeDeadlineSeconds`: while its gang has places. What it waits for places is not its time,
//! neither before it begins nor after it had to make room.
//!
//! It is kept in the ledger, and only of jobs that have such a limit. The start time in the status is another: clients expect there when the
//! job was taken up.

use serde::{Deserialize, Serialize};

use super::planner::Planner;
use super::replica::{Observed, Standing};
use crate::instant;
use crate::model::{JobModel, Scheduler};

/// The time that a job has had places: stretches that are over, and the one that is not, or was the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Clock {
    /// All stretches before the last one.
    pub used_ms: i64,
    /// When the last one began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// When it was over, if it is, or when it will be: a job that failed and is about to begin again is active until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

impl Clock {
    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    const fn runs(&self) -> bool {
        self.since_ms.is_some() && self.until_ms.is_none()
    }

    fn start(&mut self, at_ms: i64) {
        if let Some((since, until)) = self.since_ms.zip(self.until_ms) {
            self.used_ms = self.used_ms.saturating_add(until.min(at_ms).saturating_sub(since).max(0));
        }
        (self.since_ms, self.until_ms) = (Some(at_ms), None);
    }

    /// When the job has been active for so long, if it is then.
    pub(super) fn deadline_ms(&self, limit_ms: i64) -> Option<i64> {
        let at = self.since_ms?.saturating_add(limit_ms.saturating_sub(self.used_ms).max(0));
        self.until_ms.is_none_or(|until| at <= until).then_some(at)
    }
}

impl Planner<'_> {
    /// Lets the clock begin when the gang has places, and stand still when it has none.
    pub(super) fn keep_time(&mut self, model: &JobModel) {
        if model.policy.active_deadline_ms.is_none() {
            return;
        }
        let current = self.current(model);
        let stays = |pod: &&Observed<'_>| !self.deleted.contains(pod.uid) && !self.is_counted(pod);
        let placed: Vec<&Observed<'_>> =
            current.values().filter(stays).filter(|pod| pod.standing != Standing::Unbound).collect();
        let lives = |pod: &&Observed<'_>| matches!(pod.standing, Standing::Starting | Standing::Active);
        let began = placed.iter().copied().filter(lives).map(|pod| self.began_ms(pod)).min();
        let runs = self.ledger.clock.runs();
        let is_enough = placed.len() >= self.least(model);
        match began {
            Some(at_ms) if !runs && is_enough => self.ledger.clock.start(at_ms),
            None if runs => {
                let due = self.ledger.waits.values().map(|wait| wait.until_ms).max();
                self.ledger.clock.until_ms = Some(due.unwrap_or(self.now_ms).max(self.now_ms));
            }
            Some(_) | None => return,
        }
        self.write_ledger();
    }

    /// How many pods have places when the job begins.
    fn least(&self, model: &JobModel) -> usize {
        let config = &self.view.config;
        let is_whole = match model.policy.scheduler {
            Scheduler::Trainyard => config.embedded || config.gangs,
            // One by one: each holds what it has, whatever becomes of the others.
            Scheduler::Kubernetes => false,
            Scheduler::Kueue | Scheduler::Volcano => true,
        };
        if is_whole { model.policy.min_available.max(1) as usize } else { 1 }
    }

    /// When a pod got its node, as far as its node has said so.
    fn began_ms(&self, pod: &Observed<'_>) -> i64 {
        let told = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(instant::ms);
        told.unwrap_or(self.now_ms).min(self.now_ms)
    }
}

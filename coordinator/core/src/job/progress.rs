//! How far a job that goes on is: its phase, and what it waits for.

use std::collections::BTreeMap;

use super::decision::{self, Progressing};
use super::planner::Planner;
use super::replica::{Observed, Standing};
use super::tally::leads;
use super::{JobCode, Phase, Stage, narrate};
use crate::model::{JobModel, RestartScope};
use crate::rendezvous;

impl<'view> Planner<'view> {
    pub(super) fn tell_progress(&mut self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) {
        let standing = |name: &str| current.get(name).map(|pod| pod.standing);
        let replicas = || model.replicas().map(|(_, replica)| standing(&replica.name));
        let whole = replicas().all(|standing| matches!(standing, Some(Standing::Active | Standing::Succeeded)));
        let any_active = replicas().any(|standing| standing == Some(Standing::Active));
        let meeting = self.meeting(model, current);
        let up = match (meeting, model.restart_scope, self.lifecycle.restarting) {
            (Some(meeting), _, _) => meeting.stage == rendezvous::Stage::Running,
            (None, RestartScope::Gang, _) | (None, RestartScope::Replica, true) => whole && any_active,
            (None, RestartScope::Replica, false) => leads(model, current),
        };
        if up && !self.lifecycle.running {
            let lost = self.change.meeting.as_ref().and_then(|meeting| meeting.lost_steps);
            let again = meeting.filter(|_| self.lifecycle.restarting).and_then(|m| narrate::recovered(m, lost));
            let message = again.map_or_else(
                || format!("{} is running.", self.title()),
                |how| format!("{} is running again: {how}", self.title()),
            );
            self.transition(Stage::Running, message);
        }
        if up && self.ledger.starting {
            self.ledger.starting = false;
            self.write_ledger();
        }
        // The status of the incarnation before it: its restart was cut off between the ledger and the status.
        let is_stale = self.lifecycle.running && self.ledger.starting;
        if is_stale {
            self.transition(Stage::Restarting, format!("{} starts again.", self.title()));
        }
        let running = up || (self.lifecycle.running && !self.lifecycle.restarting && !is_stale);
        let restarting = (self.lifecycle.restarting || is_stale) && !up;
        let unplaced = replicas().any(|standing| matches!(standing, None | Some(Standing::Unbound)));
        self.change.phase = decision::phase(&Progressing { suspended: false, restarting, running, unplaced });
        let unmet = self.change.meeting.as_ref().and_then(|meeting| narrate::unmet(&meeting.missing));
        let waiting = narrate::waiting(current.values().map(|pod| pod.pod)).or_else(|| unmet.clone());
        let stalled = self.change.meeting.as_ref().and_then(|meeting| narrate::stalled(&meeting.stalled));
        let slow = self.change.meeting.as_ref().and_then(|meeting| narrate::straggles(&meeting.stragglers));
        let (code, message) = match self.change.phase {
            Phase::Restarting => (JobCode::Restarting, self.restarting_message(model).or(waiting)),
            Phase::Running if stalled.is_some() => (JobCode::StandsStill, stalled),
            Phase::Running if slow.is_some() => (JobCode::Straggles, slow),
            Phase::Running => (JobCode::Running, unmet),
            Phase::Pending => (JobCode::WaitsForPlace, waiting),
            Phase::Starting if unmet.is_some() => (JobCode::WaitsForRanks, waiting),
            Phase::Starting | Phase::Succeeded | Phase::Failed | Phase::Suspended => (JobCode::Starting, waiting),
        };
        let counts = narrate::counts(model, replicas());
        let text = message.as_ref().map_or_else(|| counts.clone(), |message| format!("{counts}; {message}"));
        self.reason(code, &text, None);
        self.change.message = message;
    }
}

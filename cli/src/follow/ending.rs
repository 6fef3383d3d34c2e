//! How following ends: the job's own end, the user's wish, or the loss of the server; and how long each is waited for.

use std::time::Duration;

use tokio::time::Instant;

use super::outcome::Outcome;

/// After the job's end, logs that are still open get this long: the node agent writes them before it reports the end.
const LOG_PATIENCE: Duration = Duration::from_secs(3);
/// Pods of a deleted job get a little more than Kubernetes' usual grace.
const DELETE_PATIENCE: Duration = Duration::from_secs(35);
/// After a second Ctrl-C, killed pods get this long to go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A server that does not answer for so long is looked for anew: it may be gone, or be another process by now.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);
/// Controllers that do not say that they stopped a job are believed to have done so after this long.
const TOLD_PATIENCE: Duration = Duration::from_secs(3);
/// Signals this close together are one request.
const SAME_PRESS: Duration = Duration::from_millis(400);

/// What Ctrl-C has brought about so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Gracefully { signal: i32, since: Instant },
    AtOnce { signal: i32, deadline: Instant },
}

/// What a press of Ctrl-C asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Let the job's ranks end.
    Stop,
    /// Kill them.
    Kill,
    /// Nothing that was not asked for before.
    Same,
    /// Go, and leave things as they are.
    Leave(Outcome),
}

/// What there still is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Pods that have not ended.
    pub(super) pods: usize,
    /// Logs that are being read.
    pub(super) logs: bool,
    /// The job's controller has not said that it stopped the job: it may still be making pods.
    pub(super) untold: bool,
}

pub(super) struct Ending {
    owner: bool,
    stopping: Stopping,
    ended: Option<(Outcome, Instant)>,
    /// Since when the server on this machine does not answer.
    lost_since: Option<Instant>,
}

impl Ending {
    /// `owner`: the job is ours to stop.
    pub(super) fn new(owner: bool) -> Self {
        Self { owner, stopping: Stopping::No, ended: None, lost_since: None }
    }

    /// The job says that it is over.
    pub(super) fn job_ended(&mut self, outcome: Outcome, now: Instant) {
        self.ended.get_or_insert((outcome, now + LOG_PATIENCE));
    }

    /// The job is gone; its pods get their grace.
    pub(super) fn job_gone(&mut self, now: Instant) {
        self.ended.get_or_insert((Outcome::Deleted, now + DELETE_PATIENCE));
    }

    /// Lines that are still coming after the end are not cut off, if all who may write them have ended.
    pub(super) fn line_came(&mut self, left: usize, now: Instant) {
        if let (Some((_, deadline)), 0) = (&mut self.ended, left) {
            *deadline = now + LOG_PATIENCE;
        }
    }

    pub(super) fn server_lost(&mut self, now: Instant) {
        self.lost_since = Some(now);
    }

    pub(super) fn server_back(&mut self) {
        self.lost_since = None;
    }

    /// What a signal means now. The caller carries it out, and then says so.
    pub(super) fn wish(&self, signal: i32, now: Instant) -> Wish {
        if !self.owner {
            return Wish::Leave(Outcome::Left { signal });
        }
        match self.stopping {
            Stopping::No => Wish::Stop,
            // One key press may arrive twice: from the terminal, and from a parent that passes it on.
            Stopping::Gracefully { since, .. } if now.duration_since(since) < SAME_PRESS => Wish::Same,
            Stopping::Gracefully { .. } => Wish::Kill,
            Stopping::AtOnce { signal, .. } => Wish::Leave(Outcome::Stopped { signal, killed: true }),
        }
    }

    pub(super) fn stops(&mut self, signal: i32, now: Instant) {
        self.stopping = Stopping::Gracefully { signal, since: now };
    }

    pub(super) fn kills(&mut self, signal: i32, now: Instant) {
        self.stopping = Stopping::AtOnce { signal, deadline: now + KILL_PATIENCE };
    }

    /// The signal that stops the job, and whether it kills it.
    pub(super) fn stop(&self) -> Option<(i32, bool)> {
        match self.stopping {
            Stopping::No => None,
            Stopping::Gracefully { signal, .. } => Some((signal, false)),
            Stopping::AtOnce { signal, .. } => Some((signal, true)),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The outcome, when there is nothing more to see.
    pub(super) fn over(&self, remains: Remains, now: Instant) -> Option<Outcome> {
        let Remains { pods, logs, untold } = remains;
        match (&self.ended, self.stopping) {
            // Pods of a deleted job get their grace; nobody else would see them off.
            (Some((Outcome::Deleted, _)), Stopping::No) if pods > 0 => None,
            // One that was about to begin has no log yet. It is ended with the job, but not if its server goes first.
            (Some((Outcome::Ended(_), _)), Stopping::No) if pods > 0 && self.owner => None,
            (Some((outcome, _)), Stopping::No) if !logs => Some(outcome.clone()),
            (ended, Stopping::Gracefully { signal, since }) if pods == 0 && !logs => {
                let told = ended.is_some() || !untold || now.duration_since(since) >= TOLD_PATIENCE;
                told.then_some(Outcome::Stopped { signal, killed: false })
            }
            (_, Stopping::AtOnce { signal, .. }) if pods == 0 => Some(Outcome::Stopped { signal, killed: true }),
            (None | Some(_), Stopping::No | Stopping::Gracefully { .. } | Stopping::AtOnce { .. }) => None,
        }
    }

    /// When there is something to do although nothing is seen.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match (&self.ended, self.stopping) {
            (Some((_, at)), _) => Some(*at),
            (None, Stopping::AtOnce { deadline, .. }) => Some(deadline),
            (None, Stopping::Gracefully { since, .. }) if self.lost_since.is_none() => {
                Some(since + TOLD_PATIENCE).filter(|at| *at > now)
            }
            (None, Stopping::No | Stopping::Gracefully { .. }) => self.lost_since.map(|since| since + SERVER_PATIENCE),
        }
    }

    /// The outcome when that moment has come. `None`: look again.
    pub(super) fn too_late(&self) -> Option<Outcome> {
        match (&self.ended, self.stopping) {
            (Some((outcome, _)), _) => Some(outcome.clone()),
            (None, Stopping::AtOnce { signal, .. }) => Some(Outcome::Stopped { signal, killed: true }),
            (None, Stopping::No | Stopping::Gracefully { .. }) => self.lost_since.map(|_| Outcome::ServerLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::End;

    const INT: i32 = 2;
    const NOTHING: Remains = Remains { pods: 0, logs: false, untold: false };

    #[test]
    fn an_ended_job_is_over_when_its_logs_are_read_or_take_too_long() {
        let now = Instant::now();
        let mut ending = Ending::new(true);
        assert_eq!((ending.over(NOTHING, now), ending.deadline(now)), (None, None));
        ending.job_ended(Outcome::Ended(End::Succeeded), now);
        ending.job_gone(now);
        assert_eq!(ending.over(Remains { logs: true, ..NOTHING }, now), None);
        assert_eq!(ending.over(Remains { pods: 1, ..NOTHING }, now), None, "it is about to be ended, and has no log");
        assert_eq!(ending.over(NOTHING, now), Some(Outcome::Ended(End::Succeeded)), "the first word counts");
        assert_eq!(ending.deadline(now), Some(now + LOG_PATIENCE));
        let later = now + Duration::from_secs(1);
        ending.line_came(1, later);
        assert_eq!(ending.deadline(later), Some(now + LOG_PATIENCE), "somebody still runs");
        ending.line_came(0, later);
        assert_eq!(ending.deadline(later), Some(later + LOG_PATIENCE));
        assert_eq!(ending.too_late(), Some(Outcome::Ended(End::Succeeded)));
    }

    #[test]
    fn one_press_stops_and_the_next_kills_and_the_third_leaves() {
        let now = Instant::now();
        let mut ending = Ending::new(true);
        assert_eq!(ending.wish(INT, now), Wish::Stop);
        ending.stops(INT, now);
        assert_eq!(ending.wish(INT, now + Duration::from_millis(10)), Wish::Same, "an echo of the first press");
        let later = now + Duration::from_secs(1);
        assert_eq!(ending.wish(INT, later), Wish::Kill);
        assert_eq!(ending.over(Remains { untold: true, ..NOTHING }, later), None, "pods may still be made");
        assert_eq!(ending.over(NOTHING, later), Some(Outcome::Stopped { signal: INT, killed: false }));
        ending.kills(INT, later);
        let killed = Outcome::Stopped { signal: INT, killed: true };
        assert_eq!(ending.wish(INT, later), Wish::Leave(killed.clone()));
        assert_eq!(ending.too_late(), Some(killed));
        assert_eq!(Ending::new(false).wish(INT, now), Wish::Leave(Outcome::Left { signal: INT }), "it is not ours");
    }

    #[test]
    fn a_lost_server_is_given_up_after_a_while_unless_it_comes_back() {
        let now = Instant::now();
        let mut ending = Ending::new(true);
        ending.server_lost(now);
        assert_eq!(ending.deadline(now), Some(now + SERVER_PATIENCE));
        assert_eq!(ending.too_late(), Some(Outcome::ServerLost));
        ending.server_back();
        assert_eq!((ending.deadline(now), ending.too_late()), (None, None));
    }

    #[test]
    fn pods_of_a_deleted_job_are_seen_off() {
        let now = Instant::now();
        let mut ending = Ending::new(true);
        ending.job_gone(now);
        assert_eq!(ending.over(Remains { pods: 1, ..NOTHING }, now), None);
        assert_eq!(ending.over(NOTHING, now), Some(Outcome::Deleted));
    }
}

//! The small kernels of the life cycle, as tables.

use crate::model::RestartRule;

use super::{FailureCause, Phase};

/// What is known when it is decided how a job goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Situation {
    /// The success rule holds.
    pub(super) succeeded: bool,
    /// It was active for longer than it may be.
    pub(super) past_deadline: bool,
    /// A replica failed that may not be started again.
    pub(super) fatal: bool,
    /// Restarts that the failed replicas ask for now.
    pub(super) wanted: u32,
    /// A container is about to be started again in place.
    pub(super) wanted_in_place: bool,
    /// Restarts so far.
    pub(super) restarts: u32,
    /// Most restarts.
    pub(super) limit: Option<u32>,
}

/// How a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Succeed,
    Fail(FailureCause),
    Restart,
    Continue,
}

/// How a job goes on. The first row that holds counts:
///
/// | # | holds | decision |
/// |---|---|---|
/// | D-1 | the success rule holds | succeed |
/// | D-2 | past the deadline | fail: Deadline |
/// | D-3 | a replica failed for good | fail: Replica |
/// | D-4 | more restarts than the limit | fail: BackoffLimit |
/// | D-5 | a restart in place is due, and the limit is reached | fail: BackoffLimit |
/// | D-6 | the restarts asked for now go beyond the limit | fail: BackoffLimit |
/// | D-7 | restarts are asked for | restart |
/// | D-8 | otherwise | continue |
///
/// `backoffLimit` is the number of retries: a job with limit 3 is started four times, and fails when a fourth retry is due.
pub(super) fn decide(situation: &Situation) -> Decision {
    let Situation { succeeded, past_deadline, fatal, wanted, wanted_in_place, restarts, limit } = *situation;
    let limit = limit.unwrap_or(u32::MAX);
    if succeeded {
        Decision::Succeed
    } else if past_deadline {
        Decision::Fail(FailureCause::Deadline)
    } else if fatal {
        Decision::Fail(FailureCause::Replica)
    } else if restarts > limit || (wanted_in_place && restarts >= limit) || restarts.saturating_add(wanted) > limit {
        Decision::Fail(FailureCause::BackoffLimit)
    } else if wanted > 0 {
        Decision::Restart
    } else {
        Decision::Continue
    }
}

/// Whether a failed replica may be started again. A replica that was taken away, or lost with its node, has no exit code.
pub(super) const fn is_retryable(rule: RestartRule, exit_code: Option<i32>) -> bool {
    match rule {
        RestartRule::Always | RestartRule::OnFailure => true,
        RestartRule::Never => false,
        RestartRule::ExitCode => match exit_code {
            Some(code) => code >= 128,
            None => true,
        },
    }
}

/// What is known when the phase of an unfinished job is named.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progressing {
    pub(super) suspended: bool,
    pub(super) restarting: bool,
    pub(super) running: bool,
    /// A replica has no pod, or its pod has no node.
    pub(super) unplaced: bool,
}

/// The phase of an unfinished job. The first row that holds counts: suspended, restarting, running, without a place, starting.
pub(super) const fn phase(progressing: &Progressing) -> Phase {
    if progressing.suspended {
        Phase::Suspended
    } else if progressing.restarting {
        Phase::Restarting
    } else if progressing.running {
        Phase::Running
    } else if progressing.unplaced {
        Phase::Pending
    } else {
        Phase::Starting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_decision_table() {
        use Decision::{Continue, Fail, Restart, Succeed};
        use FailureCause::{BackoffLimit, Deadline, Replica};
        let calm = Situation::default();
        for (row, situation, expected) in [
            ("D-1", Situation { succeeded: true, past_deadline: true, fatal: true, ..calm }, Succeed),
            ("D-2", Situation { past_deadline: true, fatal: true, ..calm }, Fail(Deadline)),
            ("D-3", Situation { fatal: true, wanted: 1, ..calm }, Fail(Replica)),
            ("D-4", Situation { restarts: 3, limit: Some(2), ..calm }, Fail(BackoffLimit)),
            ("D-5", Situation { restarts: 2, limit: Some(2), wanted_in_place: true, ..calm }, Fail(BackoffLimit)),
            ("D-5", Situation { restarts: 1, limit: Some(2), wanted_in_place: true, ..calm }, Continue),
            ("D-5", Situation { restarts: 0, limit: Some(0), wanted_in_place: true, ..calm }, Fail(BackoffLimit)),
            ("D-6", Situation { restarts: 2, limit: Some(2), wanted: 1, ..calm }, Fail(BackoffLimit)),
            ("D-6", Situation { limit: Some(0), wanted: 1, ..calm }, Fail(BackoffLimit)),
            ("D-7", Situation { restarts: 1, limit: Some(2), wanted: 1, ..calm }, Restart),
            ("D-7", Situation { restarts: 1000, limit: None, wanted: 1, ..calm }, Restart),
            ("D-8", Situation { restarts: 2, limit: Some(2), ..calm }, Continue),
        ] {
            assert_eq!(decide(&situation), expected, "{row} {situation:?}");
        }
    }

    #[test]
    fn restart_rules_by_exit_code() {
        use RestartRule::{Always, ExitCode, Never, OnFailure};
        for (rule, code, expected) in [
            (Always, Some(1), true),
            (OnFailure, Some(1), true),
            (OnFailure, None, true),
            (Never, Some(137), false),
            (Never, None, false),
            (ExitCode, Some(1), false),
            (ExitCode, Some(127), false),
            (ExitCode, Some(128), true),
            (ExitCode, Some(137), true),
            (ExitCode, None, true),
        ] {
            assert_eq!(is_retryable(rule, code), expected, "{rule:?} {code:?}");
        }
    }

    #[test]
    fn every_phase() {
        let calm = Progressing::default();
        for (progressing, expected) in [
            (Progressing { suspended: true, running: true, ..calm }, Phase::Suspended),
            (Progressing { restarting: true, unplaced: true, ..calm }, Phase::Restarting),
            (Progressing { running: true, unplaced: true, ..calm }, Phase::Running),
            (Progressing { unplaced: true, ..calm }, Phase::Pending),
            (calm, Phase::Starting),
        ] {
            assert_eq!(phase(&progressing), expected, "{progressing:?}");
        }
    }
}

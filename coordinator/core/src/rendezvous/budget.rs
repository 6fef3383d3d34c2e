//! How many failures a job bears.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Cause, Failure};

/// Restarts by cause, and over all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Restarts at most, whatever the causes; `None`: no bound.
    pub total: Option<u32>,
    /// Restarts at most for one cause; a cause that is not here has only the total.
    pub by_cause: BTreeMap<Cause, u32>,
    /// A program that ended with a code below this one is not started again: it meant to.
    pub lowest_code: i32,
}

/// Restarts that a job has had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// By the rendezvous.
    pub by_cause: BTreeMap<Cause, u32>,
    /// By the rendezvous, of causes that are not on record.
    pub unknown: u32,
    /// By others: pods that failed before they joined, whole gangs.
    pub elsewhere: u32,
}

impl Budget {
    /// Whether a job that has restarted `restarts` times, `spent` of them for this cause, may do so again.
    #[must_use]
    pub fn allows(&self, failure: &Failure, spent: u32, restarts: u32) -> bool {
        // A bad link or GPU is as bad a moment later, and the ranks of a restart are not checked.
        if failure.cause == Cause::Preflight {
            return false;
        }
        let by_program = match failure.cause {
            Cause::ExitCode | Cause::ImportError | Cause::Exception => true,
            Cause::Signal
            | Cause::OutOfMemory
            | Cause::RendezvousTimeout
            | Cause::Hang
            | Cause::NodeLost
            | Cause::GpuXid
            | Cause::Preflight => false,
        };
        let meant = by_program && failure.code < self.lowest_code;
        let within = |most: &u32| spent < *most;
        !meant
            && self.total.is_none_or(|total| restarts < total)
            && self.by_cause.get(&failure.cause).is_none_or(within)
    }
}

/// What R-5 holds a rendezvous to, besides its budget: what had been spent when the budget began to hold. That may be more than
/// it allows, and does not grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Borne {
    pub(super) restarts: u32,
    pub(super) by_cause: BTreeMap<Cause, u32>,
}

impl Budget {
    /// R-5 of so many restarts, these of them by cause. A restart for what the check before the job found is none that a budget
    /// allows.
    pub(super) fn check(&self, earlier: &Borne, restarts: u32, spent: &BTreeMap<Cause, u32>) -> Result<(), String> {
        if let Some(total) = self.total.filter(|total| restarts > earlier.restarts.max(*total)) {
            return Err(format!("R-5: {restarts} restarts, {total} allowed"));
        }
        if spent.values().sum::<u32>() > restarts {
            return Err(format!("R-5: {restarts} restarts, and by cause {spent:?}"));
        }
        for (cause, count) in spent {
            let most = if *cause == Cause::Preflight { Some(0) } else { self.by_cause.get(cause).copied() };
            let found = earlier.by_cause.get(cause).copied().unwrap_or(0);
            if let Some(most) = most.filter(|most| *count > found.max(*most)) {
                return Err(format!("R-5: {count} restarts for {}, {most} allowed", cause.word()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_check_before_the_job_found_is_not_tried_again() {
        let budget = Budget { total: None, ..Budget::default() };
        let failure = |cause| Failure { rank: Some(0), cause, code: 1, message: String::new(), secondary: false };
        assert!(budget.allows(&failure(Cause::Exception), 0, 0));
        assert!(!budget.allows(&failure(Cause::Preflight), 0, 0));
    }
}

//! The invariants of the module's documentation that the state shows, derived anew.

use std::collections::BTreeSet;

use super::{Phase, Rank, Supervisor};

impl Supervisor {
    /// Re-derives the invariants.
    ///
    /// # Errors
    /// The label and the words of the first one that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let named = self.processes.keys().map(|process| process.generation);
        let highest = named.chain(self.next).chain(self.present.as_ref().map(|p| p.generation)).max();
        if highest.is_some_and(|highest| highest > self.seen) {
            return Err(format!("S-1: {highest:?} is in use, {} was seen", self.seen));
        }
        if self.outcome.is_some() && !self.processes.is_empty() {
            return Err(format!("S-3: an outcome, and {} processes", self.processes.len()));
        }
        self.check_present()?;
        if self.is_ending() && self.next.is_some() {
            return Err("S-5: a generation is to begin although the launch ends".to_owned());
        }
        let waits = self
            .processes
            .values()
            .any(|process| matches!(process.phase, Phase::Stopping { .. } | Phase::Joining { .. }))
            || self.unheard_since_ms.is_some();
        if waits && self.deadline().is_none() {
            return Err("S-6: something waits for time, and there is no deadline".to_owned());
        }
        let quiet = self.processes.values().all(|process| {
            matches!(process.phase, Phase::Starting | Phase::Running | Phase::Interrupted | Phase::Killed { .. })
        });
        if quiet && !self.starting_is_due() && self.unheard_since_ms.is_none() && self.deadline().is_some() {
            return Err(format!("S-6: nothing waits for time, and the deadline is {:?}", self.deadline()));
        }
        Ok(())
    }

    fn check_present(&self) -> Result<(), String> {
        let Some(present) = &self.present else { return Ok(()) };
        if let Some((rank, exit)) = present.failure {
            let known = match present.ranks.get(rank) {
                Some(Rank::Ended(own)) => !own.success() || !exit.success(),
                // It was given up, and is being ended.
                Some(Rank::Alive(_)) => true,
                Some(Rank::Due) | None => false,
            };
            if !known || exit.success() || present.finished {
                return Err(format!("S-4: rank {rank} failed first with {exit:?}: {:?}", present.ranks.get(rank)));
            }
        }
        let alive = present.ranks.iter().enumerate().filter_map(|(rank, state)| match state {
            Rank::Alive(process) => Some((rank, process)),
            Rank::Due | Rank::Ended(_) => None,
        });
        let mut held = BTreeSet::new();
        for (rank, process) in alive {
            if process.local_rank != rank || !held.insert(process) || !self.processes.contains_key(process) {
                return Err(format!("S-7: rank {rank} is {process:?}"));
            }
        }
        let other = self.processes.iter().find(|(id, process)| {
            !held.contains(id) && matches!(process.phase, Phase::Starting | Phase::Running | Phase::Joining { .. })
        });
        if let Some((id, process)) = other {
            return Err(format!("S-2: {id:?} is {:?} and no rank of the present generation", process.phase));
        }
        Ok(())
    }
}

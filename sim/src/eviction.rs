//! P-1: gangs are not stopped for each other for ever.
//!
//! Counted is how often each gang is told to make room while nothing happens that is not the scheduler's own doing: no user, no node, no
//! process that ends, no fault. Only finitely many such steps can follow each other (docs/scheduling.md); here the bound is a number.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_coordinator_core::label;

use crate::api::Api;
use crate::invariant::controller_uid;
use crate::quota::start_of;

/// How often one job may be told to make room until something else happens: as often as there are jobs that could take from it, each of whose
/// pods may be a gang of its own.
pub(crate) const MOST: usize = 6;

/// Who was told to make room.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    /// Starts of gangs that were told already.
    told: BTreeSet<(String, String, String)>,
    /// How often since something happened, by owner.
    count: BTreeMap<String, usize>,
    /// How often in all.
    pub(crate) total: u64,
    /// The most of one owner.
    pub(crate) most: usize,
}

impl Evictions {
    /// Something that the scheduler did not do.
    pub(crate) fn happened(&mut self) {
        self.count.clear();
    }

    pub(crate) fn check(&mut self, api: &Api) -> Result<(), String> {
        for pod in api.of_kind("v1", "Pod").filter(|pod| pod.annotation(label::PREEMPTED).is_some()) {
            let start = start_of(pod);
            if self.told.contains(&start) {
                continue;
            }
            let owner = controller_uid(pod).unwrap_or_default().to_owned();
            self.told.insert(start);
            self.total += 1;
            let count = self.count.entry(owner.clone()).or_default();
            *count += 1;
            self.most = self.most.max(*count);
            if *count > MOST {
                let name = &pod.key().name;
                return Err(format!(
                    "P-1: pods of {owner}, as {name}, made room {count} times, and nothing else happened"
                ));
            }
        }
        Ok(())
    }
}

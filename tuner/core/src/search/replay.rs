//! How a search takes up the trials of an earlier process: each batch of them as it was asked for.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Batch, Search, Stored};

/// No batch has more trials than these.
pub(super) const LONGEST: u64 = 4096;

impl Search {
    /// Goes through the trials that are stored and were not asked for here.
    pub(super) fn catch_up(&mut self) {
        let mut mentioned = None;
        while let Some(number) = self.unknown.pop_first() {
            let Some(stored) = self.trials.get(&number) else { continue };
            let (learned, batch) = (stored.learned.clone(), stored.batch);
            for ended in &learned {
                // Of one that was deleted since there is no news.
                if self.news.remove(ended) || !self.trials.contains_key(ended) {
                    self.tell(*ended);
                }
            }
            for member in members(number, batch) {
                self.take_up(member, &learned, batch, &mut mentioned);
            }
        }
    }

    /// Takes up one trial of a batch. If it is not there, it was not stored, or has been deleted since.
    fn take_up(&mut self, number: u64, learned: &[u64], batch: Option<Batch>, mentioned: &mut Option<BTreeSet<u64>>) {
        if self.ids.contains_key(&number) || self.repeats.contains_key(&number) {
            return;
        }
        if let Some(stored) = self.trials.get(&number) {
            let (level, by) = (self.level(stored), stored.by.clone());
            let configuration = self.configuration(&stored.parameters);
            self.unknown.remove(&number);
            // What cannot be read is not known to the sampler.
            if let Some(configuration) = configuration {
                let id = self.experiment.begin_by(configuration, level, by).id;
                self.know(number, id);
            }
            return;
        }
        let Some(batch) = batch else { return };
        // Where nothing is left to try there is none that lacks.
        if self.propose(number, batch, learned).is_err() {
            return;
        }
        let mentioned = mentioned.get_or_insert_with(|| self.trials.values().flat_map(Stored::mentions).collect());
        if mentioned.contains(&number) {
            // It was there once, and its end was learned: it is not to come again.
            self.asked.remove(&number);
        }
    }
}

impl Stored {
    /// The trials that were there when it was asked for.
    fn mentions(&self) -> impl Iterator<Item = u64> + '_ {
        self.learned.iter().copied().chain(self.place.continues)
    }
}

/// The numbers of a trial's batch.
fn members(number: u64, batch: Option<Batch>) -> Range<u64> {
    let alone = number..number.saturating_add(1);
    let Some(Batch { first, trials }) = batch.filter(|batch| batch.trials <= LONGEST) else { return alone };
    let all = first..first.saturating_add(trials);
    if all.contains(&number) { all } else { alone }
}

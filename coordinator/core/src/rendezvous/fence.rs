//! Generation numbers, each given out once, ever.
//!
//! A number may be used only after a durable record says that it is taken. Writing that record at each restart would
//! put the disk in the way of recovery, so numbers are reserved in blocks, ahead of need: the record holds the end of
//! the block. A coordinator that starts again begins after the recorded end, and skips what was left of the block.

use serde::{Deserialize, Serialize};

use super::world::Generation;

/// Numbers in a block.
const BLOCK: u64 = 16;
/// The furthest that anybody's word moves the next number: more than any job has generations, and so little that no word,
/// be it repeated for years, uses the numbers up.
const LEAP: u64 = 1 << 32;
/// A new block is asked for when so few are left.
const LOW: u64 = 4;

/// The numbers that this coordinator may give out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fence {
    next: u64,
    /// The last number that the durable record covers.
    reserved: u64,
    /// The end of the block that was asked for.
    asked: u64,
}

impl Fence {
    /// After a (re)start: `recorded` is what the durable record says, 0 if there is none.
    pub(super) fn new(recorded: Generation) -> Self {
        Self { next: recorded.0.saturating_add(1), reserved: recorded.0, asked: recorded.0 }
    }

    /// The durable record now says `to`.
    pub(super) fn reserved(&mut self, to: Generation) {
        self.reserved = self.reserved.max(to.0);
    }

    /// Somebody has seen this number: the record was lost, and with it the promise. Never go below what is in use. False
    /// for a number that nobody can have seen.
    pub(super) fn seen(&mut self, generation: Generation) -> bool {
        let can_be = generation.0.saturating_sub(self.next) <= LEAP && generation.0 < u64::MAX - LEAP;
        if can_be {
            self.next = self.next.max(generation.0 + 1);
        }
        can_be
    }

    /// Whether [`Self::take`] would give one.
    pub(super) fn has_next(&self) -> bool {
        self.next <= self.reserved
    }

    /// Takes the next number, if one is reserved.
    pub(super) fn take(&mut self) -> Option<Generation> {
        let next = self.next;
        self.has_next().then(|| {
            self.next += 1;
            Generation(next)
        })
    }

    /// The end of the block that must be reserved now, if one must that was not asked for already.
    pub(super) fn want(&mut self) -> Option<Generation> {
        let left = self.reserved.saturating_add(1).saturating_sub(self.next);
        let end = self.next.saturating_add(BLOCK - 1);
        let wanted = left < LOW && self.asked.max(self.reserved) < self.next.saturating_add(LOW - 1);
        wanted.then(|| {
            self.asked = end;
            Generation(end)
        })
    }

    /// The reservation failed or its answer is lost: ask again.
    pub(super) fn forget(&mut self) {
        self.asked = self.reserved;
    }

    /// The last number given out or skipped.
    pub(super) fn last(&self) -> Generation {
        Generation(self.next - 1)
    }
}

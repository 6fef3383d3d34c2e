//! Places set aside for gangs that cannot start now (EASY backfill).
//!
//! The first gangs that wait get places as of the moment when gangs that run will have left enough. If all of those have a
//! limit on their run time that is a promise: whoever is admitted from then on fits into every slot that it reaches, and one of
//! them is the start of the reservation, in which the places are taken. A reservation is made earlier when that is possible, and never later.
//! Where nobody knows when a gang ends, the moment is an estimate, and places are set aside only after some time of waiting.

use super::engine::{Engine, Held, Member};
use super::moment::Moment;
use super::timeline::FOREVER;
use super::view::{Phase, Place};

/// Gangs for which a moment is sought in one pass, at most.
pub(super) const TRIES: u32 = 4;

impl Engine<'_> {
    /// Sets places aside for a gang that did not start, or keeps what was set aside.
    pub(super) fn reserve(&mut self, id: usize, held: Option<Held>) {
        let Some(held) = held else {
            self.begin_reservation(id);
            return;
        };
        let settled = self.settled.get(&id) == Some(&self.changes);
        if held.start_ms > self.now_ms
            && !settled
            && let Some(better) = self.shadow(id, Some(held.start_ms))
        {
            self.hold(id, better);
            self.changes += 1;
            self.epoch += 1;
            return;
        }
        self.settled.insert(id, self.changes);
        self.hold(id, held);
    }

    /// Whether as many gangs as may be have places set aside.
    pub(super) fn is_full(&self) -> bool {
        self.order.holders.len() >= self.view.policy.reservations as usize
    }

    /// Whether nothing is set aside for a gang of a class in a queue, whatever becomes free.
    pub(super) fn is_not_reserved(&self, class: usize, queue: usize) -> bool {
        let tried = || self.hopeless.get(&(class, queue)) == Some(&self.changes);
        self.is_full() || self.shadows == 0 || self.classes.classes[class].terms || tried()
    }

    fn begin_reservation(&mut self, id: usize) {
        let member = &self.members[id];
        let key = (member.class, member.queue);
        if self.is_not_reserved(member.class, member.queue) {
            return;
        }
        self.shadows -= 1;
        let waited = self.now_ms.saturating_sub(member.gang.submitted_ms);
        let found = self.shadow(id, None);
        match found.filter(|held| held.promised || waited >= self.view.policy.hold_after_ms) {
            Some(held) => {
                self.hold(id, held);
                self.changes += 1;
            }
            None => {
                self.hopeless.insert(key, self.changes);
            }
        }
    }

    pub(super) fn hold(&mut self, id: usize, held: Held) {
        let known = self.timeline.slots.iter().any(|slot| slot.at_ms == held.start_ms);
        if held.start_ms > self.now_ms && !known {
            let slot = self.slot_at(held.start_ms);
            self.timeline.insert(slot);
        }
        let from = held.start_ms.max(self.now_ms);
        self.shift(id, &held.places, from, FOREVER, 1);
        self.members[id].held = Some(held);
        self.order.holders.insert(id);
    }

    /// The earliest moment, before another if one is given, at which the gang fits and goes on fitting; first if every gang runs to
    /// its limit, then if each runs as long as is expected.
    fn shadow(&self, id: usize, before: Option<i64>) -> Option<Held> {
        let firm = |member: &Member<'_>| member.ends_ms;
        let found = self.earliest(id, before, &firm, true);
        let promised = found.is_some();
        let guess = |member: &Member<'_>| self.expected_end(member);
        let found = found.or_else(|| if before.is_none() { self.earliest(id, before, &guess, false) } else { None });
        found.map(|(start_ms, places)| Held { start_ms, promised, places })
    }

    fn earliest(
        &self,
        id: usize,
        before: Option<i64>,
        ends: &dyn Fn(&Member<'_>) -> i64,
        firm: bool,
    ) -> Option<(i64, Vec<Place>)> {
        let limit = before.unwrap_or(FOREVER);
        let times = self.running.iter().map(|id| ends(&self.members[*id]));
        let mut times: Vec<i64> = times.filter(|time| *time > self.now_ms && *time < limit).collect();
        times.sort_unstable();
        times.dedup();
        let last = *times.last()?;
        let mut moment = Moment::new(self, id, ends, firm);
        let mut best = (last, moment.fits(last)?);
        let (mut low, mut high) = (0, times.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            match moment.fits(times[middle]) {
                Some(places) => {
                    best = (times[middle], places);
                    high = middle;
                }
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    /// When a gang that runs is expected to end: as it says; else, having run for some time, it goes on for as long again.
    pub(super) fn expected_end(&self, member: &Member<'_>) -> i64 {
        let since = match member.gang.phase {
            Phase::Running { since_ms, .. } => since_ms,
            Phase::Waiting { .. } => self.now_ms,
        };
        let said = member.gang.expected_ms.map(|expected| since.saturating_add(expected));
        let again = self.now_ms.saturating_add((self.now_ms.saturating_sub(since)).max(60_000));
        said.filter(|end| *end > self.now_ms).unwrap_or(again).min(member.ends_ms)
    }
}

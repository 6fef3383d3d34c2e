//! Places set aside for gangs that cannot start now (EASY backfill).
//!
//! The first gangs that wait get places as of the moment when gangs that run will have left enough. If all of those have a
//! limit on their run time that is a promise: whoever is admitted from then on fits into every slot that it reaches, and one of
//! them is the start of the reservation, in which the places are taken. A reservation is made earlier when that is possible, and never later.
//! Where nobody knows when a gang ends, the moment is an estimate, and places are set aside only after some time of waiting.

use std::collections::BTreeSet;

use super::engine::{Engine, Held, Member};
use super::place::{Ground, place};
use super::timeline::{Caps, FOREVER, fresh};
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

    fn begin_reservation(&mut self, id: usize) {
        let member = &self.members[id];
        let key = (member.class, member.queue);
        let full = self.order.holders.len() >= self.view.policy.reservations as usize;
        if full || self.class(id).terms || self.shadows == 0 || self.hopeless.get(&key) == Some(&self.changes) {
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
            let slot = self.slot_at(held.start_ms, |member| member.ends_ms, false);
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
        let times: BTreeSet<i64> = self.running.iter().map(|id| ends(&self.members[*id])).collect();
        let limit = before.unwrap_or(FOREVER);
        let times: Vec<i64> = times.into_iter().filter(|time| *time > self.now_ms && *time < limit).collect();
        let mut best = (*times.last()?, self.fits_at(id, *times.last()?, ends, firm)?);
        let (mut low, mut high) = (0, times.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            match self.fits_at(id, times[middle], ends, firm) {
                Some(places) => {
                    best = (times[middle], places);
                    high = middle;
                }
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    /// Places for the smallest size of a gang from a moment on.
    fn fits_at(&self, id: usize, at_ms: i64, ends: &dyn Fn(&Member<'_>) -> i64, firm: bool) -> Option<Vec<Place>> {
        let class = self.class(id);
        let (counts, amounts) = (&class.least, &class.asks);
        let queue = self.members[id].queue;
        let mut slot = self.slot_at(at_ms, ends, !firm);
        if self.tree.lacks(&slot.usage, queue, amounts).is_some() {
            return None;
        }
        for later in self.timeline.slots.iter().filter(|later| firm && later.at_ms > at_ms) {
            if self.tree.lacks(&later.usage, queue, amounts).is_some() {
                return None;
            }
            slot.free.lower_to(&later.free);
        }
        let caps: Vec<Caps> = class.parts.iter().map(|part| fresh(&slot.free, part.kind, &self.classes)).collect();
        let ground = Ground {
            free: &slot.free,
            caps: caps.iter().map(|caps| caps.of.as_slice()).collect(),
            cluster: &self.cluster,
            classes: &self.classes,
            demand: &self.demand,
        };
        place(&ground, class, counts)
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

//! Finding places for the gang whose turn it is.

use super::engine::{Engine, Held};
use super::near::{Keys, Near, Present};
use super::place::{Ground, place, possible};
use super::shape::Class;
use super::view::Place;

impl Engine<'_> {
    /// Takes off what is set aside for a gang, for the time of its turn.
    pub(super) fn lift(&mut self, id: usize) -> Option<Held> {
        if !self.order.holders.remove(&id) {
            return None;
        }
        let held = self.members[id].held.take()?;
        let from = held.start_ms.max(self.now_ms);
        self.shift(id, &held.places, from, super::timeline::FOREVER, -1);
        Some(held)
    }

    /// Places for as much of a gang as there is room and quota for, at least for its smallest size.
    pub(super) fn fit(&mut self, id: usize, held: Option<&Held>) -> Option<Vec<Place>> {
        let slot = self.timeline.last_before(self.members[id].ends_ms);
        let time = self.timeline.slots[slot].at_ms;
        let class = self.members[id].class;
        if (held.is_none() && self.is_unfit(class, time)) || self.lacks_least(id, slot).is_some() {
            return None;
        }
        let (least, full) = (self.class(id).least.clone(), self.class(id).full.clone());
        if full != least
            && self.lacks(id, &full, slot).is_none()
            && let Some(places) = self.place_in(id, slot, &full)
        {
            return Some(places);
        }
        let Some(mut best) = self.place_in(id, slot, &least) else {
            if held.is_none() {
                self.unfit[class] = Some((self.stamp(class), time));
            }
            // Places were set aside without regard to whom its pods must not be near; such a gang may have come since.
            let stands = |held: &&Held| !self.class(id).terms && self.stands(id, held, slot);
            return held.filter(stands).map(|held| held.places.clone());
        };
        // The largest size in between.
        let steps = full.iter().zip(&least).map(|(full, least)| full - least).max().unwrap_or(0);
        let (mut fits, mut fails) = (0, steps);
        while fits + 1 < fails {
            let middle = fits.midpoint(fails);
            let counts = between(&least, &full, middle, steps);
            let found = self.lacks(id, &counts, slot).is_none().then(|| self.place_in(id, slot, &counts)).flatten();
            match found {
                Some(places) => (best, fits) = (places, middle),
                None => fails = middle,
            }
        }
        Some(best)
    }

    /// What has to be the same for a gang that found no place to find none again: of one role nothing may have been freed, of several,
    /// which are placed one after the other, nothing may have changed.
    fn stamp(&self, class: usize) -> u64 {
        let class = &self.classes.classes[class];
        if class.terms || class.parts.len() > 1 { self.changes << 32 } else { self.epoch }
    }

    /// Whether it is known that gangs of a class find no place until the slot of a time.
    pub(super) fn is_unfit(&self, class: usize, at_ms: i64) -> bool {
        self.unfit[class].is_some_and(|(stamp, from)| from <= at_ms && stamp == self.stamp(class))
    }

    /// As [`lacks`](Self::lacks), for the smallest size.
    pub(super) fn lacks_least(&self, id: usize, slot: usize) -> Option<(usize, i64, i64)> {
        self.lacks_asked(self.members[id].class, self.members[id].queue, slot)
    }

    /// As [`lacks`](Self::lacks), for the smallest size of gangs of a class in a queue.
    pub(super) fn lacks_asked(&self, class: usize, queue: usize, slot: usize) -> Option<(usize, i64, i64)> {
        let asks = &self.classes.classes[class].asks;
        self.timeline.slots[..=slot].iter().find_map(|slot| self.tree.lacks(&slot.usage, queue, asks))
    }

    /// The first resource of which the queue has too little in some slot: (position, asked, available).
    pub(super) fn lacks(&self, id: usize, counts: &[u32], slot: usize) -> Option<(usize, i64, i64)> {
        let amounts = self.class(id).amounts(counts, self.tree.total.len());
        let queue = self.members[id].queue;
        self.timeline.slots[..=slot].iter().find_map(|slot| self.tree.lacks(&slot.usage, queue, &amounts))
    }

    /// Places in the room that is there in all slots up to one.
    pub(super) fn place_in(&mut self, id: usize, slot: usize, counts: &[u32]) -> Option<Vec<Place>> {
        let class = &self.classes.classes[self.members[id].class];
        for (part, count) in class.parts.iter().zip(counts) {
            if self.timeline.caps(slot, part.kind, &self.classes).total < u64::from(*count) {
                return None;
            }
        }
        let caps = class.parts.iter().map(|part| self.timeline.known_caps(slot, part.kind)).collect();
        let ground = Ground {
            free: &self.timeline.slots[slot].least,
            caps,
            cluster: &self.cluster,
            classes: &self.classes,
            demand: &self.demand,
        };
        if class.terms { self.place_near(&ground, class, counts) } else { place(&ground, class, counts) }
    }

    /// Whether there are places for the smallest size of a gang.
    pub(super) fn has_place(&mut self, id: usize, slot: usize) -> bool {
        let class = &self.classes.classes[self.members[id].class];
        for part in &class.parts {
            self.timeline.caps(slot, part.kind, &self.classes);
        }
        let caps: Vec<&[u32]> = class.parts.iter().map(|part| self.timeline.known_caps(slot, part.kind)).collect();
        if let Some(possible) = possible(&self.cluster, class, &caps, &class.least) {
            return possible;
        }
        let least = class.least.clone();
        self.place_in(id, slot, &least).is_some()
    }

    pub(super) fn place_near(&self, ground: &Ground<'_>, class: &Class, counts: &[u32]) -> Option<Vec<Place>> {
        let present: Present<'_> = self
            .running
            .iter()
            .map(|id| (self.class(*id), self.members[*id].places.as_slice()))
            .filter(|(class, _)| class.terms)
            .collect();
        let keys: Keys<'_> = self.cluster.columns();
        Near { ground, class, present: &present, keys: &keys }.place(counts)
    }

    /// Whether the places that were set aside are free.
    fn stands(&self, id: usize, held: &Held, slot: usize) -> bool {
        let class = self.class(id);
        let mut grid: Vec<(u32, Vec<i64>)> = Vec::new();
        let mut counts = vec![0; class.parts.len()];
        for place in &held.places {
            counts[place.role as usize] += place.count;
            let at = grid.iter().position(|(node, _)| *node == place.node).unwrap_or_else(|| {
                grid.push((place.node, self.timeline.slots[slot].least.row(place.node as usize).to_vec()));
                grid.len() - 1
            });
            for (resource, amount) in &self.classes.kinds[class.parts[place.role as usize].kind].needs {
                grid[at].1[*resource] -= amount * i64::from(place.count);
            }
            if class.needs_below_zero(place.role as usize, &grid[at].1, &self.classes) {
                return false;
            }
        }
        self.lacks(id, &counts, slot).is_none()
    }
}

impl Class {
    fn needs_below_zero(&self, part: usize, row: &[i64], classes: &super::shape::Classes) -> bool {
        classes.kinds[self.parts[part].kind].needs.iter().any(|(resource, _)| row[*resource] < 0)
    }
}

/// Counts at a step of the way from the least to the full size.
fn between(least: &[u32], full: &[u32], step: u32, steps: u32) -> Vec<u32> {
    let one = |(least, full): (&u32, &u32)| {
        let more = u64::from(full - least) * u64::from(step) / u64::from(steps.max(1));
        least + u32::try_from(more).unwrap_or(0)
    };
    least.iter().zip(full).map(one).collect()
}

//! Room that nobody waits for goes to elastic gangs that run below their full size.

use super::cluster::Span;
use super::engine::{Engine, Member};
use super::place::{Ground, place};
use super::view::Place;

impl Engine<'_> {
    /// Gives every elastic gang what it can use more, the higher priority first.
    pub(super) fn grow(&mut self) {
        let free = |member: &Member<'_>| member.valid && !member.fixed;
        let small = |id: &usize| free(&self.members[*id]) && !self.class(*id).terms && self.is_small(*id);
        let mut ids: Vec<usize> = self.running.iter().copied().filter(small).collect();
        ids.sort_by_key(|id| (std::cmp::Reverse(self.members[*id].priority), *id));
        for id in ids {
            let wants = self.wants(id);
            let steps = wants.iter().copied().max().unwrap_or(0);
            let mut best = None;
            let (mut fits, mut fails) = (0, steps + 1);
            while fits + 1 < fails {
                let middle = fits.midpoint(fails);
                let more: Vec<u32> = wants.iter().map(|more| (*more).min(middle)).collect();
                match self.place_more(id, &more) {
                    Some(places) => (best, fits) = (Some(places), middle),
                    None => fails = middle,
                }
            }
            let Some(new) = best else { continue };
            let until = self.members[id].ends_ms;
            self.shift(id, &new, self.now_ms, until, 1);
            let member = &mut self.members[id];
            member.fixed = true;
            member.places.extend_from_slice(&new);
            self.count(id);
            self.changes += 1;
            let all = self.members[id].places.clone();
            let growth = self.admission(id, &new, &all);
            self.answer.growths.push(growth);
        }
    }

    /// Whether it could have more pods.
    fn is_small(&self, id: usize) -> bool {
        let places = &self.members[id].places;
        let pods = |role: usize| {
            places
                .iter()
                .filter(|place| place.role as usize == role)
                .fold(0_u32, |sum, one| sum.saturating_add(one.count))
        };
        self.class(id).full.iter().enumerate().any(|(role, full)| pods(role) < *full)
    }

    /// How many pods of each role it could have more.
    fn wants(&self, id: usize) -> Vec<u32> {
        let mut wants = self.class(id).full.clone();
        for place in &self.members[id].places {
            if let Some(want) = wants.get_mut(place.role as usize) {
                *want = want.saturating_sub(place.count);
            }
        }
        wants
    }

    /// Places for more pods, in the domain that the gang has to be in.
    fn place_more(&mut self, id: usize, more: &[u32]) -> Option<Vec<Place>> {
        let slot = self.timeline.last_before(self.members[id].ends_ms);
        if self.lacks(id, more, slot).is_some() {
            return None;
        }
        let class = &self.classes.classes[self.members[id].class];
        let span = self.home(id)?;
        let mut caps: Vec<Vec<u32>> = Vec::new();
        for (part, more) in class.parts.iter().zip(more) {
            let of = &self.timeline.caps(slot, part.kind, &self.classes).of;
            let inside = &of[span.lo..span.hi];
            if inside.iter().map(|cap| u64::from(*cap)).sum::<u64>() < u64::from(*more) {
                return None;
            }
            let mut here = vec![0; of.len()];
            here[span.lo..span.hi].copy_from_slice(inside);
            caps.push(here);
        }
        let ground = Ground {
            free: &self.timeline.slots[slot].least,
            caps: caps.iter().map(Vec::as_slice).collect(),
            cluster: &self.cluster,
            classes: &self.classes,
            demand: &self.demand,
        };
        place(&ground, class, more)
    }

    /// The domain of the required level that its pods are in.
    fn home(&self, id: usize) -> Option<Span> {
        let Some(level) = self.class(id).required else { return Some(self.cluster.all()) };
        let node = self.members[id].places.first()?.node as usize;
        let tier = &self.cluster.tiers[level];
        tier.spans.get(tier.of[node] as usize).copied()
    }
}

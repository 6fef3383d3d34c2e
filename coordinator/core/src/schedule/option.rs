//! Gangs that may start in one of several shapes: flavors of what they ask for.
//!
//! Such a gang is, for each test, of the class of the shape that is tried; while places are set aside for it, of the class that they are
//! for. In whichever it starts, it stays.

use super::engine::{Engine, Held};
use super::view::Place;

impl Engine<'_> {
    /// Position of the option whose class a gang has.
    pub(super) fn option(&self, id: usize) -> u32 {
        let member = &self.members[id];
        let found = self.classes.options_of(member.at).iter().position(|class| *class as usize == member.class);
        found.and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
    }

    /// The class that a gang has while it waits and nothing is set aside for it.
    pub(super) fn first_class(&self, id: usize) -> usize {
        let member = &self.members[id];
        self.classes.options_of(member.at).first().map_or(member.class, |class| *class as usize)
    }

    /// As the turn of any gang, with one option after the other; whether it starts.
    pub(super) fn turn_of_options(&mut self, id: usize) -> bool {
        let options: Vec<usize> =
            self.classes.options_of(self.members[id].at).iter().map(|class| *class as usize).collect();
        let held = self.lift(id);
        let of_held = held.as_ref().map(|_| self.members[id].class);
        if let Some(places) = self.first_way(id, &options, held.as_ref().zip(of_held)) {
            if held.is_some() {
                self.epoch += 1;
            }
            self.admit(id, places);
            return true;
        }
        if let Some(class) = of_held {
            self.members[id].class = class;
            self.reserve(id, held);
            return false;
        }
        for class in &options {
            self.members[id].class = *class;
            self.reserve(id, None);
            if self.order.holders.contains(&id) {
                return false;
            }
        }
        self.members[id].class = options[0];
        false
    }

    /// Places for the first option for which there are some; the gang is of its class then.
    fn first_way(&mut self, id: usize, options: &[usize], held: Option<(&Held, usize)>) -> Option<Vec<Place>> {
        let rule = self.view.queues[self.members[id].queue].fungibility;
        let borrowing = if rule.spare_cohort { &[false, true][..] } else { &[true] };
        for may_borrow in borrowing {
            for class in options {
                self.members[id].class = *class;
                let kept = held.filter(|(_, of_held)| of_held == class).map(|(held, _)| held);
                let mut found = None;
                if *may_borrow || !self.borrows(id) {
                    found = self.fit(id, kept);
                }
                if rule.preempt_first {
                    found = found.or_else(|| self.make_room(id));
                }
                if found.is_some() {
                    return found;
                }
            }
        }
        options.iter().find_map(|class| {
            self.members[id].class = *class;
            self.make_room(id)
        })
    }

    /// Whether the smallest size of a gang takes more than its queue's own quota.
    fn borrows(&self, id: usize) -> bool {
        let queue = self.members[id].queue;
        let usage = &self.timeline.slots[0].usage;
        self.tree.borrows(usage, queue, &self.class(id).asks)
    }
}

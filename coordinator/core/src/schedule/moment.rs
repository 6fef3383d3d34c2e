//! A moment to come: what is free then, if gangs that run end by then as they are said to.
//!
//! The earliest moment at which a gang fits is sought by halves. So a moment moves: from one to the next only the places of those that end in between change.

use super::cluster::{Grid, room};
use super::engine::{Engine, Member};
use super::place::{Ground, place};
use super::shape::Class;
use super::timeline::{Caps, Claim, FOREVER, Slot, fresh, uses};
use super::view::Place;

/// Something that happens to the room: a gang ends (`sign` -1), or places that are set aside are due (1).
struct Event {
    at_ms: i64,
    id: usize,
    sign: i64,
}

pub(super) struct Moment<'e, 'v> {
    engine: &'e Engine<'v>,
    class: &'e Class,
    queue: usize,
    /// Whether what is set aside for later counts, too.
    firm: bool,
    /// In the order of time; as many as `passed` have happened.
    events: Vec<Event>,
    passed: usize,
    slot: Slot,
    /// The least of what is free then and in the slots after it, from `later` on, and the room for the class's roles.
    least: Grid,
    later: Option<usize>,
    caps: Vec<Caps>,
    /// Nodes that changed since.
    touched: Vec<u32>,
}

impl<'e, 'v> Moment<'e, 'v> {
    /// After everything has happened. With `firm`, places that are set aside are taken from when they are due; else at any time.
    pub(super) fn new(engine: &'e Engine<'v>, id: usize, ends: &dyn Fn(&Member<'_>) -> i64, firm: bool) -> Self {
        let member = |id: &usize| &engine.members[*id];
        let ended = engine.running.iter().map(|id| Event { at_ms: ends(member(id)), id: *id, sign: -1 });
        let start = |id: &usize| member(id).held.as_ref().map_or(FOREVER, |held| held.start_ms);
        let due = engine.order.holders.iter().map(|id| Event {
            at_ms: if firm { start(id) } else { i64::MIN },
            id: *id,
            sign: 1,
        });
        let mut events: Vec<Event> = ended.chain(due).collect();
        events.sort_unstable_by_key(|event| (event.at_ms, event.id));
        let slot = Slot::new(FOREVER, &engine.cluster, &engine.tree, engine.classes.kinds.len());
        let (class, queue) = (engine.class(id), engine.members[id].queue);
        let passed = events.len();
        let mut moment = Self {
            engine,
            class,
            queue,
            firm,
            events,
            passed,
            slot,
            least: Grid::default(),
            later: None,
            caps: Vec::new(),
            touched: Vec::new(),
        };
        for at in (0..passed).filter(|at| moment.events[*at].sign > 0).collect::<Vec<usize>>() {
            moment.shift(at, 1);
        }
        moment
    }

    /// Places for the smallest size of the gang from a time on.
    pub(super) fn fits(&mut self, at_ms: i64) -> Option<Vec<Place>> {
        self.go_to(at_ms);
        let engine = self.engine;
        let slots = &engine.timeline.slots;
        let later = if self.firm { slots.partition_point(|slot| slot.at_ms <= at_ms) } else { slots.len() };
        let usages = slots[later..].iter().map(|slot| &slot.usage);
        if usages
            .chain([&self.slot.usage])
            .any(|usage| engine.tree.lacks(usage, self.queue, &self.class.asks).is_some())
        {
            return None;
        }
        self.settle(later);
        let ground = Ground {
            free: &self.least,
            caps: self.caps.iter().map(|caps| caps.of.as_slice()).collect(),
            cluster: &engine.cluster,
            classes: &engine.classes,
            demand: &engine.demand,
        };
        place(&ground, self.class, &self.class.least)
    }

    fn go_to(&mut self, at_ms: i64) {
        let passed = self.events.partition_point(|event| event.at_ms <= at_ms);
        let (between, sign) = if passed < self.passed { (passed..self.passed, -1) } else { (self.passed..passed, 1) };
        between.for_each(|at| self.shift(at, sign));
        self.passed = passed;
    }

    /// An event happens (`sign` 1), or does not (-1).
    fn shift(&mut self, at: usize, sign: i64) {
        let (engine, event) = (self.engine, &self.events[at]);
        let member = &engine.members[event.id];
        let class = &engine.classes.classes[member.class];
        let held = member.held.as_ref().filter(|_| event.sign > 0);
        let places = held.map_or(&member.places, |held| &held.places);
        let of_held = held.map(|held| uses(class, &held.places, engine.tree.total.len()));
        let uses = of_held.as_ref().unwrap_or(&member.uses);
        let claim = Claim { places, class, queue: member.queue, uses, from_ms: engine.now_ms, until_ms: FOREVER };
        self.slot.shift(&claim, &engine.classes.kinds, &engine.tree, event.sign * sign);
        self.touched.extend(places.iter().map(|place| place.node));
    }

    /// Finds the least, and the room, where something changed.
    fn settle(&mut self, later: usize) {
        let (classes, slots) = (&self.engine.classes, &self.engine.timeline.slots[later..]);
        if self.later != Some(later) {
            self.later = Some(later);
            self.least = self.slot.free.clone();
            slots.iter().for_each(|slot| self.least.lower_to(&slot.free));
            self.caps = self.class.parts.iter().map(|part| fresh(&self.least, part.kind, classes)).collect();
            self.touched.clear();
        }
        for node in self.touched.drain(..).map(|node| node as usize) {
            let row = self.least.row_mut(node);
            row.copy_from_slice(self.slot.free.row(node));
            for slot in slots {
                row.iter_mut().zip(slot.free.row(node)).for_each(|(cell, other)| *cell = (*cell).min(*other));
            }
            for (caps, part) in self.caps.iter_mut().zip(&self.class.parts) {
                let kind = &classes.kinds[part.kind];
                if classes.allowed[kind.rules].nodes.get(node) {
                    caps.of[node] = room(row, &kind.needs);
                }
            }
        }
    }
}

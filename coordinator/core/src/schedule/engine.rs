//! The state of a decision while it is being made, and its loop.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, len, room};
use super::decision::{Admission, Decision, Preemption};
use super::fragment::Demand;
use super::near;
use super::network::all_reduce_ns;
use super::order::{Order, Waiter};
use super::preempt::{self, Prey};
use super::quota::Tree;
use super::reserve;
use super::shape::{self, Class, Classes};
use super::timeline::{Claim, FOREVER, Slot, Timeline, uses};
use super::view::{Gang, Phase, Place, Reservation, View};

/// A gang, with positions of the compiled cluster.
///
/// What is looked at in each of the thousands of turns of a pass comes first, near to each other.
#[repr(C)]
pub(super) struct Member<'v> {
    pub(super) class: usize,
    pub(super) queue: usize,
    /// When it has certainly ended; of a gang that waits, if it starts now.
    pub(super) ends_ms: i64,
    pub(super) submitted_ms: i64,
    /// For how long it is expected to run; for how long it may, if that is not known.
    pub(super) expected_ms: Option<i64>,
    pub(super) priority: i32,
    /// Position in the view.
    pub(super) at: u32,
    pub(super) valid: bool,
    pub(super) running: bool,
    /// Its places changed a short time ago, or in this very decision: they do not change again.
    pub(super) fixed: bool,
    pub(super) gang: &'v Gang,
    pub(super) places: Vec<Place>,
    /// What its places take of each resource.
    pub(super) uses: Vec<i64>,
    pub(super) held: Option<Held>,
}

/// What gangs have in common that find room, or do not, alike: class, queue, priority, and the last slot that they reach.
pub(super) type Likeness = (usize, usize, i32, i64);

/// What is set aside for a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) start_ms: i64,
    pub(super) promised: bool,
    pub(super) places: Vec<Place>,
}

pub(super) struct Engine<'v> {
    pub(super) view: &'v View,
    pub(super) now_ms: i64,
    pub(super) cluster: Cluster,
    pub(super) classes: Classes,
    pub(super) tree: Tree,
    pub(super) demand: Demand,
    /// In the order of names.
    pub(super) members: Vec<Member<'v>>,
    /// Who runs, in no order that matters.
    pub(super) running: BTreeSet<usize>,
    pub(super) timeline: Timeline,
    pub(super) order: Order,
    /// Counts whatever frees room.
    pub(super) epoch: u64,
    /// Counts every change.
    pub(super) changes: u64,
    /// Classes whose smallest size found no place: when, and until which slot.
    pub(super) unfit: Vec<Option<(u64, i64)>>,
    /// Preemptions that were tried in vain since a change, and since which.
    pub(super) spared: (u64, Vec<Likeness>),
    /// When the reservation of a gang could not be made better.
    pub(super) settled: BTreeMap<usize, u64>,
    /// When no moment was found for gangs of a class in a queue.
    pub(super) hopeless: BTreeMap<(usize, usize), u64>,
    /// Who may be taken from at all.
    pub(super) prey: Prey,
    /// Moments that may still be sought in this pass.
    pub(super) shadows: u32,
    /// Searches for room that may still be made in this pass.
    pub(super) searches: u32,
    /// Pods that leave, by node: (gang, class, role, pods).
    pub(super) leaving: BTreeMap<u32, Vec<(u32, usize, u32, u32)>>,
    pub(super) answer: Decision,
}

impl<'v> Engine<'v> {
    pub(super) fn new(view: &'v View, now_ms: i64) -> Self {
        let distinct = shape::distinct(view);
        let ports = shape::ports(&distinct.shapes);
        let mut cluster = Cluster::new(view, &ports);
        let classes = Classes::new(view, distinct, &ports, &mut cluster);
        near::columns(&mut cluster, view, &classes.classes);
        let tree = Tree::new(view);
        let demand = Demand::new(view, &classes);
        let members = members(view, &cluster, &classes, now_ms);
        let running = (0..members.len()).filter(|id| members[*id].running).collect();
        let order = Order::new(view, &tree, &members, now_ms);
        let unfit = vec![None; classes.classes.len()];
        let mut engine = Self {
            view,
            now_ms,
            cluster,
            classes,
            tree,
            demand,
            members,
            running,
            order,
            unfit,
            timeline: Timeline::default(),
            epoch: 1,
            changes: 1,
            spared: (0, Vec::new()),
            settled: BTreeMap::new(),
            hopeless: BTreeMap::new(),
            prey: Prey::default(),
            shadows: 0,
            searches: 0,
            leaving: BTreeMap::new(),
            answer: Decision::default(),
        };
        engine.begin();
        engine
    }

    fn begin(&mut self) {
        let starts = self.members.iter().filter_map(|member| Some(member.held.as_ref()?.start_ms));
        let mut times: BTreeSet<i64> = starts.filter(|start| *start > self.now_ms).collect();
        times.insert(self.now_ms);
        for time in times {
            let slot = self.slot_at(time);
            self.timeline.insert(slot);
        }
        for member in &self.members {
            for place in &member.gang.leaving {
                let Some(node) = self.cluster.from_view.get(place.node as usize) else { continue };
                let leaver = (member.at, member.class, place.role, place.count);
                self.leaving.entry(*node).or_default().push(leaver);
            }
        }
    }

    /// What is certainly free at a time, beside what is set aside by then.
    pub(super) fn slot_at(&self, at_ms: i64) -> Slot {
        let mut slot = Slot::new(at_ms, &self.cluster, &self.tree, self.classes.kinds.len());
        for id in &self.running {
            let member = &self.members[*id];
            if member.ends_ms > at_ms {
                let class = &self.classes.classes[member.class];
                let (places, uses, queue) = (&member.places, &member.uses, member.queue);
                let claim = Claim { places, class, queue, uses, from_ms: self.now_ms, until_ms: member.ends_ms };
                slot.shift(&claim, &self.classes.kinds, &self.tree, 1);
            }
        }
        for member in self.order.holders.iter().map(|id| &self.members[*id]) {
            if let Some(held) = member.held.as_ref().filter(|held| held.start_ms <= at_ms) {
                let class = &self.classes.classes[member.class];
                let uses = &uses(class, &held.places, self.tree.total.len());
                let (places, queue) = (&held.places, member.queue);
                let claim = Claim { places, class, queue, uses, from_ms: held.start_ms, until_ms: FOREVER };
                slot.shift(&claim, &self.classes.kinds, &self.tree, 1);
            }
        }
        slot
    }

    pub(super) fn class(&self, id: usize) -> &Class {
        &self.classes.classes[self.members[id].class]
    }

    /// Takes places from the timeline (`sign` 1), or gives them back (-1).
    pub(super) fn shift(&mut self, id: usize, places: &[Place], from_ms: i64, until_ms: i64, sign: i64) {
        let member = &self.members[id];
        let class = &self.classes.classes[member.class];
        let uses = &uses(class, places, self.tree.total.len());
        let claim = Claim { places, class, queue: member.queue, uses, from_ms, until_ms };
        self.timeline.shift(&claim, &self.classes.kinds, &self.tree, sign);
    }

    /// Gives every gang its turn; whether anything changed.
    ///
    /// What a pass does depends on the state alone, and the state after the last pass is that of the view to which the answer was
    /// applied: so deciding again finds what the last pass found, nothing.
    pub(super) fn pass(&mut self) -> bool {
        let before = self.changes;
        let usage = self.timeline.slots.first().map_or_else(|| self.tree.none(), |slot| slot.usage.clone());
        self.order.begin(&self.tree, &usage, &self.members);
        self.shadows = reserve::TRIES;
        self.searches = preempt::TRIES;
        // What was promised for now is not held up by anyone.
        for one in self.order.due(&self.members, self.now_ms) {
            if self.turn(&one) {
                self.order.start_early(one.id as usize);
            }
        }
        while let Some(one) = self.order.next() {
            let started = self.turn(&one);
            let usage = &self.timeline.slots[0].usage;
            self.order.done(&one, started, &self.tree, usage);
        }
        self.grow();
        self.changes != before
    }

    /// One gang's turn; whether it starts.
    fn turn(&mut self, one: &Waiter) -> bool {
        if !one.valid || self.view.queues[one.queue as usize].stopped {
            return false;
        }
        let id = one.id as usize;
        if self.classes.has_options() && !self.classes.options_of(self.members[id].at).is_empty() {
            return self.turn_of_options(id);
        }
        if self.is_vain(one) {
            return false;
        }
        let held = self.lift(id);
        let places = self.fit(id, held.as_ref()).or_else(|| self.make_room(id));
        if let Some(places) = places {
            if held.is_some() {
                self.epoch += 1;
            }
            self.admit(id, places);
            return true;
        }
        self.reserve(id, held);
        false
    }

    /// Whether a gang's turn certainly changes nothing: there is no place for it, nobody of whom it could take, and nothing is set
    /// aside for it or would be. That is so of nearly all, and is told without looking at the gang itself.
    fn is_vain(&mut self, one: &Waiter) -> bool {
        let (class, queue) = (one.class as usize, one.queue as usize);
        if self.order.holders.contains(&(one.id as usize)) || !self.is_not_reserved(class, queue) {
            return false;
        }
        let slot = self.timeline.last_before(one.ends_ms);
        let time = self.timeline.slots[slot].at_ms;
        let likeness = (class, queue, one.priority, time);
        if self.is_full() && self.is_spared(&likeness) {
            return true;
        }
        let unfit = self.is_unfit(class, time) || self.lacks_asked(class, queue, slot).is_some();
        unfit && (self.searches == 0 || self.is_spared(&likeness) || !self.may_take_any(class, queue, one.priority))
    }

    /// Whether room was sought in vain for such a gang since the last change.
    pub(super) fn is_spared(&self, likeness: &Likeness) -> bool {
        let (since, spared) = &self.spared;
        *since == self.changes && spared.contains(likeness)
    }

    pub(super) fn likeness(&self, id: usize) -> Likeness {
        let member = &self.members[id];
        let slot = self.timeline.last_before(member.ends_ms);
        (member.class, member.queue, member.priority, self.timeline.slots[slot].at_ms)
    }

    /// Starts a gang.
    pub(super) fn admit(&mut self, id: usize, places: Vec<Place>) {
        let (until, queue) = (self.members[id].ends_ms, self.members[id].queue);
        self.shift(id, &places, self.now_ms, until, 1);
        let member = &mut self.members[id];
        member.running = true;
        member.fixed = true;
        member.places.clone_from(&places);
        self.count(id);
        self.running.insert(id);
        self.order.start(id, queue);
        self.changes += 1;
        let admission = self.admission(id, &places, &places);
        self.answer.admissions.push(admission);
    }

    /// The answer for new places of a gang whose places are `all`.
    pub(super) fn admission(&self, id: usize, new: &[Place], all: &[Place]) -> Admission {
        let bytes = self.class(id).shape.all_reduce_bytes;
        Admission {
            gang: self.members[id].at,
            places: self.to_view(new),
            after: self.after(new),
            all_reduce_ns: all_reduce_ns(all, bytes, &self.cluster),
            option: self.option(id),
        }
    }

    /// Whose pods have to leave first: all that leave a node on which there is not room for them and what is placed.
    fn after(&self, places: &[Place]) -> Vec<u32> {
        let mut gangs = BTreeSet::new();
        for node in places.iter().map(|place| place.node) {
            let Some(leavers) = self.leaving.get(&node) else { continue };
            let mut row = self.timeline.slots[0].free.row(node as usize).to_vec();
            for (_, class, role, pods) in leavers {
                let Some(part) = self.classes.classes[*class].parts.get(*role as usize) else { continue };
                for (resource, amount) in &self.classes.kinds[part.kind].needs {
                    row[*resource] -= amount * i64::from(*pods);
                }
            }
            if row.iter().any(|free| *free < 0) {
                gangs.extend(leavers.iter().map(|(gang, _, _, _)| *gang));
            }
        }
        gangs.into_iter().collect()
    }

    pub(super) fn to_view(&self, places: &[Place]) -> Vec<Place> {
        places.iter().map(|place| Place { node: self.cluster.to_view[place.node as usize], ..*place }).collect()
    }

    /// Part of a gang's places is taken away for another gang.
    pub(super) fn take(&mut self, id: usize, preemptor: usize, lost: &[Place], stops: bool, lost_pod_ms: i64) {
        let places = self.to_view(lost);
        let (at, class) = (self.members[id].at, self.members[id].class);
        for place in lost {
            self.leaving.entry(place.node).or_default().push((at, class, place.role, place.count));
        }
        let member = &mut self.members[id];
        member.fixed = true;
        lost.iter().for_each(|place| super::decision::subtract(&mut member.places, *place));
        if stops {
            member.running = false;
            member.fixed = false;
            member.ends_ms = until(member.gang, self.now_ms);
            self.running.remove(&id);
            self.members[id].class = self.first_class(id);
            self.order.put_back(id, &self.members);
        }
        self.count(id);
        self.changes += 1;
        self.epoch += 1;
        let preemptor = self.members[preemptor].at;
        self.answer.preemptions.push(Preemption { gang: at, preemptor, places, stops, lost_pod_ms });
    }

    /// Counts anew what a gang's places take.
    pub(super) fn count(&mut self, id: usize) {
        let member = &self.members[id];
        let uses = uses(&self.classes.classes[member.class], &member.places, self.tree.total.len());
        self.members[id].uses = uses;
    }

    /// The reservation as the view has it.
    pub(super) fn reservation(&self, id: usize) -> Option<Reservation> {
        let held = self.members[id].held.as_ref().filter(|_| self.order.holders.contains(&id))?;
        let (places, option) = (self.to_view(&held.places), self.option(id));
        Some(Reservation { start_ms: held.start_ms, promised: held.promised, places, option })
    }
}

/// A gang that is still there after its limit is taken to end within this time: whoever ends it is at it.
const OVERDUE_MS: i64 = 1_000;

/// When a gang that starts now has certainly ended.
fn until(gang: &Gang, now_ms: i64) -> i64 {
    gang.run_limit_ms.map_or(FOREVER, |limit| now_ms.saturating_add(limit.max(1)))
}

fn members<'v>(view: &'v View, cluster: &Cluster, classes: &Classes, now_ms: i64) -> Vec<Member<'v>> {
    let mut ids: Vec<u32> = (0..len(view.gangs.len())).collect();
    ids.sort_by(|a, b| view.gangs[*a as usize].name.cmp(&view.gangs[*b as usize].name));
    let known = |places: &[Place], class: usize| -> Vec<Place> {
        let roles = classes.classes[class].parts.len();
        let here = |place: &Place| {
            let node = *cluster.from_view.get(place.node as usize)?;
            Some(Place { node, ..*place }).filter(|place| (place.role as usize) < roles)
        };
        places.iter().filter_map(here).collect()
    };
    let member = |at: u32| {
        let gang = &view.gangs[at as usize];
        let mut class = classes.of[at as usize] as usize;
        let (running, places, ends_ms, fixed, held) = match &gang.phase {
            Phase::Waiting { reservation } => {
                let held = reservation.as_ref().and_then(|one| {
                    let options = classes.options_of(at);
                    let class = options.get(one.option as usize).map_or(class, |class| *class as usize);
                    let (start_ms, promised) = (one.start_ms, one.promised);
                    let held = Held { start_ms, promised, places: known(&one.places, class) };
                    lasts(&held, class, cluster, classes).then_some((held, class))
                });
                let (held, of_held) = held.unzip();
                class = of_held.unwrap_or(class);
                (false, Vec::new(), until(gang, now_ms), false, held)
            }
            Phase::Running { since_ms, changed_ms, places, .. } => {
                let limit = gang.run_limit_ms.map(|limit| since_ms.saturating_add(limit.max(1)));
                let ends =
                    limit.map_or(FOREVER, |end| if end > now_ms { end } else { now_ms.saturating_add(OVERDUE_MS) });
                let fixed = *changed_ms >= now_ms || changed_ms.saturating_add(view.policy.min_run_ms) > now_ms;
                (true, known(places, class), ends, fixed, None)
            }
        };
        let valid = classes.classes[class].valid && (gang.queue as usize) < view.queues.len();
        let queue = if valid { gang.queue as usize } else { 0 };
        let uses = if running { uses(&classes.classes[class], &places, view.resources.len()) } else { Vec::new() };
        let priority = gang.priority;
        let (submitted_ms, expected_ms) = (gang.submitted_ms, gang.expected_ms.or(gang.run_limit_ms));
        Member {
            class,
            queue,
            ends_ms,
            submitted_ms,
            expected_ms,
            priority,
            at,
            valid,
            running,
            fixed,
            gang,
            places,
            uses,
            held,
        }
    };
    ids.into_iter().map(member).collect()
}

/// Whether a reservation still can be kept: its nodes are there and would take it.
fn lasts(held: &Held, class: usize, cluster: &Cluster, classes: &Classes) -> bool {
    let class = &classes.classes[class];
    let mut counts = vec![0; class.parts.len()];
    held.places.iter().for_each(|place| counts[place.role as usize] += place.count);
    let enough = counts.iter().zip(&class.parts).all(|(count, part)| *count >= part.min);
    let fits = |place: &Place| {
        let kind = &classes.kinds[class.parts[place.role as usize].kind];
        let node = place.node as usize;
        classes.allowed[kind.rules].nodes.get(node) && room(cluster.capacity.row(node), &kind.needs) >= place.count
    };
    enough && held.places.iter().all(fits)
}

//! What is told about the gangs that wait.

use super::cluster::{Span, len};
use super::decision::{Decision, Reason, Waiting};
use super::engine::{Engine, Member};
use super::place::{Ground, place, possible, sums};
use super::quota::Available;
use super::shape::Part;
use super::timeline::{Caps, FOREVER, fresh};
use super::view::Phase;

/// A gang that waits, with what its answer is made of: looking it up takes longer than the rest.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) id: usize,
    pub(super) at: u32,
    class: usize,
    pub(super) queue: usize,
    valid: bool,
    pub(super) holds: bool,
    pub(super) ends_ms: i64,
    submitted_ms: i64,
}

impl Line {
    fn new(id: usize, member: &Member<'_>, holds: bool) -> Self {
        let Member { class, queue, ends_ms, submitted_ms, at, valid, .. } = member;
        Self {
            id,
            at: *at,
            class: *class,
            queue: *queue,
            valid: *valid,
            holds,
            ends_ms: *ends_ms,
            submitted_ms: *submitted_ms,
        }
    }
}

/// What is found out once for many gangs.
struct Known {
    /// What each queue may take if nothing runs; and now, and in each slot.
    none: Available,
    free: Vec<Available>,
    /// Gangs with places set aside, in the order of their turns.
    holders: Vec<usize>,
    /// Room for each kind of pod on empty nodes.
    caps: Vec<Option<Caps>>,
    /// Why gangs of each class would not start if nothing else ran.
    never: Vec<Option<Option<Reason>>>,
    /// A gang of each class whose gangs find no place now.
    short: Vec<Option<usize>>,
}

impl Known {
    fn new(engine: &Engine<'_>) -> Self {
        let order = &engine.order;
        let classes = engine.classes.classes.len();
        Self {
            none: engine.tree.all_available(&engine.tree.none(), engine.view.queues.len()),
            free: engine.available(),
            holders: order.sequence.iter().copied().filter(|id| order.holders.contains(id)).collect(),
            caps: vec![None; engine.classes.kinds.len()],
            never: vec![None; classes],
            short: vec![None; classes],
        }
    }
}

impl Engine<'_> {
    /// The answer, when nothing changes any more.
    pub(super) fn finish(mut self) -> Decision {
        let holds = |id: usize| self.order.holders.contains(&id);
        let line = |id: usize| Line::new(id, &self.members[id], holds(id));
        let sequence: Vec<Line> = self.sequence().into_iter().map(line).collect();
        let reasons = self.reasons(&sequence);
        let estimates = self.estimates(&sequence, &reasons);
        let wake_at_ms = self.wake_at(&sequence);
        let mut positions = vec![0; self.view.queues.len()];
        let mut waiting = Vec::with_capacity(sequence.len());
        for ((one, estimate), reason) in sequence.into_iter().zip(estimates).zip(reasons) {
            let position = positions.get(one.queue).copied().unwrap_or(0);
            if let Some(next) = positions.get_mut(one.queue) {
                *next += 1;
            }
            let reservation = if one.holds { self.reservation(one.id) } else { None };
            let option = self.option(one.id);
            waiting.push(Waiting { gang: one.at, position, reason, estimate, reservation, option });
        }
        Decision { waiting, wake_at_ms, ..self.answer }
    }

    /// Every gang that waits, in the order of their turns; those behind the head of a strict queue come last.
    fn sequence(&self) -> Vec<usize> {
        // Nobody started in the last pass.
        let mut sequence = self.order.sequence.clone();
        let mut seen = vec![false; self.members.len()];
        sequence.iter().for_each(|id| seen[*id] = true);
        let mut queues: Vec<usize> = (0..self.view.queues.len()).collect();
        queues.sort_by(|a, b| self.view.queues[*a].name.cmp(&self.view.queues[*b].name));
        // Without queues there are no lists, and nothing is valid.
        let rest = if queues.is_empty() { 0..self.members.len() } else { 0..0 };
        for id in queues.into_iter().flat_map(|queue| self.order.list(queue)).chain(rest) {
            if !std::mem::replace(&mut seen[id], true) && !self.members[id].running {
                sequence.push(id);
            }
        }
        sequence
    }

    /// Why each of these gangs waits.
    fn reasons(&mut self, sequence: &[Line]) -> Vec<Reason> {
        let mut known = Known::new(self);
        let mut reasons: Vec<Option<Reason>> = Vec::with_capacity(sequence.len());
        for one in sequence {
            let one = &self.settle_option(*one, &mut known);
            let lasting = self.lasting(one, &mut known);
            let now = |engine: &mut Self| {
                if one.holds { Some(engine.of_holder(one, &known)) } else { engine.passing(one, &known, &known.free) }
            };
            let reason = lasting.or_else(|| now(self));
            if reason.is_none() {
                known.short[one.class].get_or_insert(one.id);
            }
            reasons.push(reason);
        }
        let rooms = self.rooms(&known);
        let room = |one: &Line| rooms[self.members[one.id].class].clone();
        let all = sequence.iter().zip(reasons);
        all.map(|(one, reason)| reason.or_else(|| room(one)).unwrap_or(Reason::Invalid)).collect()
    }

    /// A gang that may have several shapes waits for the first in which it could start at all.
    fn settle_option(&mut self, one: Line, known: &mut Known) -> Line {
        if one.holds || !one.valid || !self.classes.has_options() {
            return one;
        }
        let options = self.classes.options_of(one.at).to_vec();
        for class in options.iter().map(|class| *class as usize) {
            self.members[one.id].class = class;
            let option = Line { class, ..one };
            let never = self.lasting(&option, known).is_some_and(|reason| !reason.ends_by_itself());
            if !never {
                return option;
            }
        }
        self.members[one.id].class = one.class;
        one
    }

    /// Why it would wait whatever runs, or whatever is free.
    fn lasting(&self, one: &Line, known: &mut Known) -> Option<Reason> {
        if !one.valid {
            return Some(Reason::Invalid);
        }
        if self.view.queues[one.queue].stopped {
            return Some(Reason::QueueStopped);
        }
        let asks = &self.classes.classes[one.class].asks;
        if let Some((resource, asked, limit)) = known.none.lacks(one.queue, asks) {
            return Some(Reason::AboveQuota { resource: len(resource), asked, limit: limit.max(0) });
        }
        if known.never[one.class].is_none() {
            known.never[one.class] = Some(self.never(one.id, &mut known.caps));
        }
        let behind = || {
            let head = self.order.blocked.get(&one.queue).filter(|head| **head != one.id)?;
            Some(Reason::BehindHead { head: self.members[*head].at })
        };
        known.never[one.class].clone().flatten().or_else(behind)
    }

    /// Why it does not start now, unless nodes have to be looked at.
    fn passing(&self, one: &Line, known: &Known, free: &[Available]) -> Option<Reason> {
        let asks = &self.classes.classes[one.class].asks;
        let slots = self.timeline.last_before(one.ends_ms) + 1;
        let mut lacks = free[..slots].iter().map(|free| free.lacks(one.queue, asks));
        if let Some((resource, asked, available)) = lacks.next().flatten() {
            return Some(Reason::QuotaUsed { resource: len(resource), asked, available: available.max(0) });
        }
        lacks.flatten().next().map(|_| self.reserved(one.id, known))
    }

    /// What each queue may take more in each slot.
    fn available(&self) -> Vec<Available> {
        let queues = self.view.queues.len();
        self.timeline.slots.iter().map(|slot| self.tree.all_available(&slot.usage, queues)).collect()
    }

    /// Why a gang does not start now for which places are set aside: they do not count for it.
    fn of_holder(&mut self, one: &Line, known: &Known) -> Reason {
        let id = one.id;
        let lifted = self.lift(id);
        let reason = self.passing(one, known, &self.available()).unwrap_or_else(|| {
            let fits = self.fit_without_holders(&[id]);
            if fits == [true] { self.reserved(id, known) } else { self.no_room(id) }
        });
        if let Some(held) = lifted {
            self.hold(id, held);
        }
        reason
    }

    /// For each class whose gangs find no place, why.
    fn rooms(&mut self, known: &Known) -> Vec<Option<Reason>> {
        let ids: Vec<usize> = known.short.iter().copied().flatten().collect();
        let mut rooms = vec![None; known.short.len()];
        for (id, fits) in ids.iter().copied().zip(self.fit_without_holders(&ids)) {
            let reason = if fits { self.reserved(id, known) } else { self.no_room(id) };
            rooms[self.members[id].class] = Some(reason);
        }
        rooms
    }

    /// Which of these gangs would find a place now if nothing were set aside.
    fn fit_without_holders(&mut self, ids: &[usize]) -> Vec<bool> {
        if ids.is_empty() {
            return Vec::new();
        }
        let holders: Vec<usize> = self.order.holders.iter().copied().collect();
        let held: Vec<_> = holders.iter().filter_map(|holder| Some((*holder, self.lift(*holder)?))).collect();
        let fits = ids.iter().map(|id| self.has_place(*id, 0)).collect();
        for (holder, held) in held {
            self.hold(holder, held);
        }
        fits
    }

    /// Why it would not start if nothing else ran.
    fn never(&self, id: usize, known: &mut [Option<Caps>]) -> Option<Reason> {
        let class = self.class(id);
        let asked = || class.parts.iter().enumerate().filter(|(role, _)| class.least[*role] > 0);
        let nowhere = |rules: usize| self.classes.allowed[rules].nodes.count() == 0;
        if let Some((role, _)) = asked().find(|(_, part)| nowhere(self.classes.kinds[part.kind].rules)) {
            return Some(Reason::NoMatchingNode { role: len(role), nodes: len(self.cluster.len()) });
        }
        for part in &class.parts {
            known[part.kind].get_or_insert_with(|| fresh(&self.cluster.capacity, part.kind, &self.classes));
        }
        let of = |part: &Part| known[part.kind].as_ref().map_or(&[][..], |caps| caps.of.as_slice());
        let caps: Vec<&[u32]> = class.parts.iter().map(of).collect();
        let whole = |caps: &[&[u32]]| {
            let (free, caps) = (&self.cluster.capacity, caps.to_vec());
            let (cluster, classes, demand) = (&self.cluster, &self.classes, &self.demand);
            place(&Ground { free, caps, cluster, classes, demand }, class, &class.least).is_some()
        };
        let fits = |caps: &[&[u32]]| possible(&self.cluster, class, caps, &class.least).unwrap_or_else(|| whole(caps));
        if class.terms || fits(&caps) {
            return None;
        }
        let (role, largest) = self.scarcest(id, &caps);
        Some(Reason::TooLarge { role: len(role), asked: class.least[role], largest })
    }

    /// The role that lacks the most, and how many pods of it fit into the best domain.
    fn scarcest(&self, id: usize, caps: &[&[u32]]) -> (usize, u32) {
        let class = self.class(id);
        let best = |role: usize| {
            let sums = sums(&self.cluster, &class.parts[role], caps[role]);
            let room = |span: &Span| sums[span.hi] - sums[span.lo];
            let most = match class.required {
                Some(level) => self.cluster.tiers[level].spans.iter().map(room).max().unwrap_or(0),
                None => room(&self.cluster.all()),
            };
            u32::try_from(most).unwrap_or(u32::MAX)
        };
        let asked = (0..class.least.len()).filter(|role| class.least[*role] > 0);
        let rooms = asked.map(|role| (role, best(role)));
        let lack = |(role, room): &(usize, u32)| i64::from(*room) - i64::from(class.least[*role]);
        rooms.min_by_key(lack).unwrap_or((0, 0))
    }

    /// What others leave it of nodes now.
    fn no_room(&mut self, id: usize) -> Reason {
        let kinds: Vec<usize> = self.class(id).parts.iter().map(|part| part.kind).collect();
        for kind in &kinds {
            self.timeline.caps(0, *kind, &self.classes);
        }
        let caps: Vec<&[u32]> = kinds.iter().map(|kind| self.timeline.known_caps(0, *kind)).collect();
        let (role, best_domain) = self.scarcest(id, &caps);
        let free = caps[role].iter().map(|cap| u64::from(*cap)).sum::<u64>();
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        Reason::NoRoom { role: len(role), asked: self.class(id).least[role], free, best_domain }
    }

    fn reserved(&self, id: usize, known: &Known) -> Reason {
        let asked = self.class(id).least.first().copied().unwrap_or(0);
        let first = known.holders.iter().find(|other| **other != id);
        first.map_or(Reason::NoRoom { role: 0, asked, free: 0, best_domain: 0 }, |holder| Reason::Reserved {
            holder: self.members[*holder].at,
        })
    }

    /// When time alone may change the answer.
    fn wake_at(&self, waiting: &[Line]) -> Option<i64> {
        let policy = &self.view.policy;
        let starts = self.order.holders.iter().filter_map(|id| Some(self.members[*id].held.as_ref()?.start_ms));
        let mut any = false;
        let mut first = [(policy.hold_after_ms, FOREVER), (policy.age_after_ms, FOREVER)];
        for one in waiting.iter().filter(|one| one.valid) {
            any = true;
            for (after, first) in &mut first {
                let due = one.submitted_ms.saturating_add(*after);
                if due > self.now_ms {
                    *first = due.min(*first);
                }
            }
        }
        let first = first.into_iter().map(|(_, first)| first);
        let free = self.running.iter().filter(|_| any).filter_map(|id| match self.members[*id].gang.phase {
            Phase::Running { changed_ms, .. } => Some(changed_ms.saturating_add(policy.min_run_ms)),
            Phase::Waiting { .. } => None,
        });
        let later = |at: &i64| *at > self.now_ms && *at < FOREVER;
        starts.chain(first).chain(free).filter(later).min()
    }
}

impl Reason {
    /// Whether waiting helps.
    pub(super) const fn ends_by_itself(&self) -> bool {
        match self {
            Self::BehindHead { .. } | Self::QuotaUsed { .. } | Self::NoRoom { .. } | Self::Reserved { .. } => true,
            Self::Invalid
            | Self::QueueStopped
            | Self::AboveQuota { .. }
            | Self::NoMatchingNode { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

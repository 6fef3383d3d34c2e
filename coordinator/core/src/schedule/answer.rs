//! What is told about the gangs that wait.

use std::collections::BTreeMap;

use super::cluster::len;
use super::decision::{Decision, Reason, Waiting};
use super::engine::Engine;
use super::place::{Ground, place, sums};
use super::timeline::{Caps, FOREVER, fresh};
use super::view::Phase;

/// Why gangs wait: of a class, whatever runs; of a class, by the last slot that it reaches; of a class in a queue.
#[derive(Default)]
struct Known {
    never: BTreeMap<usize, Option<Reason>>,
    room: BTreeMap<(usize, i64), Reason>,
    now: BTreeMap<(usize, usize, i64), Reason>,
}

impl Engine<'_> {
    /// The answer, when nothing changes any more.
    pub(super) fn finish(mut self) -> Decision {
        let sequence = self.sequence();
        let estimates = self.estimates(&sequence);
        let mut known = Known::default();
        let mut positions = vec![0; self.view.queues.len()];
        let mut waiting = Vec::with_capacity(sequence.len());
        for (id, estimate) in sequence.into_iter().zip(estimates) {
            let reason = self.reason(id, &mut known);
            let position = positions.get(self.members[id].queue).copied().unwrap_or(0);
            if let Some(next) = positions.get_mut(self.members[id].queue) {
                *next += 1;
            }
            let estimate = estimate.filter(|_| reason.ends_by_itself());
            let reservation = self.reservation(id);
            waiting.push(Waiting { gang: self.members[id].at, position, reason, estimate, reservation });
        }
        let wake_at_ms = self.wake_at();
        Decision { waiting, wake_at_ms, ..self.answer }
    }

    /// Every gang that waits, in the order of their turns; those behind the head of a strict queue come last.
    fn sequence(&self) -> Vec<usize> {
        let mut sequence: Vec<usize> =
            self.order.sequence.iter().copied().filter(|id| !self.members[*id].running).collect();
        let mut seen = vec![false; self.members.len()];
        sequence.iter().for_each(|id| seen[*id] = true);
        let mut queues: Vec<usize> = (0..self.view.queues.len()).collect();
        queues.sort_by(|a, b| self.view.queues[*a].name.cmp(&self.view.queues[*b].name));
        // Without queues there are no lists, and nothing is valid.
        for id in queues.into_iter().flat_map(|queue| self.order.list(queue)).chain(0..self.members.len()) {
            if !self.members[id].running && !std::mem::replace(&mut seen[id], true) {
                sequence.push(id);
            }
        }
        sequence
    }

    fn reason(&mut self, id: usize, known: &mut Known) -> Reason {
        let member = &self.members[id];
        let (class, queue) = (member.class, member.queue);
        if !member.valid {
            return Reason::Invalid;
        }
        if self.view.queues[queue].stopped {
            return Reason::QueueStopped;
        }
        if let Some(head) = self.order.blocked.get(&queue).copied().filter(|head| *head != id) {
            return Reason::BehindHead { head: self.members[head].at };
        }
        let slot = self.timeline.last_before(self.until(id));
        let key = (class, queue, self.timeline.slots[slot].at_ms);
        let holds = self.order.holders.contains(&id);
        if let Some(reason) = known.now.get(&key).filter(|_| !holds) {
            return reason.clone();
        }
        let reason = self.find_reason(id, slot, known);
        if !holds {
            known.now.insert(key, reason.clone());
        }
        reason
    }

    fn find_reason(&mut self, id: usize, slot: usize, known: &mut Known) -> Reason {
        let (class, queue) = (self.members[id].class, self.members[id].queue);
        let (least, amounts) = (self.class(id).least.clone(), self.class(id).asks.clone());
        if let Some((resource, asked, limit)) = self.tree.lacks(&self.tree.none(), queue, &amounts) {
            return Reason::AboveQuota { resource: len(resource), asked, limit: limit.max(0) };
        }
        let never = known.never.entry(class).or_insert_with(|| self.never(id, &least)).clone();
        if let Some(never) = never {
            return never;
        }
        let lifted = self.lift(id);
        let time = self.timeline.slots[slot].at_ms;
        let reason = if let Some((resource, asked, available)) = self.lacks_least(id, 0) {
            Reason::QuotaUsed { resource: len(resource), asked, available: available.max(0) }
        } else if self.lacks_least(id, slot).is_some() {
            self.reserved(id)
        } else if lifted.is_some() {
            self.why_now(id, &least)
        } else {
            let before = known.room.get(&(class, time)).cloned();
            let reason = before.unwrap_or_else(|| self.why_now(id, &least));
            known.room.insert((class, time), reason.clone());
            reason
        };
        if let Some(held) = lifted {
            self.hold(id, held);
        }
        reason
    }

    /// Why it would not start if nothing else ran.
    fn never(&self, id: usize, least: &[u32]) -> Option<Reason> {
        let class = self.class(id);
        let caps: Vec<Caps> =
            class.parts.iter().map(|part| fresh(&self.cluster.capacity, part.kind, &self.classes)).collect();
        for (role, part) in class.parts.iter().enumerate().filter(|(role, _)| least[*role] > 0) {
            if self.classes.allowed[self.classes.kinds[part.kind].rules].nodes.count() == 0 {
                return Some(Reason::NoMatchingNode { role: len(role), nodes: len(self.cluster.len()) });
            }
        }
        let ground = Ground {
            free: &self.cluster.capacity,
            caps: caps.iter().map(|caps| caps.of.as_slice()).collect(),
            cluster: &self.cluster,
            classes: &self.classes,
            demand: &self.demand,
        };
        if class.terms || place(&ground, class, least).is_some() {
            return None;
        }
        let (role, largest) = self.scarcest(id, least, &ground.caps);
        Some(Reason::TooLarge { role: len(role), asked: least[role], largest })
    }

    /// The role that lacks the most, and how many pods of it fit into the best domain.
    fn scarcest(&self, id: usize, least: &[u32], caps: &[&[u32]]) -> (usize, u32) {
        let class = self.class(id);
        let best = |role: usize| {
            let sums = sums(&self.cluster, &class.parts[role], caps[role]);
            let spans = class
                .required
                .map_or_else(|| vec![self.cluster.all()], |level| self.cluster.tiers[level].spans.clone());
            let most = spans.iter().map(|span| sums[span.hi] - sums[span.lo]).max().unwrap_or(0);
            u32::try_from(most).unwrap_or(u32::MAX)
        };
        let lack = |role: &usize| i64::from(best(*role)) - i64::from(least[*role]);
        let asked = (0..least.len()).filter(|role| least[*role] > 0);
        let role = asked.min_by_key(lack).unwrap_or(0);
        (role, best(role))
    }

    /// Why it does not start now, though it could.
    fn why_now(&mut self, id: usize, least: &[u32]) -> Reason {
        let holders: Vec<usize> = self.order.holders.iter().copied().collect();
        let held: Vec<_> = holders.iter().filter_map(|holder| Some((*holder, self.lift(*holder)?))).collect();
        let fits = self.place_in(id, 0, least).is_some();
        for (holder, held) in held {
            self.hold(holder, held);
        }
        if fits {
            return self.reserved(id);
        }
        let kinds: Vec<usize> = self.class(id).parts.iter().map(|part| part.kind).collect();
        for kind in &kinds {
            self.timeline.caps(0, *kind, &self.classes);
        }
        let caps: Vec<&[u32]> = kinds.iter().map(|kind| self.timeline.known_caps(0, *kind)).collect();
        let (role, best_domain) = self.scarcest(id, least, &caps);
        let free = caps[role].iter().map(|cap| u64::from(*cap)).sum::<u64>();
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        Reason::NoRoom { role: len(role), asked: least[role], free, best_domain }
    }

    fn reserved(&self, id: usize) -> Reason {
        let first = self.order.sequence.iter().find(|other| **other != id && self.order.holders.contains(other));
        first.map_or_else(
            || Reason::NoRoom {
                role: 0,
                asked: self.class(id).least.first().copied().unwrap_or(0),
                free: 0,
                best_domain: 0,
            },
            |holder| Reason::Reserved { holder: self.members[*holder].at },
        )
    }

    /// When time alone may change the answer.
    fn wake_at(&self) -> Option<i64> {
        let policy = &self.view.policy;
        let starts = self.order.holders.iter().filter_map(|id| Some(self.members[*id].held.as_ref()?.start_ms));
        let waits = self.members.iter().filter(|member| !member.running && member.valid);
        let submitted: Vec<i64> = waits.map(|member| member.gang.submitted_ms).collect();
        let first = |after: i64| {
            let due = submitted.iter().map(|at| at.saturating_add(after));
            due.filter(|at| *at > self.now_ms).min()
        };
        let free = self.running.iter().filter_map(|id| match self.members[*id].gang.phase {
            Phase::Running { changed_ms, .. } => Some(changed_ms.saturating_add(policy.min_run_ms)),
            Phase::Waiting { .. } => None,
        });
        let free = free.filter(|_| !submitted.is_empty());
        let later = |at: &i64| *at > self.now_ms && *at < FOREVER;
        starts.chain(first(policy.hold_after_ms)).chain(first(policy.age_after_ms)).chain(free).filter(later).min()
    }
}

impl Reason {
    /// Whether waiting helps.
    const fn ends_by_itself(&self) -> bool {
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

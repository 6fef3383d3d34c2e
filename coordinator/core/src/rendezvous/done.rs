//! Pods that ended well before this coordinator knew which generation runs.
//!
//! A launcher ends well when it is released, and that is when the ranks of all have finished; or when its own ranks have,
//! and no coordinator was there for as long as it waits for one. So its ranks have finished, those of the others need not
//! have. What its seat was nobody may know any more: that follows from the seats of those who are left, and from what these say
//! of the size of their generation. Where nobody is left of it, its size is not known either: then it must be run again, unless
//! no other pods can have been in it. Nor may it be known that its ranks were of an older generation, because the order of the
//! next one was lost with the coordinator: then those who are left wait for it in vain, which is a failure in the end, and all
//! begin again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Cause, Failure, Outcome, Output, Part, Standing};
use super::world::{MemberId, Seat, World};
use super::{Lack, Phase, Rendezvous};

/// By the pod's UID, with what its launcher said of its ranks, if it came to say something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    pods: BTreeMap<String, Option<Part>>,
    /// When the last of them was told of.
    told_ms: i64,
}

impl Done {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// What their launchers said.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.pods.values().flatten()
    }

    /// A launcher of this pod is there: it has not ended.
    pub(super) fn forget(&mut self, pod: &str) {
        self.pods.remove(pod);
    }

    /// Those of which nothing is known but that they ended well.
    fn unknown(&self) -> Vec<&str> {
        self.pods.iter().filter(|(_, part)| part.is_none()).map(|(pod, _)| pod.as_str()).collect()
    }
}

impl Rendezvous {
    pub(super) fn note_done(&mut self, now_ms: i64, pod: &str) {
        let member = self.members.keys().find(|id| id.pod == pod).cloned();
        let said = member.and_then(|id| self.members.remove(&id)).map(|member| member.hello.ranks_are);
        if self.done.pods.contains_key(pod) {
            return;
        }
        self.done.told_ms = now_ms;
        self.done.pods.insert(pod.to_owned(), said.as_ref().and_then(Standing::part).cloned());
    }

    /// Until when those who are left may come, where some have ended well.
    pub(super) fn done_due(&self) -> Option<i64> {
        let Phase::Gathering { since_ms, lack: Lack::Start, .. } = &self.phase else { return None };
        let waits = !self.done.is_empty() && !self.members.is_empty();
        waits.then(|| self.done.told_ms.max(*since_ms).saturating_add(self.config.away_ms))
    }

    /// Decides what becomes of those who are there, where others have ended well: their generation is taken over without
    /// those; or it is over, too; or some of it are lost, and then it must be run again. How many it had is what its members
    /// say: of an elastic job nothing else tells it.
    pub(super) fn follow_done(&mut self, now_ms: i64, out: &mut Vec<Output>) -> bool {
        let Some(due) = self.done_due() else { return false };
        let Some((claim, seats)) = self.claimed() else { return self.follow_unclaimed(now_ms, due, out) };
        let adopted = filled(&claim, seats, &self.done.unknown()).is_some_and(|seats| {
            let world = World { generation: claim.generation, seats, restarts: claim.restarts };
            self.take_over(now_ms, world, claim.digest, out)
        });
        if !adopted && now_ms >= due {
            self.break_up(now_ms, self.incomplete(claim.pods), out);
        }
        adopted || now_ms >= due
    }

    /// The same where nobody is left who knows the generation: then all of it have ended well only if as many have as there
    /// could be at all.
    fn follow_unclaimed(&mut self, now_ms: i64, due: i64, out: &mut Vec<Output>) -> bool {
        let all = self.done.pods.len() >= self.widest as usize;
        if all {
            self.end(Outcome::Succeeded, out);
        } else if now_ms >= due {
            self.break_up(now_ms, self.incomplete(0), out);
        }
        all || now_ms >= due
    }

    /// `pods` is how many the generation had; 0 where that is not known.
    fn incomplete(&self, pods: u32) -> Failure {
        let (done, here) = (self.done.pods.len(), self.here().len());
        let launchers = if done == 1 { "launcher" } else { "launchers" };
        let are = if here == 1 { "is there is" } else { "are there are" };
        let of = if pods == 0 { String::new() } else { format!(" of {pods}") };
        let message = format!(
            "{done} {launchers} ended well while the control plane was away, and the {here} that {are} not the rest of its generation{of}"
        );
        Failure { rank: None, cause: Cause::NodeLost, code: 1, message, secondary: false }
    }
}

/// All seats of the world that is claimed: those that are known, and in their gaps, and after them, as many of `gone` as it had
/// besides; none if these are too few. Which of them had which seat does not matter: their ranks have ended.
fn filled(claim: &Part, seats: Vec<Seat>, gone: &[&str]) -> Option<Vec<Seat>> {
    let lacking = (claim.pods as usize).checked_sub(seats.len()).filter(|lacking| *lacking <= gone.len())?;
    let mut gone = gone.iter().take(lacking);
    let mut all: Vec<Seat> = Vec::with_capacity(claim.pods as usize);
    let mut next: u32 = 0;
    for seat in seats.into_iter().map(Some).chain([None]) {
        let end = (claim.pods, claim.ranks);
        let (node_rank, first_rank) = seat.as_ref().map_or(end, |seat| (seat.node_rank, seat.first_rank));
        let gap = (node_rank as usize).checked_sub(all.len())?;
        for left in (1..=gap).rev() {
            let free = first_rank.checked_sub(next)?;
            let ranks = Some(free / u32::try_from(left).ok()?).filter(|ranks| *ranks > 0)?;
            all.push(ended(gone.next()?, all.len(), next, ranks)?);
            next += ranks;
        }
        let Some(seat) = seat else { break };
        next = seat.first_rank.checked_add(seat.ranks)?;
        all.push(seat);
    }
    (next == claim.ranks).then_some(all)
}

/// The seat of a pod that has ended well.
fn ended(pod: &str, node_rank: usize, first_rank: u32, ranks: u32) -> Option<Seat> {
    let member = MemberId { pod: pod.to_owned(), incarnation: 0 };
    let node_rank = u32::try_from(node_rank).ok()?;
    Some(Seat { member, node_rank, first_rank, ranks, address: String::new(), port: 0 })
}

//! When a generation can begin, of whom it consists, and when one that runs already is taken over.

use std::collections::BTreeSet;

use super::budget::Borne;
use super::message::{Cause, Failure, Outcome, Output, Part, Standing};
use super::world::{Generation, MemberId, Seat, World};
use super::{Config, HASTY_FREE, Lack, Member, PAUSE_MS, Phase, Rendezvous};

impl Rendezvous {
    /// The highest generation that a member says it runs.
    pub(super) fn claim(&self) -> Option<&Part> {
        self.parts().max_by_key(|part| part.generation)
    }

    /// What members say of their ranks, and what those said whose pods ended well since.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.members.values().filter_map(|member| member.hello.ranks_are.part()).chain(self.done.parts())
    }

    /// The seats of the highest generation that is claimed, as far as they are known, and one claim of it.
    pub(super) fn claimed(&self) -> Option<(Part, Vec<Seat>)> {
        let claim = self.claim()?.clone();
        let same = |part: &&Part| part.generation == claim.generation && part.digest == claim.digest;
        let mut seats: Vec<Seat> = self.parts().filter(same).map(|part| part.seat.clone()).collect();
        seats.sort_by_key(|seat| seat.node_rank);
        Some((claim, seats))
    }

    /// The highest generation that is claimed, where all of its seats are known.
    fn whole_claim(&self) -> Option<World> {
        let (claim, seats) = self.claimed()?;
        let world = World { generation: claim.generation, seats, restarts: claim.restarts };
        (world.digest() == claim.digest).then_some(world)
    }

    /// After a start: takes over the generation that members say they run, if all of it is there.
    pub(super) fn adopt(&mut self, now_ms: i64, out: &mut Vec<Output>) -> bool {
        let Phase::Gathering { lack: Lack::Start, .. } = &self.phase else { return false };
        let Some(world) = self.whole_claim() else { return false };
        let digest = world.digest();
        self.take_over(now_ms, world, digest, out)
    }

    /// Takes over a world that runs, if it can be one of this job.
    pub(super) fn take_over(&mut self, now_ms: i64, world: World, digest: u64, out: &mut Vec<Output>) -> bool {
        if !self.can_be_ours(&world) || self.newer_due(&world).is_some_and(|due| now_ms < due) {
            return false;
        }
        if !self.fence.seen(world.generation) {
            return false;
        }
        self.restarts = self.restarts.max(world.restarts.saturating_sub(self.elsewhere));
        self.note_borne();
        for seat in &world.seats {
            if let Some(member) = self.members.get_mut(&seat.member) {
                member.order = u64::from(seat.node_rank);
            }
        }
        let is_over = |id: &MemberId| match self.members.get(id) {
            Some(member) => matches!(member.hello.ranks_are, Standing::Finished(_)),
            // Whoever has a seat, and is not there, has ended well.
            None => true,
        };
        let ready: BTreeSet<MemberId> = world.seats.iter().map(|seat| seat.member.clone()).collect();
        let finished: BTreeSet<MemberId> = ready.iter().filter(|id| is_over(id)).cloned().collect();
        let all_over = finished.len() == ready.len();
        self.phase = Phase::Running { since_ms: now_ms, world, digest, ready, finished };
        if all_over {
            self.end(Outcome::Succeeded, out);
        }
        true
    }

    /// Whether no newer one is known of, and the job allows it.
    fn can_be_ours(&self, world: &World) -> bool {
        let count = u32::try_from(world.seats.len()).unwrap_or(u32::MAX);
        let allowed = (self.config.least..=self.config.most).contains(&count);
        world.generation >= self.claimed && allowed && self.check_world(world).is_ok()
    }

    /// Until when somebody may come who runs a newer generation than this one: those who have no seat in it may have been
    /// ordered into one without its members. Nobody may where the job has no more members than are known.
    fn newer_due(&self, world: &World) -> Option<i64> {
        let Phase::Gathering { since_ms, .. } = &self.phase else { return None };
        let most = self.config.most as usize;
        let others = world.seats.len() < most && self.members.len() + self.done.len() < most;
        others.then(|| since_ms.saturating_add(self.config.away_ms))
    }

    /// When the generation that is claimed is taken over, if nobody comes who runs a newer one.
    fn adoption_due(&self) -> Option<i64> {
        if self.config.least == self.config.most {
            return None;
        }
        let world = self.whole_claim().filter(|world| self.can_be_ours(world))?;
        self.newer_due(&world)
    }

    /// Begins the next generation if all who are expected are there, or enough are and the others are late.
    pub(super) fn form(&mut self, now_ms: i64, out: &mut Vec<Output>) -> bool {
        let Phase::Gathering { since_ms, lack, expected, enough_since_ms } = &self.phase else { return false };
        let here = self.here().len();
        let all = here >= *expected as usize;
        let due = match lack {
            // What becomes of those who are left is decided when they had their time to come.
            Lack::Start if !self.done.is_empty() => false,
            Lack::Start if self.claim().is_some() => {
                // Somebody runs a generation: give the rest of it time to come back and be adopted, unless others have all
                // of its places.
                all || (now_ms >= since_ms + self.config.away_ms && here >= self.config.least as usize)
            }
            Lack::Start => all || enough_since_ms.is_some_and(|since| now_ms >= since + self.config.last_call_ms),
            Lack::Failure(_) => {
                let late = now_ms >= since_ms + self.config.return_ms && here >= self.config.least as usize;
                now_ms >= since_ms + self.pause_ms() && (all || late)
            }
        };
        due && self.order_next(now_ms, out)
    }

    /// Orders the next generation of all who are here, as far as the job has room. False where a number or the master's
    /// port is missing: both come by themselves.
    pub(super) fn order_next(&mut self, now_ms: i64, out: &mut Vec<Output>) -> bool {
        let chosen = self.chosen();
        if !self.has_master(&chosen) {
            return false;
        }
        let Some(generation) = self.fence.take() else { return false };
        let mut seats = Vec::with_capacity(chosen.len());
        let mut first_rank = 0;
        for (node_rank, id) in (0..).zip(&chosen) {
            let Some(member) = self.members.get_mut(id) else { continue };
            member.hello.ranks_are = Standing::Idle;
            let (address, port, ranks) = (member.hello.address.clone(), member.hello.port, member.hello.ranks);
            seats.push(Seat { member: id.clone(), node_rank, first_rank, ranks, address, port });
            first_rank += ranks;
        }
        if let Some(master) = chosen.first().and_then(|id| self.members.get_mut(id)) {
            master.port_taken_by = Some(generation);
        }
        let world = World { generation, seats, restarts: self.all_restarts() };
        let (ready, finished) = (BTreeSet::new(), BTreeSet::new());
        let digest = world.digest();
        self.phase = Phase::Running { since_ms: now_ms, world: world.clone(), digest, ready, finished };
        out.push(Output::Form { members: chosen, world });
        true
    }

    /// Whether so many can form a generation, and the first of them holds a port for it.
    fn has_master(&self, chosen: &[MemberId]) -> bool {
        let master = chosen.first().and_then(|id| self.members.get(id));
        chosen.len() >= self.config.least as usize && master.is_some_and(|master| master.port_taken_by.is_none())
    }

    /// Whether [`Self::order_next`] would order. Where it would not, what it lacks is told, whatever the time: the clock
    /// need not be looked at for that.
    pub(super) fn can_order(&self) -> bool {
        self.fence.has_next() && self.has_master(&self.chosen())
    }

    /// Takes over what the job allows now. A world that is too wide for it makes room for a narrower one, which is nobody's
    /// failure.
    pub(super) fn changed(&mut self, now_ms: i64, config: Config, out: &mut Vec<Output>) {
        self.widest = self.widest.max(config.most);
        self.config = config;
        self.note_borne();
        let most = self.config.most;
        let Phase::Running { world, finished, .. } = &self.phase else {
            if let Phase::Gathering { expected, .. } = &mut self.phase {
                *expected = (*expected).min(most);
            }
            return;
        };
        if world.seats.len() <= most as usize || !finished.is_empty() {
            return;
        }
        self.make_smaller(now_ms, most, "the job has fewer pods now", out);
    }

    /// A member's pod is about to go, which is nobody's failure: those who are left go on without it.
    pub(super) fn leaves(&mut self, now_ms: i64, pod: &str, out: &mut Vec<Output>) {
        let Some(id) = self.members.keys().find(|member| member.pod == pod).cloned() else { return };
        self.members.remove(&id);
        match &mut self.phase {
            Phase::Running { world, finished, .. } if world.seat_of(&id).is_some() && !finished.contains(&id) => {
                let seats = world.seats.iter().filter(|seat| self.members.contains_key(&seat.member)).count();
                let left = u32::try_from(seats).unwrap_or(u32::MAX);
                self.make_smaller(now_ms, left, "a pod of the job made room for others", out);
            }
            Phase::Gathering { lack: Lack::Failure(_), expected, .. } => *expected = expected.saturating_sub(1).max(1),
            Phase::Gathering { lack: Lack::Start, .. } | Phase::Running { .. } | Phase::Ended(_) => {}
        }
    }

    /// Ends the present generation for one of so many members.
    fn make_smaller(&mut self, now_ms: i64, expected: u32, why: &str, out: &mut Vec<Output>) {
        let Phase::Running { world, .. } = &self.phase else { return };
        let (generation, seats) = (world.generation, world.seats.clone());
        let message = why.to_owned();
        let lack = Lack::Failure(Failure { rank: None, cause: Cause::NodeLost, code: 0, message, secondary: false });
        self.phase = Phase::Gathering { since_ms: now_ms, lack, expected, enough_since_ms: None };
        self.form(now_ms, out);
        let stays = |id: &MemberId| self.world().is_some_and(|world| world.seat_of(id).is_some());
        let members: Vec<MemberId> = seats
            .into_iter()
            .map(|seat| seat.member)
            .filter(|id| self.members.contains_key(id) && !stays(id))
            .collect();
        if !members.is_empty() {
            out.push(Output::Halt { members, generation });
        }
    }

    /// A member holds a port for the store of the next generation.
    pub(super) fn holds(&mut self, member: &MemberId, port: u16, seen: Generation) {
        // A message from before the order that took the port is about that same port.
        if let Some(member) =
            self.members.get_mut(member).filter(|member| member.port_taken_by.is_none_or(|by| seen >= by))
        {
            member.hello.port = port;
            member.port_taken_by = None;
        }
    }

    /// What was borne until now was allowed by others, or by other terms.
    fn note_borne(&mut self) {
        self.earlier = Borne { restarts: self.restarts, by_cause: self.spent.clone() };
    }

    /// Members whose stream is open.
    pub(super) fn here(&self) -> Vec<(&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| member.away_since_ms.is_none()).collect()
    }

    /// Who is in the next generation, by node rank: by index, else in the order of joining.
    fn chosen(&self) -> Vec<MemberId> {
        let mut here = self.here();
        here.sort_by_key(|(_, member)| (member.hello.index.unwrap_or(u32::MAX), member.order));
        here.truncate(self.config.most as usize);
        here.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// Whether a generation runs that has room for a member who waits. None is broken up that has begun to end.
    pub(super) fn could_grow(&self) -> bool {
        let Phase::Running { world, finished, .. } = &self.phase else { return false };
        if world.seats.len() >= self.config.most as usize || !finished.is_empty() {
            return false;
        }
        // All of the present ones must be there to be told.
        let whole = world
            .seats
            .iter()
            .all(|seat| self.members.get(&seat.member).is_some_and(|member| member.away_since_ms.is_none()));
        whole && self.here().iter().any(|(id, _)| world.seat_of(id).is_none())
    }

    pub(super) fn note_enough(&mut self, now_ms: i64) {
        let enough = self.here().len() >= self.config.least as usize;
        if let Phase::Gathering { enough_since_ms, .. } = &mut self.phase {
            *enough_since_ms = enough.then(|| enough_since_ms.unwrap_or(now_ms));
        }
    }

    /// Ends the job if too few are there and the others had their time.
    pub(super) fn give_up(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        let Phase::Gathering { since_ms, lack, .. } = &self.phase else { return };
        let here = self.here().len();
        let patience_ms = self.patience_ms(lack);
        if self.members.is_empty() || here >= self.config.least as usize || now_ms < since_ms + patience_ms {
            return;
        }
        let missing = self.missing();
        let after = match lack {
            Lack::Start => String::new(),
            Lack::Failure(failure) => format!(" after: {}", failure.message),
        };
        let message = format!(
            "{here} of {} launchers joined the rendezvous within {} s{missing}{after}",
            self.config.least,
            patience_ms / 1000
        );
        let failure = Failure { rank: None, cause: Cause::RendezvousTimeout, code: 1, message, secondary: false };
        self.end(Outcome::Failed(failure), out);
    }

    /// When gathering wants to look at the clock.
    pub(super) fn gathering_deadline(&self) -> Option<i64> {
        let Phase::Gathering { since_ms, lack, enough_since_ms, expected } = &self.phase else { return None };
        let enough = self.here().len() >= self.config.least as usize;
        if let (Lack::Start, Some(due)) = (lack, self.done_due()) {
            return Some(due);
        }
        if let (Lack::Start, Some(due)) = (lack, self.adoption_due()) {
            return Some(due);
        }
        if enough && !self.can_order() {
            return None;
        }
        Some(match lack {
            Lack::Start if enough && self.claim().is_some() => since_ms + self.config.away_ms,
            Lack::Start if enough => enough_since_ms.unwrap_or(*since_ms) + self.config.last_call_ms,
            Lack::Failure(_) if enough && self.here().len() >= *expected as usize => since_ms + self.pause_ms(),
            Lack::Failure(_) if enough => since_ms + self.config.return_ms.max(self.pause_ms()),
            Lack::Start | Lack::Failure(_) if self.members.is_empty() => return None,
            Lack::Start | Lack::Failure(_) => since_ms + self.patience_ms(lack),
        })
    }

    /// How long a program that fails again and again as soon as it has begun is kept from doing so.
    fn pause_ms(&self) -> i64 {
        let (first, longest) = PAUSE_MS;
        match self.hasty.checked_sub(HASTY_FREE + 1) {
            None => 0,
            // A second doubled six times is more than the longest.
            Some(doublings) => (first << doublings.min(6)).min(longest),
        }
    }

    /// How long too few members are borne with.
    fn patience_ms(&self, lack: &Lack) -> i64 {
        match lack {
            Lack::Start => self.config.join_ms,
            Lack::Failure(_) => self.config.lost_ms,
        }
    }

    /// The indexes that nobody has taken, in words.
    fn missing(&self) -> String {
        let here = self.here();
        let taken: BTreeSet<u32> = here.iter().filter_map(|(_, member)| member.hello.index).collect();
        if taken.len() != here.len() {
            return String::new();
        }
        let missing: Vec<String> =
            (0..self.config.most).filter(|i| !taken.contains(i)).map(|i| i.to_string()).collect();
        let shown = missing.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 8 { format!(" and {} more", missing.len() - 8) } else { String::new() };
        if missing.is_empty() { String::new() } else { format!("; missing are node ranks {shown}{more}") }
    }
}

//! Who the ranks of one job are, generation by generation. Decides; sends and starts nothing.
//!
//! Each launcher of the job holds one stream to the coordinator. What arrives there is fed to [`Rendezvous::step`], which
//! says what to send. Training needs the coordinator only when the membership changes: while it is away ranks run on,
//! and a coordinator that starts again takes over the generation that it finds running.
//!
//! | phase     | what happened                                       | next      | does                                   |
//! |-----------|-----------------------------------------------------|-----------|----------------------------------------|
//! | gathering | all that are expected are there, or enough and late | running   | order the next generation              |
//! | gathering | after a start: a whole world is there, and runs     | running   | nothing: it is adopted                 |
//! |           | the same, but others may run a newer one            | gathering | (they have some time to come back)     |
//! |           | the same, but somebody was there who ran a newer    | gathering | (it is over)                           |
//! | gathering | too few, too late                                   | ended     | release all                            |
//! | gathering | after a start: the rest of it is there, the others' |           |                                        |
//! |           | pods ended well meanwhile, and some ranks still run | running   | nothing: it is adopted                 |
//! |           | the same, and all ranks have finished               | ended     | release all                            |
//! |           | the same, but some never came, or came anew         | gathering | (that is a failure)                    |
//! | running   | a rank failed, restarts are left                    | gathering | (most often forms at once)             |
//! | running   | a member is gone, restarts are left                 | gathering | halt the survivors unless it forms now |
//! | running   | a member does not start its ranks, and had its time  | gathering | (that is a member that is gone)        |
//! | running   | the pod of a member has to make room                | running   | order the next generation, without it  |
//! | running   | newcomers wait, and the generation is old enough    | running   | order the next generation, with them   |
//! | running   | a failure, and no restart is left                   | ended     | release all                            |
//! | running   | all members finished                                | ended     | release all                            |
//! | any       | stop                                                | ended     | release all                            |
//!
//! **Fencing.** A generation number is given out once ever (see the reservation in `fence`), so it names one world. A
//! launcher obeys an order only if its generation is higher than all it has seen, and every report names its
//! generation: a report about another one than the present changes nothing. The store of each generation has a port of
//! its own, which the launcher that serves it holds before the generation begins: nothing that is left of an old
//! generation can speak to a new one.
//!
//! Invariants, re-derived by [`Rendezvous::check`] and counted in production: R-1, a world has members within the job's
//! bounds, each once, with ranks counted without gaps; R-2, the present generation is the highest ever given out; R-3,
//! whoever is ready or finished has a seat in the present world; R-4, a pod has one member at most, and so has an index;
//! R-5, no more failures are borne than the budget allows, of each cause and in all. Two more need the past, and are held by the tests: R-6, two
//! different worlds never share a number; R-7, a launcher never goes back to a lower one.

mod budget;
mod check;
mod done;
mod fence;
mod form;
mod message;
mod session;
mod view;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use budget::{Budget, Spent};
pub use message::{Cause, Failure, Hello, Input, Outcome, Output, Part, Place, Standing};
pub use session::{Happened, Session};
pub use view::{LastFailure, Pulse, RankPulse, RendezvousView, Saved, Spares, Stage, Stalled, Straggler};
pub use world::{Generation, MemberId, Seat, World};

use budget::Borne;
use done::Done;
use fence::Fence;

/// How long a job that has no restart left waits for the failure that another one followed from: the ends of processes that
/// saw each other's connections close are seen within hundredths of a second.
const DOUBT_MS: i64 = 500;
/// How long a member may take to start its ranks at least: those of the generation before have to end first.
const READY_MS: i64 = 60_000;
/// A generation that lives shorter than this may well be of a program that cannot run.
const HASTY_MS: i64 = 5_000;
/// So many of them in a row are followed at once.
const HASTY_FREE: u32 = 2;
/// The wait before the next one after that, doubled with each, and the longest.
const PAUSE_MS: (i64, i64) = (1_000, 60_000);

/// What a job allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Members without which no generation runs; at least 1.
    pub least: u32,
    /// Members at most.
    pub most: u32,
    /// How long the first generation waits for `least` members, and each one for its members' ranks to be started (at least a
    /// minute).
    pub join_ms: i64,
    /// How long the first generation waits for more, once `least` are there.
    pub last_call_ms: i64,
    /// How long a member whose stream broke counts as running.
    pub away_ms: i64,
    /// How long lost members are awaited after a failure: then the job goes on with fewer, if these are enough.
    pub return_ms: i64,
    /// How long they are awaited if these are too few: then the job fails.
    pub lost_ms: i64,
    /// How old a generation must be before it is replaced to let newcomers in.
    pub grow_ms: i64,
    /// How many failures it bears.
    pub budget: Budget,
}

/// A launcher that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    hello: Hello,
    stream: u64,
    /// Its place among those without an index.
    order: u64,
    /// The generation that took the port that it held.
    port_taken_by: Option<Generation>,
    /// Since when its stream is broken.
    away_since_ms: Option<i64>,
}

/// Why no generation runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Lack {
    /// This coordinator has just begun: there may be one that it does not know yet.
    Start,
    /// The last one failed.
    Failure(Failure),
}

/// See the module's table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Phase {
    Gathering {
        since_ms: i64,
        lack: Lack,
        /// Members with which the next generation begins at once.
        expected: u32,
        /// Since when the job's least number is there.
        enough_since_ms: Option<i64>,
    },
    Running {
        since_ms: i64,
        world: World,
        /// What its members know it by: [`World::digest`], unless some of it was not known any more when it was adopted.
        digest: u64,
        ready: BTreeSet<MemberId>,
        finished: BTreeSet<MemberId>,
    },
    Ended(Outcome),
}

/// The rendezvous of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendezvous {
    config: Config,
    phase: Phase,
    members: BTreeMap<MemberId, Member>,
    joined: u64,
    fence: Fence,
    /// Generations that a failure ended, here or under a coordinator before this one.
    restarts: u32,
    spent: BTreeMap<Cause, u32>,
    /// Restarts that others count.
    elsewhere: u32,
    /// Of the restarts, those that the present budget did not have to allow.
    earlier: Borne,
    /// The most members that it ever allowed.
    widest: u32,
    /// Generations in a row that ended as soon as they had begun.
    hasty: u32,
    /// The last failure that the budget bore, and the generation that it ended, where one ran.
    last_borne: Option<Failure>,
    borne_of: Option<Generation>,
    /// A failure that ends the job unless the one that it follows from becomes known until then.
    doubt: Option<(i64, Failure)>,
    /// What ended well before it was known here which generation runs.
    done: Done,
    /// The highest generation that anybody has said to run, be it there still or not.
    claimed: Generation,
}

impl Rendezvous {
    /// A rendezvous that nobody has joined. `recorded` is the last generation that the durable record says is taken, and
    /// `spent` what it says of restarts.
    #[must_use]
    pub fn new(config: Config, recorded: Generation, spent: Spent, now_ms: i64) -> Self {
        let expected = config.most;
        let phase = Phase::Gathering { since_ms: now_ms, lack: Lack::Start, expected, enough_since_ms: None };
        let restarts = spent.by_cause.values().sum::<u32>().saturating_add(spent.unknown);
        Self {
            config,
            phase,
            members: BTreeMap::new(),
            joined: 0,
            fence: Fence::new(recorded),
            earlier: Borne { restarts, by_cause: spent.by_cause.clone() },
            restarts,
            spent: spent.by_cause,
            elsewhere: spent.elsewhere,
            widest: expected,
            hasty: 0,
            last_borne: None,
            borne_of: None,
            doubt: None,
            done: Done::default(),
            claimed: Generation(0),
        }
    }

    /// Takes in one event and appends what is to be done to `out`.
    pub fn step(&mut self, now_ms: i64, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Joined { member, stream, hello } => self.joined(now_ms, member, stream, hello, out),
            Input::Away { member, stream } => self.away(now_ms, &member, stream),
            Input::PodGone { pod } => self.pod_gone(now_ms, &pod, out),
            Input::PodDone { pod } => self.pod_done(now_ms, &pod, out),
            Input::Leaves { pod } => self.leaves(now_ms, &pod, out),
            Input::Holds { member, port, seen } => self.holds(&member, port, seen),
            Input::Ready { member, generation } => self.ready(member, generation),
            Input::Failed { member, generation, failure } => self.failed(now_ms, &member, generation, failure, out),
            Input::Finished { member, generation } => self.finished(member, generation, out),
            Input::Reserved { to } => self.fence.reserved(to),
            Input::NotReserved { recorded } => {
                self.fence.seen(recorded);
                self.fence.forget();
            }
            Input::Elsewhere { restarts } => self.elsewhere = self.elsewhere.max(restarts),
            Input::Changed { config } => self.changed(now_ms, config, out),
            Input::Stop => self.end(Outcome::Stopped, out),
            Input::Tick => {}
        }
        self.settle(now_ms, out);
        if cfg!(debug_assertions) {
            self.check().expect("the rendezvous's invariants hold after every step");
        }
    }

    /// Whether this launcher takes part.
    #[must_use]
    pub fn has(&self, member: &MemberId) -> bool {
        self.members.contains_key(member)
    }

    /// Launchers that take part, and those of them whose streams are open.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.members.len(), self.here().len())
    }

    /// The world that runs, if one does.
    #[must_use]
    pub fn world(&self) -> Option<&World> {
        match &self.phase {
            Phase::Running { world, .. } => Some(world),
            Phase::Gathering { .. } | Phase::Ended(_) => None,
        }
    }

    /// Whether every member of the running world has started its ranks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.phase {
            // whoever is ready has a seat.
            Phase::Running { world, ready, .. } => ready.len() == world.seats.len(),
            Phase::Gathering { .. } | Phase::Ended(_) => false,
        }
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended(outcome) => Some(outcome),
            Phase::Gathering { .. } | Phase::Running { .. } => None,
        }
    }

    /// Generations that a failure ended so far.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Restarts of the job so far, whoever made them.
    pub(super) const fn all_restarts(&self) -> u32 {
        self.restarts.saturating_add(self.elsewhere)
    }

    /// When [`Input::Tick`] is wanted, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        let own = match &self.phase {
            Phase::Ended(_) => return None,
            Phase::Gathering { .. } => self.gathering_deadline(),
            Phase::Running { since_ms, .. } => {
                let grows = self.could_grow() && self.can_order();
                let grow = grows.then_some(since_ms + self.config.grow_ms);
                let ready = self.unready().next().map(|_| since_ms.saturating_add(self.ready_ms()));
                let doubt = self.doubt.as_ref().map(|(until_ms, _)| *until_ms);
                grow.into_iter().chain(ready).chain(doubt).min()
            }
        };
        let away = self.members.values().filter_map(|member| member.away_since_ms);
        away.map(|since| since + self.config.away_ms).chain(own).min()
    }

    fn joined(&mut self, now_ms: i64, member: MemberId, stream: u64, hello: Hello, out: &mut Vec<Output>) {
        if let Phase::Ended(outcome) = &self.phase {
            out.push(Output::Release { members: vec![member], outcome: outcome.clone() });
            return;
        }
        let same_place = |known: &MemberId, place: &Member| {
            known.pod == member.pod || (hello.index.is_some() && place.hello.index == hello.index)
        };
        let mut rivals = self.members.iter().filter(|(known, place)| **known != member && same_place(known, place));
        if rivals.clone().any(|(known, _)| known.incarnation > member.incarnation) {
            // A message of a process that was replaced since.
            return;
        }
        // Two at most: one of the pod, one of the index.
        let replaced: Vec<MemberId> = rivals.by_ref().map(|(known, _)| known.clone()).collect();
        for rival in replaced {
            self.lose(now_ms, &rival, out);
        }
        self.fence.seen(hello.seen);
        self.claimed = self.claimed.max(hello.ranks_are.part().map_or(Generation(0), |part| part.generation));
        self.done.forget(&member.pod);
        if let Phase::Gathering { since_ms, .. } = &mut self.phase
            && self.members.is_empty()
        {
            // While nobody is there, nobody waits: pods may stand in a queue for as long as it takes.
            *since_ms = now_ms;
        }
        let known = self.members.get(&member).map(|known| known.order);
        let order = known.unwrap_or_else(|| {
            self.joined += 1;
            self.joined
        });
        let place = Member { hello, stream, order, port_taken_by: None, away_since_ms: None };
        self.members.insert(member.clone(), place);
        self.resume(now_ms, &member, out);
    }

    /// Brings a member whose stream is new, and the present generation, together.
    fn resume(&mut self, now_ms: i64, id: &MemberId, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(id) else { return };
        let (seen, standing) = (member.hello.seen, member.hello.ranks_are.clone());
        if let Standing::Failed { generation, failure } = &standing
            && self.world().is_none_or(|world| world.generation == *generation)
        {
            return self.failed(now_ms, id, *generation, failure.clone(), out);
        }
        let part = standing.part().map(|part| (part.generation, part.digest));
        let over = matches!(standing, Standing::Finished(_));
        let Phase::Running { world, digest, ready, finished, .. } = &mut self.phase else { return };
        if world.seat_of(id).is_none() {
            return;
        }
        if seen < world.generation {
            // Its order was lost with its stream.
            out.push(Output::Form { members: vec![id.clone()], world: world.clone() });
        } else if part == Some((world.generation, *digest)) {
            ready.insert(id.clone());
            if over {
                self.finished(id.clone(), seen, out);
            } else {
                finished.remove(id);
            }
        } else {
            let message = format!("the launcher {} no longer runs generation {}", id.pod, world.generation.0);
            self.break_up(
                now_ms,
                Failure { rank: None, cause: Cause::NodeLost, code: 1, message, secondary: false },
                out,
            );
        }
    }

    fn away(&mut self, now_ms: i64, member: &MemberId, stream: u64) {
        if let Some(member) = self.members.get_mut(member).filter(|member| member.stream == stream) {
            member.away_since_ms.get_or_insert(now_ms);
        }
    }

    fn pod_gone(&mut self, now_ms: i64, pod: &str, out: &mut Vec<Output>) {
        let gone = self.members.keys().find(|member| member.pod == pod).cloned();
        if let Some(member) = gone {
            self.lose(now_ms, &member, out);
        }
    }

    /// The coordinator that released it may have been cut off before it released the others; or it was away for so long that
    /// the launcher gave up waiting for the ranks of the others. Where a generation is known to run, only a launcher that was
    /// not ours ends so.
    fn pod_done(&mut self, now_ms: i64, pod: &str, out: &mut Vec<Output>) {
        match &self.phase {
            Phase::Gathering { lack: Lack::Start, .. } => self.note_done(now_ms, pod),
            Phase::Gathering { lack: Lack::Failure(_), .. } | Phase::Running { .. } => self.pod_gone(now_ms, pod, out),
            Phase::Ended(_) => {}
        }
    }

    /// A member will not come back. If its ranks were part of the running generation, that is over.
    fn lose(&mut self, now_ms: i64, member: &MemberId, out: &mut Vec<Output>) {
        self.members.remove(member);
        let Phase::Running { world, finished, .. } = &self.phase else { return };
        let Some(seat) = world.seat_of(member) else { return };
        if finished.contains(member) {
            return;
        }
        let message = format!("the launcher of node rank {} ({}) is gone", seat.node_rank, seat.address);
        self.break_up(now_ms, Failure { rank: None, cause: Cause::NodeLost, code: 1, message, secondary: false }, out);
    }

    fn ready_ms(&self) -> i64 {
        self.config.join_ms.max(READY_MS)
    }

    /// Seats of the present generation whose ranks are not known to have been started.
    fn unready(&self) -> impl Iterator<Item = &Seat> {
        let (world, ready) = match &self.phase {
            Phase::Running { world, ready, .. } => (Some(world), Some(ready)),
            Phase::Gathering { .. } | Phase::Ended(_) => (None, None),
        };
        let seats = world.into_iter().flat_map(|world| &world.seats);
        seats.filter(move |seat| !ready.is_some_and(|ready| ready.contains(&seat.member)))
    }

    /// A launcher that obeys no order is as good as gone, be its stream open or not.
    fn lose_unready(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        let Phase::Running { since_ms, .. } = &self.phase else { return };
        let took_ms = self.ready_ms();
        if now_ms < since_ms.saturating_add(took_ms) {
            return;
        }
        let late: Vec<Seat> = self.unready().cloned().collect();
        let Some(first) = late.first() else { return };
        let (rank, address, seconds) = (first.node_rank, &first.address, took_ms / 1000);
        let message =
            format!("the launcher of node rank {rank} ({address}) did not start its ranks within {seconds} s");
        self.members.retain(|id, _| late.iter().all(|seat| seat.member != *id));
        self.break_up(now_ms, Failure { rank: None, cause: Cause::NodeLost, code: 1, message, secondary: false }, out);
    }

    fn ready(&mut self, member: MemberId, generation: Generation) {
        if let Phase::Running { world, ready, .. } = &mut self.phase
            && world.generation == generation
            && world.seat_of(&member).is_some()
        {
            ready.insert(member);
        }
    }

    fn failed(
        &mut self,
        now_ms: i64,
        member: &MemberId,
        generation: Generation,
        failure: Failure,
        out: &mut Vec<Output>,
    ) {
        let counts = match &self.phase {
            Phase::Running { world, .. } => world.generation == generation && world.seat_of(member).is_some(),
            // Nobody of that generation can be adopted any more.
            Phase::Gathering { lack: Lack::Start, .. } => {
                self.members.contains_key(member) && self.claim().is_none_or(|part| part.generation <= generation)
            }
            Phase::Gathering { lack: Lack::Failure(_), .. } | Phase::Ended(_) => false,
        };
        if !counts {
            self.amend(member, generation, failure, out);
        } else if failure.secondary && self.world().is_some() && !self.allows(&failure, self.all_restarts()) {
            self.doubt.get_or_insert((now_ms.saturating_add(DOUBT_MS), failure));
        } else {
            self.break_up(now_ms, failure, out);
        }
    }

    /// A generation was ended by a failure that followed from another one, and this is that one.
    fn amend(&mut self, member: &MemberId, generation: Generation, failure: Failure, out: &mut Vec<Output>) {
        let Some(known) = self.last_borne.as_ref().filter(|known| known.secondary) else { return };
        let is_over = matches!(self.phase, Phase::Ended(_));
        if failure.secondary || is_over || self.borne_of != Some(generation) || !self.members.contains_key(member) {
            return;
        }
        let cause = known.cause;
        if !self.allows(&failure, self.all_restarts().saturating_sub(1)) {
            return self.end(Outcome::Failed(failure), out);
        }
        if let Some(spent) = self.spent.get_mut(&cause) {
            *spent = spent.saturating_sub(1);
        }
        *self.spent.entry(failure.cause).or_default() += 1;
        if let Phase::Gathering { lack: lack @ Lack::Failure(_), .. } = &mut self.phase {
            *lack = Lack::Failure(failure.clone());
        }
        self.last_borne = Some(failure);
    }

    fn allows(&self, failure: &Failure, restarts: u32) -> bool {
        let spent = self.spent.get(&failure.cause).copied().unwrap_or(0);
        self.config.budget.allows(failure, spent, restarts)
    }

    fn finished(&mut self, member: MemberId, generation: Generation, out: &mut Vec<Output>) {
        // Borne the rest of its generation has come back to be adopted: then this is what it says of itself.
        if let Some(known) = self.members.get_mut(&member)
            && let Standing::Running(part) = &known.hello.ranks_are
            && part.generation == generation
        {
            known.hello.ranks_are = Standing::Finished(part.clone());
        }
        let Phase::Running { world, ready, finished, .. } = &mut self.phase else { return };
        if world.generation != generation || world.seat_of(&member).is_none() {
            return;
        }
        ready.insert(member.clone());
        finished.insert(member);
        if finished.len() == world.seats.len() {
            self.end(Outcome::Succeeded, out);
        }
    }

    /// The present generation is over: gather for the next one, or end where the budget is spent.
    fn break_up(&mut self, now_ms: i64, failure: Failure, out: &mut Vec<Output>) {
        self.doubt = None;
        if !self.allows(&failure, self.all_restarts()) {
            return self.end(Outcome::Failed(failure), out);
        }
        *self.spent.entry(failure.cause).or_default() += 1;
        self.restarts = self.restarts.saturating_add(1);
        self.last_borne = Some(failure.clone());
        self.borne_of = self.world().map(|world| world.generation);
        let (seats, lived_ms) = match &self.phase {
            Phase::Running { world, since_ms, .. } => (world.seats.clone(), now_ms.saturating_sub(*since_ms)),
            Phase::Gathering { .. } | Phase::Ended(_) => (Vec::new(), 0),
        };
        self.hasty = if lived_ms < HASTY_MS { self.hasty.saturating_add(1) } else { 0 };
        let expected = u32::try_from(seats.len()).ok().filter(|count| *count > 0).unwrap_or(self.config.most);
        let over = self.world().map(|world| world.generation);
        self.phase =
            Phase::Gathering { since_ms: now_ms, lack: Lack::Failure(failure), expected, enough_since_ms: None };
        if self.form(now_ms, out) {
            return;
        }
        // The ranks that are left can only wait for each other: they end now, not when the next world is known.
        let members: Vec<MemberId> =
            seats.into_iter().map(|seat| seat.member).filter(|id| self.members.contains_key(id)).collect();
        if let Some(generation) = over.filter(|_| !members.is_empty()) {
            out.push(Output::Halt { members, generation });
        }
    }

    fn end(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        let members: Vec<MemberId> = self.members.keys().cloned().collect();
        if !members.is_empty() {
            out.push(Output::Release { members, outcome: outcome.clone() });
        }
        self.phase = Phase::Ended(outcome);
    }

    /// What follows from the time and from who is there now.
    fn settle(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        let away_ms = self.config.away_ms;
        let is_late = |member: &Member| member.away_since_ms.is_some_and(|since| now_ms >= since + away_ms);
        let late: Vec<MemberId> = self.members.iter().filter(|(_, m)| is_late(m)).map(|(id, _)| id.clone()).collect();
        for member in late {
            self.lose(now_ms, &member, out);
        }
        self.lose_unready(now_ms, out);
        if let Some((_, failure)) = self.doubt.take_if(|(until_ms, _)| now_ms >= *until_ms) {
            self.break_up(now_ms, failure, out);
        }
        match &self.phase {
            Phase::Running { since_ms, .. } => {
                if self.could_grow() && now_ms >= since_ms + self.config.grow_ms {
                    self.order_next(now_ms, out);
                }
            }
            Phase::Gathering { .. } => {
                self.note_enough(now_ms);
                if !self.adopt(now_ms, out) && !self.follow_done(now_ms, out) && !self.form(now_ms, out) {
                    self.give_up(now_ms, out);
                }
            }
            Phase::Ended(_) => return,
        }
        // A job whose launchers never come needs no generation.
        if !self.members.is_empty()
            && let Some(to) = self.fence.want()
        {
            out.push(Output::Reserve { to });
        }
    }
}

//! A rendezvous with its memory: what happened, when, and how long it took. Nothing here decides who forms what.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_proto::pace::{self, Stragglers};
use trainyard_proto::tempo::Tempos;

use super::budget::Spent;
use super::message::{Failure, Hello, Input, Outcome, Output, Place};
use super::view::{LastFailure, Pulse, RendezvousView, Saved, Spares, Stage, Stalled, Straggler};
use super::world::{Generation, MemberId};
use super::{Config, Lack, Phase, Rendezvous};

/// Memory of spares changes by itself, all the time: it is told anew when it has changed by more than this part of it.
const MEMORY_STEP: u64 = 8;
/// Up to so many members, all invariants are derived anew after each step. Of more, R-4 when somebody has joined, R-5 after
/// each step, and all of them when the generation changes and when its ranks have started.
const CHECK_EACH_STEP: usize = 64;

/// What is worth telling of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A rank, or a whole member, failed.
    Failed(LastFailure),
    /// The failure that was told last followed from this one.
    Blamed(LastFailure),
    /// A generation was ordered, or was found running.
    Formed {
        /// Which.
        generation: Generation,
        /// Whether it ran already.
        adopted: bool,
    },
    /// Every member of the generation has started its ranks.
    Ready {
        /// Which.
        generation: Generation,
        /// Its members.
        members: usize,
        /// Its ranks.
        ranks: u32,
        /// How long it took since the failure that ended the one before.
        recovered_ms: Option<i64>,
    },
    /// A rank stands still.
    Hangs {
        /// Which: that which is to blame, or the first of those that wait for each other.
        stalled: Stalled,
        /// How many others wait.
        others: usize,
    },
    /// A rank makes the others wait.
    Straggles(Straggler),
    /// It does so no longer.
    KeepsUp {
        /// Which.
        rank: u32,
        /// Where.
        host: String,
    },
    /// It is over.
    Ended(Outcome),
    /// An invariant does not hold.
    Broken(String),
}

/// The rendezvous of one job, with its memory.
#[derive(Clone, Debug)]
pub struct Session {
    machine: Rendezvous,
    joined: BTreeSet<String>,
    /// Where each member is: host, pod and node.
    sites: BTreeMap<MemberId, (String, Place)>,
    last_failure: Option<LastFailure>,
    last_generation: Generation,
    ready: bool,
    ended_ms: Option<i64>,
    pulses: BTreeMap<MemberId, Pulse>,
    /// Ranks that stand still, those that wait for others among them.
    stalled: BTreeMap<u32, Stalled>,
    /// Those of them that were said to be to blame.
    blamed: BTreeSet<u32>,
    stragglers: Stragglers,
    tempos: Tempos<MemberId>,
    spares: Option<Spares>,
    checkpoint: Option<Saved>,
}

impl Session {
    /// See [`Rendezvous::new`].
    #[must_use]
    pub fn new(config: Config, recorded: Generation, spent: Spent, now_ms: i64) -> Self {
        Self {
            machine: Rendezvous::new(config, recorded, spent, now_ms),
            joined: BTreeSet::new(),
            sites: BTreeMap::new(),
            last_failure: None,
            last_generation: Generation(0),
            ready: false,
            ended_ms: None,
            pulses: BTreeMap::new(),
            stalled: BTreeMap::new(),
            blamed: BTreeSet::new(),
            stragglers: Stragglers::default(),
            tempos: Tempos::default(),
            spares: None,
            checkpoint: None,
        }
    }

    /// One that follows another: what failed there has yet to be recovered from.
    #[must_use]
    pub fn after(self, failure: Option<LastFailure>) -> Self {
        let last_failure = failure.filter(|failure| failure.recovered_ms.is_none());
        Self { last_failure, ..self }
    }

    /// The machine itself.
    #[must_use]
    pub const fn machine(&self) -> &Rendezvous {
        &self.machine
    }

    /// See [`Rendezvous::step`]. Answers what is worth telling.
    pub fn step(&mut self, now_ms: i64, input: Input, out: &mut Vec<Output>) -> Vec<Happened> {
        if let Input::Joined { member, hello, .. } = &input {
            self.joined.insert(member.pod.clone());
            let Hello { host, place, .. } = hello;
            self.sites.insert(member.clone(), (host.clone(), Place::clone(place)));
        }
        let said_by = match &input {
            Input::Failed { member, .. } | Input::Joined { member, .. } => Some(member.clone()),
            Input::Away { .. }
            | Input::Holds { .. }
            | Input::PodGone { .. }
            | Input::PodDone { .. }
            | Input::Leaves { .. }
            | Input::Ready { .. }
            | Input::Finished { .. }
            | Input::Reserved { .. }
            | Input::NotReserved { .. }
            | Input::Elsewhere { .. }
            | Input::Changed { .. }
            | Input::Stop
            | Input::Tick => None,
        };
        let joined = if let Input::Joined { member, .. } = &input { Some(member.clone()) } else { None };
        if let Input::Finished { member, .. } = &input {
            self.tempos.ended(member);
        }
        let before = self.before();
        self.machine.step(now_ms, input, out);
        let mut happened = Vec::new();
        if let Err(broken) = self.check(&before, joined.as_ref()) {
            happened.push(Happened::Broken(broken));
        }
        self.note_failure(now_ms, &before, said_by, &mut happened);
        self.note_generation(now_ms, &before, out, &mut happened);
        self.forget_members();
        happened
    }

    /// Takes in the newest whole checkpoint. Answers whether it is another one.
    pub fn saved(&mut self, saved: Saved) -> bool {
        let is_news = self.checkpoint.as_ref() != Some(&saved);
        self.checkpoint = Some(saved);
        is_news
    }

    /// Takes in what a member's ranks do.
    pub fn pulse(&mut self, now_ms: i64, member: &MemberId, pulse: Pulse, out: &mut Vec<Output>) -> Vec<Happened> {
        let Some(world) = self.machine.world().filter(|world| world.generation.0 == pulse.generation) else {
            return Vec::new();
        };
        let Some(seat) = world.seat_of(member) else { return Vec::new() };
        let own = seat.first_rank..seat.first_rank + seat.ranks;
        let host = self.sites.get(member).map(|(host, _)| host.clone()).unwrap_or_default();
        self.stalled.retain(|rank, _| !own.contains(rank) || pulse.ranks.iter().any(|r| r.rank == *rank && r.stalled));
        for rank in pulse.ranks.iter().filter(|rank| rank.stalled && own.contains(&rank.rank)) {
            let stalled = Stalled {
                rank: rank.rank,
                host: host.clone(),
                waits_in: rank.waits_in.clone(),
                since_ms: now_ms.saturating_sub(rank.silent_ms),
                in_collective: rank.in_collective,
            };
            // Since when is known from the first time on; what it waits in may be found out later.
            let since_ms = self.stalled.get(&rank.rank).map_or(stalled.since_ms, |known| known.since_ms);
            self.stalled.insert(rank.rank, Stalled { since_ms, ..stalled });
        }
        let generation = world.generation;
        let mut happened = self.blame();
        // Each time anew: the last may not have been heard.
        out.extend(self.deadlocked().filter(|rank| own.contains(rank)).map(|rank| Output::Deadlock {
            members: vec![member.clone()],
            generation,
            rank,
        }));
        for rank in pulse.ranks.iter().filter(|rank| own.contains(&rank.rank)) {
            let changes = rank.window.map(|window| self.stragglers.take(now_ms, rank.rank, window));
            for change in changes.into_iter().flatten() {
                happened.extend(self.paced(change));
            }
        }
        let silence = self.tempos.hear(now_ms, member, pulse.tempo, pulse.still);
        out.extend(silence.map(|(members, silence)| Output::Others { members, generation, silence }));
        self.pulses.insert(member.clone(), pulse);
        self.add_spares_up();
        happened
    }

    /// Puts together what the launchers see, each of its own ranks: whoever stands still and does not wait for others is to
    /// blame; where all ranks of the world wait for others, they do for each other. Where only some do, another rank may be
    /// evaluating: nothing is said.
    fn blame(&mut self) -> Vec<Happened> {
        let culprits: Vec<&Stalled> = self.stalled.values().filter(|rank| !rank.in_collective).collect();
        let all = self.machine.world().is_some_and(|world| world.size() as usize == self.stalled.len());
        let first = self.stalled.values().next().filter(|_| culprits.is_empty() && all);
        let blamed: Vec<&Stalled> = culprits.into_iter().chain(first).collect();
        let others = self.stalled.len() - blamed.len();
        let news = blamed.iter().filter(|rank| !self.blamed.contains(&rank.rank));
        let happened = news.map(|rank| Happened::Hangs { stalled: (*rank).clone(), others }).collect();
        self.blamed = blamed.iter().map(|rank| rank.rank).collect();
        happened
    }

    /// The rank that was said to be to blame for a deadlock.
    fn deadlocked(&self) -> Option<u32> {
        self.blamed.iter().copied().find(|rank| self.stalled.get(rank).is_some_and(|stalled| stalled.in_collective))
    }

    fn paced(&self, change: pace::Change) -> Option<Happened> {
        match change {
            pace::Change::Slow(rank) => self.slow().into_iter().find(|slow| slow.rank == rank).map(Happened::Straggles),
            pace::Change::CaughtUp(rank) => Some(Happened::KeepsUp { rank, host: self.host_of(rank) }),
        }
    }

    fn slow(&self) -> Vec<Straggler> {
        self.stragglers.slow().map(|(rank, slow)| Straggler { rank, host: self.host_of(rank), slow }).collect()
    }

    fn host_of(&self, rank: u32) -> String {
        let mut seats = self.machine.world().into_iter().flat_map(|world| &world.seats);
        let seat = seats.find(|seat| (seat.first_rank..seat.first_rank + seat.ranks).contains(&rank));
        seat.and_then(|seat| self.sites.get(&seat.member)).map(|(host, _)| host.clone()).unwrap_or_default()
    }

    /// When [`Input::Tick`] is wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        self.machine.deadline()
    }

    /// Ranks that stand still, and in what; and those that make the others wait.
    #[must_use]
    pub fn view_of_pulses(&self) -> (Vec<(u32, String)>, Vec<Straggler>) {
        (self.stalled().map(|rank| (rank.rank, rank.waits_in.clone())).collect(), self.slow())
    }

    /// Those who are to blame, and after them those who wait.
    fn stalled(&self) -> impl Iterator<Item = &Stalled> {
        let of = |waits: bool| self.stalled.values().filter(move |rank| rank.in_collective == waits);
        of(false).chain(of(true)).filter(|_| !self.blamed.is_empty())
    }

    /// Interpreters that wait to become ranks.
    #[must_use]
    pub const fn spares(&self) -> Option<Spares> {
        self.spares
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> RendezvousView {
        let (stage, since_ms, outcome) = match &self.machine.phase {
            Phase::Gathering { since_ms, lack: Lack::Start, .. } => (Stage::Joining, Some(*since_ms), None),
            Phase::Gathering { since_ms, lack: Lack::Failure(_), .. } => (Stage::Recovering, Some(*since_ms), None),
            Phase::Running { .. } if self.ready => (Stage::Running, None, None),
            Phase::Running { since_ms, .. } => (Stage::Forming, Some(*since_ms), None),
            Phase::Ended(outcome) => (Stage::Ended, self.ended_ms, Some(outcome.clone())),
        };
        RendezvousView {
            generation: self.last_generation.0,
            stage,
            since_ms,
            spent: self.machine.spent.clone(),
            restarts: self.machine.restarts(),
            outcome,
            members: self.machine.members.keys().map(|id| id.pod.clone()).collect(),
            present: self.machine.here().into_iter().map(|(id, _)| id.pod.clone()).collect(),
            joined: self.joined.clone(),
            ranks: self.machine.world().map_or(0, super::World::size),
            last_failure: self.last_failure.clone(),
            stalled: self.stalled().cloned().collect(),
            stragglers: self.slow(),
            spares: self.spares,
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// Of a large job, deriving everything anew for each message would be most of the work of a restart.
    fn check(&self, before: &Before, joined: Option<&MemberId>) -> Result<(), String> {
        let machine = &self.machine;
        let changed = machine.world().map(|world| world.generation) != before.generation;
        if changed || machine.is_ready() != before.ready || machine.members.len() <= CHECK_EACH_STEP {
            return machine.check();
        }
        joined.map_or(Ok(()), |member| machine.check_place_of(member))?;
        machine.check_budget()
    }

    fn before(&self) -> Before {
        Before {
            restarts: self.machine.restarts(),
            generation: self.machine.world().map(|world| world.generation),
            ready: self.machine.is_ready(),
            ended: self.machine.outcome().is_some(),
            borne: self.machine.last_borne.clone(),
        }
    }

    fn note_failure(&mut self, now_ms: i64, before: &Before, said_by: Option<MemberId>, happened: &mut Vec<Happened>) {
        let failure: Option<Failure> = match &self.machine.phase {
            Phase::Ended(Outcome::Failed(failure)) if !before.ended => Some(failure.clone()),
            Phase::Gathering { lack: Lack::Failure(failure), .. } if self.machine.restarts() > before.restarts => {
                Some(failure.clone())
            }
            // The next generation began in the same step.
            Phase::Running { .. } if self.machine.restarts() > before.restarts => self.machine.last_borne.clone(),
            Phase::Gathering { .. } | Phase::Running { .. } | Phase::Ended(_) => None,
        };
        if let Some(failure) = failure {
            let last = self.failed(now_ms, before, failure, said_by);
            happened.push(Happened::Failed(last.clone()));
            self.last_failure = Some(last);
        } else if let Some(failure) = self.amended(before) {
            let mut last = self.failed(now_ms, before, failure, said_by);
            if let Some(told) = &self.last_failure {
                // The same end of the same generation: only the blame is another one.
                (last.generation, last.at_ms, last.recovered_ms) = (told.generation, told.at_ms, told.recovered_ms);
            }
            happened.push(Happened::Blamed(last.clone()));
            self.last_failure = Some(last);
        }
        if let Some(outcome) = self.machine.outcome().filter(|_| !before.ended) {
            self.ended_ms = Some(now_ms);
            happened.push(Happened::Ended(outcome.clone()));
        }
    }

    fn failed(&self, now_ms: i64, before: &Before, failure: Failure, said_by: Option<MemberId>) -> LastFailure {
        let lost = self.sites.keys().find(|id| !self.machine.members.contains_key(*id));
        let blamed = if failure.rank.is_some() { said_by } else { lost.cloned().or(said_by) };
        let (host, place) = blamed.as_ref().and_then(|id| self.sites.get(id)).cloned().unzip();
        // Of a generation that another coordinator ordered, its members know the number.
        let told = || blamed.as_ref().and_then(|id| self.machine.members.get(id)?.hello.ranks_are.generation());
        let generation = before.generation.or_else(told).unwrap_or(self.last_generation).0;
        LastFailure {
            rank: failure.rank,
            host,
            place: place.unwrap_or_default(),
            pod: blamed.map(|id| id.pod),
            cause: failure.cause,
            code: failure.code,
            message: failure.message,
            generation,
            at_ms: now_ms,
            recovered_ms: None,
        }
    }

    /// What the last failure is known to have followed from since.
    fn amended(&self, before: &Before) -> Option<Failure> {
        let is_new = self.machine.restarts() == before.restarts && self.machine.last_borne != before.borne;
        self.machine.last_borne.clone().filter(|_| is_new)
    }

    fn note_generation(&mut self, now_ms: i64, before: &Before, out: &[Output], happened: &mut Vec<Happened>) {
        let Some(world) = self.machine.world() else {
            self.ready = false;
            self.forget_pulses(0);
            return;
        };
        if before.generation != Some(world.generation) {
            self.last_generation = world.generation;
            self.ready = false;
            self.pulses.clear();
            let ordered = out
                .iter()
                .any(|output| matches!(output, Output::Form { world: of, .. } if of.generation == world.generation));
            happened.push(Happened::Formed { generation: world.generation, adopted: !ordered });
            let size = world.size();
            self.forget_pulses(size);
        }
        let Some(world) = self.machine.world() else { return };
        if !self.ready && self.machine.is_ready() {
            self.ready = true;
            let open = self.last_failure.as_mut().filter(|failure| failure.recovered_ms.is_none());
            let recovered_ms = open.map(|failure| {
                let took = now_ms.saturating_sub(failure.at_ms);
                failure.recovered_ms = Some(took);
                took
            });
            let (generation, members, ranks) = (world.generation, world.seats.len(), world.size());
            happened.push(Happened::Ready { generation, members, ranks, recovered_ms });
        }
    }

    /// What was seen of the ranks is over.
    fn forget_pulses(&mut self, ranks: u32) {
        self.stalled.clear();
        self.blamed.clear();
        self.tempos = Tempos::default();
        self.stragglers = Stragglers::new(0..ranks);
    }

    fn forget_members(&mut self) {
        let members = &self.machine.members;
        if self.sites.len() == members.len() && self.pulses.is_empty() {
            return;
        }
        self.sites.retain(|id, _| members.contains_key(id));
        self.pulses.retain(|id, _| members.contains_key(id));
        self.add_spares_up();
    }

    fn add_spares_up(&mut self) {
        let now = self.pulses.values().fold(Spares::default(), |sum, pulse| Spares {
            count: sum.count.saturating_add(pulse.spares.count),
            memory_bytes: sum.memory_bytes.saturating_add(pulse.spares.memory_bytes),
        });
        let told = self.spares.unwrap_or_default();
        let moved = told.memory_bytes.abs_diff(now.memory_bytes) > told.memory_bytes / MEMORY_STEP;
        if told.count != now.count || moved {
            self.spares = Some(now);
        }
    }
}

/// What was so before a step.
struct Before {
    restarts: u32,
    generation: Option<Generation>,
    ready: bool,
    ended: bool,
    borne: Option<Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{Budget, Cause, Standing};

    fn config(pods: u32) -> Config {
        Config {
            least: pods,
            most: pods,
            join_ms: 600_000,
            last_call_ms: 5_000,
            away_ms: 15_000,
            return_ms: 30_000,
            lost_ms: 600_000,
            grow_ms: 30_000,
            budget: Budget { total: Some(1), ..Budget::default() },
        }
    }

    fn id(at: u32) -> MemberId {
        MemberId { pod: format!("pod-{at}"), incarnation: 1 }
    }

    fn joined(at: u32, ranks_are: Standing) -> Input {
        let hello = Hello {
            index: Some(at),
            address: format!("10.0.0.{at}"),
            port: 1000,
            ranks: 2,
            seen: Generation(0),
            ranks_are,
            host: "host".to_owned(),
            place: Box::default(),
        };
        Input::Joined { member: id(at), stream: 1, hello }
    }

    #[test]
    fn of_a_large_job_each_who_joins_is_checked_and_so_is_each_failure() {
        let mut session = Session::new(config(200), Generation(0), Spent::default(), 0);
        for at in 0..100 {
            assert_eq!(session.step(0, joined(at, Standing::Idle), &mut Vec::new()), []);
        }
        let before = session.before();
        assert_eq!(session.check(&before, Some(&id(99))), Ok(()));
        session.machine.members.get_mut(&id(0)).unwrap().hello.index = Some(99);
        let label = |broken: Result<(), String>| broken.err().map(|words| words[..3].to_owned());
        assert_eq!(label(session.check(&before, Some(&id(99)))).as_deref(), Some("R-4"));
        session.machine.members.get_mut(&id(0)).unwrap().hello.index = Some(0);
        session.machine.restarts = 2;
        assert_eq!(label(session.check(&before, None)).as_deref(), Some("R-5"));
    }
    #[test]
    fn a_failure_that_nobody_coordinated_is_of_the_generation_that_its_launcher_names() {
        let mut session = Session::new(config(2), Generation(16), Spent::default(), 0);
        let failure = Failure {
            rank: Some(1),
            cause: Cause::ExitCode,
            code: 7,
            message: "exit code 7".to_owned(),
            secondary: false,
        };
        let ranks_are = Standing::Failed { generation: Generation(4), failure };
        let happened = session.step(0, joined(0, ranks_are), &mut Vec::new());
        let of = |what: &Happened| if let Happened::Failed(last) = what { Some(last.generation) } else { None };
        assert_eq!(happened.iter().find_map(of), Some(4), "{happened:?}");
    }
}

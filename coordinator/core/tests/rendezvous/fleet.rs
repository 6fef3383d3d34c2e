//! A job's launchers, its coordinators one after the other, and the streams between them, as a world that can be stepped
//! one event at a time. It holds what the machine cannot see by itself: the past, and both ends of a stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use trainyard_coordinator_core::rendezvous::{
    Budget, Cause, Config, Failure, Generation, Hello, Input, MemberId, Outcome, Output, Part, Rendezvous, Seat, Spent,
    Standing, World,
};

use super::Event;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToCoordinator {
    Hello(Hello),
    Holds(u16, Generation),
    Ready(Generation),
    Failed(Generation, Failure),
    Finished(Generation),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToLauncher {
    Form(World),
    Halt(Generation),
    Release(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Launcher {
    id: MemberId,
    index: u32,
    seen: Generation,
    standing: Standing,
    /// Ports that it holds; the last one is the newest.
    ports: Vec<u16>,
    next_port: u16,
    /// Streams that it has opened, and whether the last one is open.
    streams: u64,
    stream: Option<u64>,
    up: VecDeque<ToCoordinator>,
    down: VecDeque<ToLauncher>,
    /// It has ended, released or not.
    released: bool,
    /// Its pod ended well, and the coordinator does not know that yet.
    untold: bool,
    /// Its pod ended well.
    done: bool,
    /// No coordinator was there for as long as it waits for one.
    alone: bool,
    /// The present coordinator has had its first message.
    heard: bool,
    /// That came when the coordinator had waited for long enough, and it has been ordered into nothing since.
    late: bool,
}

impl Launcher {
    fn new(index: u32, incarnation: u64) -> Self {
        let id = MemberId { pod: format!("pod-{index}-{incarnation}"), incarnation };
        Self {
            id,
            index,
            seen: Generation(0),
            standing: Standing::Idle,
            ports: Vec::new(),
            next_port: 1000,
            streams: 0,
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            released: false,
            untold: false,
            done: false,
            alone: false,
            heard: false,
            late: false,
        }
    }

    /// Its process is there no more; its pod ended well, or the rest of its ranks were killed.
    fn end(&mut self, well: bool) {
        (self.released, self.done, self.untold) = (true, well, well);
        if !matches!(self.standing, Standing::Finished(_)) {
            self.standing = Standing::Idle;
        }
    }

    fn cut_off(&mut self) {
        self.stream = None;
        self.up.clear();
        self.down.clear();
    }

    fn runs(&self) -> bool {
        matches!(self.standing, Standing::Running(_))
    }

    fn generation(&self) -> Option<Generation> {
        self.standing.part().map(|part| part.generation)
    }

    /// Whether the coordinator knows of it all that it could.
    fn is_known(&self) -> bool {
        let greets = |message: &ToCoordinator| matches!(message, ToCoordinator::Hello(_));
        if self.released { !self.untold } else { self.stream.is_some() && !self.up.iter().any(greets) }
    }

    fn hold(&mut self) -> u16 {
        self.next_port += 1;
        self.ports.push(self.next_port);
        self.next_port
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fleet {
    config: Config,
    coordinator: Rendezvous,
    launchers: Vec<Launcher>,
    recorded: Generation,
    recording: Option<Generation>,
    now_ms: i64,
    /// When the present coordinator began, and the last generation that it knew to be taken.
    began: (i64, Generation),
    /// The generation that all of its members ran, or had run well, when the coordinator was killed, as long as nothing has
    /// befallen them, and until it is adopted.
    owed: Option<Generation>,
    /// Whether ranks end well only if all of their generation were there at once.
    ranks_meet: bool,
    /// The generations whose ranks were.
    met: BTreeSet<Generation>,
    /// Who has run a generation well.
    finished: BTreeSet<(Generation, MemberId)>,
    /// Every world that was ever ordered.
    worlds: BTreeMap<Generation, World>,
    /// The first thing that went wrong.
    pub(crate) broken: Option<String>,
}

impl Fleet {
    pub(crate) fn new(config: Config, launchers: u32) -> Self {
        Self {
            coordinator: Rendezvous::new(config.clone(), Generation(0), Spent::default(), 0),
            config,
            launchers: (0..launchers).map(|index| Launcher::new(index, 1)).collect(),
            recorded: Generation(0),
            recording: None,
            now_ms: 0,
            began: (0, Generation(0)),
            owed: None,
            ranks_meet: true,
            met: BTreeSet::new(),
            finished: BTreeSet::new(),
            worlds: BTreeMap::new(),
            broken: None,
        }
    }

    /// The same with a program whose ranks need not meet.
    pub(crate) fn of_strangers(self) -> Self {
        Self { ranks_meet: false, ..self }
    }

    /// Whether the event means anything now.
    pub(crate) fn can(&self, event: Event) -> bool {
        let launcher = |at: usize| self.launchers.get(at).filter(|launcher| !launcher.released);
        match event {
            Event::Up(at) => self.launchers.get(at).is_some_and(|launcher| !launcher.up.is_empty()),
            Event::Down(at) => launcher(at).is_some_and(|launcher| !launcher.down.is_empty()),
            Event::Break(at) => launcher(at).is_some_and(|launcher| launcher.stream.is_some()),
            Event::Connect(at) => launcher(at).is_some_and(|launcher| launcher.stream.is_none()),
            Event::Fail(at) => launcher(at).is_some_and(Launcher::runs),
            Event::Finish(at) => launcher(at).filter(|launcher| launcher.runs()).is_some_and(|launcher| {
                !self.ranks_meet || launcher.generation().is_some_and(|generation| self.met.contains(&generation))
            }),
            Event::Replace(at) => launcher(at).is_some(),
            Event::Record => self.recording.is_some(),
            Event::Crash | Event::Absence => true,
            Event::GiveUp(at) => launcher(at).is_some_and(|launcher| {
                launcher.alone && launcher.stream.is_none() && matches!(launcher.standing, Standing::Finished(_))
            }),
            Event::Done(at) => self.launchers.get(at).is_some_and(|launcher| launcher.untold),
            Event::Wait => self.coordinator.deadline().is_some(),
        }
    }

    pub(crate) fn step(&mut self, event: Event) {
        match event {
            Event::Up(at) => self.up(at),
            Event::Down(at) => self.down(at),
            Event::Break(at) => self.break_stream(at),
            Event::Connect(at) => self.connect(at),
            Event::Fail(at) => self.end_ranks(at, false),
            Event::Finish(at) => self.end_ranks(at, true),
            Event::Replace(at) => self.replace(at),
            Event::Record => {
                if let Some(to) = self.recording.take() {
                    self.recorded = self.recorded.max(to);
                    self.tell(Input::Reserved { to });
                }
            }
            Event::Crash => self.crash(),
            Event::Absence => {
                self.now_ms += 60_000;
                self.crash();
                for launcher in &mut self.launchers {
                    launcher.alone = true;
                }
            }
            Event::GiveUp(at) => self.launchers[at].end(true),
            Event::Done(at) => {
                self.launchers[at].untold = false;
                self.tell(Input::PodDone { pod: self.launchers[at].id.pod.clone() });
            }
            Event::Wait => self.wait(),
        }
        // Of the others it does not matter any more.
        self.met.retain(|met| self.launchers.iter().any(|one| one.generation() == Some(*met)));
        // Else it looks by itself.
        if !cfg!(debug_assertions)
            && let Err(broken) = self.coordinator.check()
        {
            self.broken.get_or_insert(broken);
        }
    }

    /// One event after the other, each of which has to mean something.
    pub(crate) fn follow(&mut self, events: &[Event]) {
        for event in events {
            assert!(self.can(*event), "{event:?}");
            self.step(*event);
        }
    }

    fn wait(&mut self) {
        self.now_ms = self.coordinator.deadline().unwrap_or(self.now_ms).max(self.now_ms);
        let mut owed = self.launchers.iter().filter(|launcher| launcher.generation() == self.owed);
        // Others wait for whoever is late, as long as somebody of that generation is there to tell of it.
        let none_tells = owed.clone().all(|launcher| launcher.released || !launcher.is_known());
        // And where all of it have ended before they could tell, nobody knows how many they were.
        let none_told = owed.clone().all(|launcher| launcher.released && !launcher.heard);
        if none_told || (none_tells || self.have_had_their_time()) && owed.any(|launcher| !launcher.is_known()) {
            self.owed = None;
        }
        let before = self.coordinator.clone();
        self.tell(Input::Tick);
        // Whoever was given up hears so by the end of its stream.
        let is_lost = |id: &MemberId| before.has(id) && !self.coordinator.has(id);
        for launcher in self.launchers.iter_mut().filter(|launcher| is_lost(&launcher.id)) {
            launcher.cut_off();
        }
    }

    /// Whether the present coordinator is there for as long as it waits for whoever was there before it.
    fn have_had_their_time(&self) -> bool {
        self.now_ms >= self.began.0 + self.config.away_ms
    }

    fn crash(&mut self) {
        // A record that was under way may be written or not: here it is lost, in `Record` before it is not.
        self.recording = None;
        self.owed = self.whole();
        self.began = (self.now_ms, self.recorded);
        self.coordinator = Rendezvous::new(self.config.clone(), self.recorded, Spent::default(), self.now_ms);
        for launcher in &mut self.launchers {
            launcher.cut_off();
            launcher.untold = launcher.done;
            launcher.alone = false;
            launcher.heard = false;
            launcher.late = false;
        }
        self.tell(Input::Tick);
    }

    /// The newest generation that is run, if all of its members run it or have run it well.
    fn whole(&self) -> Option<Generation> {
        let running: BTreeMap<_, _> =
            self.launchers.iter().filter_map(|one| Some((&one.id, one.generation()?))).collect();
        let newest = *running.values().max()?;
        let world = self.worlds.get(&newest)?;
        let is_whole = world.seats.iter().all(|seat| running.contains_key(&seat.member));
        // Where somebody is left of an older one, or of its failure, it depends on who is back first what is believed.
        let none_failed = !self.launchers.iter().any(|one| matches!(one.standing, Standing::Failed { .. }));
        (is_whole && none_failed && running.values().all(|generation| *generation == newest)).then_some(newest)
    }

    fn connect(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        let port = launcher.hold();
        launcher.streams += 1;
        launcher.stream = Some(launcher.streams);
        launcher.alone = false;
        let hello = Hello {
            index: Some(launcher.index),
            address: format!("10.0.0.{at}"),
            port,
            ranks: 2,
            seen: launcher.seen,
            ranks_are: launcher.standing.clone(),
            host: "host".to_owned(),
            place: Box::default(),
        };
        launcher.up.push_back(ToCoordinator::Hello(hello));
    }

    fn break_stream(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        let Some(stream) = launcher.stream.take() else { return };
        launcher.cut_off();
        let member = launcher.id.clone();
        self.tell(Input::Away { member, stream });
    }

    fn replace(&mut self, at: usize) {
        self.break_stream(at);
        let old = &self.launchers[at];
        let new = Launcher::new(old.index, old.id.incarnation + 1);
        let pod = std::mem::replace(&mut self.launchers[at], new).id.pod;
        self.owed = None;
        self.tell(Input::PodGone { pod });
    }

    fn end_ranks(&mut self, at: usize, well: bool) {
        let launcher = &mut self.launchers[at];
        let Standing::Running(part) = launcher.standing.clone() else { return };
        let generation = part.generation;
        let failure = Failure {
            rank: Some(part.seat.first_rank),
            cause: Cause::Signal,
            code: 137,
            message: "killed".to_owned(),
            secondary: false,
        };
        let said = if well {
            self.finished.insert((generation, launcher.id.clone()));
            launcher.standing = Standing::Finished(part);
            ToCoordinator::Finished(generation)
        } else {
            self.owed = None;
            launcher.standing = Standing::Failed { generation, failure: failure.clone() };
            ToCoordinator::Failed(generation, failure)
        };
        if launcher.stream.is_some() {
            launcher.up.push_back(said);
        }
    }

    fn up(&mut self, at: usize) {
        let had_their_time = self.have_had_their_time();
        let launcher = &mut self.launchers[at];
        let Some(message) = launcher.up.pop_front() else { return };
        if matches!(message, ToCoordinator::Hello(_)) && !launcher.heard {
            (launcher.heard, launcher.late) = (true, had_their_time);
        }
        let member = launcher.id.clone();
        let stream = launcher.stream.unwrap_or(0);
        self.tell(match message {
            ToCoordinator::Hello(hello) => Input::Joined { member, stream, hello },
            ToCoordinator::Holds(port, seen) => Input::Holds { member, port, seen },
            ToCoordinator::Ready(generation) => Input::Ready { member, generation },
            ToCoordinator::Failed(generation, failure) => Input::Failed { member, generation, failure },
            ToCoordinator::Finished(generation) => Input::Finished { member, generation },
        });
    }

    fn down(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        let Some(message) = launcher.down.pop_front() else { return };
        match message {
            ToLauncher::Form(world) if world.generation > launcher.seen => {
                let Some(seat) = world.seat_of(&launcher.id).cloned() else {
                    self.broken.get_or_insert(format!("{:?} was ordered into a world without it", launcher.id));
                    return;
                };
                launcher.seen = world.generation;
                launcher.late = false;
                let serves = seat.node_rank == 0;
                if serves && !launcher.ports.contains(&seat.port) {
                    self.broken.get_or_insert(format!("{:?} does not hold port {}", launcher.id, seat.port));
                }
                // Only the newest was announced in this stream, and only a store takes it.
                let newest = launcher.ports.pop();
                launcher.ports.clear();
                launcher.ports.extend(newest.filter(|port| !serves || *port != seat.port));
                let holds = launcher.ports.is_empty().then(|| launcher.hold());
                let (generation, digest, restarts) = (world.generation, world.digest(), world.restarts);
                let (pods, ranks) = (u32::try_from(world.seats.len()).unwrap_or(0), world.size());
                launcher.standing = Standing::Running(Part { generation, digest, restarts, seat, pods, ranks });
                if launcher.stream.is_some() {
                    launcher.up.extend(holds.map(|port| ToCoordinator::Holds(port, generation)));
                    launcher.up.push_back(ToCoordinator::Ready(generation));
                }
                let begins = |seat: &Seat| {
                    self.launchers.iter().any(|one| one.id == seat.member && one.generation() == Some(generation))
                };
                if self.ranks_meet && world.seats.iter().all(begins) {
                    self.met.insert(generation);
                }
            }
            // Older than what it has seen: refused.
            ToLauncher::Form(_) => {}
            ToLauncher::Halt(generation) => {
                if launcher.standing.part().is_some_and(|part| part.generation == generation) {
                    launcher.standing = Standing::Idle;
                }
            }
            ToLauncher::Release(outcome) => launcher.end(outcome == Outcome::Succeeded),
        }
    }

    fn tell(&mut self, input: Input) {
        let mut out = Vec::new();
        let was_over = self.coordinator.outcome().is_some();
        self.coordinator.step(self.now_ms, input, &mut out);
        if !was_over && self.coordinator.outcome() == Some(&Outcome::Succeeded) {
            self.look_at_success();
        }
        let owed = self.owed.filter(|owed| self.coordinator.world().is_some_and(|world| world.generation == *owed));
        if owed.is_some() {
            self.owed = None;
        }
        for output in out {
            match output {
                Output::Reserve { to } => self.recording = Some(to),
                Output::Form { members, world } => {
                    self.look(&world);
                    if let Some(owed) = self.owed {
                        let text =
                            format!("{:?} was formed while {owed:?} ran, which was not adopted", world.generation);
                        self.broken.get_or_insert(text);
                    }
                    self.send(&members, &ToLauncher::Form(world));
                }
                Output::Halt { members, generation } => self.send(&members, &ToLauncher::Halt(generation)),
                Output::Deadlock { .. } | Output::Others { .. } => unreachable!("nothing is told of what ranks do"),
                Output::Release { members, outcome } => self.send(&members, &ToLauncher::Release(outcome)),
            }
        }
    }

    fn send(&mut self, members: &[MemberId], message: &ToLauncher) {
        for launcher in self.launchers.iter_mut().filter(|launcher| members.contains(&launcher.id)) {
            if launcher.stream.is_some() {
                launcher.down.push_back(message.clone());
            }
        }
    }

    /// R-6, and no two generations meet at one store.
    fn look(&mut self, world: &World) {
        let known = self.worlds.entry(world.generation).or_insert_with(|| world.clone());
        if *known != *world {
            self.broken.get_or_insert(format!("R-6: generation {:?} names two worlds", world.generation));
        }
        let store = |world: &World| world.master().map(|seat| (seat.member.clone(), seat.port));
        if let Some(other) =
            self.worlds.values().find(|other| other.generation != world.generation && store(other) == store(world))
        {
            self.broken.get_or_insert(format!(
                "generations {:?} and {:?} meet at one store",
                other.generation, world.generation
            ));
        }
    }

    /// No rank has two processes of one generation, and no running rank belongs to a world that was never ordered.
    pub(crate) fn look_at_ranks(&self) -> Result<(), String> {
        let mut ranks = BTreeMap::new();
        for launcher in &self.launchers {
            let Standing::Running(part) = &launcher.standing else { continue };
            let known = self.worlds.get(&part.generation);
            if known.map(World::digest) != Some(part.digest) {
                return Err(format!("{:?} runs a world that was never ordered", launcher.id));
            }
            for rank in part.seat.first_rank..part.seat.first_rank + part.seat.ranks {
                if let Some(other) = ranks.insert((part.generation, rank), launcher.id.clone()) {
                    return Err(format!("rank {rank} runs at {other:?} and at {:?}", launcher.id));
                }
            }
        }
        Ok(())
    }

    /// A job has succeeded only when no ranks run that still may come back, and when all ranks of one generation had ended well.
    fn look_at_success(&mut self) {
        let is_fixed = self.config.least == self.config.most;
        // Nobody waits for ever for those who may have been ordered into a newer one than is known.
        let came_in_time = |launcher: &&Launcher| !launcher.late && (launcher.heard || !self.have_had_their_time());
        let newest = self.launchers.iter().filter(came_in_time).filter_map(Launcher::generation).max();
        // Those of an elastic job that are left of an older one have nothing to say in it any more.
        let runs = |launcher: &&Launcher| launcher.runs() && (is_fixed || launcher.generation() == newest);
        if let Some(launcher) = self.launchers.iter().find(runs) {
            self.broken.get_or_insert(format!("the job has succeeded while ranks of {:?} run", launcher.id));
        }
        let ended_well = |world: &World| world.seats.iter().all(|seat| self.has_run_well(world.generation, seat));
        if self.ranks_meet && !self.worlds.values().any(ended_well) {
            self.broken.get_or_insert("the job has succeeded, and no generation ended well".to_owned());
        }
    }

    fn has_run_well(&self, generation: Generation, seat: &Seat) -> bool {
        self.finished.contains(&(generation, seat.member.clone()))
    }

    /// What happens next if nothing fails any more: all that is under way arrives, all streams are there, and then time passes.
    pub(crate) fn next_of_calm(&self) -> Option<Event> {
        let pending = (0..self.launchers.len())
            .flat_map(|at| [Event::Connect(at), Event::Up(at), Event::Down(at), Event::Done(at)])
            .chain([Event::Record])
            .find(|event| self.can(*event));
        pending.or_else(|| (!self.is_settled() && self.can(Event::Wait)).then_some(Event::Wait))
    }

    pub(crate) fn calm(&mut self) {
        for _ in 0..1000 {
            let Some(event) = self.next_of_calm() else { return };
            self.step(event);
        }
    }

    /// Every launcher runs, or has finished, its part of the one present generation; or all were released.
    pub(crate) fn is_settled(&self) -> bool {
        // A coordinator that started after that finds nobody, and waits for nobody.
        if self.coordinator.outcome().is_some() || self.all_released() {
            return self.all_released();
        }
        // Of one that it has adopted the coordinator may not know all that is in it.
        let generation = self.coordinator.world().map(|world| world.generation);
        let Some(world) = generation.and_then(|generation| self.worlds.get(&generation)) else { return false };
        let in_it = |launcher: &Launcher| {
            let part = launcher.standing.part();
            part.is_some_and(|part| part.generation == world.generation && part.digest == world.digest())
        };
        // Whoever came too late for a generation that has begun to end waits for its end.
        // So has one of whose members a pod ended well, though it may never have got the order: it does not come back.
        let is_done = |seat: &Seat| self.launchers.iter().any(|one| one.done && one.id == seat.member);
        let ending = world.seats.iter().any(|seat| self.has_run_well(world.generation, seat) || is_done(seat));
        let waits = |launcher: &Launcher| ending && world.seat_of(&launcher.id).is_none();
        self.coordinator.is_ready()
            && self.launchers.iter().all(|launcher| in_it(launcher) || waits(launcher) || launcher.released)
    }

    /// Whether a generation runs that the present coordinator found running; and whether a member of it has ended.
    pub(crate) fn has_adopted(&self) -> Option<bool> {
        let world = self.coordinator.world().filter(|world| world.generation <= self.began.1)?;
        Some(self.launchers.iter().any(|launcher| launcher.done && launcher.generation() == Some(world.generation)))
    }

    /// Whether a generation is owed to those who run it.
    pub(crate) fn owes(&self) -> bool {
        self.owed.is_some() && self.coordinator.outcome() != Some(&Outcome::Succeeded) && !self.all_released()
    }

    pub(crate) fn all_released(&self) -> bool {
        self.launchers.iter().all(|launcher| launcher.released)
    }

    /// Lets all ranks that run end well, or, where they wait for others in vain, fail for that; and what follows from it.
    pub(crate) fn finish(&mut self) {
        for _ in 0..3 {
            for at in 0..self.launchers.len() {
                if let Some(end) = [Event::Finish(at), Event::Fail(at)].into_iter().find(|event| self.can(*event)) {
                    self.step(end);
                }
            }
            self.calm();
        }
    }

    /// Whether the job is over, as it should be where no ranks have failed that were not to be started again.
    pub(crate) fn has_ended(&self) -> bool {
        let is_fine = match self.outcome() {
            Some(Outcome::Succeeded) => true,
            Some(Outcome::Failed(failure)) => failure.cause == Cause::RendezvousTimeout || self.is_bounded(),
            None => self.all_released(),
            Some(Outcome::Stopped) => false,
        };
        is_fine && self.is_settled()
    }

    fn is_bounded(&self) -> bool {
        self.config.budget != Budget::default()
    }

    /// Generations that were ever ordered.
    pub(crate) fn generations(&self) -> usize {
        self.worlds.len()
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.coordinator.outcome()
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:#?}\n{:#?}", self.coordinator, self.launchers)
    }
}

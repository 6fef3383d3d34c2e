//! A job's launchers, its coordinators one after the other, and the streams between them, as a world that can be stepped
//! one event at a time. It holds what the machine cannot see by itself: the past, and both ends of a stream.

use std::collections::{BTreeMap, VecDeque};

use trainyard_coordinator_core::rendezvous::{
    Cause, Config, Failure, Generation, Hello, Input, MemberId, Outcome, Output, Part, Rendezvous, Spent, Standing,
    World,
};

/// What can happen next. Numbers are positions among what is there, so that any number means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The first message of this launcher's stream to the coordinator arrives.
    Up(usize),
    /// The first message of this launcher's stream from the coordinator arrives.
    Down(usize),
    /// The launcher's stream breaks; what was under way in it is lost. The coordinator hears of it.
    Break(usize),
    /// The launcher opens a stream.
    Connect(usize),
    /// A rank of this launcher fails.
    Fail(usize),
    /// All ranks of this launcher end well.
    Finish(usize),
    /// The launcher's pod is killed, the coordinator is told, and a new pod takes its place.
    Replace(usize),
    /// The durable record is written, and the coordinator hears so.
    Record,
    /// The coordinator is killed, and another one starts.
    Crash,
    /// Time passes.
    Wait,
}

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
    Release,
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
    stream: Option<u64>,
    up: VecDeque<ToCoordinator>,
    down: VecDeque<ToLauncher>,
    released: bool,
}

impl Launcher {
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
    streams: u64,
    incarnations: u64,
    /// Every world that was ever ordered.
    worlds: BTreeMap<Generation, World>,
    /// The first thing that went wrong.
    pub(crate) broken: Option<String>,
}

impl Fleet {
    pub(crate) fn new(config: Config, launchers: u32) -> Self {
        let mut fleet = Self {
            coordinator: Rendezvous::new(config.clone(), Generation(0), Spent::default(), 0),
            config,
            launchers: Vec::new(),
            recorded: Generation(0),
            recording: None,
            now_ms: 0,
            streams: 0,
            incarnations: 0,
            worlds: BTreeMap::new(),
            broken: None,
        };
        fleet.launchers = (0..launchers).map(|index| fleet.launcher(index)).collect();
        fleet
    }

    fn launcher(&mut self, index: u32) -> Launcher {
        self.incarnations += 1;
        let id = MemberId { pod: format!("pod-{index}-{}", self.incarnations), incarnation: self.incarnations };
        let (seen, standing) = (Generation(0), Standing::Idle);
        Launcher {
            id,
            index,
            seen,
            standing,
            ports: Vec::new(),
            next_port: 1000,
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            released: false,
        }
    }

    /// Whether the event means anything now.
    pub(crate) fn can(&self, event: Event) -> bool {
        let launcher = |at: usize| self.launchers.get(at).filter(|launcher| !launcher.released);
        match event {
            Event::Up(at) => self.launchers.get(at).is_some_and(|launcher| !launcher.up.is_empty()),
            Event::Down(at) => launcher(at).is_some_and(|launcher| !launcher.down.is_empty()),
            Event::Break(at) => launcher(at).is_some_and(|launcher| launcher.stream.is_some()),
            Event::Connect(at) => launcher(at).is_some_and(|launcher| launcher.stream.is_none()),
            Event::Fail(at) | Event::Finish(at) => {
                launcher(at).is_some_and(|launcher| matches!(launcher.standing, Standing::Running(_)))
            }
            Event::Replace(at) => launcher(at).is_some(),
            Event::Record => self.recording.is_some(),
            Event::Crash => true,
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
            Event::Wait => {
                self.now_ms = self.coordinator.deadline().unwrap_or(self.now_ms).max(self.now_ms);
                let before = self.coordinator.clone();
                self.tell(Input::Tick);
                // Whoever was given up hears so by the end of its stream.
                let is_lost = |id: &MemberId| before.has(id) && !self.coordinator.has(id);
                for launcher in self.launchers.iter_mut().filter(|launcher| is_lost(&launcher.id)) {
                    launcher.stream = None;
                    launcher.up.clear();
                    launcher.down.clear();
                }
            }
        }
        if let Err(broken) = self.coordinator.check() {
            self.broken.get_or_insert(broken);
        }
    }

    fn crash(&mut self) {
        // A record that was under way may be written or not: here it is lost, in `Record` before it is not.
        self.recording = None;
        self.coordinator = Rendezvous::new(self.config.clone(), self.recorded, Spent::default(), self.now_ms);
        for launcher in &mut self.launchers {
            launcher.stream = None;
            launcher.up.clear();
            launcher.down.clear();
        }
        self.tell(Input::Tick);
    }

    fn connect(&mut self, at: usize) {
        self.streams += 1;
        let launcher = &mut self.launchers[at];
        let port = launcher.hold();
        launcher.stream = Some(self.streams);
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
        launcher.up.clear();
        launcher.down.clear();
        let member = launcher.id.clone();
        self.tell(Input::Away { member, stream });
    }

    fn replace(&mut self, at: usize) {
        self.break_stream(at);
        let (pod, index) = (self.launchers[at].id.pod.clone(), self.launchers[at].index);
        self.launchers[at] = self.launcher(index);
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
            launcher.standing = Standing::Finished(part);
            ToCoordinator::Finished(generation)
        } else {
            launcher.standing = Standing::Failed { generation, failure: failure.clone() };
            ToCoordinator::Failed(generation, failure)
        };
        if launcher.stream.is_some() {
            launcher.up.push_back(said);
        }
    }

    fn up(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        let Some(message) = launcher.up.pop_front() else { return };
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
                launcher.standing = Standing::Running(Part { generation, digest, restarts, seat });
                if launcher.stream.is_some() {
                    launcher.up.extend(holds.map(|port| ToCoordinator::Holds(port, generation)));
                    launcher.up.push_back(ToCoordinator::Ready(generation));
                }
            }
            // Older than what it has seen: refused.
            ToLauncher::Form(_) => {}
            ToLauncher::Halt(generation) => {
                if launcher.standing.part().is_some_and(|part| part.generation == generation) {
                    launcher.standing = Standing::Idle;
                }
            }
            ToLauncher::Release => launcher.released = true,
        }
    }

    fn tell(&mut self, input: Input) {
        let mut out = Vec::new();
        self.coordinator.step(self.now_ms, input, &mut out);
        for output in out {
            match output {
                Output::Reserve { to } => self.recording = Some(to),
                Output::Form { members, world } => {
                    self.look(&world);
                    self.send(&members, &ToLauncher::Form(world));
                }
                Output::Halt { members, generation } => self.send(&members, &ToLauncher::Halt(generation)),
                Output::Deadlock { .. } => unreachable!("nothing is told of what ranks do"),
                Output::Release { members, .. } => self.send(&members, &ToLauncher::Release),
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

    /// Lets all that is under way arrive, all streams be there, and time pass; nothing fails any more.
    pub(crate) fn calm(&mut self) {
        for _ in 0..1000 {
            let pending = (0..self.launchers.len())
                .flat_map(|at| [Event::Connect(at), Event::Up(at), Event::Down(at)])
                .chain([Event::Record])
                .find(|event| self.can(*event));
            match pending {
                Some(event) => self.step(event),
                None if self.is_settled() => return,
                None if self.can(Event::Wait) => self.step(Event::Wait),
                None => return,
            }
        }
    }

    /// Every launcher runs, or has finished, its part of the one present generation; or all were released.
    pub(crate) fn is_settled(&self) -> bool {
        // A coordinator that started after that finds nobody, and waits for nobody.
        if self.coordinator.outcome().is_some() || self.all_released() {
            return self.all_released();
        }
        let Some(world) = self.coordinator.world() else { return false };
        let in_it = |launcher: &Launcher| {
            launcher
                .standing
                .part()
                .is_some_and(|part| part.generation == world.generation && part.digest == world.digest())
        };
        // Whoever came too late for a generation that has begun to end waits for its end.
        let ending = self.launchers.iter().any(|launcher| matches!(launcher.standing, Standing::Finished(_)));
        let waits = |launcher: &Launcher| ending && world.seat_of(&launcher.id).is_none();
        self.coordinator.is_ready()
            && self.launchers.iter().all(|launcher| in_it(launcher) || waits(launcher) || launcher.released)
    }

    pub(crate) fn all_released(&self) -> bool {
        self.launchers.iter().all(|launcher| launcher.released)
    }

    /// Lets all ranks that run end well.
    pub(crate) fn finish(&mut self) {
        for at in 0..self.launchers.len() {
            if self.can(Event::Finish(at)) {
                self.step(Event::Finish(at));
            }
        }
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.coordinator.outcome()
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:#?}\n{:#?}", self.coordinator, self.launchers)
    }
}

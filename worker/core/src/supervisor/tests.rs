use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience {
    failure_grace_ms: 1_000,
    stop_grace_ms: 5_000,
    rejoin_ms: 2_000,
    corpse_ms: None,
    barrier_ms: 60_000,
    verdict_ms: 300_000,
};

/// A launch in which every output must be consumed by the test.
struct World {
    supervisor: Supervisor,
    said: Vec<Output>,
    now_ms: i64,
}

impl World {
    fn new(ranks: usize, patience: Patience) -> Self {
        let mut world = Self { supervisor: Supervisor::new(ranks, patience), said: Vec::new(), now_ms: 0 };
        world.feed(Input::Link { up: true });
        world
    }

    fn running(ranks: usize) -> Self {
        let mut world = Self::new(ranks, PATIENCE);
        world.forms(1, ranks);
        world
    }

    /// A generation is ordered when nothing is in its way, and all its ranks start.
    fn forms(&mut self, generation: u64, ranks: usize) {
        self.feed(Input::Form { generation, seated: true });
        self.expect(&[Output::Begin { generation }]);
        for local_rank in 0..ranks {
            self.expect(&[Output::Start(ProcessId { generation, local_rank })]);
        }
        self.silent();
        for local_rank in 0..ranks {
            self.feed(Input::Started(ProcessId { generation, local_rank }));
        }
        self.expect(&[Output::Report(Report::Ready { generation })]);
        self.silent();
    }

    fn feed(&mut self, input: Input) {
        self.supervisor.step(self.now_ms, &input, &mut self.said);
    }

    fn end(&mut self, process: ProcessId, exit: Exit) {
        self.feed(Input::Ended { process, exit });
    }

    fn at(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.feed(Input::Tick);
    }

    fn expect(&mut self, wanted: &[Output]) {
        let said: Vec<Output> = self.said.drain(..wanted.len().min(self.said.len())).collect();
        assert_eq!(said, wanted);
    }

    fn silent(&self) {
        assert_eq!(self.said, [], "said more than the test expected");
    }

    /// The job ends with the failure that was reported.
    fn no_restart_is_left(&mut self, code: i32) {
        self.feed(Input::Release(Verdict::Failed { code }));
    }
}

fn p(generation: u64, local_rank: usize) -> ProcessId {
    ProcessId { generation, local_rank }
}

fn signal(process: ProcessId, stop: Stop) -> Output {
    Output::Signal { process, stop }
}

fn failed(generation: u64, local_rank: usize, exit: Exit) -> Output {
    Output::Report(Report::Failed { generation, local_rank, exit })
}

fn finished(code: i32, generation: u64, first_failure: Option<(usize, Exit)>, stopped: Option<Stop>) -> Output {
    Output::Finished(Outcome { code, generation, first_failure, stopped })
}

#[test]
fn all_well_waits_for_the_verdict() {
    let mut world = World::running(2);
    world.end(p(1, 1), Exit::Code(0));
    world.silent();
    world.end(p(1, 0), Exit::Code(0));
    world.expect(&[Output::Report(Report::Finished { generation: 1 })]);
    assert_eq!(world.supervisor.standing(), Standing::Finished { generation: 1 });
    world.at(1_000_000);
    world.silent();
    world.feed(Input::Release(Verdict::Succeeded));
    world.expect(&[finished(0, 1, None, None)]);
    world.silent();
}

#[test]
fn the_first_failure_is_reported_before_the_others_are_stopped() {
    // S-4.
    let mut world = World::running(3);
    world.end(p(1, 1), Exit::Code(3));
    world.expect(&[failed(1, 1, Exit::Code(3)), signal(p(1, 0), Stop::Terminate), signal(p(1, 2), Stop::Terminate)]);
    world.no_restart_is_left(3);
    world.end(p(1, 0), Exit::Signal(15));
    world.end(p(1, 2), Exit::Code(1));
    world.expect(&[finished(3, 1, Some((1, Exit::Code(3))), None)]);
    world.silent();
}

#[test]
fn a_signal_counts_as_128_and_its_number() {
    let mut world = World::running(1);
    world.end(p(1, 0), Exit::Signal(11));
    world.expect(&[failed(1, 0, Exit::Signal(11))]);
    world.no_restart_is_left(139);
    world.expect(&[finished(139, 1, Some((0, Exit::Signal(11))), None)]);
}

#[test]
fn the_ladder_ends_with_a_kill() {
    let mut world = World::running(2);
    world.now_ms = 100;
    world.end(p(1, 0), Exit::Code(1));
    world.expect(&[failed(1, 0, Exit::Code(1)), signal(p(1, 1), Stop::Terminate)]);
    assert_eq!(world.supervisor.deadline(), Some(1_100));
    world.at(1_099);
    world.silent();
    world.at(1_100);
    world.expect(&[signal(p(1, 1), Stop::Kill)]);
    assert_eq!(world.supervisor.deadline(), None);
    world.at(9_999);
    world.silent();
    world.no_restart_is_left(1);
    world.end(p(1, 1), Exit::Signal(9));
    world.expect(&[finished(1, 1, Some((0, Exit::Code(1))), None)]);
}

#[test]
fn the_next_generation_starts_at_once_where_a_signal_ends_the_others() {
    // S-2: rank 0 does not handle SIGTERM, so no code of it runs, although its end is not seen yet.
    let mut world = World::running(2);
    world.end(p(1, 1), Exit::Signal(9));
    world.expect(&[failed(1, 1, Exit::Signal(9)), signal(p(1, 0), Stop::Terminate)]);
    world.feed(Input::Doomed(p(1, 0)));
    world.forms(2, 2);
    // What became of the old one is no news.
    world.end(p(1, 0), Exit::Signal(15));
    world.silent();
    assert_eq!(world.supervisor.standing(), Standing::Running { generation: 2 });
}

#[test]
fn the_next_generation_waits_for_who_may_still_save_something() {
    // S-2.
    let mut world = World::running(2);
    world.end(p(1, 1), Exit::Signal(9));
    world.expect(&[failed(1, 1, Exit::Signal(9)), signal(p(1, 0), Stop::Terminate)]);
    world.feed(Input::Form { generation: 2, seated: true });
    world.at(999);
    world.silent();
    assert_eq!(world.supervisor.standing(), Standing::Running { generation: 2 });
    world.at(1_000);
    world.expect(&[
        signal(p(1, 0), Stop::Kill),
        Output::Begin { generation: 2 },
        Output::Start(p(2, 0)),
        Output::Start(p(2, 1)),
    ]);
    world.silent();
}

#[test]
fn devices_must_be_free_but_not_for_ever() {
    let mut world = World::new(2, Patience { corpse_ms: Some(500), ..PATIENCE });
    world.forms(1, 2);
    world.end(p(1, 1), Exit::Signal(9));
    world.feed(Input::Doomed(p(1, 0)));
    world.feed(Input::Form { generation: 2, seated: true });
    world.expect(&[failed(1, 1, Exit::Signal(9)), signal(p(1, 0), Stop::Terminate)]);
    world.silent();
    assert_eq!(world.supervisor.deadline(), Some(500));
    let mut patient = World { supervisor: world.supervisor.clone(), said: Vec::new(), now_ms: 10 };
    patient.end(p(1, 0), Exit::Signal(15));
    patient.expect(&[Output::Begin { generation: 2 }, Output::Start(p(2, 0)), Output::Start(p(2, 1))]);
    world.at(500);
    world.expect(&[Output::Begin { generation: 2 }, Output::Start(p(2, 0)), Output::Start(p(2, 1))]);
}

#[test]
fn stale_orders_change_nothing() {
    // S-1.
    let mut world = World::running(1);
    world.feed(Input::Form { generation: 5, seated: true });
    world.expect(&[signal(p(1, 0), Stop::Terminate)]);
    for stale in [1, 4, 5] {
        world.feed(Input::Form { generation: stale, seated: true });
    }
    world.feed(Input::Halt { generation: 4 });
    world.silent();
    world.end(p(1, 0), Exit::Signal(15));
    world.expect(&[Output::Begin { generation: 5 }, Output::Start(p(5, 0))]);
    world.feed(Input::Halt { generation: 1 });
    world.silent();
    assert_eq!(world.supervisor.seen(), 5);
}

#[test]
fn halted_ranks_end_and_are_no_failure() {
    let mut world = World::running(2);
    world.feed(Input::Halt { generation: 1 });
    world.expect(&[signal(p(1, 0), Stop::Terminate), signal(p(1, 1), Stop::Terminate)]);
    world.end(p(1, 0), Exit::Signal(15));
    world.end(p(1, 1), Exit::Code(1));
    world.silent();
    assert_eq!(world.supervisor.standing(), Standing::Idle);
    world.forms(2, 2);
}

#[test]
fn a_launcher_without_a_seat_ends_its_ranks_and_waits() {
    let mut world = World::running(1);
    world.feed(Input::Form { generation: 2, seated: false });
    world.expect(&[signal(p(1, 0), Stop::Terminate)]);
    world.end(p(1, 0), Exit::Signal(15));
    world.silent();
    assert_eq!(world.supervisor.standing(), Standing::Idle);
    assert_eq!(world.supervisor.seen(), 2);
}

#[test]
fn who_cooperates_goes_on_in_the_next_generation() {
    let mut world = World::running(2);
    world.feed(Input::Cooperates { process: p(1, 0), does: true });
    world.end(p(1, 1), Exit::Signal(9));
    world.expect(&[failed(1, 1, Exit::Signal(9)), Output::Interrupt { process: p(1, 0), generation: 1 }]);
    world.feed(Input::Form { generation: 2, seated: true });
    world.expect(&[
        Output::Begin { generation: 2 },
        Output::Assign { process: p(1, 0), generation: 2 },
        Output::Start(p(2, 1)),
    ]);
    assert_eq!(world.supervisor.deadline(), Some(2_000));
    world.feed(Input::Started(p(2, 1)));
    world.silent();
    world.feed(Input::Joined { process: p(1, 0), generation: 2 });
    world.expect(&[Output::Report(Report::Ready { generation: 2 })]);
    // It is a rank like the others: its failure is that of generation 2.
    world.end(p(1, 0), Exit::Code(4));
    world.expect(&[failed(2, 0, Exit::Code(4)), signal(p(2, 1), Stop::Terminate)]);
}

#[test]
fn who_does_not_join_in_time_is_replaced_in_the_same_generation() {
    for dies in [false, true] {
        let mut world = World::running(2);
        world.feed(Input::Cooperates { process: p(1, 0), does: true });
        world.end(p(1, 1), Exit::Signal(9));
        world.feed(Input::Form { generation: 2, seated: true });
        world.feed(Input::Started(p(2, 1)));
        world.said.clear();
        if dies {
            world.end(p(1, 0), Exit::Code(1));
        } else {
            world.at(2_000);
            world.expect(&[signal(p(1, 0), Stop::Kill)]);
        }
        world.expect(&[Output::Start(p(2, 0))]);
        world.feed(Input::Started(p(2, 0)));
        world.expect(&[Output::Report(Report::Ready { generation: 2 })]);
        world.silent();
    }
}

#[test]
fn who_can_no_longer_be_told_is_ended_like_the_others() {
    let mut world = World::running(2);
    world.feed(Input::Cooperates { process: p(1, 0), does: true });
    world.end(p(1, 1), Exit::Signal(9));
    world.said.clear();
    world.feed(Input::Cooperates { process: p(1, 0), does: false });
    world.expect(&[signal(p(1, 0), Stop::Terminate)]);
    world.feed(Input::Doomed(p(1, 0)));
    world.forms(2, 2);
}

#[test]
fn a_rank_that_stands_still_is_a_failure_and_ends_with_the_others() {
    let mut world = World::running(2);
    world.feed(Input::Cooperates { process: p(1, 0), does: true });
    world.feed(Input::Condemned { generation: 7, local_rank: 0, code: 124 });
    world.silent();
    world.feed(Input::Condemned { generation: 1, local_rank: 0, code: 124 });
    world.expect(&[failed(1, 0, Exit::Code(124)), signal(p(1, 0), Stop::Terminate), signal(p(1, 1), Stop::Terminate)]);
    world.end(p(1, 0), Exit::Signal(15));
    world.silent();
    assert!(matches!(world.supervisor.standing(), Standing::Failed { generation: 1, .. }));
}

#[test]
fn without_a_line_the_end_comes_by_itself() {
    let mut world = World::running(1);
    world.feed(Input::Link { up: false });
    assert_eq!(world.supervisor.deadline(), None, "training needs no line");
    world.now_ms = 5;
    world.end(p(1, 0), Exit::Code(0));
    world.expect(&[Output::Report(Report::Finished { generation: 1 })]);
    assert_eq!(world.supervisor.deadline(), Some(60_005));
    world.feed(Input::Link { up: true });
    assert_eq!(world.supervisor.deadline(), None);
    world.at(50_000);
    world.feed(Input::Link { up: false });
    world.at(109_999);
    world.silent();
    world.at(110_000);
    world.expect(&[finished(0, 1, None, None)]);
}

#[test]
fn without_a_line_a_failure_ends_as_itself() {
    let mut world = World::running(1);
    world.end(p(1, 0), Exit::Code(7));
    world.expect(&[failed(1, 0, Exit::Code(7))]);
    world.feed(Input::Link { up: false });
    world.at(300_000);
    world.expect(&[finished(7, 1, Some((0, Exit::Code(7))), None)]);
}

#[test]
fn a_stop_is_forwarded_and_a_second_one_kills() {
    let mut world = World::running(2);
    world.feed(Input::Stop(Stop::Interrupt));
    world.expect(&[signal(p(1, 0), Stop::Interrupt), signal(p(1, 1), Stop::Interrupt)]);
    assert_eq!(world.supervisor.deadline(), Some(5_000));
    world.end(p(1, 0), Exit::Code(0));
    world.feed(Input::Stop(Stop::Interrupt));
    world.expect(&[signal(p(1, 1), Stop::Kill)]);
    world.end(p(1, 1), Exit::Signal(9));
    world.expect(&[finished(137, 1, None, Some(Stop::Interrupt))]);
    world.silent();
}

#[test]
fn ranks_that_end_well_when_told_to_stop_make_it_a_success() {
    let mut world = World::running(1);
    world.feed(Input::Stop(Stop::Terminate));
    world.expect(&[signal(p(1, 0), Stop::Terminate)]);
    world.end(p(1, 0), Exit::Code(0));
    world.expect(&[finished(0, 1, None, Some(Stop::Terminate))]);
}

#[test]
fn a_stop_during_a_restart_starts_nothing() {
    // S-5.
    let mut world = World::running(2);
    world.end(p(1, 1), Exit::Signal(9));
    world.feed(Input::Form { generation: 2, seated: true });
    world.expect(&[failed(1, 1, Exit::Signal(9)), signal(p(1, 0), Stop::Terminate)]);
    world.feed(Input::Stop(Stop::Terminate));
    world.feed(Input::Form { generation: 3, seated: true });
    world.silent();
    world.end(p(1, 0), Exit::Signal(15));
    world.expect(&[finished(143, 0, None, Some(Stop::Terminate))]);
}

#[test]
fn a_stop_before_the_first_order_ends_at_once() {
    let mut world = World::new(2, PATIENCE);
    world.feed(Input::Stop(Stop::Interrupt));
    world.expect(&[finished(130, 0, None, Some(Stop::Interrupt))]);
}

#[test]
fn a_release_ends_ranks_that_run() {
    let mut world = World::running(1);
    world.feed(Input::Release(Verdict::Failed { code: 9 }));
    world.expect(&[signal(p(1, 0), Stop::Terminate)]);
    assert_eq!(world.supervisor.deadline(), Some(1_000));
    world.end(p(1, 0), Exit::Signal(15));
    world.expect(&[finished(9, 1, None, None)]);
    let mut world = World::running(1);
    world.feed(Input::Release(Verdict::Stopped));
    assert_eq!(world.supervisor.deadline(), Some(5_000));
    world.end(p(1, 0), Exit::Code(0));
    world.expect(&[signal(p(1, 0), Stop::Terminate), finished(0, 1, None, None)]);
}

#[test]
fn a_program_that_does_not_exist_stops_those_that_started() {
    let mut world = World::new(2, PATIENCE);
    world.feed(Input::Form { generation: 1, seated: true });
    world.expect(&[Output::Begin { generation: 1 }, Output::Start(p(1, 0)), Output::Start(p(1, 1))]);
    world.feed(Input::NotStarted { process: p(1, 0), code: 127 });
    world.expect(&[failed(1, 0, Exit::Code(127))]);
    world.no_restart_is_left(127);
    world.silent();
    // Rank 1 was being started: it is told as soon as it exists.
    world.feed(Input::Started(p(1, 1)));
    world.expect(&[signal(p(1, 1), Stop::Terminate)]);
    world.end(p(1, 1), Exit::Signal(15));
    world.expect(&[finished(127, 1, Some((0, Exit::Code(127))), None)]);
}

#[test]
fn the_state_survives_a_dump() {
    let mut world = World::running(2);
    world.end(p(1, 0), Exit::Code(1));
    let dump = serde_json::to_string(&world.supervisor).unwrap();
    assert_eq!(serde_json::from_str::<Supervisor>(&dump).unwrap(), world.supervisor);
}

/// What may come, in whatever order.
fn any_input(ranks: usize) -> impl Strategy<Value = Input> {
    let exit = prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(1)), Just(Exit::Signal(15)), Just(Exit::Signal(9))];
    let stop = prop_oneof![Just(Stop::Terminate), Just(Stop::Interrupt), Just(Stop::Kill)];
    let verdict = prop_oneof![Just(Verdict::Succeeded), Just(Verdict::Failed { code: 3 }), Just(Verdict::Stopped)];
    let process =
        move || (1..5_u64, 0..=ranks).prop_map(|(generation, local_rank)| ProcessId { generation, local_rank });
    prop_oneof![
        6 => (1..5_u64, prop::bool::weighted(0.9)).prop_map(|(generation, seated)| Input::Form { generation, seated }),
        2 => (1..5_u64).prop_map(|generation| Input::Halt { generation }),
        1 => verdict.prop_map(Input::Release),
        2 => any::<bool>().prop_map(|up| Input::Link { up }),
        4 => Just(Input::Tick),
        8 => process().prop_map(Input::Started),
        1 => process().prop_map(|process| Input::NotStarted { process, code: 127 }),
        4 => process().prop_map(Input::Doomed),
        6 => (process(), exit).prop_map(|(process, exit)| Input::Ended { process, exit }),
        4 => (process(), prop::bool::weighted(0.8))
            .prop_map(|(process, does)| Input::Cooperates { process, does }),
        4 => (process(), 1..5_u64).prop_map(|(process, generation)| Input::Joined { process, generation }),
        1 => (1..5_u64, 0..=ranks)
            .prop_map(|(generation, local_rank)| Input::Condemned { generation, local_rank, code: 124 }),
        1 => stop.prop_map(Input::Stop),
    ]
}

/// What was said and heard of each process, from outside.
#[derive(Default)]
struct Observer {
    alive: BTreeMap<ProcessId, bool>,
    begun: u64,
    failures: BTreeMap<u64, usize>,
    ends: usize,
    ending: bool,
    kills: BTreeMap<ProcessId, usize>,
    /// Who goes on in the present generation.
    assigned: std::collections::BTreeSet<ProcessId>,
}

impl Observer {
    /// The world tells only what can be: no process ends that does not exist.
    fn hear(&mut self, input: &Input) -> bool {
        match input {
            Input::Started(process) => self.alive.contains_key(process),
            Input::NotStarted { process, .. } | Input::Ended { process, .. } => self.alive.remove(process).is_some(),
            Input::Doomed(process) => self.alive.get_mut(process).map(|doomed| *doomed = true).is_some(),
            Input::Form { .. }
            | Input::Halt { .. }
            | Input::Release(_)
            | Input::Link { .. }
            | Input::Cooperates { .. }
            | Input::Joined { .. }
            | Input::Condemned { .. }
            | Input::Stop(_)
            | Input::Tick => true,
        }
    }

    fn watch(&mut self, output: &Output) -> Result<(), TestCaseError> {
        match output {
            Output::Begin { generation } => {
                prop_assert!(*generation > self.begun, "S-1: {} after {}", generation, self.begun);
                prop_assert!(!self.ending, "S-5");
                self.begun = *generation;
                self.assigned.clear();
            }
            Output::Start(process) => {
                prop_assert_eq!(process.generation, self.begun);
                prop_assert!(!self.ending, "S-5");
                let in_the_way = |(id, doomed): (&ProcessId, &bool)| {
                    id.generation < process.generation && !doomed && !self.assigned.contains(id)
                };
                prop_assert!(!self.alive.iter().any(in_the_way), "S-2: {:?} before {:?}", self.alive, process);
                prop_assert!(self.alive.insert(*process, false).is_none(), "S-7");
            }
            Output::Signal { process, stop } => {
                if *stop == Stop::Kill {
                    *self.kills.entry(*process).or_default() += 1;
                    self.alive.entry(*process).and_modify(|doomed| *doomed = true);
                }
            }
            Output::Report(Report::Failed { generation, .. }) => {
                prop_assert_eq!(*generation, self.begun);
                prop_assert!(!self.ending, "S-4");
                *self.failures.entry(*generation).or_default() += 1;
            }
            Output::Finished(_) => self.ends += 1,
            Output::Assign { process, .. } => {
                self.assigned.insert(*process);
            }
            Output::Interrupt { .. } | Output::Report(Report::Ready { .. } | Report::Finished { .. }) => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Whatever comes in whatever order: the invariants hold (those that the state shows are checked in `step`),
    /// everything that was started can be brought to an end, and the end is said exactly once.
    #[test]
    fn any_order_of_events_ends_once(
        inputs in prop::collection::vec((any_input(3), 0_i64..1_500), 0..60),
        corpses in any::<bool>(),
    ) {
        let patience = Patience { corpse_ms: corpses.then_some(700), ..PATIENCE };
        let mut supervisor = Supervisor::new(3, patience);
        let mut observer = Observer::default();
        let mut now_ms = 0;
        let mut said = Vec::new();
        for (input, pause) in inputs {
            now_ms += pause;
            if !observer.hear(&input) {
                continue;
            }
            supervisor.step(now_ms, &input, &mut said);
            for output in said.drain(..) {
                observer.watch(&output)?;
            }
            observer.ending |= matches!(input, Input::Stop(_) | Input::Release(_));
        }
        supervisor.step(now_ms, &Input::Stop(Stop::Terminate), &mut said);
        // Nobody ends by itself: the ladder must reach everybody who exists.
        for _ in 0..100 {
            let alive: Vec<ProcessId> = observer.alive.keys().copied().collect();
            for process in alive {
                supervisor.step(now_ms, &Input::Started(process), &mut said);
            }
            for output in said.drain(..) {
                observer.watch(&output)?;
            }
            let killed: Vec<ProcessId> =
                observer.alive.keys().filter(|process| observer.kills.contains_key(process)).copied().collect();
            for process in killed {
                observer.alive.remove(&process);
                supervisor.step(now_ms, &Input::Ended { process, exit: Exit::Signal(9) }, &mut said);
            }
            let Some(deadline) = supervisor.deadline() else { break };
            now_ms = now_ms.max(deadline);
            supervisor.step(now_ms, &Input::Tick, &mut said);
        }
        for output in said.drain(..) {
            observer.watch(&output)?;
        }
        prop_assert!(observer.alive.is_empty(), "nobody kills {:?}", observer.alive);
        prop_assert!(supervisor.outcome().is_some());
        prop_assert_eq!(observer.ends, 1);
        prop_assert!(observer.failures.values().all(|count| *count == 1), "S-4: {:?}", observer.failures);
        prop_assert!(observer.kills.values().all(|count| *count == 1), "killed twice: {:?}", observer.kills);
    }
}

#[test]
fn the_tail_shows_the_message_and_not_the_progress_before_it() {
    let mut tail = Tail::default();
    for step in 0..100 {
        tail.push(&format!("step={step} loss=0.5"));
    }
    tail.push("Traceback (most recent call last):");
    tail.push("  File \"train.py\", line 3, in <module>");
    tail.push("");
    tail.push("ValueError: bad batch");
    assert_eq!(tail.meaningful(10)[0], "Traceback (most recent call last):");
    assert_eq!(tail.meaningful(10).len(), 3);
    assert_eq!(tail.meaningful(1), ["ValueError: bad batch"]);
}

#[test]
fn without_a_message_the_tail_is_the_last_lines() {
    let mut tail = Tail::default();
    for step in 0..100 {
        tail.push(&format!("step={step}"));
    }
    assert_eq!(tail.meaningful(10), ["step=95", "step=96", "step=97", "step=98", "step=99"]);
    assert_eq!(Tail::default().meaningful(3), Vec::<&str>::new());
}

use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { failure_grace_ms: 1_000, stop_grace_ms: 5_000 };

/// A launch in which every output must be consumed by the test.
struct World {
    supervisor: Supervisor,
    said: Vec<Output>,
    now_ms: i64,
}

impl World {
    fn running(ranks: usize) -> Self {
        let mut world = Self { supervisor: Supervisor::new(ranks, PATIENCE), said: Vec::new(), now_ms: 0 };
        world.feed(Input::Begin);
        for local_rank in 0..ranks {
            world.expect(&[Output::Start { local_rank }]);
        }
        for local_rank in 0..ranks {
            world.feed(Input::Started { local_rank });
        }
        world.expect(&[]);
        world
    }

    fn feed(&mut self, input: Input) {
        self.supervisor.step(self.now_ms, &input, &mut self.said);
    }

    fn end(&mut self, local_rank: usize, exit: Exit) {
        self.feed(Input::Ended { local_rank, exit });
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
}

fn signal(local_rank: usize, stop: Stop) -> Output {
    Output::Signal { local_rank, stop }
}

#[test]
fn all_well() {
    let mut world = World::running(2);
    world.end(1, Exit::Code(0));
    world.silent();
    world.end(0, Exit::Code(0));
    world.expect(&[Output::Finished(Outcome { code: 0, first_failure: None, stopped: None })]);
    world.silent();
}

#[test]
fn the_first_failure_is_the_result_and_stops_the_others() {
    let mut world = World::running(3);
    world.end(1, Exit::Code(3));
    world.expect(&[signal(0, Stop::Terminate), signal(2, Stop::Terminate)]);
    world.end(0, Exit::Signal(15));
    world.end(2, Exit::Code(1));
    let first_failure = Some((1, Exit::Code(3)));
    world.expect(&[Output::Finished(Outcome { code: 3, first_failure, stopped: None })]);
    world.silent();
}

#[test]
fn a_signal_counts_as_128_and_its_number() {
    let mut world = World::running(1);
    world.end(0, Exit::Signal(11));
    let first_failure = Some((0, Exit::Signal(11)));
    world.expect(&[Output::Finished(Outcome { code: 139, first_failure, stopped: None })]);
}

#[test]
fn the_ladder_ends_with_a_kill() {
    let mut world = World::running(2);
    world.now_ms = 100;
    world.end(0, Exit::Code(1));
    world.expect(&[signal(1, Stop::Terminate)]);
    assert_eq!(world.supervisor.deadline(), Some(1_100));
    world.at(1_099);
    world.silent();
    world.at(1_100);
    world.expect(&[signal(1, Stop::Kill)]);
    assert_eq!(world.supervisor.deadline(), None);
    world.at(9_999);
    world.silent();
    world.end(1, Exit::Signal(9));
    world.expect(&[Output::Finished(Outcome { code: 1, first_failure: Some((0, Exit::Code(1))), stopped: None })]);
}

#[test]
fn a_stop_is_forwarded_and_a_second_one_kills() {
    let mut world = World::running(2);
    world.feed(Input::Stop(Stop::Interrupt));
    world.expect(&[signal(0, Stop::Interrupt), signal(1, Stop::Interrupt)]);
    assert_eq!(world.supervisor.deadline(), Some(5_000));
    world.end(0, Exit::Code(0));
    world.feed(Input::Stop(Stop::Interrupt));
    world.expect(&[signal(1, Stop::Kill)]);
    world.end(1, Exit::Signal(9));
    world.expect(&[Output::Finished(Outcome { code: 137, first_failure: None, stopped: Some(Stop::Interrupt) })]);
    world.silent();
}

#[test]
fn ranks_that_end_well_when_told_to_stop_make_it_a_success() {
    let mut world = World::running(1);
    world.feed(Input::Stop(Stop::Terminate));
    world.expect(&[signal(0, Stop::Terminate)]);
    world.end(0, Exit::Code(0));
    world.expect(&[Output::Finished(Outcome { code: 0, first_failure: None, stopped: Some(Stop::Terminate) })]);
}

#[test]
fn a_program_that_does_not_exist_stops_those_that_started() {
    let mut world = World { supervisor: Supervisor::new(2, PATIENCE), said: Vec::new(), now_ms: 0 };
    world.feed(Input::Begin);
    world.expect(&[Output::Start { local_rank: 0 }, Output::Start { local_rank: 1 }]);
    world.feed(Input::NotStarted { local_rank: 0, code: 127 });
    world.silent();
    // Rank 1 was being started: it is told as soon as it exists.
    world.feed(Input::Started { local_rank: 1 });
    world.expect(&[signal(1, Stop::Terminate)]);
    world.end(1, Exit::Signal(15));
    let first_failure = Some((0, Exit::Code(127)));
    world.expect(&[Output::Finished(Outcome { code: 127, first_failure, stopped: None })]);
}

#[test]
fn the_state_survives_a_dump() {
    let mut world = World::running(2);
    world.end(0, Exit::Code(1));
    let dump = serde_json::to_string(&world.supervisor).unwrap();
    assert_eq!(serde_json::from_str::<Supervisor>(&dump).unwrap(), world.supervisor);
}

fn any_input(ranks: usize) -> impl Strategy<Value = Input> {
    let exit = prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(1)), Just(Exit::Signal(15)), Just(Exit::Signal(9))];
    let stop = prop_oneof![Just(Stop::Terminate), Just(Stop::Interrupt), Just(Stop::Kill)];
    prop_oneof![
        Just(Input::Begin),
        Just(Input::Tick),
        (0..ranks + 1).prop_map(|local_rank| Input::Started { local_rank }),
        (0..ranks + 1).prop_map(|local_rank| Input::NotStarted { local_rank, code: 127 }),
        ((0..ranks + 1), exit).prop_map(|(local_rank, exit)| Input::Ended { local_rank, exit }),
        stop.prop_map(Input::Stop),
    ]
}

proptest! {
    /// Whatever comes in whatever order: the invariants hold (checked in `step`), everything that was started can be
    /// brought to an end, and the end is said exactly once.
    #[test]
    fn any_order_of_events_ends_once(
        inputs in prop::collection::vec((any_input(3), 0_i64..2_000), 0..40),
    ) {
        let mut supervisor = Supervisor::new(3, PATIENCE);
        let mut out = Vec::new();
        let mut now_ms = 0;
        supervisor.step(now_ms, &Input::Begin, &mut out);
        for (input, pause) in inputs {
            now_ms += pause;
            supervisor.step(now_ms, &input, &mut out);
        }
        for local_rank in 0..3 {
            supervisor.step(now_ms, &Input::Ended { local_rank, exit: Exit::Code(0) }, &mut out);
        }
        prop_assert!(supervisor.outcome().is_some());
        prop_assert_eq!(out.iter().filter(|said| matches!(said, Output::Finished(_))).count(), 1);
        for rank in 0..3 {
            let kills = out.iter().filter(|said| **said == signal(rank, Stop::Kill)).count();
            prop_assert!(kills <= 1, "rank {} was killed {} times", rank, kills);
        }
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

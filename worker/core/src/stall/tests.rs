use proptest::prelude::*;

use super::*;

mod lines;
mod others;

/// Ranks in virtual time: each does steps, or stands still in something.
struct World {
    detector: Detector,
    now_ms: i64,
    ranks: Vec<Process>,
    said: Vec<Finding>,
    moves: Vec<u32>,
    /// How long stacks take, and the answer that is on its way.
    reading_ms: i64,
    read: Option<(i64, BTreeMap<u32, Waits>)>,
    /// Processes are glanced at this often.
    glance_ms: i64,
    glanced_ms: i64,
    /// When each finding was said.
    said_ms: Vec<i64>,
}

#[derive(Clone)]
struct Process {
    look: Look,
    /// CPU time in a second, and so far in microseconds.
    cpu: u64,
    cpu_us: u64,
    waits: Waits,
}

fn waits(place: &str, collective: bool) -> Waits {
    Waits { place: place.to_owned(), collective, stack: vec![place.to_owned()], ..Waits::default() }
}

impl World {
    fn new(ranks: u32) -> Self {
        let look = Look { state: State::Sleeps, cpu_ms: 0, io_bytes: 0, wakes: 0 };
        Self {
            detector: Detector::new(0, 0..ranks, true),
            now_ms: 0,
            ranks: vec![Process { look, cpu: 900, cpu_us: 0, waits: Waits::default() }; ranks as usize],
            said: Vec::new(),
            moves: Vec::new(),
            reading_ms: 60,
            read: None,
            glance_ms: 250,
            glanced_ms: 0,
            said_ms: Vec::new(),
        }
    }

    /// Time passes; the detector is woken when it wants to be.
    fn pass(&mut self, ms: i64) {
        let end = self.now_ms + ms;
        while let Some(at) = self.due().filter(|at| *at <= end) {
            self.advance(at.max(self.now_ms));
            if self.now_ms >= self.glanced_ms + self.glance_ms {
                self.glanced_ms = self.now_ms;
                for (number, rank) in (0..).zip(&self.ranks) {
                    self.detector.glance(self.now_ms, number, rank.look.state);
                }
            }
            self.answer();
            // As the shell: no look while stacks are read.
            if self.read.is_none() && self.detector.deadline().is_some_and(|due| due <= self.now_ms) {
                self.look();
            }
        }
        self.advance(end);
    }

    fn answer(&mut self) {
        if let Some((_, waits)) = self.read.take_if(|(due, _)| *due <= self.now_ms) {
            self.detector.answer(self.now_ms, waits);
        }
    }

    fn due(&self) -> Option<i64> {
        let look = match &self.read {
            Some((due, _)) => Some(*due),
            None => self.detector.deadline(),
        };
        look.map(|due| due.min(self.glanced_ms + self.glance_ms))
    }

    fn look(&mut self) {
        let looks = (0_u32..).zip(&self.ranks).map(|(number, rank)| (number, rank.look)).collect();
        for change in self.detector.look(self.now_ms, &looks) {
            match change {
                Change::Suspect { ranks, within_ms } => {
                    let waits = |rank: &u32| self.ranks[*rank as usize].waits.clone();
                    let in_time = self.reading_ms <= within_ms;
                    let waits = ranks.iter().filter(|_| in_time).map(|rank| (*rank, waits(rank))).collect();
                    self.read = Some((self.now_ms + self.reading_ms.min(within_ms), waits));
                }
                Change::Found(findings) => {
                    self.said_ms.extend(findings.iter().map(|_| self.now_ms));
                    self.said.extend(findings);
                }
                Change::Moves(rank) => self.moves.push(rank),
            }
        }
    }

    fn advance(&mut self, now_ms: i64) {
        let ms = (now_ms - self.now_ms).max(0).unsigned_abs();
        self.now_ms = self.now_ms.max(now_ms);
        for rank in &mut self.ranks {
            rank.cpu_us += rank.cpu * ms;
            rank.look.cpu_ms = rank.cpu_us / 1_000;
        }
    }

    /// Rank 0 tells of `steps` steps.
    fn train(&mut self, first: u64, steps: u64, step_ms: i64) {
        for step in first..first + steps {
            self.pass(step_ms);
            self.detector.sign(self.now_ms, 0, Sign::Step(step));
        }
    }

    fn stand(&mut self, rank: usize, waits: Waits) {
        self.ranks[rank].cpu = 0;
        self.ranks[rank].waits = waits;
    }

    fn found(&mut self) -> Vec<(u32, Role)> {
        self.said.drain(..).map(|finding| (finding.rank, finding.role)).collect()
    }
}

#[test]
fn who_sleeps_is_to_blame_and_who_is_in_a_collective_is_not() {
    let mut world = World::new(3);
    world.train(0, 20, 100);
    assert_eq!(world.found(), []);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("time.sleep", false));
    world.stand(2, waits("all_reduce", true));
    let stop = world.now_ms;
    world.pass(LEAST_MS);
    let finding = world.said[0].clone();
    assert!(finding.silent_ms <= LEAST_MS, "{finding:?}");
    assert_eq!((finding.since_ms, finding.usual_ms), (stop, None), "rank 1 says nothing itself");
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim), (2, Role::Victim)]);
    world.pass(600_000);
    assert_eq!(world.found(), [], "said once");
    assert_eq!(world.detector.found().count(), 3);
    for rank in &mut world.ranks {
        rank.cpu = 500;
    }
    world.pass(LOOK_AGAIN_MS * 2);
    assert_eq!(world.moves, [0, 1, 2]);
}

#[test]
fn long_steps_have_three_times_their_time() {
    let mut world = World::new(1);
    world.train(0, 5, 4_000);
    world.stand(0, waits("queue.get", false));
    world.pass(3 * 4_000 / 5 * 4 - 1_000);
    assert_eq!(world.found(), []);
    world.pass(3 * 4_000 / 5 + 1_000);
    assert_eq!(world.found(), [(0, Role::Culprit)]);
}

#[test]
fn a_rank_that_never_joins_is_found_and_one_that_still_loads_is_not() {
    let mut world = World::new(3);
    // Rank 0 waits for the others at the store, rank 1 loads, and rank 2 does nothing.
    world.stand(0, waits("recv", false));
    world.stand(2, waits("time.sleep", false));
    world.detector.apart(0, &BTreeSet::from([1, 2]));
    world.pass(JOIN_MS / 2);
    world.detector.apart(world.now_ms, &BTreeSet::from([1, 2]));
    assert_eq!(world.found(), []);
    world.pass(JOIN_MS);
    assert_eq!(world.said[0].waits.place, "time.sleep before it joined the others");
    assert_eq!(world.found(), [(2, Role::Culprit)]);
    // It was only late.
    world.ranks[2].cpu = 500;
    world.pass(LOOK_AGAIN_MS * 2);
    world.detector.apart(world.now_ms, &BTreeSet::from([1]));
    assert_eq!(world.moves, [2]);
    world.stand(1, waits("open", false));
    world.detector.apart(world.now_ms, &BTreeSet::new());
    world.pass(JOIN_MS * 10);
    assert_eq!(world.found(), [], "all have met, and nobody was ever heard of");
}

#[test]
fn a_stopped_rank_is_found_though_it_has_never_said_anything() {
    let mut world = World::new(3);
    world.ranks[1].look.state = State::Stopped;
    world.ranks[1].cpu = 0;
    world.pass(1_000 + LEAST_MS);
    assert_eq!(world.found(), [(1, Role::Culprit)]);
    world.ranks[1].look.state = State::Sleeps;
    world.ranks[1].cpu = 100;
    world.pass(LOOK_AGAIN_MS * 2);
    assert_eq!(world.moves, [1]);
}

#[test]
fn a_rank_that_computes_while_the_others_wait_is_evaluating() {
    let mut world = World::new(3);
    world.train(0, 20, 50);
    for rank in [1, 2] {
        world.stand(rank, waits("barrier", true));
    }
    world.pass(600_000);
    assert_eq!(world.found(), []);
}

#[test]
fn a_rank_that_only_reads_or_writes_gets_on() {
    let mut world = World::new(1);
    world.train(0, 20, 50);
    world.stand(0, waits("write", false));
    for _ in 0..600 {
        world.pass(100);
        world.ranks[0].look.io_bytes += 100_000;
    }
    assert_eq!(world.found(), []);
}

#[test]
fn disks_checkpoints_and_stacks_that_are_not_read_have_a_minute() {
    for (state, checkpoint, unread) in
        [(State::Blocked, false, false), (State::Sleeps, true, false), (State::Sleeps, false, true)]
    {
        let mut world = World::new(2);
        world.train(0, 20, 50);
        world.stand(0, Waits { checkpoint, unread, ..waits("fsync", false) });
        world.ranks[0].look.state = state;
        world.stand(1, waits("barrier", true));
        world.pass(PAUSE_MS - 1_000);
        assert_eq!(world.found(), []);
        world.pass(PAUSE_MS);
        assert_eq!(world.found(), [(0, Role::Culprit), (1, Role::Victim)]);
    }
}

#[test]
fn a_phase_that_is_told_is_no_hang() {
    let mut world = World::new(2);
    world.train(0, 20, 50);
    world.detector.phase(world.now_ms, 1, Phase::Evaluate);
    world.stand(0, waits("barrier", true));
    world.stand(1, waits("gpu", false));
    world.pass(3_600_000);
    assert_eq!(world.found(), []);
    world.detector.phase(world.now_ms, 1, Phase::Train);
    world.ranks[0].cpu_us += 1_000_000;
    world.pass(LEAST_MS * 2);
    // Rank 0 has just worked for a moment: it is known to wait a little later, which is no news.
    assert_eq!(world.found(), [(1, Role::Culprit)]);
    assert_eq!(world.detector.found().count(), 2);
}

#[test]
fn where_all_wait_for_each_other_it_is_a_deadlock_unless_others_are_elsewhere() {
    for whole in [true, false] {
        let mut world = World::new(2);
        world.detector = Detector::new(0, 0..2, whole);
        world.train(0, 20, 50);
        world.stand(0, waits("all_reduce", true));
        world.stand(1, waits("broadcast", true));
        world.pass(10_000);
        assert_eq!(world.found().len(), if whole { 2 } else { 0 });
    }
}

#[test]
fn lines_that_go_on_do_not_hide_steps_that_do_not() {
    let mut world = World::new(1);
    world.train(0, 20, 50);
    world.stand(0, waits("get", false));
    for _ in 0..100 {
        world.pass(50);
        world.detector.sign(world.now_ms, 0, Sign::Step(19));
        world.detector.sign(world.now_ms, 0, Sign::Life);
    }
    assert_eq!(world.found(), [(0, Role::Culprit)]);
}

#[test]
fn a_rank_that_ended_is_not_waited_for() {
    let mut world = World::new(2);
    world.train(0, 20, 50);
    world.stand(1, waits("sleep", false));
    world.stand(0, waits("sleep", false));
    world.detector.ended(1);
    world.pass(10_000);
    assert_eq!(world.found(), [(0, Role::Culprit)]);
    world.detector.ended(0);
    assert_eq!(world.detector.deadline(), None);
}

#[test]
fn words() {
    let mut world = World::new(3);
    world.train(0, 20, 100);
    world.stand(0, waits("all_reduce", true));
    let stack = vec!["fetch (train.py:12)".to_owned(), "main (train.py:40)".to_owned()];
    world.stand(1, Waits { stack, ..waits("fetch (train.py:12)", false) });
    world.stand(2, waits("all_reduce", true));
    world.pass(LEAST_MS);
    let text = report(&world.said, "node-a");
    assert!(text.starts_with("trainyard: rank 1 on node-a hangs: no progress for 1.6 s, "), "{text}");
    assert!(text.contains("waits in fetch (train.py:12)\n  | fetch (train.py:12)\n  | main (train.py:40)\n"), "{text}");
    assert!(text.ends_with("trainyard: ranks 0, 2 wait for it in all_reduce\n"), "{text}");
}

#[test]
fn who_gets_on_while_its_stack_is_read_is_looked_at_again_in_time() {
    let mut world = World::new(3);
    world.reading_ms = 200;
    world.train(0, 20, 100);
    let stand = |world: &mut World| (0..3).for_each(|rank| world.stand(rank, waits("barrier", rank != 1)));
    stand(&mut world);
    world.pass(1_250);
    assert!(world.read.is_some());
    world.ranks.iter_mut().for_each(|rank| rank.cpu = 900);
    world.train(100, 1, 100);
    stand(&mut world);
    world.pass(LEAST_MS);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim), (2, Role::Victim)]);
}

#[test]
fn the_minute_of_a_disk_begins_with_the_silence_and_not_with_a_look_long_ago() {
    let mut world = World::new(1);
    world.train(0, 4, 300);
    // Steps so long that the short ones that follow are not looked at.
    for step in 4..10 {
        world.stand(0, Waits { checkpoint: true, ..waits("fsync", false) });
        world.pass(17_000);
        world.ranks[0].cpu = 60;
        world.train(step, 1, 7_000);
    }
    world.ranks[0].look.state = State::Blocked;
    world.stand(0, waits("write", false));
    world.pass(PAUSE_MS);
    assert_eq!(world.found(), []);
    world.pass(PAUSE_MS);
    assert_eq!(world.found(), [(0, Role::Culprit)]);
}

#[test]
fn a_page_of_lines_is_no_rhythm_but_a_stream_of_lines_is_one() {
    for (page_ms, found) in [(1_500, 0), (11_000, 1)] {
        let mut world = World::new(1);
        for _ in 0..page_ms / 20 {
            world.pass(20);
            world.detector.sign(world.now_ms, 0, Sign::Life);
        }
        world.stand(0, waits("sleep", false));
        world.pass(LEAST_MS);
        assert_eq!(world.found().len(), found, "after {page_ms} ms of lines");
    }
    // Nor are pages that come seldom: what counts is the time between them.
    let mut world = World::new(1);
    for _ in 0..5 {
        for _ in 0..50 {
            world.pass(20);
            world.detector.sign(world.now_ms, 0, Sign::Life);
        }
        world.stand(0, waits("sleep", false));
        world.pass(7_000);
        assert_eq!(world.found(), []);
        world.ranks[0].cpu = 900;
    }
    world.stand(0, waits("sleep", false));
    world.pass(7_000 * STEPS);
    assert_eq!(world.found(), [(0, Role::Culprit)]);
}

#[test]
fn who_is_made_to_wait_is_not_silent() {
    let mut world = World::new(2);
    world.train(0, 20, 100);
    world.stand(0, waits("write", false));
    world.stand(1, waits("barrier", true));
    for _ in 0..100 {
        world.pass(100);
        world.detector.pause(world.now_ms, 0);
    }
    assert_eq!(world.found(), []);
    world.pass(LEAST_MS);
    assert_eq!(world.found(), [(0, Role::Culprit), (1, Role::Victim)]);
}

#[derive(Clone, Debug)]
enum Pause {
    Step(i64),
    Checkpoint(i64),
    Evaluate(i64),
    Compute(i64),
    Disk(i64),
}

fn any_pause() -> impl Strategy<Value = Pause> {
    prop_oneof![
        8 => (20_i64..600).prop_map(Pause::Step),
        1 => (100_i64..30_000).prop_map(Pause::Checkpoint),
        1 => (100_i64..30_000).prop_map(Pause::Evaluate),
        1 => (100_i64..30_000).prop_map(Pause::Compute),
        1 => (100_i64..30_000).prop_map(Pause::Disk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// A program that gets on, however unevenly, is never said to hang; the moment one of its ranks really stands still,
    /// that one is found in time, and no other.
    #[test]
    fn no_false_alarm_and_no_missed_hang(pauses in prop::collection::vec(any_pause(), 10..60), culprit in 0_usize..3) {
        let mut world = World::new(3);
        world.train(0, 4, 300);
        for (step, pause) in (10_u64..).zip(pauses) {
            match pause {
                Pause::Step(ms) => world.pass(ms),
                // Told, without any movement.
                Pause::Evaluate(ms) => {
                    world.detector.phase(world.now_ms, 0, Phase::Evaluate);
                    world.ranks.iter_mut().for_each(|rank| rank.cpu = 0);
                    world.pass(ms);
                    world.detector.phase(world.now_ms, 0, Phase::Train);
                }
                // Rank 0 computes, or writes, and the others wait for it.
                Pause::Compute(ms) | Pause::Checkpoint(ms) | Pause::Disk(ms) => {
                    world.stand(1, waits("barrier", true));
                    world.stand(2, waits("barrier", true));
                    match pause {
                        Pause::Checkpoint(_) => world.stand(0, Waits { checkpoint: true, ..waits("fsync", false) }),
                        Pause::Disk(_) => {
                            world.stand(0, waits("write", false));
                            world.ranks[0].look.state = State::Blocked;
                        }
                        Pause::Step(_) | Pause::Evaluate(_) | Pause::Compute(_) => world.ranks[0].cpu = 60,
                    }
                    world.pass(ms);
                }
            }
            for rank in &mut world.ranks {
                rank.cpu = 700;
                rank.look.state = State::Sleeps;
            }
            world.pass(1);
            world.detector.sign(world.now_ms, 0, Sign::Step(step));
            prop_assert_eq!(world.found(), []);
        }
        world.train(1_000, 20, 100);
        for rank in 0..3 {
            world.stand(rank, waits("barrier", rank != culprit));
        }
        world.pass(LEAST_MS);
        let found = world.found();
        prop_assert_eq!(found.len(), 3);
        prop_assert_eq!(found[0], (u32::try_from(culprit).unwrap(), Role::Culprit));
    }

    /// The state survives a dump, at any time.
    #[test]
    fn dumps(steps in 0_u64..10) {
        let mut world = World::new(2);
        world.train(0, steps, 100);
        world.stand(0, waits("x", false));
        world.pass(5_000);
        let dump = serde_json::to_string(&world.detector).unwrap();
        prop_assert_eq!(serde_json::from_str::<Detector>(&dump).unwrap(), world.detector);
    }
}

#[test]
fn a_rank_that_cannot_be_looked_at_keeps_nobody_busy() {
    let mut detector = Detector::new(0, 0..2, true);
    for step in 0..10 {
        detector.sign(step * 100, 0, Sign::Step(step.unsigned_abs()));
    }
    for _ in 0..100 {
        let at = detector.deadline().unwrap();
        assert_eq!(detector.look(at, &BTreeMap::new()), []);
        assert!(detector.deadline().unwrap() > at);
    }
    assert!(detector.deadline().unwrap() > LOOK_MS * 95);
}

#[test]
fn light_steps_are_movement_too() {
    let mut world = World::new(2);
    world.ranks.iter_mut().for_each(|rank| rank.cpu = 5);
    world.train(0, 20, 100);
    world.ranks[1].look.state = State::Stopped;
    world.stand(0, waits("all_reduce", true));
    world.pass(LEAST_MS * 2);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
    world.ranks[1].look.state = State::Sleeps;
    world.train(20, 20, 100);
    assert_eq!(world.moves, [0, 1]);
    assert_eq!(world.found(), []);
}

/// The pause ends just before the stacks are read: they show what the ranks do now, and only rank 0 says anything.
#[test]
fn a_sign_after_the_question_answers_it() {
    let still = Look { state: State::Sleeps, cpu_ms: 100, io_bytes: 0, wakes: 0 };
    let looks: BTreeMap<u32, Look> = (0..3).map(|rank| (rank, still)).collect();
    let sleeps = Waits { place: "time.sleep(0.05)".to_owned(), ..Waits::default() };
    let waits: BTreeMap<u32, Waits> = (1..3).map(|rank| (rank, sleeps.clone())).collect();
    let ask = || {
        let mut detector = Detector::new(0, 0..3, true);
        for step in 0..20 {
            detector.sign(i64::try_from(step).unwrap() * 50, 0, Sign::Step(step));
        }
        let suspects = |change: &Change| matches!(change, Change::Suspect { .. });
        let mut now = 0;
        while !detector.look(now, &looks).iter().any(suspects) {
            now = detector.deadline().unwrap();
        }
        detector.answer(now + 100, waits.clone());
        let due = detector.deadline().unwrap();
        (detector, now, due)
    };
    let (mut detector, asked, due) = ask();
    detector.sign(asked + 150, 0, Sign::Step(20));
    assert_eq!(detector.look(due, &looks), []);
    let (mut detector, _, due) = ask();
    assert!(matches!(detector.look(due, &looks)[..], [Change::Found(_)]), "without it they hang");
}

/// The promise: within three steps, or 2 s, of the stop; a late answer of the helper is waited for, a stop is not.
#[test]
fn a_hang_is_said_in_time() {
    for (step_ms, reading_ms) in [(5, 60), (100, 60), (100, 400), (400, 300), (600, 400), (2_000, 400), (20_000, 300)] {
        for late in [0, step_ms / 2, step_ms - 1] {
            let mut world = World::new(3);
            world.reading_ms = reading_ms;
            world.train(0, 20, step_ms);
            // The ranks stop somewhere in the step after the last sign.
            world.pass(late);
            for rank in 0..3 {
                world.stand(rank, waits("barrier", rank != 1));
            }
            let stop = world.now_ms;
            let limit = LEAST_MS.max(STEPS * step_ms);
            world.pass(limit);
            let said = world.said_ms.first().map(|at| at - stop);
            assert!(said.is_some_and(|after| after <= limit - limit / 10), "{step_ms} {reading_ms} {late}: {said:?}");
            assert_eq!(world.found()[0], (1, Role::Culprit));
        }
    }
}

#[test]
fn a_stop_is_said_in_time_with_or_without_a_stack() {
    let cases = [(5, 50), (100, 50), (100, 10_000), (500, 50), (500, 10_000), (10_000, 10_000), (0, 10_000)];
    for ((step_ms, reading_ms), late) in cases.into_iter().flat_map(|case| [0, 10, 50, 90].map(|late| (case, late))) {
        let mut world = World::new(3);
        world.reading_ms = reading_ms;
        if step_ms > 0 {
            world.train(0, 20, step_ms);
        } else {
            // Nothing was ever said: the program is still beginning.
            world.pass(7_000);
        }
        // The rank stops somewhere in the step after the last sign.
        world.pass(step_ms * late / 100);
        world.ranks[1].look.state = State::Stopped;
        for rank in 0..3 {
            world.stand(rank, waits("barrier", rank != 1));
        }
        let stop = world.now_ms;
        world.pass(LEAST_MS);
        let said = world.said_ms.first().map(|at| at - stop);
        // Without a stack, once nothing can wait for it any more.
        let most = if reading_ms < 1_000 { 1_600 } else { 1_900 };
        assert!(said.is_some_and(|after| after <= most), "{step_ms} {reading_ms} {late}: {said:?}");
        assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim), (2, Role::Victim)]);
    }
}

#[test]
fn a_moments_stop_is_nothing() {
    let mut world = World::new(2);
    for round in 0..20 {
        world.train(round * 10, 10, 100);
        world.ranks[1].look.state = State::Stopped;
        world.pass(STOPPED_MS - 300);
        world.ranks[1].look.state = State::Sleeps;
    }
    assert_eq!(world.found(), []);
}

#[test]
fn a_loader_that_wakes_up_gets_on_and_one_that_does_not_hangs() {
    let mut world = World::new(2);
    world.train(0, 20, 50);
    world.stand(0, Waits { loader: true, ..waits("poll", false) });
    world.stand(1, waits("barrier", true));
    for _ in 0..100 {
        world.pass(100);
        world.ranks[0].look.wakes += 1;
    }
    assert_eq!(world.found(), []);
    world.pass(30_000);
    assert_eq!(world.found(), [(0, Role::Culprit), (1, Role::Victim)]);
}

/// Where nobody says anything: ranks that meet at the store and then read their data are quiet, those that come to it all the
/// time and then do not hang.
#[test]
fn the_store_tells_of_progress_only_where_it_is_used_all_the_time() {
    let mut world = World::new(2);
    for _ in 0..200 {
        world.pass(10);
        world.detector.traffic(world.now_ms);
    }
    world.stand(0, waits("sleep", false));
    world.stand(1, waits("sleep", false));
    world.pass(60_000);
    assert_eq!(world.found(), [], "they have just begun");
    world.ranks.iter_mut().for_each(|rank| rank.cpu = 500);
    for _ in 0..130 {
        world.pass(100);
        world.detector.traffic(world.now_ms);
    }
    world.stand(0, waits("sleep", false));
    world.stand(1, waits("barrier", true));
    world.pass(LEAST_MS);
    assert_eq!(world.found(), [(0, Role::Culprit), (1, Role::Victim)]);
}

/// A pause that a program makes again and again is a false alarm once.
#[test]
fn where_it_got_on_before_it_has_more_time() {
    let mut world = World::new(2);
    let mut alarms = Vec::new();
    for round in 0..4 {
        world.train(round * 100, 20, 50);
        world.stand(0, waits("sleep", false));
        world.stand(1, waits("barrier", true));
        world.pass(5_000);
        alarms.push(world.found().len());
        world.ranks.iter_mut().for_each(|rank| rank.cpu = 800);
        world.pass(1_000);
    }
    assert_eq!(alarms, [2, 0, 0, 0]);
    world.train(1_000, 20, 50);
    world.stand(0, waits("sleep", false));
    world.stand(1, waits("barrier", true));
    world.pass(13_000);
    assert_eq!(world.found(), [(0, Role::Culprit), (1, Role::Victim)], "not for ever");
}

/// Who waits for ranks that are elsewhere is told to whoever knows those, and to nobody else.
#[test]
fn waiting_for_ranks_elsewhere_is_known_and_not_said() {
    let mut world = World::new(2);
    world.detector = Detector::new(0, 0..2, false);
    world.train(0, 20, 50);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("all_reduce", true));
    world.pass(LEAST_MS);
    assert_eq!(world.found(), []);
    let roles: Vec<_> = (0..2).map(|rank| world.detector.standing(rank).map(|finding| finding.role)).collect();
    assert_eq!(roles, [Some(Role::Victim); 2]);
    world.ranks.iter_mut().for_each(|rank| rank.cpu = 500);
    world.pass(LOOK_AGAIN_MS * 2);
    assert_eq!(world.detector.standing(0), None);
}

/// Each rank says that it has started, and then only rank 0 goes on to tell of its steps, each of which holds a pause.
#[test]
fn lines_of_a_start_are_no_rhythm_of_what_follows() {
    let mut world = World::new(3);
    for _ in 0..4 {
        world.pass(300);
        (0..3).for_each(|rank| world.detector.sign(world.now_ms, rank, Sign::Life));
    }
    for step in 0..20 {
        world.pass(3_000);
        // It fetches something, and the others wait for that.
        for rank in 0..3 {
            world.stand(rank, waits("barrier", rank != 1));
        }
        world.ranks[1].waits.place = format!("recv {step}");
        world.pass(4_000);
        world.ranks.iter_mut().for_each(|rank| rank.cpu = 800);
        world.train(step, 1, 2_500);
    }
    assert_eq!(world.found(), []);
    for rank in 0..3 {
        world.stand(rank, waits("barrier", rank != 1));
    }
    world.pass(STEPS * 10_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim), (2, Role::Victim)]);
}

#[test]
fn who_works_on_without_lines_shows_nothing() {
    let mut world = World::new(1);
    for _ in 0..4 {
        world.pass(300);
        world.detector.sign(world.now_ms, 0, Sign::Life);
    }
    world.stand(0, waits("download", false));
    world.pass(EARLY_MS / 5 * 4 - 1_000);
    assert_eq!(world.found(), [], "a few lines at the start");
    for _ in 0..10 {
        world.ranks[0].cpu = 800;
        world.pass(7_000);
        world.stand(0, waits("recv", false));
        world.pass(60_000);
    }
    assert_eq!(world.found(), [], "long ago");
}

#[test]
fn after_a_few_lines_a_silence_may_be_longer() {
    let mut world = World::new(2);
    for _ in 0..8 {
        world.pass(500);
        world.detector.sign(world.now_ms, 0, Sign::Life);
    }
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(EARLY_MS);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
}

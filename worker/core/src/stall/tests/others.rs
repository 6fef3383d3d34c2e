//! Launchers whose own ranks show nothing ask what those of others do.

use std::collections::VecDeque;

use trainyard_proto::tempo::{Silence, Tempo, Tempos};

use super::*;

/// Several launchers, and what goes between them and the one that hears all. Each message takes a while.
pub(super) struct Fleet {
    pub(super) launchers: Vec<World>,
    hub: Tempos<usize>,
    latency_ms: i64,
    pulsed_ms: Vec<i64>,
    before: Vec<(bool, bool)>,
    told: VecDeque<(i64, usize, Option<Tempo>, bool)>,
    orders: VecDeque<(i64, Vec<usize>, Option<Silence>)>,
    /// Launchers that are stopped, or cut off.
    mute: Vec<usize>,
}

impl Fleet {
    /// Launchers of two ranks each.
    pub(super) fn new(launchers: usize, latency_ms: i64) -> Self {
        let world = || {
            let mut world = World::new(2);
            world.detector = Detector::new(0, 0..2, false);
            world
        };
        Self {
            launchers: (0..launchers).map(|_| world()).collect(),
            hub: Tempos::default(),
            latency_ms,
            pulsed_ms: vec![0; launchers],
            before: vec![(false, false); launchers],
            told: VecDeque::new(),
            orders: VecDeque::new(),
            mute: Vec::new(),
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.launchers[0].now_ms
    }

    pub(super) fn pass(&mut self, ms: i64) {
        let end = self.now_ms() + ms;
        while self.now_ms() < end {
            let slice = (end - self.now_ms()).min(10);
            for at in 0..self.launchers.len() {
                self.launchers[at].pass(slice);
                self.pulse(at);
            }
            let now_ms = self.now_ms();
            while let Some((_, at, tempo, still)) = self.told.pop_front_if(|(due, ..)| *due <= now_ms) {
                let news = self.hub.hear(now_ms, &at, tempo, still);
                self.orders.extend(news.map(|(to, silence)| (now_ms + self.latency_ms, to, silence)));
            }
            while let Some((_, to, silence)) = self.orders.pop_front_if(|(due, ..)| *due <= now_ms) {
                for at in to {
                    self.launchers[at].detector.others(now_ms, silence);
                }
            }
        }
    }

    fn pulse(&mut self, at: usize) {
        let (world, now_ms) = (&self.launchers[at], self.launchers[at].now_ms);
        let every = if world.detector.is_silence_news(now_ms) { 200 } else { 500 };
        let (waits, still) = (world.detector.waits(), world.detector.is_still());
        let is_news = waits != self.before[at].0 || (still != self.before[at].1 && world.detector.hears());
        if self.mute.contains(&at) || (now_ms - self.pulsed_ms[at] < every && !is_news) {
            return;
        }
        self.pulsed_ms[at] = now_ms;
        self.before[at] = (waits, still);
        self.told.push_back((now_ms + self.latency_ms, at, world.detector.tempo(now_ms), still));
    }

    /// Rank 0 of the first launcher tells of its steps.
    pub(super) fn train(&mut self, first: u64, steps: u64, step_ms: i64) {
        for step in first..first + steps {
            self.pass(step_ms);
            let now_ms = self.now_ms();
            self.launchers[0].detector.sign(now_ms, 0, Sign::Step(step));
        }
    }

    /// All wait for rank 1 of that launcher, which stands in something else.
    pub(super) fn hang(&mut self, culprit: usize) {
        for (at, world) in self.launchers.iter_mut().enumerate() {
            world.stand(0, waits("all_reduce", true));
            let guilty = at == culprit;
            world.stand(1, waits(if guilty { "fetch" } else { "all_reduce" }, !guilty));
        }
    }

    pub(super) fn go_on(&mut self) {
        self.launchers.iter_mut().for_each(|world| world.ranks.iter_mut().for_each(|rank| rank.cpu = 700));
    }

    /// Launcher, rank and role of all that was found.
    pub(super) fn found(&mut self) -> Vec<(usize, u32, Role)> {
        let found = |(at, world): (usize, &mut World)| {
            world.found().into_iter().map(move |(rank, role)| (at, rank, role)).collect::<Vec<_>>()
        };
        self.launchers.iter_mut().enumerate().flat_map(found).collect()
    }
}

/// What is to be found of launcher 1 where its rank 1 hangs.
const HANG: [(usize, u32, Role); 2] = [(1, 1, Role::Culprit), (1, 0, Role::Victim)];

#[test]
fn a_hang_among_ranks_that_say_nothing_is_said_in_time() {
    for (step_ms, latency_ms) in [(20, 0), (100, 20), (300, 50), (600, 5), (4_000, 100)] {
        let mut fleet = Fleet::new(3, latency_ms);
        fleet.train(0, 20, step_ms);
        fleet.hang(1);
        fleet.pass(LEAST_MS.max(step_ms * STEPS));
        assert_eq!(fleet.found(), HANG, "{step_ms} {latency_ms}");
        fleet.pass(60_000);
        assert_eq!(fleet.found(), [], "said once");
        // Who hears nothing more does not think that there is progress.
        fleet.mute = vec![0, 1, 2];
        fleet.pass(60_000);
        assert!(fleet.found().is_empty() && fleet.launchers[1].moves.is_empty());
        fleet.mute.clear();
        fleet.go_on();
        fleet.train(100, 40, 100);
        assert_eq!((fleet.found(), &fleet.launchers[1].moves[..]), (vec![], &[0, 1][..]));
        fleet.hang(1);
        // Where it got on before, it would have more time.
        fleet.launchers[1].stand(1, waits("load", false));
        fleet.pass(LEAST_MS * 3);
        assert_eq!(fleet.found(), HANG, "again");
    }
}

#[test]
fn while_one_that_shows_progress_computes_nobody_is_to_blame() {
    let mut fleet = Fleet::new(2, 10);
    fleet.train(0, 20, 100);
    // It evaluates, and says nothing of it; the others wait for a file, or in what is not known for a collective.
    fleet.launchers[1].stand(0, waits("sleep", false));
    fleet.launchers[1].stand(1, waits("futex", false));
    fleet.pass(60_000);
    assert_eq!(fleet.found(), []);
    fleet.train(20, 5, 100);
    let now_ms = fleet.now_ms();
    fleet.launchers[0].detector.phase(now_ms, 0, Phase::Evaluate);
    fleet.launchers[0].stand(0, waits("all_reduce", true));
    fleet.pass(60_000);
    assert_eq!(fleet.found(), [], "it says that it evaluates");
}

#[test]
fn what_is_not_heard_is_not_guessed() {
    // Of the launcher that knows, and of another one whose ranks tell of their steps: both may have got on.
    for mute in [0, 2] {
        let mut fleet = Fleet::new(3, 10);
        for step in 0..20 {
            fleet.train(step, 1, 100);
            let now_ms = fleet.now_ms();
            fleet.launchers[2].detector.sign(now_ms, 0, Sign::Step(step));
        }
        fleet.pass(700);
        fleet.mute = vec![mute];
        fleet.hang(1);
        fleet.pass(60_000);
        assert_eq!(fleet.found(), []);
        fleet.mute.clear();
        fleet.pass(LEAST_MS * 2);
        assert_eq!(fleet.found(), HANG);
    }
}

#[test]
fn a_few_lines_and_the_store_tell_nobody_elsewhere_of_progress() {
    let mut fleet = Fleet::new(2, 10);
    for line in 0..40 {
        fleet.pass(300);
        let now_ms = fleet.now_ms();
        if line < 4 {
            fleet.launchers[0].detector.sign(now_ms, 1, Sign::Life);
        }
        fleet.launchers[0].detector.traffic(now_ms);
    }
    assert_eq!(fleet.launchers[0].detector.tempo(fleet.now_ms()), None);
    fleet.launchers[1].stand(0, waits("sleep", false));
    fleet.pass(60_000);
    assert_eq!(fleet.found(), []);
}

#[test]
fn lines_that_go_on_tell_of_progress_where_nobody_tells_of_steps() {
    let mut fleet = Fleet::new(2, 10);
    for _ in 0..60 {
        fleet.pass(300);
        let now_ms = fleet.now_ms();
        fleet.launchers[0].detector.sign(now_ms, 0, Sign::Life);
    }
    fleet.hang(1);
    fleet.pass(LEAST_MS);
    assert_eq!(fleet.found(), HANG);
}

#[test]
fn steps_tell_more_than_the_store() {
    let mut fleet = Fleet::new(3, 10);
    // Launcher 1 serves the store, and something asks it all the time.
    for step in 0..200 {
        fleet.train(step, 1, 100);
        let now_ms = fleet.now_ms();
        fleet.launchers[1].detector.traffic(now_ms);
    }
    fleet.hang(1);
    for _ in 0..20 {
        fleet.pass(100);
        let now_ms = fleet.now_ms();
        fleet.launchers[1].detector.traffic(now_ms);
    }
    assert_eq!(fleet.found(), HANG);
}

#[test]
fn while_another_rank_anywhere_moves_nobody_is_to_blame() {
    // One beside the one that tells of steps, and one of a third launcher, as when it writes a checkpoint.
    for at in [0, 2] {
        let mut fleet = Fleet::new(3, 10);
        fleet.train(0, 20, 100);
        fleet.hang(1);
        fleet.launchers[at].ranks[1].cpu = 500;
        fleet.pass(60_000);
        assert_eq!(fleet.found(), [], "{at}");
        fleet.launchers[at].stand(1, waits("all_reduce", true));
        fleet.pass(60_000);
        assert_eq!(fleet.found(), HANG, "{at}");
    }
}

#[test]
fn steps_that_are_no_longer_told_do_not_make_every_wait_a_hang() {
    let mut fleet = Fleet::new(2, 10);
    fleet.train(0, 3, 100);
    for _ in 0..40 {
        // Longer steps, of which nobody tells: each waits for the other for a part of them.
        fleet.launchers[0].stand(0, waits("all_reduce", true));
        fleet.launchers[0].stand(1, waits("all_reduce", true));
        fleet.launchers[1].stand(0, waits("all_reduce", true));
        fleet.launchers[1].stand(1, waits("read", false));
        fleet.pass(1_000);
        fleet.go_on();
        fleet.pass(2_000);
    }
    assert_eq!(fleet.found(), []);
}

#[test]
fn who_has_long_steps_has_its_time() {
    let mut fleet = Fleet::new(3, 10);
    for step in 0..60 {
        fleet.train(step * 10, 10, 100);
        if step % 8 == 0 {
            let now_ms = fleet.now_ms();
            fleet.launchers[2].detector.sign(now_ms, 0, Sign::Step(step));
        }
    }
    fleet.hang(1);
    fleet.pass(15_000);
    assert_eq!(fleet.found(), []);
    fleet.pass(10_000);
    assert_eq!(fleet.found(), HANG);
}

#[test]
fn nobody_looks_often_while_nothing_is_heard() {
    for silent_ms in (0..3_000).step_by(7) {
        let mut world = World::new(2);
        world.detector = Detector::new(0, 0..2, false);
        world.stand(0, waits("all_reduce", true));
        world.pass(5_000);
        world.detector.others(world.now_ms, Some(Silence { silent_ms, usual_ms: 100, waits: false }));
        let (mut looks, end) = (0, world.now_ms + 10_000);
        while let Some(due) = world.due().filter(|due| *due <= end) {
            world.advance(due.max(world.now_ms));
            world.answer();
            if world.read.is_none() && world.detector.deadline().is_some_and(|due| due <= world.now_ms) {
                looks += 1;
                world.look();
            }
            world.glanced_ms = world.now_ms;
        }
        assert!(looks < 40, "{looks} looks in 10 s, told of {silent_ms} ms");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Ranks that do not move between steps are not said to hang, however long messages take, whatever those who show progress
    /// do between their steps; the moment one stands still, it is found.
    #[test]
    fn no_false_alarm_elsewhere(
        steps in prop::collection::vec((20_i64..5_000, any::<bool>()), 10..30),
        latency_ms in 0_i64..200,
    ) {
        let mut fleet = Fleet::new(3, latency_ms);
        fleet.train(0, 10, 100);
        for (step, (ms, computes)) in (10_u64..).zip(steps) {
            // What the quiet ones do takes less than the least silence that is judged, if all wait for them.
            let ms = if computes { ms } else { ms.min(1_100) };
            fleet.launchers[0].stand(1, waits("all_reduce", true));
            if !computes {
                fleet.launchers[0].stand(0, waits("all_reduce", true));
            }
            fleet.launchers[1].stand(0, waits("sleep", false));
            fleet.launchers[1].stand(1, waits("all_reduce", true));
            fleet.pass(ms);
            fleet.go_on();
            fleet.pass(10);
            fleet.train(step, 1, 10);
            prop_assert_eq!(fleet.found(), []);
        }
        fleet.train(1_000, 30, 100);
        fleet.hang(1);
        fleet.pass(LEAST_MS + 2 * latency_ms);
        prop_assert_eq!(fleet.found(), HANG);
    }
}

//! Launchers whose own ranks show nothing go by what others show.

use super::*;

/// A launcher whose rank 0 tells of its steps, and one whose ranks say nothing; what goes from one to the other takes a while.
struct Pair {
    loud: World,
    quiet: World,
    latency_ms: i64,
    pulsed_ms: i64,
    on_the_way: Vec<(i64, Tempo, bool)>,
    /// Whether messages are lost.
    cut: bool,
}

impl Pair {
    fn new(latency_ms: i64) -> Self {
        let world = || {
            let mut world = World::new(2);
            world.detector = Detector::new(0, 0..2, false);
            world
        };
        Self { loud: world(), quiet: world(), latency_ms, pulsed_ms: 0, on_the_way: Vec::new(), cut: false }
    }

    fn pass(&mut self, ms: i64) {
        let end = self.loud.now_ms + ms;
        while self.loud.now_ms < end {
            let slice = (end - self.loud.now_ms).min(10);
            self.loud.pass(slice);
            self.quiet.pass(slice);
            let now_ms = self.loud.now_ms;
            let every = if self.loud.detector.is_silence_news(now_ms) { 200 } else { 500 };
            if now_ms - self.pulsed_ms >= every {
                self.pulsed_ms = now_ms;
                if let Some(tempo) = self.loud.detector.tempo(now_ms).filter(|_| !self.cut) {
                    self.on_the_way.push((now_ms + self.latency_ms, tempo, self.loud.detector.pauses()));
                }
            }
            while let Some((_, tempo, paused)) = self.on_the_way.pop_if(|(due, ..)| *due <= now_ms) {
                self.quiet.detector.others(now_ms, tempo, paused);
            }
        }
    }

    fn train(&mut self, first: u64, steps: u64, step_ms: i64) {
        for step in first..first + steps {
            self.pass(step_ms);
            self.loud.detector.sign(self.loud.now_ms, 0, Sign::Step(step));
        }
    }

    /// All wait for that rank of the quiet launcher, which stands in something else.
    fn hang(&mut self, culprit: usize) {
        for rank in 0..2 {
            self.loud.stand(rank, waits("all_reduce", true));
            self.quiet.stand(rank, waits(if rank == culprit { "fetch" } else { "all_reduce" }, rank != culprit));
        }
    }
}

#[test]
fn a_hang_among_ranks_that_say_nothing_is_said_in_time() {
    for (step_ms, latency_ms) in [(20, 0), (100, 20), (300, 100), (600, 5), (4_000, 20)] {
        let mut pair = Pair::new(latency_ms);
        pair.train(0, 20, step_ms);
        pair.hang(1);
        pair.pass(LEAST_MS.max(step_ms * STEPS));
        assert_eq!(pair.quiet.found(), [(1, Role::Culprit), (0, Role::Victim)], "{step_ms} {latency_ms}");
        assert_eq!(pair.loud.found(), []);
        pair.pass(60_000);
        assert_eq!((pair.quiet.found(), &pair.quiet.moves[..]), (vec![], &[][..]), "said once");
        // Who hears nothing more does not think that there is progress.
        pair.cut = true;
        pair.pass(60_000);
        assert_eq!((pair.quiet.found(), &pair.quiet.moves[..]), (vec![], &[][..]));
    }
}

#[test]
fn a_silence_that_nobody_told_of_is_none() {
    let mut pair = Pair::new(10);
    pair.train(0, 20, 100);
    pair.cut = true;
    pair.quiet.stand(1, waits("fetch", false));
    pair.pass(600_000);
    assert_eq!(pair.quiet.found(), []);
    pair.hang(1);
    pair.cut = false;
    pair.pass(LEAST_MS);
    assert_eq!(pair.quiet.found(), [(1, Role::Culprit)]);
}

#[test]
fn a_pause_that_is_told_elsewhere_holds_here_too() {
    let mut pair = Pair::new(10);
    pair.train(0, 20, 100);
    pair.loud.detector.phase(pair.loud.now_ms, 0, Phase::Evaluate);
    pair.quiet.stand(0, waits("sleep", false));
    pair.quiet.stand(1, waits("sleep", false));
    pair.pass(60_000);
    assert_eq!(pair.quiet.found(), []);
    pair.loud.detector.phase(pair.loud.now_ms, 0, Phase::Train);
    pair.pass(LEAST_MS);
    assert_eq!(pair.quiet.found(), [(0, Role::Culprit), (1, Role::Culprit)]);
}

#[test]
fn who_says_something_is_judged_by_that() {
    let mut pair = Pair::new(10);
    pair.train(0, 20, 100);
    for step in 0..20 {
        pair.pass(5_000);
        pair.quiet.detector.sign(pair.quiet.now_ms, 0, Sign::Step(step));
    }
    pair.hang(1);
    pair.pass(10_000);
    assert_eq!(pair.quiet.found(), []);
    pair.pass(5_000);
    assert_eq!(pair.quiet.found(), [(1, Role::Culprit), (0, Role::Victim)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Ranks that do not move between steps are not said to hang, however long messages take, as long as steps are shorter
    /// than a silence may be.
    #[test]
    fn steps_elsewhere_are_heard_in_time(
        steps in prop::collection::vec(20_i64..900, 10..60),
        latency_ms in 0_i64..400,
        waiting in any::<bool>(),
    ) {
        let mut pair = Pair::new(latency_ms);
        pair.train(0, 10, 100);
        for (step, ms) in (10_u64..).zip(steps) {
            pair.quiet.stand(0, waits("sleep", false));
            pair.quiet.stand(1, waits("all_reduce", true));
            pair.pass(ms);
            if !waiting {
                pair.quiet.ranks.iter_mut().for_each(|rank| rank.cpu = 500);
                pair.pass(10);
            }
            pair.loud.detector.sign(pair.loud.now_ms, 0, Sign::Step(step));
            prop_assert_eq!(pair.quiet.found(), []);
        }
    }
}

//! Where the time of each rank goes: looks at what it does, gathered into windows of steps.
//!
//! The shell looks when [`Pace::deadline`] says so. Looks count only once the step in which they were made is done, and was no
//! longer than steps usually are: pauses for checkpoints and evaluations are no slowness of anybody. Who is slow is decided by
//! `trainyard_proto::pace`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainyard_proto::pace::{Doing, LOOKS, Window};
use trainyard_proto::tempo::Silence;

use super::rhythm::Rhythm;
use super::{Phase, STEPS, Sign};

/// Between two looks: at least this, and up to as much again as the second, so that they do not fall into step with the ranks.
const LOOK_MS: (i64, i64) = (100, 64);
/// Where nobody here tells of steps, looks count this much later: those elsewhere may have begun to do something else than
/// steps, and it takes a while until that is known here. Or later by as many of their steps as a step may take, up to the second.
const HOLD_MS: (i64, i64) = (1_500, 30_000);
/// Those elsewhere are silent for as long after it was told.
const TOLD_MS: i64 = 1_250;
/// Looks at one step at most: one that takes longer than ten minutes is remembered by its beginning.
const LOOKS_OF_A_STEP: u32 = 5_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    looks: u32,
    lock: u32,
    net: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tally {
    /// Of the step that is under way, and of those of the window.
    under_way: Count,
    taken: Count,
    /// The first and the last step that it told of in the window, and when.
    first: Option<(u64, i64)>,
    last: Option<(u64, i64)>,
    window: Option<Window>,
}

/// The ranks of one generation in one launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    ranks: BTreeMap<u32, Tally>,
    /// Whether all ranks of the world are here: then nothing counts before one of them tells of steps.
    whole: bool,
    /// Whose signs are the steps: the lowest rank that gives any.
    leader: Option<u32>,
    counts_steps: bool,
    rhythm: Rhythm,
    began_ms: i64,
    /// Steps in the window.
    steps: u32,
    windows: u64,
    due_ms: i64,
    seed: u32,
    /// Since when looks are held back, and for how long.
    held_ms: i64,
    hold_ms: i64,
    /// Until when those who tell of steps are known to do something else.
    paused_ms: Option<i64>,
}

impl Pace {
    /// For ranks that have just been started; `whole` if there are none elsewhere.
    #[must_use]
    pub fn new(now_ms: i64, ranks: impl IntoIterator<Item = u32>, whole: bool) -> Self {
        Self {
            ranks: ranks.into_iter().map(|rank| (rank, Tally::default())).collect(),
            whole,
            leader: None,
            counts_steps: false,
            rhythm: Rhythm::default(),
            began_ms: now_ms,
            steps: 0,
            windows: 0,
            due_ms: now_ms + LOOK_MS.0,
            seed: 1,
            held_ms: now_ms,
            hold_ms: HOLD_MS.0,
            paused_ms: None,
        }
    }

    /// When the next look is due. One rank alone waits for nobody.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        (!self.ranks.is_empty()).then_some(self.due_ms)
    }

    /// What the first threads of the ranks do now. Answers whether there are new windows.
    pub fn look(&mut self, now_ms: i64, doing: &BTreeMap<u32, Doing>) -> bool {
        // Any numbers without a pattern will do.
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.due_ms = now_ms + LOOK_MS.0 + i64::from(self.seed >> 16) % LOOK_MS.1;
        for (rank, doing) in doing {
            let Some(count) = self.ranks.get_mut(rank).map(|tally| &mut tally.under_way) else { continue };
            if count.looks < LOOKS_OF_A_STEP {
                count.looks += 1;
                count.lock += u32::from(*doing == Doing::Lock);
                count.net += u32::from(*doing == Doing::Net);
            }
        }
        // Ranks elsewhere may be the only ones that tell of steps.
        if self.leader.is_some() || self.whole {
            return false;
        }
        if self.paused_ms.is_some_and(|until| now_ms < until) {
            self.drop_step();
            self.held_ms = now_ms;
        }
        let taken = now_ms - self.held_ms >= self.hold_ms;
        if taken {
            self.held_ms = now_ms;
            self.take();
        }
        taken && self.close(now_ms)
    }

    /// Those elsewhere who tell of steps are silent, or no longer.
    pub fn others(&mut self, now_ms: i64, silence: Option<Silence>) {
        let Some(Silence { silent_ms, usual_ms, .. }) = silence else {
            self.paused_ms = None;
            return;
        };
        let step_ms = usual_ms.saturating_mul(STEPS);
        self.hold_ms = step_ms.clamp(HOLD_MS.0, HOLD_MS.1);
        if silent_ms > step_ms {
            self.paused_ms = Some(now_ms + TOLD_MS);
            self.drop_step();
            self.held_ms = now_ms;
        }
    }

    /// A rank gets on. Answers whether there are new windows.
    pub fn sign(&mut self, now_ms: i64, rank: u32, sign: Sign) -> bool {
        let Some(tally) = self.ranks.get_mut(&rank) else { return false };
        if let Sign::Step(step) = sign {
            if tally.last.is_some_and(|(last, _)| last == step) {
                return false;
            }
            if tally.last.is_none_or(|(last, _)| step < last) {
                // It counts from the beginning again.
                tally.first = Some((step, now_ms));
            }
            tally.last = Some((step, now_ms));
        }
        let is_step = matches!(sign, Sign::Step(_));
        if is_step && !self.counts_steps {
            (self.counts_steps, self.leader) = (true, None);
        }
        if (self.counts_steps && !is_step) || self.leader.is_some_and(|leader| leader < rank) {
            return false;
        }
        self.leader = Some(rank);
        let usual = self.rhythm.silence().map(|(last, usual)| (now_ms - last, usual));
        let counts = usual.is_some_and(|(took, usual)| took <= usual.saturating_mul(STEPS));
        self.rhythm.beat(now_ms);
        if counts {
            self.steps = self.steps.saturating_add(1);
            self.take();
        } else {
            self.drop_step();
        }
        self.close(now_ms)
    }

    /// A rank says that it does something else than steps, or goes back to them.
    pub fn phase(&mut self, now_ms: i64, _phase: Phase) {
        self.rhythm.pause(now_ms);
        self.drop_step();
    }

    /// A rank has ended.
    pub fn ended(&mut self, rank: u32) {
        self.ranks.remove(&rank);
        if self.leader == Some(rank) {
            self.leader = None;
        }
    }

    /// The newest window of a rank.
    #[must_use]
    pub fn window(&self, rank: u32) -> Option<Window> {
        self.ranks.get(&rank)?.window
    }

    fn take(&mut self) {
        for tally in self.ranks.values_mut() {
            let step = std::mem::take(&mut tally.under_way);
            tally.taken.looks += step.looks;
            tally.taken.lock += step.lock;
            tally.taken.net += step.net;
        }
    }

    fn drop_step(&mut self) {
        for tally in self.ranks.values_mut() {
            tally.under_way = Count::default();
        }
    }

    /// Ends the window if there are enough looks in it.
    fn close(&mut self, now_ms: i64) -> bool {
        if self.ranks.values().map(|tally| tally.taken.looks).max().is_none_or(|looks| looks < LOOKS) {
            return false;
        }
        self.windows += 1;
        let took_ms = (now_ms - self.began_ms).max(0).unsigned_abs();
        for tally in self.ranks.values_mut() {
            let Count { looks, lock, net } = std::mem::take(&mut tally.taken);
            let step_us = tally.first.zip(tally.last).and_then(|((first, since), (last, at))| {
                let steps = last.checked_sub(first).filter(|steps| *steps > 0)?;
                Some((at - since).max(0).unsigned_abs().saturating_mul(1_000) / steps)
            });
            tally.first = tally.last;
            let (number, steps) = (self.windows, self.steps);
            tally.window = Some(Window { number, looks, lock, net, steps, step_us, took_ms });
        }
        (self.began_ms, self.steps) = (now_ms, 0);
        true
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    /// Ranks that work for so many milliseconds of each step, and wait for the rest in a lock.
    struct World {
        pace: Pace,
        now_ms: i64,
        step: u64,
        works_ms: Vec<i64>,
        windows: u32,
    }

    impl World {
        fn new(works_ms: &[i64], whole: bool) -> Self {
            let pace = Pace::new(0, 0..u32::try_from(works_ms.len()).unwrap(), whole);
            Self { pace, now_ms: 0, step: 0, works_ms: works_ms.to_vec(), windows: 0 }
        }

        /// One step, with the looks that fall into it; rank 0 tells of it.
        fn step(&mut self, ms: i64, tells: bool) {
            let began = self.now_ms;
            while self.now_ms < began + ms {
                self.now_ms = self.pace.deadline().unwrap().min(began + ms);
                if self.pace.deadline().unwrap() <= self.now_ms {
                    let into = self.now_ms - began;
                    let doing = |works: &i64| if into <= *works { Doing::Works } else { Doing::Lock };
                    let doing = (0..).zip(self.works_ms.iter().map(doing)).collect();
                    self.windows += u32::from(self.pace.look(self.now_ms, &doing));
                }
            }
            self.step += 1;
            if tells {
                self.windows += u32::from(self.pace.sign(self.now_ms, 0, Sign::Step(self.step)));
            }
        }

        fn waits(&self, rank: u32) -> u32 {
            let window = self.pace.window(rank).unwrap();
            window.lock * 100 / window.looks
        }
    }

    #[test]
    fn looks_show_where_the_time_goes_however_short_the_steps_are() {
        for step_ms in [10, 100, 128, 1_000, 5_000] {
            let mut world = World::new(&[step_ms, step_ms / 4], true);
            while world.windows < 4 {
                world.step(step_ms, true);
            }
            assert!(world.waits(0) <= 5, "{step_ms}: {}", world.waits(0));
            assert!((60..=90).contains(&world.waits(1)), "{step_ms}: {}", world.waits(1));
            assert!(world.pace.window(1).unwrap().steps > 0);
            let told = world.pace.window(0).unwrap().step_us.unwrap();
            assert!(told.abs_diff(step_ms.unsigned_abs() * 1_000) * 10 < told, "{step_ms}: {told}");
        }
    }

    #[test]
    fn pauses_do_not_count() {
        let mut world = World::new(&[90, 85], true);
        for _ in 0..200 {
            for _ in 0..10 {
                world.step(100, true);
            }
            // Rank 0 evaluates, and the other one waits.
            world.works_ms = vec![5_000, 0];
            world.step(5_000, true);
            world.works_ms = vec![90, 85];
        }
        assert!(world.windows > 10 && world.waits(1) <= 30, "{}", world.waits(1));
    }

    #[test]
    fn nothing_counts_before_the_first_steps() {
        let mut world = World::new(&[60_000, 0], true);
        world.step(600_000, false);
        assert_eq!((world.windows, world.pace.window(0)), (0, None));
    }

    #[test]
    fn what_those_elsewhere_do_besides_steps_does_not_count_here() {
        let mut world = World::new(&[180, 180], false);
        for _ in 0..60 {
            for _ in 0..20 {
                world.step(200, false);
            }
            // Somebody elsewhere evaluates, and all wait; that is told after a while.
            world.works_ms = vec![0, 0];
            world.step(800, false);
            for told in 0..12 {
                let silent_ms = 800 + told * 200;
                let silence = Silence { silent_ms, usual_ms: 200, waits: false };
                world.pace.others(world.now_ms, Some(silence));
                world.step(200, false);
            }
            world.pace.others(world.now_ms, None);
            world.works_ms = vec![180, 180];
        }
        assert!(world.windows >= 20 && world.waits(0) <= 25, "{} {}", world.windows, world.waits(0));
    }

    #[test]
    fn where_nobody_tells_of_steps_those_elsewhere_may() {
        let mut world = World::new(&[50], false);
        world.step(60_000, false);
        assert!(world.windows >= 5);
        assert_eq!(world.pace.window(0).unwrap().steps, 0);
    }
}

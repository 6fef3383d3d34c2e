//! Who makes the others wait: stragglers among ranks that train together.
//!
//! Ranks that reduce gradients together all make the same number of steps; the slow one is seen by where their time goes. It
//! works while the others wait for it. So each launcher looks at the first thread of each of its ranks some eight times a
//! second, and tells now and then in how many looks it waited for something ([`Window`]). [`Stragglers`] compares the ranks of a
//! job:
//!
//! - P-1: what most ranks wait in (a lock, or the network) is where they wait for each other. A rank that waits elsewhere,
//!   for its loader of data for example, keeps them waiting.
//! - P-2: a rank is named when it works for most of the time, at least half as long again as the one in the middle of the
//!   others, and they lose a good part of their time by that, in three windows in a row: jitter, one evaluation and one
//!   checkpoint are no slowness.
//! - P-3: it is named until it was not much slower in three windows in a row.
//! - P-4: where ranks say themselves how many steps they make, and do not wait for each other, the time they take for one is
//!   compared in the same way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Looks that make a window: few enough for some windows in a minute, enough to tell a quarter from a half.
pub const LOOKS: u32 = 60;
/// Windows in a row that say the same.
const IN_A_ROW: u32 = 3;
/// As many times as long as the others, in hundredths: from the first on a rank is slow, below the second it no longer is.
const SLOW: (u32, u32) = (150, 125);
/// The part of the others' time that is lost, in hundredths: the same two.
const LOST: (u32, u32) = (25, 15);
/// Whom the others wait for works for most of the time.
const WORKS: u32 = 60;
/// What a rank does that seems to do nothing.
const LEAST: u32 = 5;
/// Nobody needs to know more exactly.
const MOST: u32 = 2_000;

/// What the first thread of a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Doing {
    /// It runs, or would if it had a CPU; it waits for a disk, a device or the time.
    Works,
    /// It waits for another thread (a futex): as a rank does in a collective of gloo.
    Lock,
    /// It waits for a descriptor (poll, epoll, select, recv): as a rank does in a collective over sockets, or for a loader.
    Net,
}

/// Where the time of one rank went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Grows with each window of a rank.
    pub number: u64,
    /// Looks in it.
    pub looks: u32,
    /// Those in which it was [`Doing::Lock`].
    pub lock: u32,
    /// Those in which it was [`Doing::Net`].
    pub net: u32,
    /// Steps in it that its launcher knows of.
    pub steps: u32,
    /// Microseconds that it took for a step, where it tells them itself.
    pub step_us: Option<u64>,
    /// Milliseconds that it spans.
    pub took_ms: u64,
}

impl Window {
    /// The part of the looks in which it did something else, in hundredths.
    fn works(&self, waits: Doing) -> u32 {
        let waiting = match waits {
            Doing::Works => 0,
            Doing::Lock => self.lock,
            Doing::Net => self.net,
        };
        100 - (waiting.min(self.looks) * 100 / self.looks.max(1))
    }
}

/// A rank that makes the others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Straggler {
    /// How long it takes for what the others do in 100.
    pub percent: u32,
    /// Since when.
    pub since_ms: i64,
}

impl Straggler {
    /// How many times as long as the others it takes, with one digit after the point.
    #[must_use]
    pub fn times(self) -> String {
        format!("{}.{}", self.percent / 100, self.percent % 100 / 10)
    }

    /// What people hear of a rank that makes the others wait.
    #[must_use]
    pub fn words(self, rank: u32, host: &str) -> String {
        let times = self.times();
        format!("rank {rank} on {host} makes the others wait: its steps take {times} times as long as theirs")
    }
}

/// What people hear of a rank that makes the others wait no longer.
#[must_use]
pub fn keeps_up(rank: u32, host: &str) -> String {
    format!("rank {rank} on {host} keeps up again")
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This rank makes the others wait.
    Slow(u32),
    /// It does so no longer.
    CaughtUp(u32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rank {
    window: Option<Window>,
    /// Whether the window has not been compared.
    fresh: bool,
    /// Windows in a row that say otherwise than what holds, and when the first one began.
    streak: u32,
    began_ms: i64,
    slow: Option<Straggler>,
}

/// The ranks of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stragglers {
    ranks: BTreeMap<u32, Rank>,
}

impl Stragglers {
    /// Of these ranks, all of the world.
    #[must_use]
    pub fn new(ranks: impl IntoIterator<Item = u32>) -> Self {
        Self { ranks: ranks.into_iter().map(|rank| (rank, Rank::default())).collect() }
    }

    /// Takes in a rank's newest window. When all ranks have one that was not compared before, they are.
    pub fn take(&mut self, now_ms: i64, rank: u32, window: Window) -> Vec<Change> {
        let Some(known) = self.ranks.get_mut(&rank) else { return Vec::new() };
        if window.looks == 0 || known.window.is_some_and(|before| before.number >= window.number) {
            return Vec::new();
        }
        (known.window, known.fresh) = (Some(window), true);
        // Before the first steps, ranks that wait for one that reads its data are not made to wait by its slowness.
        let steps = |rank: &Rank| rank.window.is_some_and(|window| window.steps > 0);
        if self.ranks.len() < 2 || self.ranks.values().any(|rank| !rank.fresh) || !self.ranks.values().any(steps) {
            return Vec::new();
        }
        self.compare(now_ms)
    }

    /// Who makes the others wait, by rank.
    pub fn slow(&self) -> impl Iterator<Item = (u32, Straggler)> {
        self.ranks.iter().filter_map(|(number, rank)| Some((*number, rank.slow?)))
    }

    fn compare(&mut self, now_ms: i64) -> Vec<Change> {
        let windows: Vec<(u32, Window)> = self.ranks.iter().filter_map(|(n, rank)| Some((*n, rank.window?))).collect();
        // P-1.
        let middle = |of: &dyn Fn(&Window) -> u32| median(windows.iter().map(|(_, window)| of(window)).collect());
        let waits = if middle(&|window| window.works(Doing::Lock)) <= middle(&|window| window.works(Doing::Net)) {
            Doing::Lock
        } else {
            Doing::Net
        };
        let mut changes = Vec::new();
        for (number, window) in &windows {
            let others = || windows.iter().filter(|(other, _)| other != number).map(|(_, window)| window);
            let own = window.works(waits);
            let typical = median(others().map(|window| window.works(waits)).collect());
            let by_work = own * 100 / typical.max(LEAST);
            let lost = own.saturating_sub(typical);
            // P-4.
            let steps: Option<Vec<u64>> = others().map(|window| window.step_us).collect();
            let typical_step = steps.map(median).filter(|typical| *typical > 0);
            let by_steps =
                window.step_us.zip(typical_step).map_or(0, |(own, typical)| own.saturating_mul(100) / typical);
            let by_steps = u32::try_from(by_steps).unwrap_or(MOST);
            let percent = by_work.max(by_steps).min(MOST);
            let is = |slow: u32, least: u32| by_steps >= slow || (own >= WORKS && by_work >= slow && lost >= least);
            let began_ms = now_ms.saturating_sub_unsigned(window.took_ms);
            let Some(rank) = self.ranks.get_mut(number) else { continue };
            rank.fresh = false;
            let says_slow = if rank.slow.is_some() { is(SLOW.1, LOST.1) } else { is(SLOW.0, LOST.0) };
            changes.extend(rank.hear(*number, says_slow, percent, began_ms));
        }
        changes
    }
}

impl Rank {
    /// P-2 and P-3.
    fn hear(&mut self, number: u32, says_slow: bool, percent: u32, began_ms: i64) -> Option<Change> {
        if says_slow == self.slow.is_some() {
            self.streak = 0;
            // It is told anew when it has changed by much.
            if let Some(slow) = self.slow.as_mut().filter(|slow| slow.percent.abs_diff(percent) * 4 > slow.percent) {
                slow.percent = percent;
            }
            return None;
        }
        if self.streak == 0 {
            self.began_ms = began_ms;
        }
        self.streak += 1;
        if self.streak < IN_A_ROW {
            return None;
        }
        self.streak = 0;
        self.slow = says_slow.then_some(Straggler { percent, since_ms: self.began_ms });
        Some(if says_slow { Change::Slow(number) } else { Change::CaughtUp(number) })
    }
}

/// The lower one of an even number. Zero of none.
fn median<T: Copy + Ord + Default>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 8 s of ranks that work for so many hundredths and else wait in a lock.
    struct World {
        now_ms: i64,
        number: u64,
        stragglers: Stragglers,
    }

    impl World {
        fn new(ranks: u32) -> Self {
            Self { now_ms: 0, number: 0, stragglers: Stragglers::new(0..ranks) }
        }

        fn windows(&mut self, windows: &[Window]) -> Vec<Change> {
            self.now_ms += 8_000;
            self.number += 1;
            let number = self.number;
            let take = |(rank, window): (u32, &Window)| {
                self.stragglers.take(self.now_ms, rank, Window { number, took_ms: 8_000, ..*window })
            };
            (0..).zip(windows).flat_map(take).collect()
        }

        fn work(&mut self, works: &[u32]) -> Vec<Change> {
            let windows: Vec<Window> = works.iter().map(|works| lock(*works)).collect();
            self.windows(&windows)
        }

        fn slow(&self) -> Vec<(u32, u32)> {
            self.stragglers.slow().map(|(rank, slow)| (rank, slow.percent)).collect()
        }
    }

    fn lock(works: u32) -> Window {
        Window { looks: 100, lock: 100 - works, steps: 9, ..Window::default() }
    }

    fn net(works: u32) -> Window {
        Window { looks: 100, net: 100 - works, steps: 9, ..Window::default() }
    }

    #[test]
    fn the_one_that_works_while_the_others_wait_is_named_after_three_windows() {
        let mut world = World::new(4);
        assert_eq!(world.work(&[90, 92, 88, 91]), []);
        assert_eq!(world.work(&[40, 42, 95, 41]), []);
        assert_eq!(world.work(&[44, 38, 96, 40]), []);
        assert_eq!(world.work(&[41, 40, 97, 40]), [Change::Slow(2)]);
        assert_eq!(world.slow(), [(2, 242)]);
        let since = world.stragglers.slow().next().map(|(_, slow)| slow.since_ms);
        assert_eq!(since, Some(8_000), "the beginning of the first window that said so");
        assert_eq!(world.work(&[45, 44, 97, 45]), []);
        for _ in 0..2 {
            assert_eq!(world.work(&[90, 90, 92, 91]), []);
        }
        assert_eq!(world.work(&[90, 90, 92, 91]), [Change::CaughtUp(2)]);
        assert_eq!(world.slow(), []);
    }

    #[test]
    fn a_loader_that_is_slow_makes_its_rank_the_straggler() {
        let mut world = World::new(3);
        for _ in 0..2 {
            assert_eq!(world.windows(&[lock(20), net(15), lock(22)]), []);
        }
        assert_eq!(world.windows(&[lock(20), net(15), lock(22)]), [Change::Slow(1)]);
    }

    #[test]
    fn jitter_and_single_pauses_name_nobody() {
        let mut world = World::new(2);
        for round in 0..50 {
            // One after the other is slow: none of them three times in a row.
            let slow = if round % 4 < 2 { [95, 30] } else { [30, 95] };
            assert_eq!(world.work(&slow), []);
        }
        for _ in 0..50 {
            assert_eq!(world.work(&[70, 60]), [], "a tenth of the time is not worth a word");
            assert_eq!(world.work(&[9, 4]), [], "who hardly works makes nobody wait");
        }
    }

    #[test]
    fn near_the_limit_it_does_not_flicker() {
        let mut world = World::new(3);
        let changes: Vec<Change> = (0..100).flat_map(|round| world.work(&[90, 55 + round % 6, 58])).collect();
        assert_eq!(changes, [Change::Slow(0)]);
    }

    #[test]
    fn ranks_that_do_not_wait_for_each_other_are_compared_by_their_steps() {
        let step = |step_us| Window { step_us: Some(step_us), ..lock(99) };
        let mut world = World::new(3);
        for _ in 0..2 {
            assert_eq!(world.windows(&[step(100), step(210), step(101)]), []);
        }
        assert_eq!(world.windows(&[step(100), step(210), step(101)]), [Change::Slow(1)]);
        assert_eq!(world.slow(), [(1, 210)]);
    }

    #[test]
    fn nobody_is_compared_with_windows_that_are_old() {
        let mut world = World::new(2);
        let mut late = Vec::new();
        for number in 1..20 {
            // Rank 0 evaluates: it has no windows while the other one has nothing but wait in them.
            late.extend(world.stragglers.take(number * 8_000, 1, Window { number: number.unsigned_abs(), ..lock(0) }));
        }
        late.extend(world.stragglers.take(200_000, 0, Window { number: 1, ..lock(90) }));
        late.extend(world.stragglers.take(200_000, 0, Window { number: 1, ..lock(90) }));
        assert_eq!(late, []);
        assert_eq!(World::new(1).work(&[100]), [], "alone");
        let mut world = World::new(2);
        let quiet = |works| Window { steps: 0, ..lock(works) };
        let changes: Vec<Change> = (0..9).flat_map(|_| world.windows(&[quiet(99), quiet(0)])).collect();
        assert_eq!(changes, [], "before the first steps");
    }
}

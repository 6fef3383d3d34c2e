//! When gangs that wait are expected to start.
//!
//! An estimate looks at one resource, the scarce one, and at the cluster as one pool: gangs start in the order of their turns as soon as enough of it is
//! free. It knows nothing of fragments, quota and topology, and so is rather early than late. A reservation says it exactly.

use super::answer::Line;
use super::decision::Estimate;
use super::ends::Ends;
use super::engine::{Engine, Member};
use super::timeline::FOREVER;

impl Engine<'_> {
    /// An estimate for each of these gangs, which wait, in this order.
    pub(super) fn estimates(&self, sequence: &[Line]) -> Vec<Option<Estimate>> {
        // Without a resource that is scarce nobody asks for any of it.
        let scarce = self.view.policy.scarce.map_or(usize::MAX, |scarce| scarce as usize);
        let total = self.tree.total.get(scarce).copied().unwrap_or(0);
        let asks: Vec<Option<i64>> = self.classes.classes.iter().map(|class| class.asks.get(scarce).copied()).collect();
        let asked = |one: &Line| asks[one.class].filter(|asked| *asked <= total && one.valid);
        let asked: Vec<Option<i64>> = sequence.iter().map(asked).collect();
        let longest = |at: usize| (sequence[at].ends_ms < FOREVER).then(|| sequence[at].ends_ms - self.now_ms);
        let expected = self.starts(scarce, &asked, |member| self.expected_end(member), |at| sequence[at].expected_ms);
        let latest = self.starts(scarce, &asked, |member| member.ends_ms, longest);
        let one = |((one, expected), latest): ((&Line, Option<i64>), Option<i64>)| {
            if let Some(held) = self.members[one.id].held.as_ref().filter(|_| one.holds) {
                let start = held.start_ms.max(self.now_ms);
                return Some(Estimate { expected_ms: start, latest_ms: held.promised.then_some(start) });
            }
            expected.map(|expected_ms| Estimate { expected_ms, latest_ms: latest.map(|at| at.max(expected_ms)) })
        };
        sequence.iter().zip(expected).zip(latest).map(one).collect()
    }

    /// When each gang of a sequence, which ask for so much, starts, if gangs that run end at `ends` and those of the sequence
    /// run for `run`.
    fn starts(
        &self,
        scarce: usize,
        sequence: &[Option<i64>],
        ends: impl Fn(&Member<'_>) -> i64,
        run: impl Fn(usize) -> Option<i64>,
    ) -> Vec<Option<i64>> {
        let used = |member: &Member<'_>| member.uses.get(scarce).copied().unwrap_or(0);
        let mut free = self.tree.total.get(scarce).copied().unwrap_or(0);
        let mut ending = Ends::new(self.now_ms);
        for member in self.running.iter().map(|id| &self.members[*id]) {
            free -= used(member);
            if ends(member) < FOREVER {
                ending.push(ends(member), used(member));
            }
        }
        let mut now = self.now_ms;
        let mut starts = vec![None; sequence.len()];
        for (at, asked) in sequence.iter().enumerate().filter_map(|(at, asked)| Some((at, (*asked)?))) {
            while free < asked {
                // The rest never has room.
                let Some((end, amount)) = ending.pop() else { return starts };
                now = now.max(end);
                free += amount;
            }
            starts[at] = Some(now);
            free -= asked;
            if let Some(run) = run(at) {
                ending.push(now.saturating_add(run), asked);
            }
        }
        starts
    }
}

//! When gangs that wait are expected to start.
//!
//! An estimate looks at one resource, the scarce one, and at the cluster as one pool: gangs start in the order of their turns as soon as enough of it is
//! free. It knows nothing of fragments, quota and topology, and so is rather early than late. A reservation says it exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::decision::Estimate;
use super::engine::{Engine, Member};
use super::timeline::FOREVER;

impl Engine<'_> {
    /// An estimate for each of these gangs, which wait, in this order.
    pub(super) fn estimates(&self, sequence: &[usize]) -> Vec<Option<Estimate>> {
        let expected = self.starts(sequence, &|member| self.expected_end(member), &|member| {
            member.gang.expected_ms.or(member.gang.run_limit_ms)
        });
        let latest = self.starts(sequence, &|member| member.ends_ms, &|member| member.gang.run_limit_ms);
        let one = |((id, expected), latest): ((&usize, Option<i64>), Option<i64>)| {
            if let Some(held) = self.members[*id].held.as_ref().filter(|_| self.order.holders.contains(id)) {
                let start = held.start_ms.max(self.now_ms);
                return Some(Estimate { expected_ms: start, latest_ms: held.promised.then_some(start) });
            }
            expected.map(|expected_ms| Estimate { expected_ms, latest_ms: latest.map(|at| at.max(expected_ms)) })
        };
        sequence.iter().zip(expected).zip(latest).map(one).collect()
    }

    /// When each gang starts, if gangs that run end at `ends` and the others run for `run`.
    fn starts(
        &self,
        sequence: &[usize],
        ends: &dyn Fn(&Member<'_>) -> i64,
        run: &dyn Fn(&Member<'_>) -> Option<i64>,
    ) -> Vec<Option<i64>> {
        let Some(scarce) =
            self.view.policy.scarce.map(|scarce| scarce as usize).filter(|at| *at < self.tree.total.len())
        else {
            return vec![None; sequence.len()];
        };
        let used = |member: &Member<'_>| member.uses.get(scarce).copied().unwrap_or(0);
        let mut free = self.tree.total[scarce];
        let mut ending: BinaryHeap<Reverse<(i64, i64)>> = BinaryHeap::new();
        for member in self.running.iter().map(|id| &self.members[*id]) {
            free -= used(member);
            if ends(member) < FOREVER {
                ending.push(Reverse((ends(member), used(member))));
            }
        }
        let mut now = self.now_ms;
        let mut starts = Vec::with_capacity(sequence.len());
        let mut stuck = false;
        for id in sequence {
            let member = &self.members[*id];
            let class = self.class(*id);
            let possible = |asked: &i64| *asked <= self.tree.total[scarce] && member.valid;
            let Some(asked) = class.asks.get(scarce).copied().filter(possible) else {
                starts.push(None);
                continue;
            };
            while free < asked && !stuck {
                match ending.pop() {
                    Some(Reverse((at, amount))) => {
                        now = now.max(at);
                        free += amount;
                    }
                    None => stuck = true,
                }
            }
            starts.push((!stuck).then_some(now));
            if stuck {
                continue;
            }
            free -= asked;
            if let Some(run) = run(member) {
                ending.push(Reverse((now.saturating_add(run), asked)));
            }
        }
        starts
    }
}

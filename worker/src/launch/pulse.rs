//! What is told of the ranks now and then: how far they are, and the spares. Nothing depends on it.

use std::collections::BTreeMap;

use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::{Pulse, RankPulse};

use super::run::Launch;

/// How often. People and hang detection look a few times a second at most, and 512 launchers send to one coordinator.
const EVERY_MS: i64 = 500;

/// What was last seen of the ranks of the present generation.
#[derive(Debug, Default)]
pub(super) struct Signs {
    of: BTreeMap<usize, Sign>,
    told_ms: i64,
}

/// The last sign of progress of one rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sign {
    pub(super) at_ms: i64,
    pub(super) step: Option<u64>,
}

impl Signs {
    /// A rank spoke, or did a step.
    pub(super) fn seen(&mut self, local_rank: usize, at_ms: i64, step: Option<u64>) {
        let sign = self.of.entry(local_rank).or_insert(Sign { at_ms, step });
        sign.at_ms = at_ms;
        sign.step = step.or(sign.step);
    }

    /// A generation begins, or a rank anew.
    pub(super) fn forget(&mut self) {
        self.of.clear();
    }
}

impl Launch<'_> {
    /// When the next pulse is due: only a coordinator hears it, and only while ranks run.
    pub(super) fn pulse_due_ms(&self) -> Option<i64> {
        let wanted = self.pod.rendezvous.is_some() && self.present.is_some() && !self.processes.is_empty();
        wanted.then_some(self.signs.told_ms + EVERY_MS)
    }

    /// Tells what the ranks do, if it is time.
    pub(super) fn beat(&mut self) {
        let now_ms = self.now_ms();
        let Some(part) = self.present.as_ref().map(|present| &present.part) else { return };
        if self.pulse_due_ms().is_none_or(|due| now_ms < due) {
            return;
        }
        let rank = |(local_rank, sign): (&usize, &Sign)| RankPulse {
            rank: u32::try_from(part.rank(*local_rank)).unwrap_or(u32::MAX),
            step: sign.step,
            silent_ms: u64::try_from(now_ms - sign.at_ms).unwrap_or_default(),
            ..RankPulse::default()
        };
        let ranks = self.signs.of.iter().map(rank).collect();
        let generation = part.generation;
        self.signs.told_ms = now_ms;
        let (spares, spare_memory_bytes) = self.warm.as_mut().map_or((0, 0), |warm| (warm.spares(), warm.memory()));
        let spares = u32::try_from(spares).unwrap_or(u32::MAX);
        self.link.say(now_ms, Said::Pulse(Pulse { generation, ranks, spares, spare_memory_bytes }));
    }
}

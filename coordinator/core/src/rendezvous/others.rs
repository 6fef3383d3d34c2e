//! How the ranks of all launchers get on, for those whose own show nothing. Nothing here decides.

use std::collections::BTreeMap;

use trainyard_proto::pace::Tempo;

use super::message::Output;
use super::view::Pulse;
use super::world::{Generation, MemberId};

/// A launcher of which nothing was heard for this long may know more than it has said.
const FRESH_MS: i64 = 1_250;
/// Between two messages to the same launcher, at least.
const EVERY_MS: i64 = 150;

/// What was heard of each launcher's ranks in one generation.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    heard: BTreeMap<MemberId, Heard>,
    told_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at_ms: i64,
    tempo: Option<Tempo>,
    paused: bool,
}

impl Heard {
    fn is_fresh(&self, now_ms: i64) -> bool {
        now_ms - self.at_ms <= FRESH_MS
    }
}

impl Others {
    /// Another generation begins.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes in a pulse. Answers what those are to be told whose own ranks show nothing, if that is news.
    pub(super) fn hear(&mut self, now_ms: i64, member: &MemberId, pulse: &Pulse) -> Option<Output> {
        let heard = Heard { at_ms: now_ms, tempo: pulse.tempo, paused: pulse.paused };
        self.heard.insert(member.clone(), heard);
        let is_early = self.told_ms.is_some_and(|told| now_ms - told < EVERY_MS);
        if pulse.tempo.is_none() || is_early {
            return None;
        }
        let fresh = || self.heard.iter().filter(|(_, heard)| heard.is_fresh(now_ms));
        let members: Vec<MemberId> =
            fresh().filter(|(_, heard)| heard.tempo.is_none()).map(|(member, _)| member.clone()).collect();
        if members.is_empty() {
            return None;
        }
        self.told_ms = Some(now_ms);
        let (tempo, paused) = (self.tempo(now_ms)?, fresh().any(|(_, heard)| heard.paused));
        Some(Output::Others { members, generation: Generation(pulse.generation), tempo, paused })
    }

    /// The last sign of all. There may have been another one since a launcher was heard: the silence is as long as was told
    /// by all of them.
    fn tempo(&self, now_ms: i64) -> Option<Tempo> {
        let told = || self.heard.values().filter_map(|heard| Some((heard, heard.tempo?)));
        let fresh = || told().filter(|(heard, _)| heard.is_fresh(now_ms));
        let known_until_ms = fresh().map(|(heard, _)| heard.at_ms).min()?;
        let sign = |(heard, tempo): (&Heard, Tempo)| (heard.at_ms.saturating_sub(tempo.silent_ms), tempo.usual_ms);
        let (last_ms, usual_ms) = fresh().map(sign).max_by_key(|(at_ms, _)| *at_ms)?;
        // Those that are not fresh count as well: the sum never shrinks.
        let signs = told().fold(0_u64, |sum, (_, tempo)| sum.wrapping_add(tempo.signs));
        Some(Tempo { signs, silent_ms: (known_until_ms - last_ms).max(0), usual_ms })
    }
}

//! The silence of other launchers' ranks, told to those whose own show nothing: often only rank 0 says anything.

use serde::{Deserialize, Serialize};
use trainyard_proto::tempo::{self, Silence, Tempo};

use super::rank::Rank;
use super::{Detector, Role};

/// Without a message for this long it is not known whether the others are still silent.
const FRESH_MS: i64 = 1_250;
/// Nor is it, for a judgement, without one for this long.
const SURE_MS: i64 = 750;
/// Who waits for others must have stood still for this part of the silence: programs make longer steps and pauses than those
/// that a rhythm tells of.
const STILL_PART: i64 = 4;

/// What was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Others {
    since_ms: i64,
    usual_ms: i64,
    waits: bool,
    heard_ms: i64,
    /// They got on since.
    over: bool,
}

impl Others {
    pub(super) fn hear(known: Option<Self>, now_ms: i64, silence: Silence) -> Self {
        let since_ms = now_ms - silence.silent_ms;
        // Until they are said to have got on it is one silence: the message that took the shortest way tells best when it began.
        let same = known.filter(|known| !known.over);
        let since_ms = same.map_or(since_ms, |known| known.since_ms.min(since_ms));
        Self { since_ms, usual_ms: silence.usual_ms, waits: silence.waits, heard_ms: now_ms, over: false }
    }

    /// They got on.
    pub(super) fn over(self, now_ms: i64) -> Self {
        Self { since_ms: now_ms, waits: false, heard_ms: now_ms, over: true, ..self }
    }

    /// The last sign, and how long a silence may be; `None` when too little was heard lately.
    pub(super) fn silence(&self, now_ms: i64) -> Option<(i64, i64)> {
        let is_known = now_ms - self.heard_ms <= FRESH_MS;
        is_known.then(|| (self.since_ms, tempo::limit(self.usual_ms)))
    }

    /// Whether they are known to wait.
    pub(super) fn wait(&self, now_ms: i64) -> bool {
        self.waits && now_ms - self.heard_ms <= SURE_MS
    }
}

impl Detector {
    /// How those ranks get on that show progress, for launchers whose own show nothing. Traffic at the store is none: it may be
    /// anybody's.
    #[must_use]
    pub fn tempo(&self, now_ms: i64) -> Option<Tempo> {
        let (steps, (last_ms, usual_ms)) = self.voice()?;
        Some(Tempo { steps, silent_ms: now_ms - last_ms, usual_ms, waits: self.waits() })
    }

    /// Whether all ranks here stand still and wait in a collective, for a rank elsewhere.
    #[must_use]
    pub fn waits(&self) -> bool {
        let waits = |rank: &Rank| {
            let finding = rank.found.as_ref().or(rank.quiet.as_ref());
            let silent_ms = self.patience(rank).map_or(0, |(since, _)| self.looked_ms - since);
            finding.is_some_and(|finding| finding.role == Role::Victim && finding.waits.collective)
                && rank.still.is_some_and(|(since, _)| self.looked_ms - since >= silent_ms / STILL_PART)
        };
        !self.is_paused() && !self.ranks.is_empty() && self.ranks.values().all(waits)
    }

    /// Whether no rank here was seen to move lately, or says that it does something else than steps.
    #[must_use]
    pub fn is_still(&self) -> bool {
        !self.is_paused() && self.none_moves()
    }

    /// Whether it is known that others are silent.
    #[must_use]
    pub fn hears(&self) -> bool {
        self.others.is_some_and(|others| others.silence(self.looked_ms).is_some())
    }

    /// Whether they have been silent for so long that others may soon be judged by it, but not for much longer.
    #[must_use]
    pub fn is_silence_news(&self, now_ms: i64) -> bool {
        self.voice().is_some_and(|(_, (last_ms, usual_ms))| {
            let (silent_ms, limit) = (now_ms - last_ms, tempo::limit(usual_ms));
            silent_ms >= limit / 5 * 2 && silent_ms < limit.saturating_mul(2)
        })
    }

    /// The last sign of those that show progress, and the longest usual time from one to the next; and whether these are steps:
    /// else they are lines that went on for a while.
    fn voice(&self) -> Option<(bool, (i64, i64))> {
        let all = |one: (i64, i64), other: (i64, i64)| (one.0.max(other.0), one.1.max(other.1));
        let steps = self.ranks.values().filter_map(|rank| rank.steps.silence()).reduce(all);
        let lines = || self.ranks.values().filter_map(Rank::steady_lines).reduce(all);
        steps.map(|steps| (true, steps)).or_else(|| Some((false, lines()?)))
    }

    /// The ranks of other launchers that show progress are silent for long, or no longer.
    pub fn others(&mut self, now_ms: i64, silence: Option<Silence>) {
        let waited = self.others.is_some_and(|others| others.wait(now_ms));
        self.others = match silence {
            Some(silence) => Some(Others::hear(self.others, now_ms, silence)),
            None => self.others.map(|others| others.over(now_ms)),
        };
        if !waited && self.others.is_some_and(|others| others.wait(now_ms)) {
            self.hurry = true;
        }
    }

    /// Whether a rank may be suspected now, as far as that depends on others.
    pub(super) fn is_others_time(&self, now_ms: i64, rank: &Rank, still_since: i64) -> bool {
        let Some(others) = self.others.filter(|_| !rank.is_apart() && self.here(rank).is_none()) else { return true };
        let Some((since_ms, _)) = others.silence(now_ms) else { return true };
        others.wait(now_ms) && now_ms - still_since >= (now_ms - since_ms) / STILL_PART
    }
}

//! The silence of other launchers' ranks, told to those whose own show nothing: often only rank 0 says anything.

use serde::{Deserialize, Serialize};
use trainyard_proto::tempo::{self, Silence, Tempo};

use super::rank::Rank;
use super::{Detector, Role, STEADY_MS};

/// Without a message for this long it is not known whether the others are still silent.
const FRESH_MS: i64 = 1_250;
/// Nor is it, for a judgement, without one for this long.
const SURE_MS: i64 = 750;
/// How much longer one message may take than another one.
const JITTER_MS: i64 = 500;
/// Into so many parts the last fifth of a limit is cut, to look whether those who are silent are known to wait.
const PARTS: i64 = 8;

/// What was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Others {
    since_ms: i64,
    usual_ms: i64,
    waits: bool,
    heard_ms: i64,
}

impl Others {
    pub(super) fn hear(known: Option<Self>, now_ms: i64, silence: Silence) -> Self {
        let since_ms = now_ms - silence.silent_ms;
        // Of one silence, the message that took the shortest way tells best when it began.
        let before = known.map(|known| known.since_ms).filter(|before| since_ms - before < JITTER_MS);
        let since_ms = before.map_or(since_ms, |before| before.min(since_ms));
        Self { since_ms, usual_ms: silence.usual_ms, waits: silence.waits, heard_ms: now_ms }
    }

    /// They got on.
    pub(super) fn over(self, now_ms: i64) -> Self {
        Self { since_ms: now_ms, waits: false, heard_ms: now_ms, ..self }
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
        let (steps, speakers) = self.speakers();
        let rhythms =
            || speakers.iter().filter_map(|rank| if steps { rank.steps.silence() } else { rank.life.silence() });
        let last_ms = rhythms().map(|(since, _)| since).max()?;
        let usual_ms = rhythms().map(|(_, usual)| usual).max()?;
        Some(Tempo { steps, silent_ms: now_ms - last_ms, usual_ms, waits: self.waits() })
    }

    /// Whether all of those stand still and wait in a collective, for a rank elsewhere.
    #[must_use]
    pub fn waits(&self) -> bool {
        let (_, speakers) = self.speakers();
        let standing = |rank: &&Rank| rank.found.as_ref().or(rank.quiet.as_ref()).map(|finding| finding.role);
        let wait = !speakers.is_empty() && speakers.iter().all(|rank| standing(rank) == Some(Role::Victim));
        wait && !self.found().any(|finding| finding.role == Role::Culprit)
    }

    /// Whether they have been silent for so long that others may soon be judged by it, but not for much longer.
    #[must_use]
    pub fn is_silence_news(&self, now_ms: i64) -> bool {
        self.tempo(now_ms).is_some_and(|tempo| {
            let limit = tempo::limit(tempo.usual_ms);
            tempo.silent_ms >= limit / 5 * 2 && tempo.silent_ms < limit.saturating_mul(2)
        })
    }

    /// Those that show progress, and whether by steps: else by lines that went on for a while.
    fn speakers(&self) -> (bool, Vec<&Rank>) {
        let steps: Vec<&Rank> = self.ranks.values().filter(|rank| rank.steps.silence().is_some()).collect();
        if steps.is_empty() {
            let lines = |rank: &&Rank| rank.life.silence().is_some() && rank.life.lasted_ms() >= STEADY_MS;
            return (false, self.ranks.values().filter(lines).collect());
        }
        (true, steps)
    }

    /// The ranks of other launchers that show progress are silent for long, or no longer.
    pub fn others(&mut self, now_ms: i64, silence: Option<Silence>) {
        self.others = match silence {
            Some(silence) => Some(Others::hear(self.others, now_ms, silence)),
            None => self.others.map(|others| others.over(now_ms)),
        };
    }

    /// Whether a rank is judged by what others show.
    pub(super) fn goes_by_others(&self, rank: &Rank) -> bool {
        let knows = self.others.and_then(|others| others.silence(self.looked_ms)).is_some();
        knows && rank.apart_ms.is_none() && self.here(rank).is_none()
    }

    /// A judgement by what others show is put off until these are known to wait, for as long as a silence may be.
    pub(super) fn wait_for_others(&mut self, now_ms: i64) {
        let Some((since_ms, limit)) = self.others.and_then(|others| others.silence(now_ms)) else { return };
        let is_open = self.others.is_some_and(|others| !others.wait(now_ms)) && now_ms < since_ms + limit;
        let mut asked = self.ranks.values().filter(|rank| rank.suspected_ms.is_some());
        let by_others = asked.all(|rank| rank.stopped_ms.is_none() && self.goes_by_others(rank));
        if let Some(answer) = self.answer.as_mut().filter(|answer| answer.due_ms <= now_ms)
            && is_open
            && by_others
        {
            answer.due_ms = now_ms + (limit / 5 / PARTS).max(1);
        }
    }
}

//! How ranks get on, told from launcher to launcher: often only rank 0 says anything, and ranks of other launchers that say
//! nothing are judged by that.
//!
//! A launcher tells its [`Tempo`]; whoever hears all of them ([`Tempos`]) tells a [`Silence`] to those that have none. That
//! others are silent is no reason to suspect anybody: they may compute. Only where all that would tell of progress stand still
//! themselves and wait in a collective, and nobody else moves, do they wait for a rank elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Silence is not long before this, however short the steps are, in milliseconds.
pub const LEAST_MS: i64 = 2_000;
/// How many usual steps of silence are long.
pub const STEPS: i64 = 3;

/// A launcher of which nothing was heard for this long may know more than it has said.
const FRESH_MS: i64 = 1_250;
/// Between two messages that say the same, at least.
const EVERY_MS: i64 = 150;

/// How those ranks of a launcher get on that show progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tempo {
    /// Whether they tell of steps; else they write lines, now as before.
    pub steps: bool,
    /// How long ago the last sign of any of them was, when this was said, in milliseconds.
    pub silent_ms: i64,
    /// What usually lies between one sign and the next, in milliseconds.
    pub usual_ms: i64,
    /// Whether all ranks of their launcher stand still in a collective.
    pub waits: bool,
}

/// That all ranks that show progress are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// For how long, when this was said, in milliseconds.
    pub silent_ms: i64,
    /// The longest time that usually lies between one sign of a rank and the next, in milliseconds.
    pub usual_ms: i64,
    /// Whether all of them wait for a rank elsewhere, and no rank of any launcher moves.
    pub waits: bool,
}

/// What is to be told to whom; `None` when the silence is over.
pub type News<K> = (Vec<K>, Option<Silence>);

/// How long a silence may be, by the usual time from one sign to the next.
#[must_use]
pub const fn limit(usual_ms: i64) -> i64 {
    let long = usual_ms.saturating_mul(STEPS);
    if long < LEAST_MS { LEAST_MS } else { long }
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at_ms: i64,
    tempo: Option<Tempo>,
    still: bool,
}

enum State {
    Silent(Silence),
    GoesOn,
    /// Somebody was not heard of lately.
    Unknown,
}

/// What was heard of all launchers in one generation.
#[derive(Clone, Debug)]
pub struct Tempos<K> {
    heard: BTreeMap<K, Heard>,
    told: Option<(i64, Silence)>,
}

impl<K> Default for Tempos<K> {
    fn default() -> Self {
        Self { heard: BTreeMap::new(), told: None }
    }
}

impl<K: Ord + Clone> Tempos<K> {
    /// Takes in what a launcher tells: how those of its ranks get on that show progress, and whether none of its ranks was seen
    /// to move. Answers what those are to hear whose ranks show nothing, if that is news.
    pub fn hear(&mut self, now_ms: i64, who: &K, tempo: Option<Tempo>, still: bool) -> Option<News<K>> {
        self.heard.insert(who.clone(), Heard { at_ms: now_ms, tempo, still });
        let silence = match self.state(now_ms) {
            State::Silent(silence) => Some(silence),
            State::GoesOn => None,
            State::Unknown => return None,
        };
        let is_news = match (&self.told, &silence) {
            (None, None) => false,
            (Some((told_ms, told)), Some(silence)) => {
                told.waits != silence.waits || !(0..EVERY_MS).contains(&(now_ms - told_ms))
            }
            (Some(_), None) | (None, Some(_)) => true,
        };
        if !is_news {
            return None;
        }
        self.told = silence.map(|silence| (now_ms, silence));
        let quiet = self.heard.iter().filter(|(_, heard)| heard.tempo.is_none() && heard.is_fresh(now_ms));
        let quiet: Vec<K> = quiet.map(|(who, _)| who.clone()).collect();
        (!quiet.is_empty()).then_some((quiet, silence))
    }

    /// The ranks of a launcher have ended: nobody waits for what it would tell.
    pub fn ended(&mut self, who: &K) {
        self.heard.remove(who);
    }

    /// Whether all are silent whose progress tells most: of steps, where any rank tells of them, because programs that hang may
    /// still write lines. Of whom nothing was heard lately, nothing is known.
    fn state(&self, now_ms: i64) -> State {
        let told = || self.heard.values().filter_map(|heard| Some((*heard, heard.tempo?)));
        let steps = told().any(|(_, tempo)| tempo.steps);
        let mut all = Silence { silent_ms: i64::MAX, usual_ms: 0, waits: true };
        let (mut told_ms, mut speakers) = (i64::MAX, 0);
        for (heard, tempo) in told().filter(|(_, tempo)| tempo.steps == steps) {
            if !heard.is_fresh(now_ms) {
                return State::Unknown;
            }
            speakers += 1;
            told_ms = told_ms.min(tempo.silent_ms);
            all.silent_ms = all.silent_ms.min(tempo.silent_ms.saturating_add(now_ms - heard.at_ms));
            all.usual_ms = all.usual_ms.max(tempo.usual_ms);
            all.waits &= tempo.waits;
        }
        // Before that nobody looks at anything.
        if speakers == 0 || told_ms < limit(all.usual_ms) / 5 * 2 {
            return State::GoesOn;
        }
        all.waits &= self.heard.values().all(|heard| heard.still && heard.is_fresh(now_ms));
        State::Silent(all)
    }
}

impl Heard {
    fn is_fresh(&self, now_ms: i64) -> bool {
        (0..=FRESH_MS).contains(&(now_ms - self.at_ms))
    }
}

#[cfg(feature = "grpc")]
mod wire {
    use super::{Silence, Tempo};
    use crate::rendezvous;

    /// Times at most, in milliseconds: no sum of a few overflows.
    const MAX_MS: i64 = i64::MAX / 16;

    fn of_wire(ms: u64) -> i64 {
        i64::try_from(ms).unwrap_or(MAX_MS).min(MAX_MS)
    }

    fn to_wire(ms: i64) -> u64 {
        ms.max(0).unsigned_abs()
    }

    impl From<rendezvous::Tempo> for Tempo {
        fn from(tempo: rendezvous::Tempo) -> Self {
            let rendezvous::Tempo { steps, silent_ms, usual_ms, waits } = tempo;
            Self { steps, silent_ms: of_wire(silent_ms), usual_ms: of_wire(usual_ms), waits }
        }
    }

    impl From<Tempo> for rendezvous::Tempo {
        fn from(tempo: Tempo) -> Self {
            let Tempo { steps, silent_ms, usual_ms, waits } = tempo;
            Self { steps, silent_ms: to_wire(silent_ms), usual_ms: to_wire(usual_ms), waits }
        }
    }

    impl From<rendezvous::Silence> for Silence {
        fn from(silence: rendezvous::Silence) -> Self {
            let rendezvous::Silence { silent_ms, usual_ms, waits } = silence;
            Self { silent_ms: of_wire(silent_ms), usual_ms: of_wire(usual_ms), waits }
        }
    }

    impl From<Silence> for rendezvous::Silence {
        fn from(silence: Silence) -> Self {
            let Silence { silent_ms, usual_ms, waits } = silence;
            Self { silent_ms: to_wire(silent_ms), usual_ms: to_wire(usual_ms), waits }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(silent_ms: i64, usual_ms: i64, waits: bool) -> Option<Tempo> {
        Some(Tempo { steps: true, silent_ms, usual_ms, waits })
    }

    fn lines(silent_ms: i64, waits: bool) -> Option<Tempo> {
        Some(Tempo { steps: false, silent_ms, usual_ms: 100, waits })
    }

    fn told(silent_ms: i64, usual_ms: i64, waits: bool) -> Option<News<&'static str>> {
        Some((vec!["quiet"], Some(Silence { silent_ms, usual_ms, waits })))
    }

    fn told_to(who: &'static str, silent_ms: i64, waits: bool) -> Option<News<&'static str>> {
        Some((vec![who], Some(Silence { silent_ms, usual_ms: 100, waits })))
    }

    #[test]
    fn the_quiet_hear_of_a_long_silence_and_of_its_end() {
        let mut all = Tempos::default();
        assert_eq!(all.hear(0, &"quiet", None, true), None);
        assert_eq!(all.hear(0, &"a", steps(700, 100, false), true), None, "it is not long");
        assert_eq!(all.hear(200, &"a", steps(900, 100, false), true), told(900, 100, false));
        assert_eq!(all.hear(300, &"a", steps(1_000, 100, false), true), None, "not too often");
        assert_eq!(all.hear(310, &"a", steps(1_010, 100, true), true), told(1_010, 100, true), "that is news");
        assert_eq!(all.hear(500, &"quiet", None, true), told(1_200, 100, true), "what is known is older by now");
        assert_eq!(all.hear(700, &"a", steps(10, 100, false), true), Some((vec!["quiet"], None)));
        assert_eq!(all.hear(900, &"a", steps(10, 100, false), true), None, "said once");
    }

    #[test]
    fn who_was_not_heard_of_may_have_got_on() {
        let mut all = Tempos::default();
        all.hear(0, &"late", steps(100, 100, false), true);
        all.hear(1_000, &"quiet", None, true);
        assert_eq!(all.hear(1_300, &"a", steps(60_000, 100, true), true), None);
        assert_eq!(all.hear(1_400, &"late", steps(1_500, 100, true), true), told(1_500, 100, true));
        // Who is done is not waited for.
        all.hear(2_800, &"quiet", None, true);
        assert_eq!(all.hear(2_900, &"a", steps(61_600, 100, true), true), None);
        all.ended(&"late");
        assert_eq!(all.hear(3_000, &"a", steps(61_700, 100, true), true), told(61_700, 100, true));
        // A clock that was set back says nothing of anybody.
        assert_eq!(all.hear(-60_000, &"a", steps(61_700, 100, true), true), None, "the quiet were heard in the future");
    }

    #[test]
    fn all_must_wait_and_the_slowest_has_its_time() {
        let mut all = Tempos::default();
        all.hear(0, &"quiet", None, true);
        all.hear(0, &"slow", steps(4_000, 8_000, false), true);
        assert_eq!(all.hear(10, &"a", steps(3_000, 100, true), true), None, "24 s are long for one of them");
        all.hear(20, &"slow", steps(20_000, 8_000, false), true);
        assert_eq!(all.hear(300, &"a", steps(19_000, 100, true), true), told(19_000, 8_000, false), "one computes");
        assert_eq!(all.hear(310, &"slow", steps(20_300, 8_000, true), true), told(19_010, 8_000, true));
    }

    #[test]
    fn while_a_rank_moves_anywhere_nobody_is_waited_for() {
        let mut all = Tempos::default();
        all.hear(0, &"quiet", None, false);
        assert_eq!(all.hear(10, &"a", steps(3_000, 100, true), true), told(3_000, 100, false));
        assert_eq!(all.hear(20, &"quiet", None, true), told(3_010, 100, true), "now it stands still, too");
        // Of whom nothing was heard lately, it is not known.
        all.hear(1_400, &"a", steps(4_390, 100, true), true);
        assert_eq!(all.hear(1_600, &"a", steps(4_590, 100, true), true), None, "the quiet one is not there to hear it");
        assert_eq!(all.hear(1_800, &"other", None, true), told_to("other", 4_790, false));
    }

    #[test]
    fn steps_tell_more_than_lines() {
        let mut all = Tempos::default();
        all.hear(0, &"quiet", None, true);
        all.hear(0, &"beats", lines(10, false), true);
        assert_eq!(all.hear(10, &"a", steps(3_000, 100, true), true), told(3_000, 100, true));
        let mut all = Tempos::default();
        all.hear(0, &"quiet", None, true);
        all.hear(0, &"beats", lines(10, false), true);
        assert_eq!(all.hear(10, &"a", lines(3_000, true), true), None);
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let mut all = Tempos::default();
        all.hear(0, &"quiet", None, true);
        for ms in [i64::MIN, -1, i64::MAX] {
            all.hear(i64::MAX / 2, &"a", steps(ms, ms, true), true);
            all.hear(0, &"quiet", None, true);
        }
    }
}

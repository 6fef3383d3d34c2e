//! One rank: what was seen of it, and whether it moves.

use serde::{Deserialize, Serialize};
use trainyard_proto::tempo::limit;

use super::rhythm::Rhythm;
use super::{EARLY_MS, Finding, Look, Phase, STEADY_MS, STEPS, STOPPED_MS, State};

/// A process moves if it uses more than this part of a CPU: what waits for others is well below, what computes above.
const CPU_PERCENT: i64 = 2;
/// What is less than this is no movement, however short the time was.
const CPU_LEAST_MS: i64 = 5;
/// Or if it reads and writes more than this: more than heartbeats, less than any loading of data.
const BYTES_PER_SECOND: i64 = 16 * 1024;
const BYTES: i64 = 4 * 1024;
/// What moves somewhere in as long a time may have worked for all of it.
const WORK_MS: i64 = 900;
/// Processes of a loader that wake up more often than once in this time do something.
const WAKE_MS: i64 = 500;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rank {
    /// Of the steps that it tells, and of all signs.
    pub(super) steps: Rhythm,
    pub(super) life: Rhythm,
    pub(super) phase: Phase,
    /// What was seen last, and when.
    pub(super) look: Option<(i64, Look)>,
    /// Since when nothing has moved, and what was seen then; `None` when the last look saw movement, or there was none.
    pub(super) still: Option<(i64, Look)>,
    /// When it was last seen to work: to move from one look to the next and again to the one after, or from the first of a silence.
    pub(super) moved_ms: Option<i64>,
    /// Since when it is stopped.
    pub(super) stopped_ms: Option<i64>,
    /// When the processes that it started were last seen to wake up often.
    pub(super) woke_ms: Option<i64>,
    /// When a stack was asked for in this silence.
    pub(super) suspected_ms: Option<i64>,
    /// Where it stood when its stack was read last, and when that was.
    pub(super) place: Option<(i64, String)>,
    /// Since when others have joined their generation, and this one has not.
    pub(super) apart_ms: Option<i64>,
    pub(super) found: Option<Finding>,
    /// It waits for ranks that are elsewhere: whoever knows those can tell more.
    pub(super) quiet: Option<Finding>,
}

impl Rank {
    /// The last sign, and the usual time from one to the next, of what tells most: of its steps where it tells them, because
    /// programs that hang may still write lines.
    pub(super) fn silence(&self) -> Option<(i64, i64)> {
        self.steps.silence().or_else(|| self.lines())
    }

    /// The same of its lines. Those that ended long ago, while it worked on, tell nothing any more.
    fn lines(&self) -> Option<(i64, i64)> {
        let (since, usual) = self.life.silence()?;
        let worked_ms = self.moved_ms.map_or(0, |moved| moved - since);
        let known_ms = self.life.lasted_ms().max(self.life.longest_gap_ms());
        let over = worked_ms > limit(usual) && worked_ms > known_ms.saturating_mul(STEPS);
        (!over).then_some((since, usual))
    }

    /// Of its lines, once they have gone on for a while: a program that starts writes some, too.
    pub(super) fn steady_lines(&self) -> Option<(i64, i64)> {
        self.lines().filter(|_| self.life.lasted_ms() >= STEADY_MS)
    }

    /// The last line, and how long a silence may be of lines that have not gone on for long, or that come in bursts.
    pub(super) fn early_lines(&self) -> Option<(i64, i64)> {
        let (since, usual) = self.lines()?;
        Some((since, limit(usual).max(EARLY_MS).max(limit(self.life.longest_gap_ms()))))
    }

    /// Whether others wait for it to join them. One that is heard of all the time is judged by that.
    pub(super) fn is_apart(&self) -> bool {
        self.apart_ms.is_some() && self.steps.silence().is_none() && self.steady_lines().is_none()
    }

    /// What comes next is measured from now.
    pub(super) fn pause(&mut self, now_ms: i64) {
        self.steps.pause(now_ms);
        self.life.pause(now_ms);
        self.still = None;
        self.suspected_ms = None;
    }

    /// Since when it stands in a silence, as far as was seen: that of a rank that worked began with the end of its work.
    pub(super) fn stands_since(&self, silent_since_ms: i64) -> i64 {
        self.moved_ms.map_or(silent_since_ms, |moved| moved.max(silent_since_ms))
    }

    /// Notes where it stands in a silence that began at `since_ms`. It may have needed only a moment's work to get there.
    pub(super) fn stands_in(&mut self, now_ms: i64, since_ms: i64, place: &str) {
        let before = self.place.replace((now_ms, place.to_owned()));
        if before.is_some_and(|(at, before)| at >= since_ms && before != place) {
            self.moved_ms = self.moved_ms.max(self.still.map(|(since, _)| since));
        }
    }

    /// Notes since when it is stopped.
    pub(super) fn note_stop(&mut self, now_ms: i64, state: State) {
        if state == State::Stopped {
            self.stopped_ms.get_or_insert(now_ms);
        } else {
            self.stopped_ms = None;
        }
    }

    pub(super) fn is_stopped_for(&self, now_ms: i64) -> bool {
        self.stopped_ms.is_some_and(|since| now_ms - since >= STOPPED_MS)
    }

    /// Takes in a look. What was seen before the silence began, at `since_ms`, is no part of it: a short movement would drown
    /// in the time between two looks that are far apart.
    pub(super) fn compare(&mut self, now_ms: i64, since_ms: Option<i64>, look: Look) {
        self.note_stop(now_ms, look.state);
        let before = self.look.replace((now_ms, look));
        if let Some((at, before)) = before {
            let wakes = i64::try_from(look.wakes.saturating_sub(before.wakes)).unwrap_or(i64::MAX);
            if wakes > 0 && wakes.saturating_mul(WAKE_MS) >= now_ms - at {
                self.woke_ms = Some(now_ms);
            }
        }
        let is_of_silence = |(at, _): &(i64, Look)| since_ms.is_none_or(|since| *at >= since);
        let before = before.filter(is_of_silence);
        self.still = self.still.filter(is_of_silence);
        // A moment's work of some thread, in the midst of a rest, is none of the rank's.
        let rested = self.still.is_some() && before.is_none_or(|(at, _)| now_ms - at < WORK_MS);
        let still = look.state == State::Stopped
            || (look.state != State::Runs
                && [before, self.still].into_iter().flatten().all(|past| !moved(past, now_ms, look)));
        let stopped = look.state == State::Stopped && before.is_none_or(|(_, before)| before.state != State::Stopped);
        if stopped {
            // What it did before the stop is no part of it.
            self.still = Some((now_ms, look));
        } else if !still {
            self.still = None;
            if !rested {
                self.moved_ms = Some(now_ms);
            }
        } else if self.still.is_none() {
            // Before the first look nothing is known.
            self.still = before;
        }
    }
}

/// Whether more was done since a look than what waits does.
fn moved((at, before): (i64, Look), now_ms: i64, look: Look) -> bool {
    let ms = (now_ms - at).max(0);
    let spent = |now: u64, then: u64| i64::try_from(now.saturating_sub(then)).unwrap_or(i64::MAX);
    // Whoever came back from a disk got on.
    let came_back = before.state == State::Blocked && look.state != State::Blocked;
    came_back
        || spent(look.cpu_ms, before.cpu_ms) > (ms.saturating_mul(CPU_PERCENT) / 100).max(CPU_LEAST_MS)
        || spent(look.io_bytes, before.io_bytes) > BYTES.saturating_add(ms.saturating_mul(BYTES_PER_SECOND) / 1_000)
}

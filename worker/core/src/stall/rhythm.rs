//! How long a rank usually takes from one sign of progress to the next.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use trainyard_proto::tempo::limit;

use super::LEAST_MS;

/// Intervals remembered: enough for a steady median, few enough to follow a change of pace.
const INTERVALS: usize = 15;
/// Signs after which there is a rhythm. The first interval holds the compilation and loading of data.
const ENOUGH: usize = 2;
/// Signs closer together than this are one.
const TOGETHER_MS: i64 = 5;
/// Lines closer together than this are one page, which is no rhythm; where lines go on and on like that, it is one.
const PAGE_MS: i64 = 100;

/// The beats of one rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rhythm {
    last_ms: Option<i64>,
    /// The beat before belongs to a pause: the interval that follows is no step.
    paused: bool,
    step: Option<u64>,
    /// When the page of lines began.
    page_ms: Option<i64>,
    intervals: VecDeque<i64>,
    /// Since when there was no gap that is long for it, and how long it ever went on like that.
    going_ms: Option<i64>,
    longest_ms: i64,
    /// The longest time from one beat to the next.
    gap_ms: i64,
}

impl Rhythm {
    /// A step is done. False when it is none: it was told before.
    pub(super) fn count(&mut self, now_ms: i64, step: u64) -> bool {
        // A program may count from the beginning again (a new epoch): less is progress too.
        if self.step.replace(step) == Some(step) {
            return false;
        }
        self.beat(now_ms);
        true
    }

    pub(super) fn beat(&mut self, now_ms: i64) {
        if let Some(last) = self.last_ms
            && now_ms - last >= TOGETHER_MS
            && !self.paused
        {
            self.remember(now_ms - last);
        }
        self.hear(now_ms);
    }

    /// A line was written, or something like it: many together are no more than one.
    pub(super) fn beat_of_lines(&mut self, now_ms: i64) {
        let page = *self.page_ms.get_or_insert(now_ms);
        if let Some(last) = self.last_ms {
            if now_ms - last >= PAGE_MS {
                if !self.paused {
                    self.remember(now_ms - last);
                }
                self.page_ms = Some(now_ms);
            } else if now_ms - page >= LEAST_MS {
                self.remember(PAGE_MS);
                self.page_ms = Some(now_ms);
            }
        }
        self.hear(now_ms);
    }

    fn remember(&mut self, interval_ms: i64) {
        if self.intervals.len() == INTERVALS {
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval_ms);
    }

    fn hear(&mut self, now_ms: i64) {
        let gap = self.last_ms.filter(|_| !self.paused).map_or(0, |last| now_ms - last);
        self.gap_ms = self.gap_ms.max(gap);
        if gap >= LEAST_MS && self.silence().is_some_and(|(_, usual)| gap > limit(usual)) {
            self.going_ms = None;
        }
        let since = *self.going_ms.get_or_insert(now_ms);
        self.paused = false;
        self.last_ms = self.last_ms.max(Some(now_ms));
        self.longest_ms = self.longest_ms.max(now_ms - since);
    }

    /// What comes next is measured from now, and is no step.
    pub(super) fn pause(&mut self, now_ms: i64) {
        if self.last_ms.is_some() {
            self.last_ms = Some(now_ms);
            self.paused = true;
        }
    }

    /// How long beats went on, at best, without a gap that is long.
    pub(super) fn lasted_ms(&self) -> i64 {
        self.longest_ms
    }

    /// The longest time that there was from one beat to the next.
    pub(super) fn longest_gap_ms(&self) -> i64 {
        self.gap_ms
    }

    pub(super) fn last_step(&self) -> Option<u64> {
        self.step
    }

    /// The last beat, and the usual time from one to the next: the median, which one long step among many does not change.
    pub(super) fn silence(&self) -> Option<(i64, i64)> {
        if self.intervals.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<i64> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted[sorted.len() / 2];
        Some((self.last_ms?, median))
    }
}

//! Whether much comes at once: then what would be told of each step is told of several together.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// So many within [`WINDOW_MS`] are many. A gang that starts is none: its pods and its job are told of as they come.
const MANY: usize = 12;
const WINDOW_MS: i64 = 2_000;

/// When the last few things of a kind happened.
#[derive(Debug, Default)]
pub struct Burst(Mutex<VecDeque<i64>>);

impl Burst {
    /// One happens.
    pub fn note(&self, now_ms: i64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(now_ms);
        if last.len() > MANY {
            last.pop_front();
        }
    }

    /// Whether many have happened a moment ago.
    pub fn is_on(&self, now_ms: i64) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.len() >= MANY && last.front().is_some_and(|first| now_ms - first <= WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_so_many_within_a_moment() {
        let starts = Burst::default();
        let many = i64::try_from(MANY).expect("few");
        (1..many).for_each(|at| starts.note(at));
        assert!(!starts.is_on(many), "one less is not many");
        starts.note(many);
        assert!(starts.is_on(many) && !starts.is_on(many + WINDOW_MS));
        (0..many).for_each(|at| starts.note(at * WINDOW_MS));
        assert!(!starts.is_on(many * WINDOW_MS), "as many, but seldom");
    }
}

//! The last lines of each rank, for the one that fails.

use std::collections::{BTreeMap, VecDeque};

use super::failure;
use super::label::Label;
use super::stream::Line;

/// Lines kept of each rank.
const LAST_WORDS: usize = 10;

#[derive(Default)]
pub(super) struct Words {
    last: BTreeMap<Label, VecDeque<String>>,
    failed_rank: Option<usize>,
}

impl Words {
    pub(super) fn hear(&mut self, line: Line) {
        self.failed_rank = self.failed_rank.or_else(|| failure::reported_rank(&line.text));
        let words = self.last.entry(line.label).or_default();
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(line.text);
    }

    /// The rank that a launcher named as the first that failed.
    pub(super) fn failed_rank(&self) -> Option<usize> {
        self.failed_rank
    }

    /// What this one said last.
    pub(super) fn of(&self, label: &Label) -> Vec<String> {
        let words = self.last.get(label).or_else(|| self.last.get(&Label::Only));
        words.into_iter().flatten().cloned().collect()
    }
}

//! The values that a trial told, one by one, as they were written.

use std::collections::BTreeMap;

/// So many values of a trial are kept one by one: a curve of ten metrics over five thousand steps. What comes later is only counted
/// into the least, the greatest and the last.
const KEPT: usize = 50_000;

/// One value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When, if that is known.
    pub at_ms: Option<i64>,
    /// The metric.
    pub name: String,
    /// The value, as it was written.
    pub text: String,
}

/// What there was of a metric, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    least: (f64, String),
    greatest: (f64, String),
    last: (i64, String),
}

impl Range {
    /// The least, the greatest and the last value.
    #[must_use]
    pub fn texts(&self) -> [&str; 3] {
        [&self.least.1, &self.greatest.1, &self.last.1]
    }
}

/// A value as a number: a text is worth as much as any other, and the last one counts.
pub(crate) fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or(0.0)
}

/// All that a trial told of its metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    values: Vec<Told>,
    ranges: BTreeMap<String, Range>,
}

impl Log {
    /// Takes in a value that came at this time. One that is a text counts as [`number`] has it.
    pub fn push(&mut self, told: Told, now_ms: i64) {
        let number = number(&told.text);
        let at_ms = told.at_ms.unwrap_or(now_ms);
        let text = || told.text.clone();
        match self.ranges.get_mut(&told.name) {
            None => {
                let range = Range { least: (number, text()), greatest: (number, text()), last: (at_ms, text()) };
                self.ranges.insert(told.name.clone(), range);
            }
            Some(range) => {
                if number < range.least.0 || range.least.0.is_nan() {
                    range.least = (number, text());
                }
                if number > range.greatest.0 || range.greatest.0.is_nan() {
                    range.greatest = (number, text());
                }
                // Of values of the same time the later one counts.
                if at_ms >= range.last.0 {
                    range.last = (at_ms, text());
                }
            }
        }
        if self.values.len() < KEPT {
            self.values.push(Told { at_ms: Some(at_ms), ..told });
        }
    }

    /// The values, in the order in which they came.
    #[must_use]
    pub fn values(&self) -> &[Told] {
        &self.values
    }

    /// What there was of a metric.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<&Range> {
        self.ranges.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_as_they_were_written() {
        let mut log = Log::default();
        for (at_ms, text) in [(3, "0.50"), (9, "1e-3"), (5, "2"), (9, "0.7")] {
            log.push(Told { at_ms: Some(at_ms), name: "loss".to_owned(), text: text.to_owned() }, 0);
        }
        assert_eq!(log.range("loss").map(Range::texts), Some(["1e-3", "2", "0.7"]), "the last by its time");
        assert_eq!(log.values().len(), 4);
        assert_eq!(log.range("accuracy"), None);
        log.push(Told { at_ms: Some(1), name: "best".to_owned(), text: "Genotype(x)".to_owned() }, 0);
        assert_eq!(log.range("best").map(Range::texts), Some(["Genotype(x)"; 3]));
    }
}

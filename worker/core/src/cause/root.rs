//! Which of several failures is the one that caused the others.

use super::Cause;

/// A rank that failed, or that is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which, among all.
    pub rank: u32,
    /// When it was seen, in milliseconds.
    pub at_ms: i64,
    /// Why.
    pub cause: Cause,
}

/// The index of the failure to blame; `None` only if there are none.
///
/// The first failure that is a rank's own; if all only follow from others, the one that most of them name, provided that it
/// failed itself; else the first.
#[must_use]
pub fn root(failures: &[Candidate]) -> Option<usize> {
    let first = |wanted: &dyn Fn(&Candidate) -> bool| {
        let matching = failures.iter().enumerate().filter(|(_, failure)| wanted(failure));
        matching.min_by_key(|(_, failure)| (failure.at_ms, failure.rank)).map(|(index, _)| index)
    };
    let accused = || {
        let votes = |rank: u32| failures.iter().filter(|failure| failure.cause.blames == Some(rank)).count();
        let most = failures.iter().map(|failure| votes(failure.rank)).max().filter(|votes| *votes > 0)?;
        first(&|failure| votes(failure.rank) == most)
    };
    first(&|failure| !failure.cause.secondary).or_else(accused).or_else(|| first(&|_| true))
}

//! Completion indexes: `0-3,5`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// Label and annotation that carry a pod's completion index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index of a pod, if it is one that the Job has.
pub(super) fn of(pod: &Pod, completions: i32) -> Option<i32> {
    let index = pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()?;
    (0..completions).contains(&index).then_some(index)
}

/// A set of indexes as runs, so that it takes no more memory than its text: `0-2000000000` is one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// First to last of each run. Runs neither overlap nor touch.
    runs: BTreeMap<i32, i32>,
}

impl Indexes {
    /// The indexes below `completions` in a text. What does not read is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
                let last = i32::try_from(last).unwrap_or(i32::MAX).min(completions.saturating_sub(1));
                indexes.add(i32::try_from(first).unwrap_or(i32::MAX), last);
            }
        }
        indexes
    }

    /// Adds the run from `first` to `last`, together with those that it touches.
    fn add(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        let before = self.runs.range(..=last.saturating_add(1)).rev();
        let touched: Vec<i32> =
            before.take_while(|(_, end)| end.saturating_add(1) >= first).map(|(start, _)| *start).collect();
        for start in touched {
            if let Some(end) = self.runs.remove(&start) {
                (first, last) = (first.min(start), last.max(end));
            }
        }
        self.runs.insert(first, last);
    }

    /// Adds all of another set.
    pub(super) fn unite(&mut self, other: &Self) {
        for (first, last) in &other.runs {
            self.add(*first, *last);
        }
    }

    pub(super) fn insert(&mut self, index: i32) {
        self.add(index, index);
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        self.runs.range(..=index).next_back().is_some_and(|(_, last)| *last >= index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> i64 {
        self.runs.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1).sum()
    }

    /// How many are in both.
    pub(super) fn common(&self, other: &Self) -> i64 {
        let shared = |(first, last): (&i32, &i32)| -> i64 {
            let from = other.runs.range(..=*first).next_back().map_or(*first, |(start, _)| *start);
            let near = other.runs.range(from..=*last);
            near.map(|(start, end)| (i64::from(*end.min(last)) - i64::from(*start.max(first)) + 1).max(0)).sum()
        };
        self.runs.iter().map(shared).sum()
    }

    /// Indexes below `completions` that are not in the set, lowest first.
    pub(super) fn absent(&self, completions: i32) -> impl Iterator<Item = i32> + use<> {
        let mut gaps = Vec::new();
        let mut next = 0;
        for (first, last) in &self.runs {
            gaps.push(next..(*first).min(completions));
            next = last.saturating_add(1);
        }
        gaps.push(next..completions);
        gaps.into_iter().flatten()
    }

    /// The text, as Kubernetes writes it.
    pub(super) fn text(&self) -> String {
        let run = |(first, last): (&i32, &i32)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        };
        self.runs.iter().map(run).collect::<Vec<_>>().join(",")
    }
}

impl Extend<i32> for Indexes {
    fn extend<T: IntoIterator<Item = i32>>(&mut self, indexes: T) {
        for index in indexes {
            self.insert(index);
        }
    }
}

/// Active pods whose index is out of range, not wanted any more, or taken by another one of them.
pub(super) fn surplus<'a>(active: &[&'a Pod], over: &Indexes, completions: i32) -> Vec<&'a Pod> {
    let mut seen = over.clone();
    let mut is_new = |index: i32| {
        let new = !seen.contains(index);
        seen.insert(index);
        new
    };
    active.iter().copied().filter(|pod| !of(pod, completions).is_some_and(&mut is_new)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indexes_are_written_as_kubernetes_writes_them() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
            assert_eq!(Indexes::parse(text, 10).text(), text);
        }
        for (text, read) in [("5-2", ""), ("a,1,-3", "1"), ("0-3,2-5", "0-5"), ("0,1,2", "0-2"), ("7-99", "7-9")] {
            assert_eq!(Indexes::parse(text, 10).text(), read, "{text}");
        }
    }

    #[test]
    fn a_short_text_takes_little_memory_whatever_it_says() {
        let huge = Indexes::parse("0-4000000000", i32::MAX);
        assert_eq!((huge.runs.len(), huge.len()), (1, i64::from(i32::MAX)));
        assert_eq!(huge.absent(i32::MAX).next(), None);
        assert_eq!(Indexes::parse("0-2147483640", i32::MAX).absent(i32::MAX).count(), 6);
    }

    proptest! {
        #[test]
        fn it_is_a_set(left in prop::collection::vec(0..40, 0..40), right in prop::collection::btree_set(0..40, 0..40)) {
            let (mut indexes, mut other) = (Indexes::default(), Indexes::default());
            indexes.extend(left.iter().copied());
            other.extend(right.iter().copied());
            let left: BTreeSet<i32> = left.into_iter().collect();
            prop_assert_eq!(indexes.len(), left.len() as i64);
            prop_assert!((0..40).all(|index| indexes.contains(index) == left.contains(&index)));
            prop_assert_eq!(indexes.absent(40).collect::<Vec<_>>(), (0..40).filter(|i| !left.contains(i)).collect::<Vec<_>>());
            prop_assert_eq!(indexes.common(&other), left.intersection(&right).count() as i64);
            prop_assert_eq!(&Indexes::parse(&indexes.text(), 40), &indexes);
        }
    }
}

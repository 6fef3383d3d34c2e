//! Completion indexes: `0-3,5`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::tally::Tally;

/// Label and annotation that carry a pod's completion index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(super) fn of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

pub(super) fn parse(text: &str) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<i32>(), to.parse::<i32>()) {
            indexes.extend(from..=to);
        }
    }
    indexes
}

pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, to)) if *to + 1 == *index => *to = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let parts: Vec<String> = runs
        .iter()
        .map(|(from, to)| match to - from {
            0 => from.to_string(),
            1 => format!("{from},{to}"),
            _ => format!("{from}-{to}"),
        })
        .collect();
    parts.join(",")
}

/// Indexes that need a pod, lowest first.
pub(super) fn missing<'a>(active: &[&Pod], tally: &'a Tally, completions: i32) -> impl Iterator<Item = i32> + use<'a> {
    let present: BTreeSet<i32> = active.iter().filter_map(|pod| of(pod)).collect();
    (0..completions).filter(move |index| !present.contains(index) && !tally.is_completed(*index))
}

/// Active pods whose index is out of range, done, or taken by another one of them.
pub(super) fn surplus<'a>(active: &[&'a Pod], tally: &Tally, completions: i32) -> Vec<&'a Pod> {
    let mut present = BTreeSet::new();
    active
        .iter()
        .copied()
        .filter(|pod| {
            of(pod).is_none_or(|index| index >= completions || tally.is_completed(index) || !present.insert(index))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_kubernetes_writes_them() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
            assert_eq!(format(&parse(text)), text);
        }
    }
}

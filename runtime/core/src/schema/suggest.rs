//! Near misses: which known name did the writer mean?

/// The known name nearest to `wrong`, if it is near enough to be worth offering.
pub fn closest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A name of 64 characters is longer than any field; the cap keeps the quadratic distance cheap on hostile input.
    if wrong.len() > 64 {
        return None;
    }
    let lowered = wrong.to_lowercase();
    let limit = (lowered.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|name| name.len() <= 64)
        .map(|name| (distance(&lowered, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// The same as a hint to print: `did you mean "replicas"?`
pub fn suggestion<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(wrong, known).map(|name| format!("did you mean \"{name}\"?"))
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours cost one each.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let substitute = previous[column] + usize::from(a != b);
            let mut best = substitute.min(previous[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == right[column - 1] && left[row - 1] == *b {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn offers_what_was_meant_and_nothing_far() {
        let known = ["replicas", "restartPolicy", "template", "command"];
        assert_eq!(closest("replica", known), Some("replicas"));
        assert_eq!(closest("comand", known), Some("command"));
        assert_eq!(closest("restartpolicy", known), Some("restartPolicy"));
        assert_eq!(closest("repilcas", known), Some("replicas"));
        assert_eq!(closest("gpus", known), None);
        assert_eq!(closest(&"x".repeat(10_000), known), None);
    }
}

//! What names of checkpoints tell.

use std::ops::Range;

/// Words before the number of a step: what says more comes first.
const STEP_WORDS: [&str; 8] = ["step", "iteration", "iter", "update", "batch", "checkpoint", "ckpt", "chkpt"];
const EPOCH_WORDS: [&str; 2] = ["epoch", "ep"];

/// Parts of names that programs give to what they are still writing.
const TEMPORARY: [&str; 7] = [".orbax-checkpoint-tmp", ".tmp", ".partial", ".incomplete", ".part", ".writing", ".temp"];

/// The last component of a path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Everything before the last component; empty at the top.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The name of something that is not finished, by convention.
pub(super) fn is_temporary(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    TEMPORARY.iter().any(|mark| lower.ends_with(mark) || lower.contains(&format!("{mark}-")))
        || lower.starts_with("tmp-")
        || lower.starts_with(".tmp")
        || lower.starts_with("tmp_")
        || lower.ends_with('~')
        || lower.starts_with(super::REMOVING)
        || lower.contains(".orbax-checkpoint-tmp")
        || is_of_tempfile(&lower)
}

/// As Python's `tempfile` names files: `tmp`, and eight letters, digits or underscores.
fn is_of_tempfile(name: &str) -> bool {
    let word = name.split('.').next().unwrap_or(name).strip_prefix("tmp");
    word.is_some_and(|word| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// A name with each number in it as one `0`: what is the same of the parts of one checkpoint and of the next.
pub(super) fn pattern(name: &str) -> String {
    let mut pattern = String::new();
    for letter in name.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }) {
        if letter != '0' || !pattern.ends_with('0') {
            pattern.push(letter);
        }
    }
    pattern
}

/// The step in a name: after a word for it, or the whole name is a number.
pub(super) fn step(name: &str) -> Option<u64> {
    // `model-00001-of-00002.safetensors`: a part, not a step.
    if name.contains("-of-") {
        return None;
    }
    after_word(name, &STEP_WORDS).or_else(|| stem(name).parse().ok())
}

/// The epoch in a name.
pub(super) fn epoch(name: &str) -> Option<u64> {
    after_word(name, &EPOCH_WORDS)
}

/// A name without its endings that are not numbers: `0001200.pt` is `0001200`.
fn stem(name: &str) -> &str {
    let end = name.find('.').unwrap_or(name.len());
    &name[..end]
}

/// The number after the first of these words that has one, where it stands last.
fn after_word(name: &str, words: &[&str]) -> Option<u64> {
    let lower = name.to_ascii_lowercase();
    words
        .iter()
        .find_map(|word| lower.match_indices(word).filter_map(|(at, _)| number(&lower, at..at + word.len())).last())
}

/// The number after the word, with at most one of `= - _` between. No letters may touch either.
fn number(name: &str, word: Range<usize>) -> Option<u64> {
    if name[..word.start].bytes().next_back().is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let rest = &name[word.end..];
    let rest = rest.strip_prefix(['=', '-', '_']).unwrap_or(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    // `step1e5` and `iter_3b` are no numbers.
    if rest.as_bytes().get(digits).is_some_and(u8::is_ascii_alphabetic) {
        return None;
    }
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_in_the_names_that_frameworks_give() {
        for (name, expected) in [
            ("step_120", Some(120)),
            ("step-120.pt", Some(120)),
            ("checkpoint-500", Some(500)),
            ("epoch=3-step=1200.ckpt", Some(1200)),
            ("epoch=3-step=1200-v1.ckpt", Some(1200)),
            ("iter_0000100", Some(100)),
            ("global_step100", Some(100)),
            ("checkpoint_step_7_of_model_9.pt", Some(7)),
            ("0001200", Some(1200)),
            ("1200.pth", Some(1200)),
            ("model_300.pt", None),
            ("checkpoint-00001-of-00002.safetensors", None),
            ("ckpt-42.safetensors", Some(42)),
            ("best.pt", None),
            ("last.ckpt", None),
            ("footstep_3x.pt", None),
            ("epoch_3.pt", None),
            ("model.safetensors", None),
            ("stepping", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(step(name), expected, "{name}");
        }
        assert_eq!(epoch("epoch=3-step=1200.ckpt"), Some(3));
        assert_eq!(epoch("epoch_12.pt"), Some(12));
        assert_eq!(epoch("step_12.pt"), None);
    }

    #[test]
    fn temporary_names_are_known() {
        for name in [
            "5.orbax-checkpoint-tmp-17",
            "a.pt.tmp",
            "tmp-checkpoint-5",
            ".tmp_x",
            "a.partial",
            "a.pt~",
            "tmpk3_x0abc.pt",
            "tmpzzzzzzzz",
        ] {
            assert!(is_temporary(name), "{name}");
        }
        for name in ["checkpoint-5", "template.pt", "a.pt", "temp.pt", "tmp.pt"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn parts_of_two_checkpoints_have_the_same_pattern() {
        assert_eq!(pattern("mp_rank_00/step_120_rank_7.pt"), "mp_rank_0/step_0_rank_0.pt");
        assert_eq!(pattern("step_95_rank_31.pt"), pattern("step_1000_rank_2.pt"));
    }
}

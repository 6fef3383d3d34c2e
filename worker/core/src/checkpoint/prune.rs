//! Which old checkpoints may go.

use super::{Checkpoint, name, newest};

/// The paths of those that a policy of keeping `keep` gives up, oldest first.
///
/// Only whole ones that are named after a step or an epoch count and go: `best.pt` and `last.ckpt` are what somebody
/// points at, and what is torn is not ours to judge. The newest whole one always stays, and so does one that holds the
/// whole folder.
#[must_use]
pub fn prune(checkpoints: &[Checkpoint], keep: u32) -> Vec<String> {
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let newest = newest(checkpoints).map(|checkpoint| checkpoint.path.as_str());
    let mut numbered: Vec<&Checkpoint> = checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.is_whole() && !checkpoint.path.is_empty())
        .filter(|checkpoint| {
            let own = name::last(&checkpoint.path);
            name::step(own).is_some() || name::epoch(own).is_some()
        })
        .collect();
    numbered.sort_by_key(|checkpoint| (checkpoint.modified_ms, checkpoint.step, checkpoint.epoch));
    let kept = numbered.len().saturating_sub(keep);
    let old = numbered.into_iter().take(kept).map(|checkpoint| checkpoint.path.as_str());
    old.filter(|path| Some(*path) != newest).map(str::to_owned).collect()
}

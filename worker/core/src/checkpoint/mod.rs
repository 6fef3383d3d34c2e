//! Which checkpoints a folder holds: which are whole, which is the newest, of what step it is.
//!
//! A listing of the folder and the heads and tails of some files go in; `wants` says of which. Nothing is named that may
//! be torn: a checkpoint counts only when its layout's own mark of completion is there, every file that can be checked
//! is as long as it says, and, where a layout has no such mark, nothing of it has changed for a while.

mod elder;
mod file;
mod folder;
mod name;
mod pickle;
mod prune;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use prune::prune;

/// How long nothing of a checkpoint may have changed, where its layout does not say that it is whole.
pub const SETTLED_MS: i64 = 3_000;
/// The same for several files of which none tells that it is the last.
pub const LONG_SETTLED_MS: i64 = 10_000;
/// Written within this time of each other, the one of the higher step is the newer: `last.ckpt` is a copy of it.
const TOGETHER_MS: i64 = 5_000;
/// What is renamed to this beginning is about to be removed.
pub const REMOVING: &str = ".trainyard-removing-";

/// One file of a listing. Folders are known by their files; symbolic links are not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Size in bytes.
    pub bytes: u64,
    /// When it was last changed, in milliseconds since the epoch.
    pub modified_ms: i64,
    /// Whether a program has it open for writing.
    pub open: bool,
}

/// What a checkpoint folder holds: path below it, with `/`, to file.
pub type Listing = BTreeMap<String, File>;

/// Bytes of a file to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// The path, as in the listing.
    pub path: String,
    /// Bytes from the beginning.
    pub head: u64,
    /// Bytes from the end.
    pub tail: u64,
}

/// The beginning and the end of a file. Where the file is short they overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The beginning.
    pub head: Vec<u8>,
    /// The end.
    pub tail: Vec<u8>,
}

/// What was looked at, by path.
pub type Peeks = BTreeMap<String, Peek>;

/// How a checkpoint lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layout {
    /// One file of `torch.save`.
    Torch,
    /// One file of safetensors.
    Safetensors,
    /// A folder of torch.distributed.checkpoint.
    Dcp,
    /// A folder of Orbax.
    Orbax,
    /// A folder of Hugging Face's Trainer.
    Trainer,
    /// A folder of Megatron-LM.
    Megatron,
    /// A folder of DeepSpeed.
    DeepSpeed,
    /// A folder of files that an index lists.
    Sharded,
    /// A folder of files, named after a step.
    Folder,
}

/// Why a checkpoint may not be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has a name for the time of writing, or parts that have.
    #[error("{0} is temporary")]
    Temporary(String),
    /// A program has it open for writing.
    #[error("{0} is being written")]
    Open(String),
    /// Changed a moment ago, and nothing tells that this was the last change.
    #[error("it changed a moment ago")]
    Changing,
    /// The mark that is written last is not there.
    #[error("{0} is missing")]
    NotCommitted(String),
    /// A file is shorter than it says, or has no end.
    #[error("{0} is cut off or damaged")]
    Torn(String),
    /// Changed after the mark that is written last.
    #[error("{0} is being written over")]
    Overwritten(String),
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where, below the folder; empty where it is the folder itself.
    pub path: String,
    /// How it lies there.
    pub layout: Layout,
    /// Its step, if its name tells.
    pub step: Option<u64>,
    /// Its epoch, if its name tells.
    pub epoch: Option<u64>,
    /// Size of all its files.
    pub bytes: u64,
    /// When it was last changed, in milliseconds since the epoch.
    pub modified_ms: i64,
    /// Why it may not be relied on; `None` when it is whole.
    pub unfit: Option<Unfit>,
}

impl Checkpoint {
    /// Whether it can be relied on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unfit.is_none()
    }
}

/// What must be looked at, besides what was looked at already, to judge what is listed. Empty when nothing is missing.
#[must_use]
pub fn wants(listing: &Listing, peeks: &Peeks) -> Vec<Want> {
    let mut wants = BTreeSet::new();
    for candidate in folder::candidates(listing, peeks) {
        for (path, file) in candidate.files(listing) {
            wants.extend(file::want(path, file, peeks.get(path)));
        }
    }
    for path in listing.keys().filter(|path| folder::is_tracker(path)) {
        if !peeks.contains_key(path) {
            wants.insert(Want { path: path.clone(), head: file::TEXT_BYTES, tail: 0 });
        }
    }
    wants.into_iter().collect()
}

/// All checkpoints, whole or not, in the order of their paths.
#[must_use]
pub fn recognise(listing: &Listing, peeks: &Peeks, now_ms: i64) -> Vec<Checkpoint> {
    let candidates = folder::candidates(listing, peeks);
    let mut found: Vec<Checkpoint> =
        candidates.iter().map(|candidate| candidate.judge(listing, peeks, now_ms)).collect();
    elder::compare(&mut found, listing);
    found
}

/// A path below a folder; the folder of all has no name.
fn joined(folder: &str, below: &str) -> String {
    if folder.is_empty() { below.to_owned() } else { format!("{folder}/{below}") }
}

/// The newest whole one.
#[must_use]
pub fn newest(checkpoints: &[Checkpoint]) -> Option<&Checkpoint> {
    let whole = || checkpoints.iter().filter(|checkpoint| checkpoint.is_whole());
    let last = whole().map(|checkpoint| checkpoint.modified_ms).max()?;
    whole()
        .filter(|checkpoint| checkpoint.modified_ms >= last - TOGETHER_MS)
        .max_by_key(|checkpoint| (checkpoint.step, checkpoint.epoch, checkpoint.modified_ms))
}

/// Whether a checkpoint is being written: one is open, or is not whole and changed a moment ago.
#[must_use]
pub fn is_writing(checkpoints: &[Checkpoint], now_ms: i64) -> bool {
    checkpoints.iter().any(|checkpoint| match &checkpoint.unfit {
        None => false,
        Some(Unfit::Open(_)) => true,
        Some(
            Unfit::Temporary(_) | Unfit::Changing | Unfit::NotCommitted(_) | Unfit::Torn(_) | Unfit::Overwritten(_),
        ) => now_ms - checkpoint.modified_ms < SETTLED_MS,
    })
}

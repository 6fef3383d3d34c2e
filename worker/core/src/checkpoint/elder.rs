//! Folders without a mark of completion, beside those that were written before them.
//!
//! A program that was killed between two files leaves a folder in which each file is whole. Nothing tells which belong to
//! it, but the one before it had them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkpoint, Layout, Listing, Unfit, file, joined, name};

/// Takes back what was said of folders that lack a kind of file that the whole one before them has.
pub(super) fn compare(found: &mut [Checkpoint], listing: &Listing) {
    let mut families: BTreeMap<(String, String), BTreeMap<u64, usize>> = BTreeMap::new();
    for (at, checkpoint) in found.iter().enumerate() {
        let own = name::last(&checkpoint.path);
        let number = checkpoint.step.or(checkpoint.epoch).filter(|_| checkpoint.layout == Layout::Folder);
        if let Some(number) = number.filter(|_| checkpoint.is_whole()) {
            let family = (name::parent(&checkpoint.path).to_owned(), name::pattern(own));
            families.entry(family).or_default().insert(number, at);
        }
    }
    for family in families.values() {
        let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
        for at in family.values() {
            let checkpoint = &mut found[*at];
            let present = weights(&checkpoint.path, listing);
            let kinds: BTreeSet<&String> = present.keys().collect();
            let missing = wanted.iter().find(|(kind, _)| !kinds.contains(kind));
            match missing {
                Some((_, file)) => checkpoint.unfit = Some(Unfit::NotCommitted(joined(&checkpoint.path, file))),
                None => wanted = present,
            }
        }
    }
}

/// Files of tensors in a folder, by their kind.
fn weights<'a>(folder: &str, listing: &'a Listing) -> BTreeMap<String, &'a str> {
    let below = joined(folder, "");
    let inside = listing.range(below.clone()..).map_while(|(path, _)| path.strip_prefix(&below));
    inside.filter(|file| file::stands_alone(name::last(file))).map(|file| (name::pattern(file), file)).collect()
}

//! Which folders and files of a listing are checkpoints, and the rules by which each layout is whole.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{self, Body, Kind};
use super::name;
use super::{Checkpoint, File, Layout, Listing, Peeks, Unfit, joined};

/// Megatron's note of the last iteration that was saved, and DeepSpeed's of the last tag.
const MEGATRON_TRACKER: &str = "latest_checkpointed_iteration.txt";
const DEEPSPEED_TRACKER: &str = "latest";
const DCP_CONTENTS: &str = ".metadata";
/// Any of these in a folder makes it Orbax's.
const ORBAX_MARKS: [&str; 3] = ["_CHECKPOINT_METADATA", "commit_success.txt", "_METADATA"];

pub(super) fn is_tracker(path: &str) -> bool {
    [MEGATRON_TRACKER, DEEPSPEED_TRACKER].contains(&name::last(path))
}

/// What may be a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    path: String,
    layout: Layout,
    /// A folder's files lie below it; a file is itself.
    is_folder: bool,
}

/// All candidates, in the order of their paths; none lies within another.
pub(super) fn candidates(listing: &Listing, peeks: &Peeks) -> Vec<Candidate> {
    let tree = Tree::of(listing);
    let mut found = Vec::new();
    tree.search("", None, peeks, &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Folders with the names of what is in them.
#[derive(Default)]
struct Tree<'a> {
    files: BTreeMap<&'a str, BTreeSet<&'a str>>,
    folders: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Tree<'a> {
    fn of(listing: &'a Listing) -> Self {
        let mut tree = Self::default();
        for path in listing.keys() {
            tree.files.entry(name::parent(path)).or_default().insert(name::last(path));
            let mut folder = name::parent(path);
            while !folder.is_empty() {
                tree.folders.entry(name::parent(folder)).or_default().insert(name::last(folder));
                folder = name::parent(folder);
            }
        }
        tree
    }

    fn files(&self, folder: &str) -> impl Iterator<Item = &'a str> + '_ {
        self.files.get(folder).into_iter().flatten().copied()
    }

    fn has(&self, folder: &str, file: &str) -> bool {
        self.files.get(folder).is_some_and(|files| files.contains(file))
    }

    fn search(&self, folder: &str, tag: Option<&str>, peeks: &Peeks, found: &mut Vec<Candidate>) {
        if let Some(layout) = self.layout(folder, tag) {
            found.push(Candidate { path: folder.to_owned(), layout, is_folder: true });
            return;
        }
        for file in self.files(folder).filter(|file| file::stands_alone(final_name(file))) {
            let layout = match file::kind(final_name(file)) {
                Kind::Safetensors => Layout::Safetensors,
                Kind::Torch | Kind::Json | Kind::Metadata | Kind::Other => Layout::Torch,
            };
            found.push(Candidate { path: joined(folder, file), layout, is_folder: false });
        }
        let tag = self.has(folder, DEEPSPEED_TRACKER).then(|| text(&joined(folder, DEEPSPEED_TRACKER), peeks));
        for below in self.folders.get(folder).into_iter().flatten() {
            self.search(&joined(folder, below), tag.flatten(), peeks, found);
        }
    }

    /// The folder's layout, if it is a checkpoint. `tag`: the one that DeepSpeed's note beside it names.
    fn layout(&self, folder: &str, tag: Option<&str>) -> Option<Layout> {
        let own = name::last(folder);
        let above = name::parent(folder);
        let is_top = folder.is_empty();
        if own.contains(".orbax-checkpoint-tmp") || ORBAX_MARKS.iter().any(|mark| self.has(folder, mark)) {
            return Some(Layout::Orbax);
        }
        if !is_top && (own.starts_with("iter_") || (own == "release" && self.has(above, MEGATRON_TRACKER))) {
            return Some(Layout::Megatron);
        }
        if !is_top && (own.starts_with("global_step") || tag == Some(own)) {
            return Some(Layout::DeepSpeed);
        }
        if self.has(folder, DCP_CONTENTS) || self.files(folder).any(|file| file.ends_with(".distcp")) {
            return Some(Layout::Dcp);
        }
        if self.has(folder, "trainer_state.json") || (!is_top && is_trainers_name(own)) {
            return Some(Layout::Trainer);
        }
        if self.files(folder).any(|file| file.ends_with(".index.json")) {
            return Some(Layout::Sharded);
        }
        let named = !is_top && (name::step(own).is_some() || name::epoch(own).is_some());
        (named && self.holds_weights(folder, 2)).then_some(Layout::Folder)
    }

    fn holds_weights(&self, folder: &str, depth: u8) -> bool {
        self.files(folder).any(|file| file::stands_alone(final_name(file)))
            || (depth > 0
                && self
                    .folders
                    .get(folder)
                    .into_iter()
                    .flatten()
                    .any(|below| self.holds_weights(&joined(folder, below), depth - 1)))
    }
}

/// `checkpoint-500`, as Hugging Face's Trainer has it, or while it is written.
fn is_trainers_name(own: &str) -> bool {
    let number = own.strip_prefix("tmp-").unwrap_or(own).strip_prefix("checkpoint-").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name without the ending for the time of writing: `a.pt.tmp` will be `a.pt`.
fn final_name(file: &str) -> &str {
    [".tmp", ".partial", ".incomplete", ".part"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file)
}

fn text<'a>(path: &str, peeks: &'a Peeks) -> Option<&'a str> {
    std::str::from_utf8(&peeks.get(path)?.head).ok().map(str::trim)
}

impl Candidate {
    /// Its files, by path.
    pub(super) fn files<'a>(&self, listing: &'a Listing) -> Vec<(&'a str, &'a File)> {
        if !self.is_folder {
            return listing.get_key_value(&self.path).map(|(path, file)| (path.as_str(), file)).into_iter().collect();
        }
        let below = joined(&self.path, "");
        let below = if self.path.is_empty() { String::new() } else { below };
        let from = listing.range(below.clone()..);
        from.take_while(|(path, _)| path.starts_with(&below)).map(|(path, file)| (path.as_str(), file)).collect()
    }

    pub(super) fn judge(&self, listing: &Listing, peeks: &Peeks, now_ms: i64) -> Checkpoint {
        let files = self.files(listing);
        let own = name::last(&self.path);
        let modified_ms = files.iter().map(|(_, file)| file.modified_ms).max().unwrap_or(0);
        Checkpoint {
            path: self.path.clone(),
            layout: self.layout,
            step: name::step(own).or_else(|| self.inner_step(peeks)),
            epoch: name::epoch(own),
            bytes: files.iter().map(|(_, file)| file.bytes).sum(),
            modified_ms,
            unfit: self.objection(&files, listing, peeks, now_ms),
        }
    }

    /// The step as a trainer's own state has it.
    fn inner_step(&self, peeks: &Peeks) -> Option<u64> {
        let state = peeks.get(&joined(&self.path, "trainer_state.json"))?;
        serde_json::from_slice::<serde_json::Value>(&state.head).ok()?.get("global_step")?.as_u64()
    }

    fn objection(&self, files: &[(&str, &File)], listing: &Listing, peeks: &Peeks, now_ms: i64) -> Option<Unfit> {
        let inside = |path: &str| path.strip_prefix(&self.path).unwrap_or(path).split('/').any(name::is_temporary);
        let own = name::last(&self.path);
        // What is hidden is so until it gets its name: `.step_120.pt.x7Gq` of rsync and others.
        if name::is_temporary(own) || own.starts_with('.') {
            return Some(Unfit::Temporary(self.path.clone()));
        }
        if let Some((path, _)) = files.iter().find(|(path, _)| self.is_folder && inside(path)) {
            return Some(Unfit::Temporary((*path).to_owned()));
        }
        if let Some((path, _)) = files.iter().find(|(_, file)| file.open) {
            return Some(Unfit::Open((*path).to_owned()));
        }
        if !self.is_folder {
            let (path, file) = files.first()?;
            return file::objection(path, file, peeks.get(*path), now_ms);
        }
        let torn = files.iter().find(|(path, file)| file::body(path, file, peeks.get(*path)) == Body::Torn);
        if let Some((path, _)) = torn {
            return Some(Unfit::Torn((*path).to_owned()));
        }
        self.rule(files, listing, peeks).or_else(|| self.restless(files, now_ms))
    }

    /// What the layout itself asks for.
    fn rule(&self, files: &[(&str, &File)], listing: &Listing, peeks: &Peeks) -> Option<Unfit> {
        match self.layout {
            Layout::Dcp => self.dcp(files, listing, peeks),
            Layout::Orbax => self.orbax(files),
            Layout::Trainer => {
                self.missing(listing, "trainer_state.json").or_else(|| self.index(files, listing, peeks))
            }
            Layout::Megatron => self.tracked(MEGATRON_TRACKER, peeks).or_else(|| self.dcp_below(files, listing, peeks)),
            Layout::DeepSpeed => self.tracked(DEEPSPEED_TRACKER, peeks),
            Layout::Sharded => self.index(files, listing, peeks),
            Layout::Folder => self.dcp_below(files, listing, peeks),
            Layout::Torch | Layout::Safetensors => None,
        }
    }

    /// Layouts without a mark that is written last have to be quiet.
    fn restless(&self, files: &[(&str, &File)], now_ms: i64) -> Option<Unfit> {
        let quiet_ms = match self.layout {
            // The contents, the note or the name come last.
            Layout::Dcp | Layout::Orbax | Layout::Megatron | Layout::DeepSpeed => return None,
            // The state comes last on the first rank; the others may have something left.
            Layout::Trainer | Layout::Torch | Layout::Safetensors => super::SETTLED_MS,
            // Several files without any mark: the next one may take its time to begin.
            Layout::Sharded | Layout::Folder => super::LONG_SETTLED_MS,
        };
        let last = files.iter().map(|(_, file)| file.modified_ms).max().unwrap_or(now_ms);
        (now_ms - last < quiet_ms).then_some(Unfit::Changing)
    }

    fn missing(&self, listing: &Listing, file: &str) -> Option<Unfit> {
        let path = joined(&self.path, file);
        (!listing.contains_key(&path)).then_some(Unfit::NotCommitted(path))
    }

    /// The table of contents is renamed into place when all files are written; it names them.
    fn dcp(&self, files: &[(&str, &File)], listing: &Listing, peeks: &Peeks) -> Option<Unfit> {
        let path = joined(&self.path, DCP_CONTENTS);
        let Some(contents) = listing.get(&path) else { return Some(Unfit::NotCommitted(path)) };
        let parts = files.iter().filter(|(path, _)| path.ends_with(".distcp"));
        if let Some((part, _)) = parts.clone().find(|(_, file)| file.modified_ms > contents.modified_ms) {
            return Some(Unfit::Overwritten((*part).to_owned()));
        }
        let named = distcp_names(peeks.get(&path).map_or(&[], |peek| peek.head.as_slice()));
        let present: BTreeSet<&str> = parts.map(|(path, _)| name::last(path)).collect();
        named
            .into_iter()
            .find(|name| !present.contains(name.as_str()))
            .map(|name| Unfit::NotCommitted(joined(&self.path, &name)))
    }

    /// A folder that holds one of torch.distributed.checkpoint, as Megatron's and Lightning's do.
    fn dcp_below(&self, files: &[(&str, &File)], listing: &Listing, peeks: &Peeks) -> Option<Unfit> {
        let folders: BTreeSet<&str> =
            files.iter().filter(|(path, _)| path.ends_with(".distcp")).map(|(path, _)| name::parent(path)).collect();
        folders.into_iter().find_map(|folder| {
            let inner = Self { path: folder.to_owned(), layout: Layout::Dcp, is_folder: true };
            inner.dcp(&inner.files(listing), listing, peeks)
        })
    }

    /// It is written under a temporary name and renamed, or a mark is put beside it where nothing can be renamed.
    fn orbax(&self, files: &[(&str, &File)]) -> Option<Unfit> {
        let own = |mark: &str| files.iter().any(|(path, _)| *path == joined(&self.path, mark));
        (!ORBAX_MARKS.iter().any(|mark| own(mark))).then(|| Unfit::NotCommitted(joined(&self.path, ORBAX_MARKS[0])))
    }

    /// The note beside the folders names the last one that was finished.
    fn tracked(&self, tracker: &str, peeks: &Peeks) -> Option<Unfit> {
        let note = joined(name::parent(&self.path), tracker);
        let own = name::last(&self.path);
        // Without a note nothing was finished.
        let Some(last) = text(&note, peeks) else { return Some(Unfit::NotCommitted(note)) };
        let number = |text: &str| text.parse().ok().or_else(|| name::step(text));
        let reached = last == own || number(own).zip(number(last)).is_some_and(|(own, last): (u64, u64)| own <= last);
        (!reached).then_some(Unfit::NotCommitted(note))
    }

    /// Every file that an index names is there; whether each is whole was seen before.
    fn index(&self, files: &[(&str, &File)], listing: &Listing, peeks: &Peeks) -> Option<Unfit> {
        let indexes = files.iter().filter(|(path, _)| path.ends_with(".index.json"));
        indexes.filter_map(|(path, _)| peeks.get(*path).map(|peek| (name::parent(path), peek))).find_map(
            |(folder, peek)| {
                let index: serde_json::Value = serde_json::from_slice(&peek.head).ok()?;
                let shards: BTreeSet<&str> =
                    index.get("weight_map")?.as_object()?.values().filter_map(serde_json::Value::as_str).collect();
                let missing =
                    shards.into_iter().map(|shard| joined(folder, shard)).find(|path| !listing.contains_key(path));
                missing.map(Unfit::NotCommitted)
            },
        )
    }
}

/// The names `__0_0.distcp` in a pickle, where texts stand as they are.
fn distcp_names(bytes: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, b".distcp") {
        let before = &rest[..at];
        let length = before.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b'_').count();
        let name = &before[before.len() - length..];
        if name.starts_with(b"__") {
            names.insert(format!("{}.distcp", String::from_utf8_lossy(name)));
        }
        rest = &rest[at + 7..];
    }
    names
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

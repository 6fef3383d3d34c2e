//! One look at a checkpoint folder: its files, the bytes that the recogniser asks for, and what is open.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, getpid};
use trainyard_worker_core::checkpoint::{self, Checkpoint, File, Listing, Peek, Peeks, REMOVING, Want};

use crate::descendants;

/// More files than this are not a checkpoint folder but a data set, or a mistake.
const FILES: usize = 50_000;
const DEPTH: usize = 8;
/// The recogniser asks again at most once, for a long header.
const ROUNDS: usize = 4;
/// Files that nobody has changed for so long are not looked for among what is open.
const RECENT_MS: i64 = 60_000;

#[derive(Debug)]
pub(super) struct Looker {
    folder: PathBuf,
    listing: Listing,
    peeks: Peeks,
}

impl Looker {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, listing: Listing::new(), peeks: Peeks::new() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// All checkpoints in the folder. A folder that is not there has none.
    pub(super) fn look(&mut self, now_ms: i64) -> io::Result<Vec<Checkpoint>> {
        let root = match self.folder.canonicalize() {
            Ok(root) => root,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // From here on without symbolic links, wherever the program may go.
        self.folder.clone_from(&root);
        let mut listing = Listing::new();
        list(&root, "", DEPTH, &mut listing)?;
        if listing.values().any(|file| now_ms - file.modified_ms < RECENT_MS) {
            for path in open_for_writing(&root) {
                if let Some(file) = listing.get_mut(&path) {
                    file.open = true;
                }
            }
        }
        let before = &self.listing;
        let same = |path: &String| {
            listing
                .get(path)
                .zip(before.get(path))
                .is_some_and(|(now, then)| (now.bytes, now.modified_ms) == (then.bytes, then.modified_ms))
        };
        self.peeks.retain(|path, _| same(path));
        self.listing = listing;
        for _ in 0..ROUNDS {
            let wants = checkpoint::wants(&self.listing, &self.peeks);
            if wants.is_empty() {
                break;
            }
            for want in wants {
                // What cannot be read has no head, and so is not whole.
                let peek = peek(&root, &want).unwrap_or_default();
                self.peeks.insert(want.path, peek);
            }
        }
        Ok(checkpoint::recognise(&self.listing, &self.peeks, now_ms))
    }

    /// What a removal that was cut off has left.
    pub(super) fn leftovers(&self) -> BTreeSet<String> {
        let top = |path: &str| {
            let parts: Vec<&str> = path.split('/').collect();
            let at = parts.iter().position(|part| part.starts_with(REMOVING))?;
            Some(parts[..=at].join("/"))
        };
        self.listing.keys().filter_map(|path| top(path)).collect()
    }
}

fn list(folder: &Path, below: &str, depth: usize, listing: &mut Listing) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // A name that is no text is none of a checkpoint's.
        let Some(name) = name.to_str() else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        // Does not follow a symbolic link. What vanished since was being removed.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && depth > 0 {
            match list(&entry.path(), &path, depth - 1, listing) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
                Err(error) => return Err(error),
            }
        } else if meta.is_file() {
            if listing.len() >= FILES {
                return Err(io::Error::other(format!("more than {FILES} files; name the folder of the checkpoints")));
            }
            let modified_ms = meta.mtime().saturating_mul(1000) + meta.mtime_nsec() / 1_000_000;
            listing.insert(path, File { bytes: meta.len(), modified_ms, open: false });
        }
    }
    Ok(())
}

fn peek(root: &Path, want: &Want) -> io::Result<Peek> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(root.join(&want.path))?;
    let mut head = Vec::new();
    io::Read::by_ref(&mut file).take(want.head).read_to_end(&mut head)?;
    let mut tail = Vec::new();
    if want.tail > 0 {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(want.tail)))?;
        file.take(want.tail).read_to_end(&mut tail)?;
    }
    Ok(Peek { head, tail })
}

/// Files below `root` that a descendant of this process has open for writing.
fn open_for_writing(root: &Path) -> BTreeSet<String> {
    descendants::below(getpid(), usize::MAX).into_iter().flat_map(|pid| written_by(pid, root)).collect()
}

fn written_by(pid: Pid, root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let open = entries.flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let path = target.strip_prefix(root).ok()?.to_str()?.to_owned();
        let number = entry.file_name();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_str()?)).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        (flags & libc::O_ACCMODE != libc::O_RDONLY).then_some(path)
    });
    open.collect()
}

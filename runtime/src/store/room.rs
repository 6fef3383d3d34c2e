//! Room on the disk that is kept for deletions.
//!
//! Who fills the disk of a state folder is usually a job that writes logs or checkpoints, and what helps is deleting it:
//! so deletions have to work when nothing else does. Blocks are allocated to the write-ahead log beyond its end, where
//! nobody else can take them. Writes are refused as soon as that room cannot be had, which is before a commit fails;
//! deletions go on in it. When the room can be had again, everything goes on.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use tokio::time::Instant;

/// Room for deletions: a commit of one writes about three pages of 4 KiB, one of many writes little more.
const RESERVE: u64 = 8 << 20;
/// The log may eat this much of the room before more is asked for, so that not each commit does.
const SLACK: u64 = 1 << 20;
/// How often it is asked again while there is none.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The room behind one log.
#[derive(Debug)]
pub(super) struct Room {
    log: PathBuf,
    /// Length of the log when the room behind it was last made sure of.
    sure_at: Option<u64>,
    short_since: Option<Instant>,
}

impl Room {
    pub(super) fn new(log: PathBuf) -> Self {
        Self { log, sure_at: None, short_since: None }
    }

    /// Whether there is room for more than deletions.
    pub(super) fn is_there(&mut self) -> bool {
        if self.short_since.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return false;
        }
        // SQLite makes the log at its first write: until then there is nothing to keep room behind.
        let Ok(log) = OpenOptions::new().write(true).open(&self.log) else { return true };
        let length = log.metadata().map_or(0, |meta| meta.len());
        if self.short_since.is_none() && self.sure_at.is_some_and(|at| at <= length && length - at < SLACK) {
            return true;
        }
        let got = allocate(&log, length);
        match (&got, self.short_since) {
            (Ok(()), Some(_)) => {
                tracing::info!(log = %self.log.display(), "object store: there is room on the disk again")
            }
            (Err(error), None) => {
                let log = self.log.display();
                tracing::error!(%log, %error, "object store: the disk is full; only deletions are taken until there is room");
            }
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
        (self.sure_at, self.short_since) =
            if got.is_ok() { (Some(length), None) } else { (None, Some(Instant::now())) };
        got.is_ok()
    }

    /// What to tell whoever is refused.
    pub(super) fn refusal(&self) -> String {
        let folder = self.log.parent().unwrap_or(Path::new("."));
        format!(
            "the disk of {} is full; free some space there, or delete jobs that are no longer needed (deleting works, and \
             takes the logs and volumes of their pods away), then try again",
            folder.display()
        )
    }
}

fn allocate(log: &File, length: u64) -> Result<(), Errno> {
    let from = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
    match fallocate(log, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, RESERVE.cast_signed()) {
        // A file system that allocates nothing in advance: at least it can say what is free.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            let disk = fstatvfs(log)?;
            let free = disk.blocks_available() * disk.fragment_size();
            if free < RESERVE { Err(Errno::ENOSPC) } else { Ok(()) }
        }
        // Only a full disk (or quota) is a reason to refuse; other troubles show at the commit.
        Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

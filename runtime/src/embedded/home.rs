//! The state folder: one owner at a time, and where the owner listens.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{OpenError, ServerInfo};
use crate::durable;

const LOCK: &str = "server.lock";
const INFO: &str = "server.json";

/// Makes the folder where it is missing, for this user alone, and takes its lock. The lock goes with the process,
/// however that ends.
pub(super) fn take(home: &Path) -> Result<File, OpenError> {
    let wrong = |path: &Path, source| OpenError::Home { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|e| wrong(home, e))?;
    let path = home.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| wrong(&path, e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse { home: home.to_owned(), server: read(home).map(Box::new) });
        }
        Err(TryLockError::Error(source)) => return Err(wrong(&path, source)),
    }
    // What a killed predecessor left would point at nobody, or at a stranger on its port.
    withdraw(home);
    Ok(lock)
}

/// Tells other commands where the server is: whole or not at all, readable by this user only.
pub(super) fn announce(home: &Path, info: &ServerInfo) -> std::io::Result<()> {
    durable::swap(&home.join(INFO), &serde_json::to_vec_pretty(info)?, 0o600)
}

/// Takes the announcement back.
pub(super) fn withdraw(home: &Path) {
    // Absent is what is wanted.
    let _ = fs::remove_file(home.join(INFO));
}

/// The announcement of a server that still holds the lock.
pub(super) fn running(home: &Path) -> Option<ServerInfo> {
    // Looked for first: where nobody announced a server the lock is not touched, so that looking never gets into the
    // way of one that starts.
    let info = read(home)?;
    let lock = File::open(home.join(LOCK)).ok()?;
    match lock.try_lock_shared() {
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => Some(info),
        Err(TryLockError::Error(_)) => None,
    }
}

fn read(home: &Path) -> Option<ServerInfo> {
    serde_json::from_slice(&fs::read(home.join(INFO)).ok()?).ok()
}

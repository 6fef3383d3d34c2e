//! Removing a checkpoint: only inside its folder, never through a symbolic link, and never so that half of it could be
//! taken for the whole.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use trainyard_worker_core::checkpoint::REMOVING;

/// Removes `path`, a file or a folder below `folder`, which is a path without symbolic links.
///
/// It gets another name first: a removal that is cut off leaves nothing that looks like a checkpoint.
///
/// # Errors
/// The system's; or that the path leads out of the folder or through a symbolic link.
pub fn remove(folder: &Path, path: &str) -> io::Result<()> {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((name, above)) = parts.split_last() else { return Err(outside(path)) };
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return Err(outside(path));
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut parent: OwnedFd = open(folder, flags, Mode::empty())?;
    for part in above {
        parent = openat(&parent, *part, flags, Mode::empty())?;
    }
    let kind =
        SFlag::from_bits_truncate(fstatat(&parent, *name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode) & SFlag::S_IFMT;
    if ![SFlag::S_IFREG, SFlag::S_IFDIR].contains(&kind) {
        return Err(Errno::ELOOP.into());
    }
    let doomed = if name.starts_with(REMOVING) { (*name).to_owned() } else { format!("{REMOVING}{name}") };
    if doomed != *name {
        renameat(&parent, *name, &parent, doomed.as_str())?;
    }
    if kind == SFlag::S_IFREG {
        return Ok(unlinkat(&parent, doomed.as_str(), UnlinkatFlags::NoRemoveDir)?);
    }
    // The folder is reached by its parent's descriptor, and what is in it is removed without following links.
    fs::remove_dir_all(format!("/proc/self/fd/{}/{doomed}", parent.as_raw_fd()))
}

fn outside(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is not a path inside the folder"))
}

//! Volumes in memory: a tmpfs of the asked size, mounted where all containers of the pod find it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs on an existing folder; one that is there already stays, with what it holds.
pub(super) fn mount_at(at: &Path, size_bytes: Option<i64>) -> io::Result<()> {
    if is_mounted(at) {
        return Ok(());
    }
    // Without a size the kernel's default holds, half of the memory, as with the kubelet.
    let size = size_bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
    let options = format!("mode=1777{size}");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some(options.as_str()))
        .map_err(io::Error::from)
}

/// Takes it away with all that it holds. A container that is still ending may keep the empty rest.
pub(super) fn unmount(at: &Path) {
    if !is_mounted(at) {
        return;
    }
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
    }
    if let Err(errno) = umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        tracing::warn!(path = %at.display(), %errno, "a volume in memory could not be unmounted");
    }
}

fn is_mounted(at: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    at.parent().is_some_and(|parent| device(at).is_some() && device(at) != device(parent))
}

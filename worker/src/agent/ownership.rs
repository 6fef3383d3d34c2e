//! Volumes of pods with an `fsGroup`: what lies in them belongs to that group, and it may use it, as with the kubelet.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, fchownat};

/// Folders in folders that are followed: far more than people make, and far fewer than descriptors there are.
const MAX_DEPTH: usize = 256;

/// What a pod's volumes are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    group: u32,
    /// Whether a volume that looks right at its top is left as it is.
    at_mismatch_only: bool,
}

impl Ownership {
    /// What the pod's manifest asks for. Only root can give a file to any group.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let asked = pod.spec.as_ref()?.security_context.as_ref()?;
        let group = asked.fs_group.and_then(|group| u32::try_from(group).ok())?;
        let at_mismatch_only = asked.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
        nix::unistd::geteuid().is_root().then_some(Self { group, at_mismatch_only })
    }

    /// Gives all of a volume to the group.
    pub(super) async fn give(self, volume: &Path, read_only: bool) -> io::Result<()> {
        let volume = volume.to_owned();
        // A volume may hold a million files.
        let given = tokio::task::spawn_blocking(move || self.give_all(&volume, read_only));
        given.await.map_err(io::Error::other)?
    }

    fn give_all(self, volume: &Path, read_only: bool) -> io::Result<()> {
        let bits = if read_only { 0o440 } else { 0o660 };
        let top = File::from(open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?);
        let found = top.metadata()?;
        let wanted = bits | folder_bits(found.is_dir());
        if self.at_mismatch_only && found.gid() == self.group && found.mode() & wanted == wanted {
            return Ok(());
        }
        self.give_one(&top, bits, 0)
    }

    /// By descriptor throughout: what lies in a volume is the containers' to choose, and links must not lead us out.
    /// Each level takes a descriptor and a part of the stack, so they are counted.
    fn give_one(self, at: &File, bits: u32, depth: usize) -> io::Result<()> {
        let found = at.metadata()?;
        fchownat(at, "", None, Some(Gid::from_raw(self.group)), AtFlags::AT_EMPTY_PATH)?;
        if found.is_symlink() {
            return Ok(());
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd()));
        let mode = found.mode() & 0o7777 | bits | folder_bits(found.is_dir());
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        if !found.is_dir() {
            return Ok(());
        }
        let names: Vec<_> = fs::read_dir(&path)?.flatten().map(|entry| entry.file_name()).collect();
        if depth == MAX_DEPTH && !names.is_empty() {
            let message = format!("its folders are more than {MAX_DEPTH} deep, too deep to be given to the fsGroup");
            return Err(io::Error::other(message));
        }
        for name in names {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let opened: Result<OwnedFd, Errno> = openat(at, name.as_os_str(), flags, Mode::empty());
            match opened {
                Ok(entry) => self.give_one(&File::from(entry), bits, depth + 1)?,
                // Another pod may use the volume.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Folders can be entered, and hand their group on to what is made in them.
fn folder_bits(is_dir: bool) -> u32 {
    if is_dir { 0o2110 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_without_end_are_told_of_and_not_followed() {
        let volume = tempfile::tempdir().expect("a folder");
        let ownership = Ownership { group: nix::unistd::getegid().as_raw(), at_mismatch_only: false };
        let deep: PathBuf =
            std::iter::once(volume.path()).chain(std::iter::repeat_n(Path::new("d"), MAX_DEPTH)).collect();
        fs::create_dir_all(&deep).expect("folders");
        ownership.give_all(volume.path(), false).expect("given");
        fs::create_dir(deep.join("d")).expect("a folder");
        let error = ownership.give_all(volume.path(), false).expect_err("too deep");
        assert!(error.to_string().contains("more than 256 deep"), "{error}");
    }

    #[test]
    fn links_are_given_and_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root gives files to any group");
            return;
        }
        let all = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (all.path().join("volume"), all.path().join("outside"));
        fs::create_dir_all(volume.join("sub")).expect("folders");
        for file in [&volume.join("sub/file"), &outside] {
            fs::write(file, "").expect("a file");
            fs::set_permissions(file, Permissions::from_mode(0o400)).expect("permissions");
        }
        symlink(&outside, volume.join("link")).expect("a link");
        let of = |path: &Path| {
            let found = fs::symlink_metadata(path).expect("there");
            (found.gid(), found.mode() & 0o7777)
        };
        let (before, ownership) = (of(&outside), Ownership { group: 4720, at_mismatch_only: true });
        ownership.give_all(&volume, true).expect("given");
        assert_eq!((of(&volume.join("sub/file")), of(&volume.join("link")).0), ((4720, 0o440), 4720));
        assert_eq!((of(&volume.join("sub")).1 & 0o2110, of(&outside)), (0o2110, before));
        // It looks right at its top.
        fs::write(volume.join("late"), "").expect("a file");
        fs::set_permissions(volume.join("late"), Permissions::from_mode(0o400)).expect("permissions");
        ownership.give_all(&volume, true).expect("given");
        assert_eq!(of(&volume.join("late")).1, 0o400);
        Ownership { at_mismatch_only: false, ..ownership }.give_all(&volume, false).expect("given");
        assert_eq!(of(&volume.join("late")), (4720, 0o660));
    }
}

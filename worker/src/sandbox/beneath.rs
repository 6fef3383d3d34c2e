//! Paths inside of a volume, opened and made without ever leaving it: what lies in a volume is the containers' to choose,
//! links included.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, mkdirat};
use nix::unistd::{Gid, fchownat};

/// Of folders that are made, until they get what the volume has: nobody else's before that.
const MODE: Mode = Mode::from_bits_truncate(0o700);

/// Opens what is at `path` inside of `base`. Links are followed as long as they stay inside.
///
/// # Errors
/// `PermissionDenied` where the path leads out; else as the file system says.
pub fn open(base: &Path, path: &Path) -> io::Result<File> {
    let base = File::from(open_base(base)?);
    Ok(File::from(open_at(&base, path, OFlag::O_PATH).map_err(|errno| told(path, errno))?))
}

/// The same, and folders are made where nothing is, for whom the volume is: with its mode and its group, as with the
/// kubelet. Gives the path without links.
///
/// # Errors
/// As [`open`].
pub fn provide(base: &Path, path: &Path) -> io::Result<PathBuf> {
    let base = open_base(base)?;
    let found = match open_at(&base, path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => make(&base, path),
        other => other,
    };
    let found = found.map_err(|errno| told(path, errno))?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn open_base(base: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(base, flags, Mode::empty())?)
}

/// What is there is opened as above; from the first missing folder on all are made, and found again as folders, not links.
fn make(base: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut at = base.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut there = PathBuf::new();
    let mut parts = parts(path)?.into_iter().peekable();
    while let Some(part) = parts.peek() {
        match open_at(base, &there.join(part), OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => break,
            Err(errno) => return Err(errno),
            Ok(next) => at = next,
        }
        there.extend(parts.next());
    }
    let volume = nix::sys::stat::fstat(base)?;
    for part in parts {
        let made = match mkdirat(&at, part, MODE) {
            Ok(()) => true,
            // Another container of the pod may have been faster.
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(errno),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, part, flags, Mode::empty())?;
        if made {
            become_like(&at, &volume);
        }
    }
    Ok(at)
}

/// As far as this user and the file system allow: the folder is there in any case.
fn become_like(folder: &OwnedFd, volume: &FileStat) {
    let group = Some(Gid::from_raw(volume.st_gid));
    let _ = fchownat(folder, "", None, group, AtFlags::AT_EMPTY_PATH);
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let _ = std::fs::set_permissions(path, Permissions::from_mode(volume.st_mode & 0o7777));
}

fn open_at(base: &impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(base, path, how) {
            // Something was moved meanwhile.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Linux before 5.6, or a sandbox around us that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => return step_by_step(base, path, flags),
            other => return other,
        }
    }
}

/// Follows no link at all.
fn step_by_step(base: &impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let parts = parts(path)?;
    let Some((last, before)) = parts.split_last() else { return Err(Errno::ENOENT) };
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = base.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for part in before {
        at = openat(&at, *part, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    }
    let found = openat(&at, *last, flags, Mode::empty())?;
    let kind = nix::sys::stat::fstat(&found)?.st_mode & libc::S_IFMT;
    if kind == libc::S_IFLNK { Err(Errno::ELOOP) } else { Ok(found) }
}

fn parts(path: &Path) -> Result<Vec<&std::ffi::OsStr>, Errno> {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => Err(Errno::EXDEV),
        })
        .collect()
}

fn told(path: &Path, errno: Errno) -> io::Error {
    if matches!(errno, Errno::EXDEV | Errno::ELOOP) {
        let message = format!("subPath {} leads out of its volume", path.display());
        return io::Error::new(io::ErrorKind::PermissionDenied, message);
    }
    if errno == Errno::ENOTDIR {
        let message = format!("subPath {}: a file, or a link to nothing, is in the way", path.display());
        return io::Error::new(io::ErrorKind::NotADirectory, message);
    }
    errno.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// A volume beside a folder that is none of its business.
    fn volume() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let all = tempfile::tempdir().expect("a folder");
        let root = std::fs::canonicalize(all.path()).expect("a path");
        let (volume, outside) = (root.join("volume"), root.join("outside"));
        for folder in [&volume, &outside] {
            std::fs::create_dir(folder).expect("a folder");
        }
        (all, volume, outside)
    }

    #[test]
    fn nothing_is_made_or_opened_through_a_link_that_leads_out() {
        let (_all, volume, outside) = volume();
        std::fs::write(outside.join("secret"), "").expect("a file");
        symlink("../outside", volume.join("relative")).expect("a link");
        symlink(&outside, volume.join("absolute")).expect("a link");
        symlink("../outside/new", volume.join("dangling")).expect("a link");
        for path in ["relative/new", "absolute/new", "dangling", "dangling/new", "../outside/new", "/new"] {
            assert!(provide(&volume, Path::new(path)).is_err(), "{path}");
        }
        for path in ["relative/secret", "absolute/secret", "relative", "../outside/secret"] {
            assert!(open(&volume, Path::new(path)).is_err(), "{path}");
        }
        let names: Vec<_> = std::fs::read_dir(&outside).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["secret"]);
    }

    #[test]
    fn what_is_inside_is_found_and_what_is_missing_is_made() {
        let (_all, volume, _) = volume();
        assert_eq!(provide(&volume, Path::new("a/./b")).expect("made"), volume.join("a/b"));
        symlink("a", volume.join("newest")).expect("a link");
        assert_eq!(provide(&volume, Path::new("newest/b")).expect("found"), volume.join("a/b"));
        assert_eq!(provide(&volume, Path::new("newest/c")).expect("made"), volume.join("a/c"));
        std::fs::create_dir(volume.join("x")).expect("a folder");
        symlink("../a", volume.join("x/inside")).expect("a link");
        assert_eq!(provide(&volume, Path::new("x/inside/d/e")).expect("made"), volume.join("a/d/e"));
        std::fs::write(volume.join("a/file"), "").expect("a file");
        assert_eq!(provide(&volume, Path::new("newest/file")).expect("found"), volume.join("a/file"));
        assert!(open(&volume, Path::new("newest/file")).expect("found").metadata().expect("known").is_file());
    }

    #[test]
    fn what_is_made_is_for_whom_the_volume_is() {
        let (_all, volume, _) = volume();
        std::fs::create_dir(volume.join("mine")).expect("a folder");
        std::fs::set_permissions(volume.join("mine"), Permissions::from_mode(0o700)).expect("permissions");
        std::fs::set_permissions(&volume, Permissions::from_mode(0o2777)).expect("permissions");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&volume, None, Some(4720)).expect("a group");
        }
        let of = |path: &str| {
            let found = std::fs::metadata(volume.join(path)).expect("there");
            (found.permissions().mode() & 0o7777, found.gid())
        };
        provide(&volume, Path::new("mine/a/b")).expect("made");
        assert_eq!([of("mine/a"), of("mine/a/b")], [of(""); 2]);
        assert_eq!((of("").0, of("mine").0), (0o2777, 0o700));
    }

    #[test]
    fn without_the_kernels_help_no_link_is_followed() {
        let (_all, volume, outside) = volume();
        std::fs::create_dir_all(volume.join("a/b")).expect("folders");
        symlink("a", volume.join("inside")).expect("a link");
        symlink(&outside, volume.join("out")).expect("a link");
        let base = open_base(&volume).expect("open");
        assert!(step_by_step(&base, Path::new("a/b"), OFlag::O_PATH).is_ok());
        for path in ["inside", "inside/b", "out", "out/x", "../outside"] {
            assert!(step_by_step(&base, Path::new(path), OFlag::O_PATH).is_err(), "{path}");
        }
    }
}

//! Mount points that do not exist, made to appear in mirrors of the folders around them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::beneath;

/// Room for what a program writes into a mirrored `/`; a volume is the place for more.
const ROOT_SIZE: &str = "size=1g";
/// Mirrors hold empty files and folders only.
const MIRROR_SIZE: &str = "size=16m";

/// Where the old root is while a new one is furnished.
const OLD_ROOT: &str = "/.trainyard-old-root";

/// What failed, and how.
#[derive(Debug)]
pub(super) struct MirrorError {
    pub(super) what: &'static str,
    pub(super) source: io::Error,
}

/// The mirrors made so far in this namespace.
pub(super) struct Mirrors<'a> {
    scratch: &'a Path,
    made: Vec<PathBuf>,
    /// Folders that the container writes into: mount points inside of them are made in them.
    written: Vec<&'a Path>,
}

enum Kind {
    Dir(u32),
    Link(PathBuf),
    File,
}

impl<'a> Mirrors<'a> {
    pub(super) fn new(scratch: &'a Path) -> Self {
        Self { scratch, made: Vec::new(), written: Vec::new() }
    }

    /// Mount points inside of this folder are made in it: mirrored it would be read-only. `/` is mirrored all the same.
    pub(super) fn leave_writable(&mut self, folder: &'a Path) {
        if folder.is_absolute() && folder.parent().is_some() && folder.is_dir() {
            self.written.push(folder);
        }
    }

    /// Sees to it that `target` exists as a folder or as a file.
    pub(super) fn provide(&mut self, target: &Path, is_dir: bool) -> Result<(), MirrorError> {
        if let Ok(found) = fs::metadata(target) {
            if found.is_dir() == is_dir {
                return Ok(());
            }
            let what = if is_dir { "a file is in the way of the folder" } else { "a folder is in the way of the file" };
            return Err(MirrorError { what, source: io::ErrorKind::AlreadyExists.into() });
        }
        if self.make_inside(target, is_dir) {
            return Ok(());
        }
        let parent = nearest_folder(target)?;
        if !self.made.contains(&parent) {
            let what = "the folder around it cannot be mirrored";
            self.mirror(&parent).map_err(|source| MirrorError { what, source })?;
        }
        make(target, is_dir).map_err(|source| MirrorError { what: "the mount point cannot be made", source })
    }

    /// Whether the target is there, made in a folder that is written. No link leads out of that.
    fn make_inside(&self, target: &Path, is_dir: bool) -> bool {
        let around = self.written.iter().filter(|folder| target != **folder && target.starts_with(folder));
        let Some(folder) = around.max_by_key(|folder| folder.components().count()) else { return false };
        let Ok(rest) = target.strip_prefix(folder) else { return false };
        let made = match (is_dir, rest.parent(), rest.file_name()) {
            (true, ..) => beneath::provide(folder, rest).map(drop),
            (false, Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                beneath::provide(folder, parent).and_then(|parent| make_file(&parent.join(name)))
            }
            (false, ..) => return false,
        };
        made.is_ok() && fs::metadata(target).is_ok_and(|found| found.is_dir() == is_dir)
    }

    /// Makes the mirrors read-only, all but `/`, and lets go of the old root: bind mounts were made from it until now.
    pub(super) fn seal(&self) {
        for path in self.made.iter().filter(|path| path.parent().is_some()) {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            // A mirror that stays writable only loses what is written beside the volumes.
            let _ = mount(None::<&str>, path, None::<&str>, flags, None::<&str>);
        }
        if self.made.iter().any(|path| path.parent().is_none()) {
            let _ = umount2(OLD_ROOT, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(OLD_ROOT);
        }
    }

    fn mirror(&mut self, path: &Path) -> io::Result<()> {
        let is_root = path.parent().is_none();
        let entries = entries(path)?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
        let original = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
        let at = if is_root { self.scratch } else { path };
        let options = format!("mode={mode:o},{}", if is_root { ROOT_SIZE } else { MIRROR_SIZE });
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NODEV, Some(options.as_str()))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", original.as_raw_fd()));
        for (name, kind) in entries {
            let here = at.join(&name);
            match kind {
                Kind::Link(to) => {
                    symlink(to, &here)?;
                    continue;
                }
                Kind::Dir(mode) => fs::DirBuilder::new().mode(mode).create(&here)?,
                Kind::File => drop(File::create(&here)?),
            }
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            match mount(Some(&source.join(&name)), &here, None::<&str>, flags, None::<&str>) {
                Ok(()) => {}
                // An entry that we may not even look at would not be usable through the mirror either.
                Err(nix::Error::EACCES | nix::Error::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if is_root {
            change_root(at)?;
        }
        self.made.push(path.to_owned());
        Ok(())
    }
}

fn change_root(to: &Path) -> io::Result<()> {
    let old = to.join(OLD_ROOT.trim_start_matches('/'));
    fs::create_dir(&old)?;
    nix::unistd::pivot_root(to, &old)?;
    std::env::set_current_dir("/")
}

fn entries(path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind = if kind.is_symlink() {
            Kind::Link(fs::read_link(entry.path())?)
        } else if kind.is_dir() {
            Kind::Dir(entry.metadata().map_or(0o755, |metadata| metadata.permissions().mode() & 0o7777))
        } else {
            Kind::File
        };
        entries.push((entry.file_name(), kind));
    }
    Ok(entries)
}

fn nearest_folder(target: &Path) -> Result<PathBuf, MirrorError> {
    for parent in target.ancestors().skip(1) {
        match fs::metadata(parent) {
            Ok(found) if found.is_dir() => {
                return fs::canonicalize(parent)
                    .map_err(|source| MirrorError { what: "its parent cannot be read", source });
            }
            Ok(_) => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(MirrorError { what: "a file is in the way", source });
            }
            Err(_) => {}
        }
    }
    Err(MirrorError { what: "its path is not absolute", source: io::ErrorKind::InvalidInput.into() })
}

/// Another container may have been faster: the file is there all the same.
fn make_file(path: &Path) -> io::Result<()> {
    match File::create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn make(target: &Path, is_dir: bool) -> io::Result<()> {
    if is_dir {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(target).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_that_another_was_faster_to_make_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| make_file(&file))).collect();
            for maker in makers {
                maker.join().expect("no panic").expect("made");
            }
        });
        let mut mirrors = Mirrors::new(Path::new("/"));
        mirrors.leave_writable(folder.path());
        assert!(mirrors.make_inside(&file, false) && !mirrors.make_inside(&file, true));
    }
}

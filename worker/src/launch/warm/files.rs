//! The Python files that the binary carries, on disk: written once per version, for the ranks to import.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where, below the folder, and what.
const FILES: [(&str, &str); 9] = [
    ("path/trainyard/__init__.py", include_str!("../../../python/trainyard/__init__.py")),
    ("path/trainyard/_line.py", include_str!("../../../python/trainyard/_line.py")),
    ("path/trainyard/_run.py", include_str!("../../../python/trainyard/_run.py")),
    ("path/trainyard/py.typed", include_str!("../../../python/trainyard/py.typed")),
    ("warm/imports.py", include_str!("../../../python/warm/imports.py")),
    ("warm/peek.py", include_str!("../../../python/warm/peek.py")),
    ("warm/program.py", include_str!("../../../python/warm/program.py")),
    ("warm/stacks.py", include_str!("../../../python/warm/stacks.py")),
    ("warm/serve.py", include_str!("../../../python/warm/serve.py")),
];
/// Written like the others.
const ZYGOTE: (&str, &str) = ("warm/zygote.py", include_str!("../../../python/warm/zygote.py"));

/// The folder of this version's files; written if it is not there.
pub(super) fn folder() -> io::Result<PathBuf> {
    let mut failure = io::Error::other("there is no place for files");
    for base in bases() {
        match folder_in(&base) {
            Ok(folder) => return Ok(folder),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// `PYTHONPATH` with the folder of our package behind what it holds, so that nothing of the user's is shadowed.
pub(super) fn python_path(folder: &Path, present: Option<&OsStr>) -> OsString {
    let ours = folder.join("path");
    let mut path = present.unwrap_or_default().to_owned();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(ours);
    path
}

/// What the interpreter runs to be a zygote.
pub(super) fn zygote(folder: &Path) -> PathBuf {
    folder.join(ZYGOTE.0)
}

/// The state folder, the user's cache, or a private folder for temporary files.
fn bases() -> Vec<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let private = format!("trainyard-{}", nix::unistd::getuid());
    [
        folder("TRAINYARD_HOME"),
        folder("XDG_CACHE_HOME").map(|cache| cache.join("trainyard")),
        folder("HOME").map(|home| home.join(".cache/trainyard")),
        Some(std::env::temp_dir().join(private)),
    ]
    .into_iter()
    .flatten()
    .filter(|base| base.is_absolute())
    .collect()
}

fn folder_in(base: &Path) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    ZYGOTE.hash(&mut hasher);
    let parent = base.join("python");
    let folder = parent.join(format!("{:016x}", hasher.finish()));
    if !folder.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
        write(&parent, &folder)?;
    }
    // Ranks run what is in there: it must be ours, and nobody else's to change.
    let owner = std::fs::metadata(&folder)?;
    if owner.uid() != nix::unistd::geteuid().as_raw() || owner.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the folder of the Python files is not ours alone",
        ));
    }
    Ok(folder)
}

/// Writes all files beside and renames, so that the folder is whole or not there.
fn write(parent: &Path, folder: &Path) -> io::Result<()> {
    let draft = parent.join(format!(".{}", std::process::id()));
    let written = FILES.iter().chain([&ZYGOTE]).try_for_each(|(name, text)| {
        let path = draft.join(name);
        let above = path.parent().unwrap_or(&draft);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&path)?.write_all(text.as_bytes())
    });
    let renamed = written.and_then(|()| std::fs::rename(&draft, folder));
    if renamed.is_err() {
        // Who was faster has written the same.
        let _ = std::fs::remove_dir_all(&draft);
    }
    if folder.is_dir() { Ok(()) } else { renamed }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_once_and_are_ours_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = folder_in(base.path()).unwrap();
        assert_eq!(std::fs::read_to_string(zygote(&folder)).unwrap(), ZYGOTE.1);
        assert!(folder.join("path/trainyard/__init__.py").is_file());
        assert_eq!(folder_in(base.path()).unwrap(), folder);
        assert_eq!(std::fs::read_dir(base.path().join("python")).unwrap().count(), 1, "no draft is left");
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(folder_in(base.path()).is_err());
    }

    #[test]
    fn the_path_keeps_what_the_user_has() {
        let folder = Path::new("/f");
        assert_eq!(python_path(folder, None), "/f/path");
        assert_eq!(python_path(folder, Some(OsStr::new("/a:/b"))), "/a:/b:/f/path");
    }
}

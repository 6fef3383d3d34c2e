//! Where NCCL is: named by the user, in the Python that runs, or where the loader looks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The name under which NCCL 2 is installed, whatever its minor version.
const FILE: &str = "libnccl.so.2";
/// Where NVIDIA's wheels put it below site-packages.
const WHEEL: &str = "nvidia/nccl/lib";

/// Files to try, best first; the last one has no folder, so the loader looks for it.
pub(super) fn candidates(lookup: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(named) = lookup("NCCL_LIBRARY").filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| lookup(name)).map(Into::into).collect();
    // The interpreter that would run is the first on the path; its libraries are those that the ranks use.
    let path = lookup("PATH").unwrap_or_default();
    let python =
        std::env::split_paths(&path).find(|folder| folder.join("python3").exists() || folder.join("python").exists());
    prefixes.extend(python.as_deref().and_then(Path::parent).map(Path::to_path_buf));
    let mut files: Vec<PathBuf> =
        prefixes.iter().flat_map(|prefix| in_prefix(prefix)).filter(|file| file.exists()).collect();
    files.push(FILE.into());
    files
}

/// `lib/python3.*/site-packages` (and Debian's `dist-packages`), and conda's `lib`.
fn in_prefix(prefix: &Path) -> Vec<PathBuf> {
    let lib = prefix.join("lib");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&lib)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name).join(WHEEL)))
        .collect();
    // The newest Python first; they are few.
    folders.sort_unstable_by(|one, other| other.cmp(one));
    folders.push(lib);
    folders.into_iter().map(|folder| folder.join(FILE)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_python_on_the_path_is_looked_into_and_the_loader_is_last() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("lib/python3.12/site-packages").join(WHEEL);
        std::fs::create_dir_all(&wheel).unwrap();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/python"), "").unwrap();
        std::fs::write(wheel.join(FILE), "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), &folder.path().join("bin")]).unwrap();
        let found = candidates(|name| (name == "PATH").then(|| path.clone()));
        assert_eq!(found, [wheel.join(FILE), PathBuf::from(FILE)]);
    }

    #[test]
    fn what_the_user_names_is_all_that_is_tried() {
        let found = candidates(|name| (name == "NCCL_LIBRARY").then(|| "/opt/nccl.so".into()));
        assert_eq!(found, [PathBuf::from("/opt/nccl.so")]);
    }

    #[test]
    fn without_a_python_only_the_loader_is_left() {
        assert_eq!(candidates(|_| None), [PathBuf::from(FILE)]);
    }
}

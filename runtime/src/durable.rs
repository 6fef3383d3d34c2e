//! Files that are there whole or not at all, whatever happens to the process or the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts `contents` in place of the file at `path`, with these permissions. When this returns, the new file is on the disk;
/// when it fails, or the power does, the old one is as it was.
///
/// One writer at a time: the draft beside the file has a fixed name, so that one left by a crash is overwritten.
///
/// # Errors
/// What the system says. No draft stays behind, so that a full disk is not made fuller.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    put(path, contents, mode, File::sync_all)?;
    // The name is on the disk when the folder is. An empty parent is the working directory.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The same, but after a failure of the power the old one may be there again, as whole as it was.
///
/// # Errors
/// What the system says. No draft stays behind.
pub fn renew(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    put(path, contents, mode, File::sync_data)
}

/// The same for what means nothing after a reboot, or is soon written again: it waits for no disk. Readers see the old file
/// or the new one, never a part; both may be lost with the power.
///
/// # Errors
/// What the system says. No draft stays behind.
pub fn swap(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    put(path, contents, mode, |_| Ok(()))
}

fn put(path: &Path, contents: &[u8], mode: u32, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(".new");
    let draft = folder.join(draft_name);
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&draft)?;
        file.write_all(contents)?;
        sync(&file)?;
        fs::rename(&draft, path)
    };
    let written = write();
    if written.is_err() {
        // The first trouble is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.json");
        replace(&path, b"one", 0o600).unwrap();
        renew(&path, b"newer", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        swap(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A folder in the place of the draft: it cannot be written.
        fs::create_dir(folder.path().join(".spec.json.new")).unwrap();
        assert!(replace(&path, b"three", 0o600).is_err());
        assert!(renew(&path, b"three", 0o600).is_err());
        assert!(swap(&path, b"three", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }
}

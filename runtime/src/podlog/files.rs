//! The files of one run's log: `0.log`, and `0.log.1` (newest) to `0.log.3` that were rotated away from under it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::line;

/// Read at once when looking for lines from the end.
const BLOCK: usize = 64 * 1024;
/// Time, stream and tag of a line are shorter.
const HEAD: usize = 64;

/// The files that came after the one with inode `known`, oldest first; all that are left where it is not among them.
///
/// The newest is opened first: when the log is rotated meanwhile, the same file is met again under its next name.
pub(super) fn after(path: &Path, known: Option<u64>) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    let mut met = known;
    for number in 0.. {
        match File::open(numbered(path, number)) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if known == Some(inode) {
                    break;
                }
                if met != Some(inode) {
                    files.push_front(file);
                }
                met = Some(inode);
            }
            // Between the rename and the new file there is no newest one.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Leaves only the files with the last `lines` lines, and says where in the first of them these begin. A line that was
/// written in parts is one; so is one that has no end yet.
pub(super) fn start_of_last(files: &mut VecDeque<File>, lines: u64) -> io::Result<u64> {
    // The end before the first line that is wanted.
    let mut ends_left = None;
    for index in (0..files.len()).rev() {
        let file = &files[index];
        let size = file.metadata()?.len();
        if lines == 0 {
            files.drain(..index);
            return Ok(size);
        }
        let mut later = size;
        let mut end = size;
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
            file.read_exact_at(&mut block, start)?;
            let newlines = (start..end).rev().zip(block.iter().rev()).filter(|(_, byte)| **byte == b'\n');
            let first = (start == 0).then_some(0);
            for at in newlines.map(|(at, _)| at + 1).chain(first).filter(|at| *at < size) {
                let is_end = ends_at(file, at)?;
                let left = ends_left.get_or_insert(lines + u64::from(is_end));
                *left -= u64::from(is_end);
                if *left == 0 {
                    files.drain(..index);
                    return Ok(later);
                }
                later = at;
            }
            end = start;
        }
    }
    Ok(0)
}

/// Whether a line of the container ends with the record at `at`.
fn ends_at(file: &File, at: u64) -> io::Result<bool> {
    let mut head = [0; HEAD];
    let mut length = 0;
    while length < HEAD {
        match file.read_at(&mut head[length..], at + length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    let record = head[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line::parse(record).is_none_or(|line| line.ends))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, SeekFrom};

    use super::*;

    fn text(files: VecDeque<File>, start: u64) -> String {
        let mut text = String::new();
        for (index, mut file) in files.into_iter().enumerate() {
            file.seek(SeekFrom::Start(if index == 0 { start } else { 0 })).expect("seeks");
            file.read_to_string(&mut text).expect("reads");
        }
        text.lines().map(|line| line.rsplit(' ').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    }

    fn log(tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout {tag} {text}\n")
    }

    #[test]
    fn rotated_files_come_first_and_known_ones_not_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        for (name, content) in [("0.log.2", "a"), ("0.log.1", "b"), ("0.log", "c")] {
            std::fs::write(folder.path().join(name), log("F", content)).expect("writes");
        }
        assert_eq!(text(after(&path, None).expect("opens"), 0), "a b c");
        let inode = std::fs::metadata(folder.path().join("0.log.2")).expect("is there").ino();
        assert_eq!(text(after(&path, Some(inode)).expect("opens"), 0), "b c");
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(text(after(&path, None).expect("opens"), 0), "a b");
    }

    #[test]
    fn the_last_lines_are_counted_over_files_and_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        std::fs::write(folder.path().join("0.log.1"), log("F", "one") + &log("P", "tw")).expect("writes");
        std::fs::write(&path, log("F", "o") + &log("F", "three") + &log("P", "four")).expect("writes");
        for (lines, wanted) in [
            (0, ""),
            (1, "four"),
            (2, "three four"),
            (3, "tw o three four"),
            (4, "one tw o three four"),
            (9, "one tw o three four"),
        ] {
            let mut files = after(&path, None).expect("opens");
            let start = start_of_last(&mut files, lines).expect("reads");
            assert_eq!(text(files, start), wanted, "{lines}");
        }
    }

    #[test]
    fn blocks_do_not_cut_what_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let lines: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
        std::fs::write(&path, lines.iter().map(|line| log("F", line)).collect::<String>()).expect("writes");
        for count in [1, 1_500, 4_999, 5_000] {
            let mut files = after(&path, None).expect("opens");
            let start = start_of_last(&mut files, count).expect("reads");
            let from = lines.len() - usize::try_from(count).expect("small");
            assert_eq!(text(files, start), lines[from..].join(" "));
        }
    }
}

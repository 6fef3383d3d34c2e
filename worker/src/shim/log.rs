//! The container's log in CRI form (`<time> stdout|stderr F|P <text>`), rotated, and never a reason to stop.

use super::aside;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A longer line is written in parts, as container runtimes do.
const MAX_LINE: usize = 16 * 1024;
/// What is kept of the output's end for the termination message (Kubernetes' limits).
const TAIL_BYTES: usize = 2_048;
const TAIL_LINES: usize = 80;

/// Which pipe a piece of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// Writes one container's log.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    max_bytes: u64,
    keep: u32,
    /// Unfinished line of each stream.
    partial: [Vec<u8>; 2],
    /// The file ends in the middle of a record, after a write that the disk cut short.
    torn: bool,
    lost_lines: u64,
    lost_because: String,
    out: Vec<u8>,
    tail: Vec<u8>,
}

impl Log {
    pub(super) fn open(path: &Path, max_bytes: u64, keep: u32) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            written: 0,
            max_bytes: max_bytes.max(4 * 1024),
            keep,
            partial: [Vec::new(), Vec::new()],
            torn: false,
            lost_lines: 0,
            lost_because: String::new(),
            out: Vec::new(),
            tail: Vec::new(),
        };
        // Failing is noticed, and retried, at the first write.
        let _ = log.reopen();
        log
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = File::options().append(true).create(true).mode(0o640).open(&self.path)?;
        self.written = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes in output; `line` is called with each whole line. Those that are for the shim alone are not kept.
    pub(super) fn feed(&mut self, stream: Stream, bytes: &[u8], now: &str, line: &mut dyn FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = rest.split_at(at);
            rest = &tail[1..];
            let held = std::mem::take(&mut self.partial[stream.index()]);
            if held.is_empty() {
                line(head);
                self.keep(stream, now, head);
            } else {
                let mut whole = held;
                whole.extend_from_slice(head);
                line(&whole);
                self.keep(stream, now, &whole);
                whole.clear();
                self.partial[stream.index()] = whole;
            }
        }
        self.partial[stream.index()].extend_from_slice(rest);
        while self.partial[stream.index()].len() >= MAX_LINE {
            let mut held = std::mem::take(&mut self.partial[stream.index()]);
            let more = held.split_off(MAX_LINE);
            self.record(stream, now, false, &held);
            self.partial[stream.index()] = more;
        }
        self.write_out();
    }

    pub(super) fn has_partial(&self) -> bool {
        self.partial.iter().any(|partial| !partial.is_empty())
    }

    /// Writes unfinished lines as they are: a prompt or a progress bar shall be seen before its line ends.
    pub(super) fn flush_partial(&mut self, now: &str) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = std::mem::take(&mut self.partial[stream.index()]);
            if !held.is_empty() {
                self.record(stream, now, false, &held);
            }
        }
        self.write_out();
    }

    /// Ends the log: what is unfinished stays unfinished.
    pub(super) fn close(&mut self, now: &str) {
        self.flush_partial(now);
        if self.lost_lines > 0 {
            self.write_out();
        }
    }

    /// Lines that are missing, and of which the log itself does not tell: there was no room for that either.
    pub(super) fn lost_lines(&self) -> u64 {
        self.lost_lines
    }

    /// The end of the output, for the termination message.
    pub(super) fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().collect();
        let mut kept = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        while kept.len() > TAIL_BYTES {
            let cut = kept
                .find('\n')
                .map_or_else(|| (kept.len() - TAIL_BYTES..).find(|at| kept.is_char_boundary(*at)), |at| Some(at + 1));
            kept = kept.split_off(cut.unwrap_or(0).max(1));
        }
        kept
    }

    fn keep(&mut self, stream: Stream, now: &str, line: &[u8]) {
        if aside::text(line).is_none() {
            self.record(stream, now, true, line);
        }
    }

    fn record(&mut self, stream: Stream, now: &str, full: bool, text: &[u8]) {
        for part in [now.as_bytes(), b" ", stream.name().as_bytes(), if full { b" F " } else { b" P " }, text, b"\n"] {
            self.out.extend_from_slice(part);
        }
        self.tail.extend_from_slice(text);
        if full {
            self.tail.push(b'\n');
        }
        if self.tail.len() > 4 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - 2 * TAIL_BYTES);
        }
        // A burst is written in pieces, so that memory stays bounded and rotation happens in time.
        if self.out.len() > 256 * 1024 {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.out.is_empty() && self.lost_lines == 0 {
            return;
        }
        if self.written > 0 && self.written + self.out.len() as u64 > self.max_bytes {
            self.rotate();
        }
        let mut out = std::mem::take(&mut self.out);
        let (taken, result) = self.try_write(&out);
        if let Err(error) = result {
            self.lost_lines += out[taken..].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.lost_because = error.to_string();
        }
        out.clear();
        self.out = out;
    }

    /// Writes, and says how many bytes of `out` are in the file now.
    fn try_write(&mut self, out: &[u8]) -> (usize, io::Result<()>) {
        match self.prepare() {
            Ok(()) => self.append(out),
            Err(error) => (0, Err(error)),
        }
    }

    /// Opens the file, and makes good what an earlier failure left.
    fn prepare(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.torn {
            self.append(b"\n").1?;
            self.torn = false;
        }
        if self.lost_lines > 0 {
            let (now, lost, because) = (timestamp(), self.lost_lines, &self.lost_because);
            let marker = format!("{now} stderr F [trainyard] {lost} log lines are missing here: {because}\n");
            self.append(marker.as_bytes()).1?;
            self.lost_lines = 0;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let Some(file) = self.file.as_mut() else { return (0, Err(io::ErrorKind::NotFound.into())) };
        let mut taken = 0;
        while taken < bytes.len() {
            match file.write(&bytes[taken..]) {
                Ok(count) => {
                    self.written += count as u64;
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn |= taken > 0;
                    return (taken, Err(error));
                }
            }
        }
        (taken, Ok(()))
    }

    /// `0.log` → `0.log.1` → `0.log.2` …; the oldest goes. Followers keep reading the renamed file to its end.
    fn rotate(&mut self) {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let _ = fs::remove_file(numbered(self.keep));
        for number in (1..self.keep).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let moved = if self.keep == 0 { fs::remove_file(&self.path) } else { fs::rename(&self.path, numbered(1)) };
        if moved.is_ok() {
            self.file = None;
            self.torn = false;
        }
    }
}

/// The time as CRI logs write it.
pub(super) fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::{Log, Stream};

    const NOW: &str = "2026-01-01T00:00:00.000000000Z";

    fn lines(log: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().map(|line| line.strip_prefix(NOW).unwrap_or(line).to_owned()).collect()
    }

    #[test]
    fn lines_survive_being_cut_anywhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let text = b"one\ntwo\n\nthree\nrest";
        for cut in 0..text.len() {
            let _ = std::fs::remove_file(&path);
            let mut log = Log::open(&path, 1 << 20, 2);
            let mut seen = Vec::new();
            let mut collect = |line: &[u8]| seen.push(String::from_utf8_lossy(line).into_owned());
            log.feed(Stream::Stdout, &text[..cut], NOW, &mut collect);
            log.feed(Stream::Stdout, &text[cut..], NOW, &mut collect);
            log.close(NOW);
            assert_eq!(seen, ["one", "two", "", "three"]);
            assert_eq!(
                lines(&path),
                [" stdout F one", " stdout F two", " stdout F ", " stdout F three", " stdout P rest"]
            );
        }
    }

    #[test]
    fn streams_do_not_mix() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let mut log = Log::open(&path, 1 << 20, 2);
        log.feed(Stream::Stdout, b"ou", NOW, &mut |_| {});
        log.feed(Stream::Stderr, b"err\n", NOW, &mut |_| {});
        log.feed(Stream::Stdout, b"t\n", NOW, &mut |_| {});
        assert_eq!(lines(&path), [" stderr F err", " stdout F out"]);
    }

    #[test]
    fn the_disk_use_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let mut log = Log::open(&path, 4 * 1024, 2);
        for number in 0..10_000 {
            log.feed(Stream::Stdout, format!("line {number}\n").as_bytes(), NOW, &mut |_| {});
        }
        let sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
            .collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().sum::<u64>() <= 3 * 4 * 1024);
        assert!(lines(&path).last().expect("a line").ends_with("line 9999"));
    }

    #[test]
    fn a_full_disk_loses_lines_but_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let mut log = Log::open(&path, 1 << 20, 2);
        log.feed(Stream::Stdout, b"lost\nlost too\n", NOW, &mut |_| {});
        std::fs::remove_file(&path).expect("removed");
        log.file = None;
        log.feed(Stream::Stdout, b"kept\n", NOW, &mut |_| {});
        let lines = lines(&path);
        assert!(lines[0].contains("[trainyard] 2 log lines are missing here: No space left on device"), "{lines:?}");
        assert_eq!(lines[1], " stdout F kept");
    }

    #[test]
    fn the_tail_is_what_a_crash_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(&folder.path().join("0.log"), 1 << 20, 2);
        for number in 0..5_000 {
            log.feed(Stream::Stderr, format!("line {number} é\n").as_bytes(), NOW, &mut |_| {});
        }
        let tail = log.tail();
        assert!(tail.len() <= 2_048 && tail.ends_with("line 4999 é"), "{tail}");
    }
}

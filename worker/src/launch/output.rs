//! The ranks' output, line by line, on the launcher's own.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use trainyard_worker_core::progress::parse;
use trainyard_worker_core::stall::Sign;
use trainyard_worker_core::supervisor::{ProcessId, Tail};

use super::console::{self, Channel};

/// A line is passed on in parts when it is longer: a program that never ends its line must not fill the memory.
const LINE_BYTES: usize = 64 * 1024;
/// Read at once. A pipe holds 64 KiB.
const READ_BYTES: usize = 64 * 1024;
/// Reads in a row: more than a pipe holds, so that the last words of a rank that has ended are all taken, and few enough that a
/// rank which never falls silent keeps nobody from hearing signals and seeing the others die.
const ROUNDS: usize = 4;

/// Where the lines go beside, or instead of, the launcher's own output.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// Nothing here.
    pub(super) silent: bool,
    /// What lines begin with here, instead of the rank's name.
    pub(super) header: Option<String>,
    /// All of it, as it came.
    pub(super) file: Option<File>,
    /// Lines that have one of the needles, with the header.
    pub(super) filtered: Option<Rc<File>>,
    pub(super) needles: Vec<String>,
}

impl Route {
    /// Copies lines to where they go. A full disk is no reason to stop the training.
    fn copy(&mut self, lines: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(lines);
        }
        let Some(mut filtered) = self.filtered.as_deref() else { return };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            if self.needles.iter().any(|needle| text.contains(needle)) {
                let _ = filtered.write_all(&[self.header.as_deref().unwrap_or_default().as_bytes(), line].concat());
            }
        }
    }
}

/// What a rank has written that is held back, because nobody takes it from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// As much as before.
    Same,
    /// More than before.
    More,
    /// So much that the rank may have to wait before it can write on.
    Full,
}

/// The reading end of one output of one rank.
pub(super) struct Stream {
    pub(super) process: ProcessId,
    channel: Channel,
    pipe: File,
    /// `[rank 3] `, `[rank 3 gen 2] `, or nothing when the pod has one rank only.
    pub(super) prefix: String,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// What it told of progress since it was asked last.
    sign: Option<Sign>,
    /// Bytes that were seen in the pipe while they were held back.
    waiting: usize,
    route: Route,
}

impl Stream {
    pub(super) fn new(process: ProcessId, channel: Channel, pipe: OwnedFd, prefix: String) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let (partial, sign, waiting, route) = (Vec::new(), None, 0, Route::default());
        Ok(Self { process, channel, pipe: pipe.into(), prefix, partial, sign, waiting, route })
    }

    /// The same, with the lines going elsewhere.
    pub(super) fn with_route(self, route: Route) -> Self {
        Self { route, ..self }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Whether nothing is taken from the rank at present, because nobody takes it from us.
    pub(super) fn is_held(&self) -> bool {
        !self.route.silent && console::is_full(self.channel)
    }

    /// What of the rank's output waits for that.
    pub(super) fn held(&mut self) -> Held {
        let mut waiting: libc::c_int = 0;
        // SAFETY: the system call writes one integer, to a place that is ours.
        let known = unsafe { libc::ioctl(self.pipe.as_raw_fd(), libc::FIONREAD, &raw mut waiting) } == 0;
        let waiting = if known { usize::try_from(waiting).unwrap_or(0) } else { 0 };
        let size = fcntl(&self.pipe, FcntlArg::F_GETPIPE_SZ).map_or(0, |size| usize::try_from(size).unwrap_or(0));
        let before = std::mem::replace(&mut self.waiting, waiting);
        // A pipe is full when each of its pages is begun: at least half of the room is taken then.
        if waiting * 2 > size {
            Held::Full
        } else if waiting > before {
            Held::More
        } else {
            Held::Same
        }
    }

    /// Passes on what is there, or much of it. Whether more may come, and what it says of progress.
    pub(super) fn forward(&mut self, tail: &mut Tail) -> (bool, Option<Sign>) {
        let mut chunk = vec![0; READ_BYTES];
        let mut open = true;
        self.waiting = 0;
        for _ in 0..ROUNDS {
            match self.pipe.read(&mut chunk) {
                Ok(0) => open = false,
                Ok(count) => {
                    self.sign.get_or_insert(Sign::Life);
                    self.take(&chunk[..count], tail);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => open = false,
            }
            if !open {
                self.finish(tail);
                break;
            }
        }
        (open, self.sign.take())
    }

    /// Ends the last line if the program did not.
    pub(super) fn finish(&mut self, tail: &mut Tail) {
        if !self.partial.is_empty() {
            self.take(b"\n", tail);
        }
    }

    fn take(&mut self, bytes: &[u8], tail: &mut Tail) {
        self.partial.extend_from_slice(bytes);
        let whole = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() >= LINE_BYTES => self.partial.len(),
            None => return,
        };
        let lines: Vec<u8> = self.partial.drain(..whole).collect();
        self.route.copy(&lines);
        let prefix = self.route.header.as_ref().unwrap_or(&self.prefix);
        let mut page = Vec::with_capacity(lines.len() + 64);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            page.extend_from_slice(prefix.as_bytes());
            page.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                page.push(b'\n');
            }
            let text = String::from_utf8_lossy(line);
            tail.push(text.trim_end());
            if let Some(step) = parse(text.trim_end()).and_then(|sample| sample.step) {
                self.sign = Some(Sign::Step(step));
            }
        }
        if !self.route.silent {
            // One piece for all lines, so that lines of two ranks never mix.
            console::put(self.channel, page);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_told_from_what_stands_still() {
        let (reading, writing) = nix::unistd::pipe().unwrap();
        let process = ProcessId { local_rank: 0, generation: 1 };
        let mut stream = Stream::new(process, Channel::Out, reading, String::new()).unwrap();
        let mut writing = File::from(writing);
        assert_eq!(stream.held(), Held::Same);
        writing.write_all(b"a line\n").unwrap();
        assert_eq!((stream.held(), stream.held()), (Held::More, Held::Same));
        fcntl(&writing, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        // The worst case: each line needs a page of its own, of which it leaves nearly half.
        let lines = std::iter::from_fn(|| writing.write(&[b'.'; 2_049]).ok()).count();
        assert!(lines > 8, "{lines}");
        assert_eq!((stream.held(), stream.held()), (Held::Full, Held::Full));
    }
}

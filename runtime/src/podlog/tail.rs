//! Reads a log from where the client wants it, through its rotated files, and on while it grows.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Life;
use super::files;
use super::line::{self, Writer};
use crate::server::query::LogParams;

/// Read at once: a balance of system calls against memory per follower.
const READ_BYTES: usize = 64 * 1024;
/// Between looks at a file that does not grow. A person does not see 50 ms, and twenty reads a second of a cached page
/// cost nothing worth a dependency on inotify.
const POLL: Duration = Duration::from_millis(50);
/// A line without an end is given up beyond this: the shim cuts lines at 16 KiB.
const LINE_BYTES: usize = 1024 * 1024;

pub(super) struct Tail {
    path: PathBuf,
    file: File,
    inode: u64,
    /// Newer than `file`, oldest first.
    next: VecDeque<std::fs::File>,
    life: Life,
    follow: bool,
    since_ms: Option<i64>,
    left: Option<u64>,
    writer: Writer,
    /// Read, but without an end of line yet.
    rest: Vec<u8>,
    /// The file is no longer the newest, which was noticed at its end.
    rotated: bool,
    stopping: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Tail {
    pub(super) async fn open(
        path: &Path,
        params: &LogParams,
        since_ms: Option<i64>,
        life: Life,
        stopping: CancellationToken,
        permit: Option<OwnedSemaphorePermit>,
    ) -> io::Result<Self> {
        let (of, lines) = (path.to_owned(), params.tail_lines);
        let opened = tokio::task::spawn_blocking(move || {
            let mut files = files::after(&of, None)?;
            let start = lines.map_or(Ok(0), |lines| files::start_of_last(&mut files, lines))?;
            if let Some(first) = files.front_mut() {
                first.seek(SeekFrom::Start(start))?;
            }
            Ok::<_, io::Error>(files)
        });
        let mut next = opened.await.map_err(io::Error::other)??;
        let first = next.pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            path: path.to_owned(),
            inode: first.metadata()?.ino(),
            file: File::from_std(first),
            next,
            life,
            follow: params.follow && !params.previous,
            since_ms,
            left: params.limit_bytes,
            writer: Writer::new(params.timestamps),
            rest: Vec::new(),
            rotated: false,
            stopping,
            _permit: permit,
        })
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut tail| async move {
            let chunk = tail.chunk().await?;
            Some((Ok(Bytes::from(chunk)), tail))
        })
    }

    /// The next piece of output; `None` at the end.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if self.left == Some(0) {
                return None;
            }
            // Asked before reading: whatever was written before the end is read after it.
            let over = !self.follow || self.life.is_over();
            let read = self.file.read(&mut buffer).await.ok()?;
            if read == 0 {
                if self.turn().ok()? {
                    continue;
                }
                if over {
                    return None;
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL) => continue,
                    () = self.stopping.cancelled() => return None,
                }
            }
            self.rest.extend_from_slice(&buffer[..read]);
            let out = self.lines();
            if !out.is_empty() {
                return Some(out);
            }
        }
    }

    /// At the end of a file: goes on with the one after it, if there is one. Whoever follows looks for new ones.
    fn turn(&mut self) -> io::Result<bool> {
        if self.next.is_empty() && self.follow {
            let current = std::fs::metadata(&self.path).map(|found| found.ino());
            if current.is_ok_and(|inode| inode == self.inode) {
                return Ok(false);
            }
            if !self.rotated {
                // The last write to the old file was before the rename, but maybe after it was read to its end.
                self.rotated = true;
                return Ok(true);
            }
            self.next = files::after(&self.path, Some(self.inode))?;
        }
        let Some(file) = self.next.pop_front() else { return Ok(false) };
        self.inode = file.metadata()?.ino();
        self.file = File::from_std(file);
        self.rotated = false;
        // A line that was cut short at the end of a file does not go on in the next.
        self.rest.clear();
        Ok(true)
    }

    /// What the complete lines of `rest` say.
    fn lines(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rest.len());
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for raw in self.rest[..end].split(|byte| *byte == b'\n') {
            let Some(line) = line::parse(raw) else { continue };
            if let Some(since) = self.since_ms {
                if line::time_ms(&line).is_none_or(|time| time < since) {
                    continue;
                }
                // Times rise: from here on every line is wanted.
                self.since_ms = None;
            }
            self.writer.write(&line, &mut out);
        }
        self.rest.drain(..end);
        if self.rest.len() > LINE_BYTES {
            self.rest.clear();
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }
}

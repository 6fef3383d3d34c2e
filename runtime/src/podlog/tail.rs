//! Reads a log file from where the client wants it, and on while it grows.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Life;
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
    file: File,
    life: Life,
    follow: bool,
    since_ms: Option<i64>,
    left: Option<u64>,
    writer: Writer,
    /// Read, but without an end of line yet.
    rest: Vec<u8>,
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
    ) -> std::io::Result<Self> {
        let mut file = File::open(path).await?;
        if let Some(lines) = params.tail_lines {
            let start = start_of_last(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(Self {
            file,
            life,
            follow: params.follow && !params.previous,
            since_ms,
            left: params.limit_bytes,
            writer: Writer::new(params.timestamps),
            rest: Vec::new(),
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

/// Where the last `lines` lines begin, found from the end of the file.
async fn start_of_last(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut newlines = 0;
    let mut buffer = vec![0; READ_BYTES];
    let size = end;
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
        let length = usize::try_from(end - start).unwrap_or(READ_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        let piece = &mut buffer[..length];
        file.read_exact(piece).await?;
        for (index, byte) in piece.iter().enumerate().rev() {
            let at = start + index as u64;
            // The newline that ends the last line begins nothing.
            if *byte == b'\n' && at + 1 < size {
                newlines += 1;
                if newlines == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

//! Every limit of the server, each with its reason.

use std::time::Duration;

/// Largest request body: the API server's own limit (3 MiB), which is what clients are written for. Objects are
/// further limited by the store.
pub(crate) const BODY_BYTES: usize = 3 * 1024 * 1024;

/// Watches and followed logs over sockets at a time: a hundred dashboards and scripts with a dozen each. The store has
/// room for the in-process controllers beyond them.
pub(crate) const STREAMS: usize = 1_024;

/// Connections at a time. Each idle one costs about 20 KiB, so all of them 20 MiB.
pub(crate) const CONNECTIONS: usize = 1_024;

/// Largest head of a request: 16 KiB of selectors, a token, and room for proxies' headers.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// Longest wait for the first request of a connection and for its TLS handshake, and between two signs of life of an HTTP/2
/// peer: clients ask at once; more is a slow-loris. The heads of later requests have `IDLE_TIMEOUT`.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the body of a request: the largest one at 50 KB/s.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two requests of one connection: Go's clients keep idle ones for 90 seconds, and the client should be the one to
/// close, or a request may meet a connection that is just being closed.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest that a watch waits for its reader to take what is there, whose place may be needed by others.
pub(crate) const WATCH_STALL: Duration = Duration::from_secs(300);

/// The same of whole connections and of logs, which somebody may be reading page by page.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(3_600);

/// Streams of one HTTP/2 connection: client-go's informers share one connection, one stream per kind.
pub(crate) const H2_STREAMS: u32 = 250;

/// Longest a watch runs when the client names no end: as the API server, so that clients get used to resuming.
/// Sockets only: half of it at least, drawn at random, so that watches do not all end at once.
pub(crate) const WATCH_SECONDS: u64 = 3_600;

/// Longest that requests in flight may take to finish when the server stops: a durable write takes milliseconds.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// Bytes of watch events joined into one write: a list of small objects goes out in few packets.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Deletions of one `deletecollection` in flight: the size of half a group commit of the store.
pub(crate) const PARALLEL_DELETES: usize = 128;

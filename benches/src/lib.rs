//! What the measuring programs share: starting the servers that are measured, talking HTTP to them, and summing up.

pub mod http;
pub mod kill;
pub mod queues;
pub mod samples;
pub mod scale;
pub mod server;
pub mod store;

/// What can go wrong in a measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that is measured could not be started or ended early.
    #[error("{program}: {why}")]
    Program {
        /// Which one.
        program: String,
        /// What happened, with the end of its log.
        why: String,
    },
    /// A request failed.
    #[error("request failed: {0}")]
    Request(String),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

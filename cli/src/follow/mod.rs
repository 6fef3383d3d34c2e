//! Following a job to its end: phases, logs with ranks told apart, progress, and what to do next.

pub(crate) mod failure;
pub(crate) mod label;
pub(crate) mod observe;
pub(crate) mod phase;
pub(crate) mod progress;
pub(crate) mod screen;
pub(crate) mod stream;
pub(crate) mod watcher;

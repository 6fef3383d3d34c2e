//! Following a job to its end: phases, logs with ranks told apart, progress, and what to do next.
//!
//! [`watcher`] waits for what happens and carries out. What it knows is in the pure parts: the [`scene`] (what it
//! watches), the [`news`] with [`figures`] and [`words`] (what it shows), and the [`ending`] (how it ends).

pub(crate) mod control;
mod crash;
mod ending;
pub(crate) mod failure;
mod figures;
pub(crate) mod label;
mod news;
pub(crate) mod observe;
pub(crate) mod outcome;
pub(crate) mod phase;
pub(crate) mod progress;
mod scene;
pub(crate) mod screen;
pub(crate) mod signals;
pub(crate) mod stream;
pub(crate) mod watcher;
mod words;

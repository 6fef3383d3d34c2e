//! Decisions about jobs: what a manifest means, what a job needs next, where its pods go, and why.
//!
//! Everything here is a pure function of what was observed and of the time handed in.
//!
//! - [`manifest`] lowers an object of any dialect to one [`model::JobModel`], or says all that is wrong with it.
//! - [`job::plan`] drives the life cycle of any [`model::JobModel`].
//! - [`gang::place`] decides which waiting gangs start, and where.
//! - [`schedule::decide`] is the engine that will take its place: queues, quota, preemption, reservations, topology.
//! - [`explain`] says why a job is where it is.
//! - [`outset`](mod@outset) says with which pods a job would begin.
//! - [`rendezvous`] decides who the ranks of a job are, generation by generation.
//! - [`operator`] decides who leads on a cluster, and what the operator may do there.
//! - [`standin`] plays the controllers of `batch/v1` and `apps/v1` that a cluster brings along.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backoff;
pub mod condition;
pub mod diagnostic;
pub mod explain;
pub mod fnv;
pub mod gang;
pub mod instant;
pub mod job;
pub mod label;
pub mod manifest;
mod merge;
pub mod model;
pub mod operator;
pub mod outset;
pub mod peer;
pub mod port;
pub mod rendezvous;
pub mod schedule;
pub mod standin;
pub mod view;

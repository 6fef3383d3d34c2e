//! What to try next: search spaces, samplers and the record of trials of an experiment, without any input or output.
//!
//! - [`space`] says what is searched: parameters of all kinds, conditions, constraints.
//! - [`expression`] is the language of conditions and constraints.
//! - [`experiment`] is asked what to try and told what came of it; [`history`] keeps it, for one or more [`objective`]s.
//! - [`sampler`] has the algorithms.
//! - [`stream`] makes random numbers that can be made again.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod experiment;
pub mod expression;
pub mod history;
pub mod objective;
pub mod sampler;
pub mod space;
pub mod stream;
mod walk;

//! What to try next: search spaces, samplers and the record of trials of an experiment, without any input or output.
//!
//! - [`space`] says what is searched: parameters of all kinds, conditions, constraints.
//! - [`expression`] is the language of conditions and constraints.
//! - [`stream`] makes random numbers that can be made again.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod expression;
pub mod space;
pub mod stream;

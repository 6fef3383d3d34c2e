//! Experiments: what an experiment's file means, the controllers that run its trials, a dialogue with a sampler for programs, and
//! what is made of the trials in the end.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod controller;
pub mod definition;
pub mod dialogue;
pub mod record;
pub mod report;

pub use controller::{Handle, Tuner};

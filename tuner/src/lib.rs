//! Experiments: what an experiment's file means, the controllers that run its trials, and a dialogue with a sampler for programs.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod controller;
pub mod definition;
pub mod dialogue;

pub use controller::{Handle, Tuner};

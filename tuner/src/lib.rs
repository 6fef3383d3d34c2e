//! Experiments: what an experiment's file means, and a dialogue with a sampler for programs.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod definition;
pub mod dialogue;

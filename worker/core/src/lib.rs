//! Decisions of the node, as pure functions: the pod's life cycle and environment, and what a program's output tells
//! about its progress.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod pod;
pub mod progress;
pub mod supervisor;

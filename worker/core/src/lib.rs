//! Decisions of the node, as pure functions: the pod's life cycle and environment, what a program's output tells about
//! its progress and the reason of its end, the store by which PyTorch's ranks meet, the environment of NCCL and gloo,
//! and what is wrong with a network or a GPU.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod c10d;
pub mod cause;
pub mod checkpoint;
pub mod collective_env;
pub mod pod;
pub mod preflight;
pub mod progress;
pub mod stall;
pub mod supervisor;

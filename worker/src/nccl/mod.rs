//! Collectives between GPUs: NVIDIA's NCCL, loaded when it is asked for, from where the user's frameworks keep it.
//!
//! The two dozen functions that are needed are declared here over `libloading`, not taken from cudarc: cudarc looks for
//! `libnccl.so` and not for the `libnccl.so.2` that wheels and distributions install, it cannot be told a path, and it
//! panics where the library or a newer function is missing, which here is a typed error ([`NcclError::NotInVersion`]).
//!
//! Nothing here needs CUDA to be built or started. A [`Group`] is formed over a
//! [`Communicator`](crate::comm::Communicator), which carries the unique id and agrees on whether all ranks can.

mod cuda;
mod find;
mod group;
mod library;

use std::time::Duration;

pub use cuda::{Device, DeviceBuffer};
pub use group::Group;
pub(crate) use library::{IS_STATIC, loader_words};
pub use library::{Library, Version};

/// What can go wrong on the way to a GPU, or between GPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// No library was found.
    #[error(
        "no NCCL here: {tried}; install nvidia-nccl-cu13 in the Python that is on PATH, or name the file in NCCL_LIBRARY"
    )]
    NotFound {
        /// Where it was looked for, with the loader's last words.
        tried: String,
    },
    /// No driver, or no such GPU.
    #[error("no usable GPU: {0}")]
    NoGpu(String),
    /// The function came with a later version than the one that is installed.
    #[error("{function} is not in this NCCL ({version}); it came with {since}")]
    NotInVersion {
        /// What was asked for.
        function: &'static str,
        /// What is installed.
        version: Version,
        /// What has it.
        since: &'static str,
    },
    /// Not every rank has NCCL and a GPU.
    #[error("rank {rank} cannot use NCCL")]
    NotEverywhere {
        /// The first that has none.
        rank: usize,
    },
    /// NCCL or CUDA failed.
    #[error("{doing}: {words}")]
    Failed {
        /// What was done.
        doing: &'static str,
        /// The library's words.
        words: String,
    },
    /// Something took too long; the group was aborted.
    #[error("{doing} took longer than {} s; the group was aborted", waited.as_secs())]
    Timeout {
        /// What was done.
        doing: &'static str,
        /// How long.
        waited: Duration,
    },
    /// Another thread threw the [`Interrupt`](crate::comm::Interrupt); the group was aborted.
    #[error("interrupted by this process")]
    Interrupted,
    /// The abort itself hangs, which NCCL is known for: this process can only end.
    #[error("NCCL cannot be aborted; end this process")]
    AbortHangs,
    /// The communicator over which the group is formed failed.
    #[error(transparent)]
    Comm(#[from] crate::comm::CommError),
}

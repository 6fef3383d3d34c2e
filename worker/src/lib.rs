//! On the node: the agent that runs pods as processes, the shim that watches over each container, and the launcher
//! that starts the ranks in a pod.

pub mod agent;
pub mod c10d;
pub mod checkpoint;
pub mod comm;
mod descendants;
pub mod host;
pub mod launch;
pub mod nccl;
mod nvml;
pub mod preflight;
pub mod sandbox;
pub mod shim;
mod signal;

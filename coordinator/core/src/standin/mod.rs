//! Stand-ins for the controllers that a cluster brings along: `batch/v1` Job, `apps/v1` ReplicaSet and Deployment.
//!
//! They run only against the embedded API server. Each is a pure function of what was observed and of the time, and
//! plans nothing when what it wanted is there.

pub mod deployment;
pub mod job;
mod object;
mod pod;
pub mod replicaset;

/// Most pods that one plan makes, as in Kubernetes: a slip of the pen (`parallelism: 1000000000`) then fills no memory, and
/// what is made is seen before more of it is.
const BURST: usize = 500;

#[cfg(test)]
mod tests;

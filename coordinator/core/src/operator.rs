//! The operator on a cluster: who leads, what it may do there, and the objects by which it is installed.
//!
//! - [`election`] decides which of several processes acts, over a Lease of the cluster.
//! - [`access`] is the one list of what the controllers read and write. The operator's client refuses what is not on it, and the
//!   RBAC rules are printed from it.
//! - [`crd`] makes CustomResourceDefinitions from the Rust types of the kinds.
//! - [`queue`] has those of the kinds of queues, for a cluster that has none.
//! - [`install`] puts it all together.

pub mod access;
pub mod crd;
pub mod election;
pub mod install;
pub mod queue;

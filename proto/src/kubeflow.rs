//! Kinds of `kubeflow.org/v1`, as the training operator 1.9 defines them, and the spec of MPI operator's `v2beta1`.

pub mod common;
mod jax;
mod mpi;
mod paddle;
mod pytorch;
mod tf;
mod xgboost;

pub use jax::{JAXJob, JAXJobSpec};
pub use mpi::{MPIJob, MPIJobSpec};
pub use paddle::{PaddleElasticPolicy, PaddleJob, PaddleJobSpec};
pub use pytorch::{ElasticPolicy, PyTorchJob, PyTorchJobSpec, RdzvConf};
pub use tf::{TFJob, TFJobSpec};
pub use xgboost::{XGBoostJob, XGBoostJobSpec};

use crate::kind::Column;

/// The two columns of every kind of this group. The state is the type of the last condition in the list.
const COLUMNS: &[Column] =
    &[Column { name: "State", kind: "string", path: ".status.conditions[-1:].type", priority: 0 }];

//! The wire: Kubernetes kinds as Rust types, and the values that cores and shells exchange. Data only, but for `pace`:
//! what launchers and coordinator judge in the same way.
//!
//! Nothing here refuses an unknown field: the API server validates objects against the JSON schemas of these types, and
//! the cores report what a schema cannot say. Doc comments are user documentation: they become `kubectl explain` texts.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod katib;
pub mod kind;
pub mod kubeflow;
pub mod pace;
pub mod plan;
pub mod quantity;
pub mod refusal;
#[cfg(feature = "grpc")]
pub mod rendezvous;
pub mod schema;
pub mod tempo;
pub mod told;
pub mod trainer;
pub mod trainyard;
pub mod tuning;

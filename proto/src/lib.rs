//! The wire: Kubernetes kinds as Rust types, and the values that cores and shells exchange. Data only.

pub mod plan;

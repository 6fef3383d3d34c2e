//! The embedded Kubernetes API server.

mod accept;
mod query;
mod route;
mod status;

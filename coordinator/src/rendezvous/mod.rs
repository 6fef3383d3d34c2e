//! The rendezvous of jobs, served: launchers join over gRPC, and the core's machine says who forms which generation.

pub mod convert;

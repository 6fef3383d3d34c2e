//! The ground: embedded API server, object store, records database, artifact store, controller driver.

pub mod driver;
pub mod embedded;
pub mod metrics;
pub mod trace;

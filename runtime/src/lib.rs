//! The ground: embedded API server, object store, records database, artifact store, controller driver.

pub mod auth;
pub mod driver;
pub mod embedded;
pub mod kinds;
pub mod metrics;
pub mod openapi;
pub mod server;
pub mod table;
pub mod trace;
pub mod records;
pub mod store;

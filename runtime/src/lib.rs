//! The ground: embedded API server, object store, records database, artifact store, controller driver.

pub mod auth;
pub mod driver;
pub mod embedded;
pub mod gc;
pub mod kinds;
pub mod metrics;
pub mod openapi;
pub mod records;
pub mod server;
pub mod store;
pub mod table;
pub mod trace;

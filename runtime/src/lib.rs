//! The ground: embedded API server, object store, records database, artifact store, controller driver.

pub mod auth;
pub mod burst;
mod discovery;
pub mod driver;
pub mod durable;
pub mod embedded;
pub mod gc;
pub mod health;
pub mod kinds;
pub mod metrics;
pub mod openapi;
mod podlog;
mod quota;
pub mod records;
mod server;
pub mod sockets;
pub mod store;
pub mod table;
pub mod task;
pub mod tls;
pub mod trace;

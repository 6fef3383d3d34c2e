//! The ground's decisions: object-store semantics, patches, schemas and field ownership, as pure functions.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod apply;
pub mod gc;
pub mod patch;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod store;

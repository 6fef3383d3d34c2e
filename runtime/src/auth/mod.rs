//! Who is asking, and whether they may.

pub mod origin;
pub mod role;
pub mod token;

pub use role::{Attributes, Role, User, allowed};
pub use token::{TokenFileError, Tokens};

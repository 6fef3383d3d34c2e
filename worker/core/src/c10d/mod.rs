//! The store by which PyTorch's ranks meet: the server side of torch's TCPStore protocol, as a pure machine.
//!
//! Bytes go in per connection, bytes and hang-ups come out. What torch 2.13 sends is understood; anything else ends the
//! connection with a reason, because the protocol has no way to say no.

mod request;
mod store;
#[cfg(test)]
mod tests;

pub use request::Refusal;
pub use store::{ClientId, Input, Output, Store};
